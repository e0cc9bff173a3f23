"""Sources: from what the command line names to streams of frames.

A source is a file, every file of a glob, a photo, a network stream, a camera or the demo clip. All give
upright BGR frames; frame numbers count decoded frames, and PTS is the container's own.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from pipeline.address import (
    LIVE_SCHEMES,
    NETWORK_SCHEMES,
    RTSP_TRANSPORTS,
    printable,
    scheme_of,
    without_credentials,
)
from pipeline.camera import CameraSource
from pipeline.errors import SourceError, UsageError
from pipeline.messages import Frame, Ledger, StreamInfo
from pipeline.photo import PHOTO_SUFFIXES, PhotoSource
from pipeline.video import VideoSource

_STREAMS_FILE = "streams.json"


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One stream to read: what to open and what to call it."""

    uri: str
    """A path, an address, `camera:N` or `demo`."""
    stream: str
    """Unique name in the run, without credentials."""
    rtsp_transport: str = "tcp"
    """`tcp` or `udp`; other sources do not look at it."""
    argument: int = 0
    """Which --source or --camera it came from; the files of one are read one after another."""
    live: bool = False
    """Whether it was said to be a feed, whatever its address looks like."""

    def __post_init__(self) -> None:
        if self.rtsp_transport not in RTSP_TRANSPORTS:
            raise UsageError(f"--rtsp-transport {self.rtsp_transport}: expected tcp or udp")

    @property
    def feed(self) -> bool:
        """Whether it has no end of its own and is to be read by `feed.live_frames`: a camera, a live address.

        What stands behind http:// shows only when it is open (`Source.info.live`).
        """
        return self.live or self.uri.startswith("camera:") or scheme_of(self.uri) in LIVE_SCHEMES

    @property
    def path(self) -> Path | None:
        """The file behind the stream, if it is one."""
        return None if self.uri == "demo" or re.match(r"^(\w+)://|^camera:", self.uri) else Path(self.uri)


class Source(Protocol):
    """A stream that has been opened and has shown its first frame."""

    info: StreamInfo

    def frames(self, ledger: Ledger, epoch: int = 0, first_seq: int = 0) -> Iterator[Frame]:
        """Decoded frames in presentation order; the ledger counts what is captured and dropped."""
        ...

    def close(self) -> None: ...


def resolve_sources(
    sources: Sequence[str],
    cameras: Sequence[int],
    rtsp_transport: str = "tcp",
    *,
    taken: Sequence[str] = (),
) -> list[SourceSpec]:
    """Expand globs, check addresses and paths, and give every stream a unique name, none of them `taken`.

    Raises:
        UsageError: an address that cannot be a source, or no source at all.
        SourceError: a path without a readable file.
    """
    uris = [(uri, i) for i, source in enumerate(sources) for uri in _expand(source)]
    uris += [(f"camera:{n}", len(sources) + i) for i, n in enumerate(cameras)]
    if not uris:
        raise UsageError(
            "no source: give --camera 0, --source FILE, --source rtsp://HOST/PATH or --source demo"
        )
    specs: list[SourceSpec] = []
    names: set[str] = set(taken)
    for uri, argument in uris:
        base = _display_name(uri)
        name, count = base, 2
        while name in names:
            name, count = f"{base}#{count}", count + 1
        names.add(name)
        specs.append(SourceSpec(uri, name, rtsp_transport, argument))
    return specs


def _expand(source: str) -> list[str]:
    if source == "demo":
        return [source]
    scheme, colon, rest = source.partition("://")
    if not colon or not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme):
        return _files(source)
    if scheme.lower() == "file":
        return _files(unquote(rest.removeprefix("localhost")))
    if scheme.lower() not in NETWORK_SCHEMES:
        raise UsageError(
            f"--source {without_credentials(source)}: {scheme}:// is not read; expected a file, a glob, "
            "rtsp://, udp://, http:// or https://"
        )
    if not _names_a_host(source):
        raise UsageError(
            f"--source {without_credentials(source)}: the address names no host, or a port that is none; "
            "expected e.g. rtsp://192.168.1.20:554/stream"
        )
    return [f"{scheme.lower()}://{rest}"]


def _names_a_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _files(source: str) -> list[str]:
    try:
        path, shown = Path(source), printable(source)
        if path.is_dir():
            pattern = shown.rstrip("/") + "/*.mp4"
            raise SourceError(f"{shown}: is a directory; expected a file, or a glob such as '{pattern}'")
        if not path.exists() and glob.has_magic(source):
            found = sorted((p for p in glob.glob(source, recursive=True) if Path(p).is_file()), key=_natural)
            if not found:
                raise SourceError(f"{shown}: no file matches; check the pattern, and quote it for the shell")
            return [file for match in found for file in _files(match)]
        if not path.exists():
            raise SourceError(f"{shown}: no such file; check the path")
        if not path.is_file():
            raise SourceError(f"{shown}: not a regular file; cameras are given as --camera N")
        if path.stat().st_size == 0:
            raise SourceError(f"{shown}: the file is empty; expected a video or a photo")
    except OSError as error:
        raise SourceError(f"{shown}: cannot be opened ({error.strerror}); check the path") from None
    return [f"./{source}" if source.startswith("camera:") or source == "demo" else source]


def _natural(path: str) -> list[tuple[int, int, str]]:
    """frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path)]


def _display_name(uri: str) -> str:
    return without_credentials(uri) if "://" in uri else printable(Path(uri).name)


def write_streams(folder: Path, specs: Sequence[SourceSpec]) -> None:
    """Leave the streams of a run in its directory, for its processes; a stream's place is its number."""
    part = folder / f"{_STREAMS_FILE}.part"
    part.write_text(json.dumps([asdict(spec) for spec in specs]))
    part.replace(folder / _STREAMS_FILE)


def read_streams(folder: Path) -> list[SourceSpec]:
    """The streams of a run, by their numbers; those that were added or have ended included."""
    return [SourceSpec(**entry) for entry in json.loads((folder / _STREAMS_FILE).read_text())]


def captures_of(specs: Sequence[SourceSpec]) -> list[int]:
    """By stream: the number of the capture process that reads it.

    Every feed has one of its own: a decoder that dies takes no other feed along. All other sources share one,
    as files wait for each other; so do those behind http://, of which it shows late what they are. Numbers
    stay as they are when feeds are added at the end.
    """
    numbers: list[int] = []
    shared: int | None = None
    for spec in specs:
        if spec.feed or shared is None:
            numbers.append(max(numbers, default=-1) + 1)
        else:
            numbers.append(shared)
        if not spec.feed:
            shared = numbers[-1]
    return numbers


def open_source(
    spec: SourceSpec,
    progress: Callable[[int, int], None] | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    stall_seconds: float | None = None,
) -> Source:
    """Open a source and see that it gives at least one frame.

    Args:
        spec: what to open.
        progress: told (done, total) while the demo clip is rendered for the first time.
        stop: asked between the packets of a video and the frames of a camera, which end when it says so.
        stall_seconds: `StalledError` when a feed gives no picture for so long; None: wait longer.

    Raises:
        SourceError: it cannot be opened, holds no video, or no frame of it can be decoded.
    """
    if spec.uri.startswith("camera:"):
        return CameraSource(int(spec.uri.removeprefix("camera:")), spec.stream, stop=stop)
    if spec.uri == "demo":
        return VideoSource(str(render_demo(progress)), spec.stream)
    if Path(spec.uri).suffix.lower() in PHOTO_SUFFIXES and "://" not in spec.uri:
        return PhotoSource(Path(spec.uri), spec.stream)
    return VideoSource(
        spec.uri,
        spec.stream,
        rtsp_transport=spec.rtsp_transport,
        stop=stop,
        stall_seconds=stall_seconds,
    )


def look_at(
    specs: Sequence[SourceSpec], rendering: Callable[[int, int], None] | None = None
) -> tuple[Source, list[StreamInfo]]:
    """Open every source once, so that a bad one is found before the run; the first stays open."""
    first = open_source(specs[0], rendering)
    infos = [first.info]
    try:
        for spec in specs[1:]:
            source = open_source(spec, rendering)
            infos.append(source.info)
            source.close()
    except BaseException:
        first.close()
        raise
    return first, infos


def render_demo(progress: Callable[[int, int], None] | None = None) -> Path:
    """The demo clip, rendered the first time it is asked for; `progress` is told (done, total)."""
    from train.synth.demo import ensure_clip

    return ensure_clip(progress)
