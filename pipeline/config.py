"""What a run was asked to do: one frozen dataclass that refuses contradictions."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.listening import check_reach, host_and_port
from pipeline.rotation import parse_rotation
from pipeline.sockets import check_address

DEFAULT_ENGINES = ("delta",)
_LARGEST_BYTES = 1 << 20
"""Of a configuration file."""
_TUPLES = ("source", "camera", "engine", "out")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Options of a run, named like the flags of run_stream.py."""

    source: tuple[str, ...] = ()
    """Files, globs, photos, rtsp:// and http(s):// addresses, or `demo`."""
    camera: tuple[int, ...] = ()
    """OpenCV camera numbers."""
    engine: tuple[str, ...] = DEFAULT_ENGINES
    """Names of bundles that come with austream, or folders of bundles."""
    backend: str = "auto"
    precision: str = "auto"
    neutral: str = "auto"
    """`auto`, `none`, `first:SECONDS`, or the path of a photo or of a saved profile."""
    exposure_compensation: bool = True
    """Match the neutral's exposure to the frame's before the difference; off in CEDNN's own protocol."""
    hop: int | None = None
    """A temporal engine gives one output every `hop` kept frames; None: 1 on a GPU, 4 on a CPU."""
    max_faces: int = 4
    frames: int | None = None
    """Stop every stream after so many frames."""
    duration: float | None = None
    """Stop every stream after so many seconds of presentation time."""
    loop: bool = False
    rtsp_transport: str = "tcp"
    """How RTSP pictures travel: `tcp` loses none on the way, `udp` does not wait for what is lost."""
    live: bool | None = None
    """True: keep up, dropping frames; False: wait, losing none; None: as the source is."""
    out: tuple[str, ...] = ()
    publish: str | None = None
    window: bool = False
    save_neutral: str | None = None
    """Where to save the neutral of the face that was longest in view."""
    rotate: str | None = None
    """When outputs go on in a new file: `1h`, `500MB`."""
    metrics: str | None = None
    """Where Prometheus may read: [HOST:]PORT."""
    keys: str | None = None
    """Folder of `python run_stream.py keys`: who may come over tcp, and with which token."""
    log_json: bool = False

    def __post_init__(self) -> None:
        if not self.source and not self.camera:
            raise UsageError(
                "no source: give --camera 0, --source FILE, --source rtsp://HOST/PATH or --source demo"
            )
        if not self.engine:
            raise UsageError("--engine: expected at least one engine; `python -m engines list` shows them")
        if len(set(self.engine)) != len(self.engine):
            raise UsageError(f"--engine: {','.join(self.engine)} names an engine twice; name each once")
        for flag, value in (("--hop", self.hop), ("--max-faces", self.max_faces), ("--frames", self.frames)):
            if value is not None and value < 1:
                raise UsageError(f"{flag} {value}: expected a whole number from 1 up")
        for camera in self.camera:
            if camera < 0:
                raise UsageError(f"--camera {camera}: expected 0 or more")
        if len(set(self.camera)) != len(self.camera):
            raise UsageError("--camera: the same camera twice; name each once")
        if self.duration is not None and not 0.0 < self.duration < float("inf"):
            raise UsageError(f"--duration {self.duration:g}: expected seconds, more than 0")
        if self.loop and self.frames is None and self.duration is None and not (self.window or self.publish):
            raise UsageError(
                "--loop without an end: add --frames N or --duration S, or watch with --window or --publish"
            )
        if self.publish is not None:
            check_address(self.publish, bool(self.keys))
        if self.rotate is not None:
            parse_rotation(self.rotate)
            if not self.out:
                raise UsageError(f"--rotate {self.rotate}: there is no file to rotate; add --out PATH")
        if self.metrics is not None:
            check_reach(
                "--metrics", self.metrics, host_and_port("--metrics", self.metrics)[0], bool(self.keys)
            )
        if self.save_neutral and self.neutral == "none":
            raise UsageError(
                "--save-neutral with --neutral none: there is no neutral to save; leave one of them out"
            )

    def mapping(self) -> dict[str, Any]:
        """Names and values, as `from_mapping` and JSON take them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], origin: str) -> RunConfig:
        """A configuration from names and values, a single value standing for a list of one.

        Raises:
            UsageError: an unknown name, a value of the wrong type, or a contradiction; `origin` says whence.
        """
        known = {f.name: f for f in fields(cls)}
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise UsageError(
                    f"{origin}: unknown option {name!r}; expected one of {', '.join(sorted(known))}"
                )
            if name in _TUPLES:
                value = tuple(value) if isinstance(value, list | tuple) else (value,)
            checked[name] = _typed(origin, name, value)
        return cls(**checked)


_TYPES: dict[str, tuple[type, str]] = {
    "source": (str, "text"),
    "camera": (int, "a whole number"),
    "engine": (str, "text"),
    "backend": (str, "text"),
    "precision": (str, "text"),
    "neutral": (str, "text"),
    "exposure_compensation": (bool, "true or false"),
    "hop": (int, "a whole number"),
    "max_faces": (int, "a whole number"),
    "frames": (int, "a whole number"),
    "duration": (float, "a number of seconds"),
    "loop": (bool, "true or false"),
    "rtsp_transport": (str, "text"),
    "live": (bool, "true or false"),
    "out": (str, "text"),
    "publish": (str, "text"),
    "window": (bool, "true or false"),
    "save_neutral": (str, "text"),
    "rotate": (str, "text"),
    "metrics": (str, "text"),
    "keys": (str, "text"),
    "log_json": (bool, "true or false"),
}


def _typed(origin: str, name: str, value: Any) -> Any:
    expected, words = _TYPES[name]
    if value is None:
        return None
    for item in value if isinstance(value, tuple) else (value,):
        number_for_float = expected is float and isinstance(item, int) and not isinstance(item, bool)
        flag_for_number = isinstance(item, bool) and expected is not bool
        if flag_for_number or not (isinstance(item, expected) or number_for_float):
            raise UsageError(f"{origin}: {name} = {item!r}: expected {words}")
    return float(value) if expected is float else value


def read_toml(path: Path) -> dict[str, Any]:
    """Options from a TOML file, named like the flags (`max_faces` or `max-faces`).

    Raises:
        UsageError: no such file, or not TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
        if len(content) > _LARGEST_BYTES:
            raise ValueError(f"more than {_LARGEST_BYTES} bytes")
        values = tomllib.loads(content.decode())
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f'--config {path}: not TOML ({error}); expected lines such as source = "clip.mp4"'
        ) from error
    values = {name.replace("-", "_"): value for name, value in values.items()}
    if values.get("hop") == "auto":
        del values["hop"]
    return values
