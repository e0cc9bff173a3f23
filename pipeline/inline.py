"""The whole chain in one process: capture → face → infer → sink. The Python API, and the tests' oracle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engines.runtime import Engine, load_engine
from pipeline import neutral, profile, sources
from pipeline.config import RunConfig
from pipeline.errors import OutputError, SourceError
from pipeline.faces import FaceStage, neutral_from_photo
from pipeline.inference import CPU_HOP, InferStage
from pipeline.messages import SCHEMA_VERSION, AUResult, Frame, Ledger, StreamInfo
from pipeline.neutral import NeutralPolicy
from pipeline.sinks import open_sinks, stop_requested
from pipeline.sources import Source, SourceSpec
from pipeline.video import without_credentials

Log = Callable[[str], None]
Rendering = Callable[[int, int], None]
_ENDS_THE_RUN = ("interrupted", "terminated", "window closed")


def _quiet(*_: object) -> None:
    pass


class Run:
    """A run that is ready: sources seen, engines compiled, outputs open. Iterating does the work.

    Iteration yields every result as the dictionary that stands in the JSONL file. `header` is there from the
    start, `ledgers` when the iteration has ended, `paths` names the files that were written.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        stop: Callable[[], str | None] = lambda: None,
        log: Log = _quiet,
        rendering: Rendering | None = None,
    ) -> None:
        self.config = config
        self.ledgers: list[Ledger] = []
        self.paths: list[Path] = []
        self._stop = stop
        self._specs = sources.resolve_sources(config.source, config.camera)
        self._policy = _neutral_policy(config.neutral)
        if config.save_neutral:
            _check_writable(Path(config.save_neutral))
        self.engines = [
            load_engine(name, config.backend, config.precision, log=log) for name in config.engine
        ]
        self._first, self.infos = _look_at(self._specs, rendering)
        self.header = _header(config, self._specs, self.infos, self.engines)
        try:
            self._sinks = open_sinks(
                config.out,
                header=self.header,
                engines=[engine.spec for engine in self.engines],
                streams=[info.stream for info in self.infos],
                sources=[spec.path for spec in self._specs if spec.path is not None],
                publish=config.publish,
                window=config.window,
            )
        except BaseException:
            self._first.close()
            raise

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _, results in self.frames():
            yield from (result.row() for result in results)

    def close(self) -> None:
        """Let go of everything without running; nothing is left behind."""
        self._first.close()
        for sink in self._sinks:
            sink.abort()

    def frames(self) -> Iterator[tuple[Frame, list[AUResult]]]:
        """Every frame with its results, after the sinks have taken them."""
        try:
            lost: SourceError | None = None
            for spec, info in zip(self._specs, self.infos, strict=True):
                ledger = Ledger(info.stream)
                self.ledgers.append(ledger)
                try:
                    yield from self._stream(spec, info, ledger)
                except SourceError as error:
                    if ledger.delivered == 0:
                        raise
                    # A source that fails after an hour leaves an hour of results, and a ledger that says why.
                    lost, ledger.ended = error, str(error)
                    self._close_stream(ledger)
                if lost or ledger.ended in _ENDS_THE_RUN:
                    break
            self.paths = [path for sink in self._sinks for path in sink.finish()]
        except BaseException:
            for sink in self._sinks:
                sink.abort()
            raise
        if lost:
            raise lost

    def _stream(
        self, spec: SourceSpec, info: StreamInfo, ledger: Ledger
    ) -> Iterator[tuple[Frame, list[AUResult]]]:
        crops = [engine.spec.crop for engine in self.engines]
        wants_level_map = any(engine.spec.level_map for engine in self.engines)
        config = self.config
        faces = FaceStage(
            crops, wants_level_map, self._policy, config.max_faces, config.exposure_compensation
        )
        infer = InferStage(self.engines, info.rate_hz, config.hop)
        for sink in self._sinks:
            sink.open_stream(info)
        try:
            asked = time.perf_counter()
            for frame in self._limited(spec, ledger):
                results = _process(frame, faces, infer, ledger, asked)
                for sink in self._sinks:
                    sink.write(frame, results)
                ledger.delivered += 1
                yield frame, results
                asked = time.perf_counter()
            if config.save_neutral and spec is self._specs[0]:
                self._save_neutral(faces)
        finally:
            faces.close()
        self._close_stream(ledger)

    def _close_stream(self, ledger: Ledger) -> None:
        for sink in self._sinks:
            sink.close_stream(ledger)

    def _limited(self, spec: SourceSpec, ledger: Ledger) -> Iterator[Frame]:
        """Frames of a source, again and again with --loop, until a limit or a wish to stop."""
        config, epoch, seq, played = self.config, 0, 0, 0.0
        source = self._first if spec is self._specs[0] else sources.open_source(spec)
        try:
            while True:
                first_pts = last_pts = None
                for frame in source.frames(ledger, epoch, seq):
                    pts = frame.stamp.pts_seconds
                    first_pts = pts if first_pts is None else first_pts
                    last_pts = pts
                    if config.duration is not None and played + pts - first_pts >= config.duration:
                        ledger.drop("capture", "duration limit")
                        ledger.ended = "duration limit"
                        return
                    yield frame
                    epoch, seq = frame.stamp.epoch, frame.stamp.seq + 1
                    if config.frames is not None and ledger.captured >= config.frames:
                        ledger.ended = "frame limit"
                        return
                    wish = self._stop() or ("window closed" if stop_requested(self._sinks) else None)
                    if wish:
                        ledger.ended = wish
                        return
                if not config.loop or source.info.live or first_pts is None or last_pts is None:
                    return
                played += last_pts - first_pts + 1.0 / source.info.rate_hz
                epoch += 1
                source.close()
                source = sources.open_source(spec)
        finally:
            source.close()

    def _save_neutral(self, faces: FaceStage) -> None:
        held = faces.main_neutral()
        if held is None:
            raise OutputError(
                f"--save-neutral {self.config.save_neutral}: no neutral was gathered: look at the camera at "
                "rest for a second, or use --neutral first:2"
            )
        path = Path(str(self.config.save_neutral))
        profile.save_profile(path, held)


def run(
    source: str | Sequence[str] = (), engines: str | Sequence[str] = ("cednn", "satnet"), **options: Any
) -> Run:
    """Results of a source, as they come: `for row in run(source="clip.mp4", engines=["cednn"]): …`

    Args:
        source: what --source takes, one or several.
        engines: what --engine takes.
        options: the other options of `RunConfig`, such as hop=1, neutral="first:2", out="results.jsonl".

    Raises:
        UsageError, SourceError, EngineError, OutputError: as the command line would, here as exceptions.
    """
    values = {"source": source, "engine": engines, **options}
    return Run(
        RunConfig.from_mapping(
            {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}, "run()"
        )
    )


def _process(
    frame: Frame, faces: FaceStage, infer: InferStage, ledger: Ledger, asked: float
) -> list[AUResult]:
    captured = time.perf_counter()
    crops = faces(frame)
    found = time.perf_counter()
    results = infer(frame.stamp, crops, 1, ledger)
    done = time.perf_counter()
    latency_ms = {
        "capture": 1e3 * (captured - asked),
        "face": 1e3 * (found - captured),
        "infer": 1e3 * (done - found),
        "total": 1e3 * (done - asked),
    }
    return [replace(result, latency_ms=latency_ms) for result in results]


def _look_at(specs: Sequence[SourceSpec], rendering: Rendering | None) -> tuple[Source, list[StreamInfo]]:
    """Open every source once, so that a bad one is found before the run; the first stays open."""
    first = sources.open_source(specs[0], rendering)
    infos = [first.info]
    try:
        for spec in specs[1:]:
            source = sources.open_source(spec, rendering)
            infos.append(source.info)
            source.close()
    except BaseException:
        first.close()
        raise
    return first, infos


def _neutral_policy(text: str) -> NeutralPolicy:
    parsed = neutral.parse_policy(text)
    if isinstance(parsed, NeutralPolicy):
        return parsed
    held = profile.load_profile(parsed) if parsed.suffix == ".npz" else neutral_from_photo(parsed)
    return neutral.given(held)


def _check_writable(path: Path) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"--save-neutral {path}: there is no folder {path.parent}; make it first")
    if path.suffix != ".npz":
        raise OutputError(f"--save-neutral {path}: expected a name that ends in .npz")


def _header(
    config: RunConfig, specs: Sequence[SourceSpec], infos: Sequence[StreamInfo], engines: Sequence[Engine]
) -> dict[str, Any]:
    return {
        "type": "header",
        "schema": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "sources": [
            {
                "stream": info.stream,
                "source": without_credentials(spec.uri),
                "size_wh": list(info.size_wh),
                "rate_hz": round(info.rate_hz, 6),
                "frames": info.frames,
                "live": info.live,
            }
            for spec, info in zip(specs, infos, strict=True)
        ],
        "engines": [_engine_entry(engine) for engine in engines],
        "options": {
            "neutral": config.neutral,
            "exposure_compensation": config.exposure_compensation,
            "hop": config.hop or CPU_HOP,
            "max_faces": config.max_faces,
            "frames": config.frames,
            "duration": config.duration,
            "loop": config.loop,
        },
    }


def _engine_entry(engine: Engine) -> dict[str, Any]:
    spec = engine.spec
    return {
        "name": spec.name,
        "network": spec.network,
        "variant": dict(spec.variant),
        "trained": spec.trained,
        "provenance": dict(spec.provenance),
        "aus": list(spec.aus),
        "thresholds": dict(zip(spec.aus, spec.thresholds, strict=True)),
        "window": spec.window,
        "rate_hz": spec.rate_hz,
        "backend": engine.backend,
        "precision": engine.precision,
        "chosen_because": engine.reason,
    }


def unbalanced(ledgers: Sequence[Ledger]) -> SourceError | None:
    """The error that a run ends with when frames are unaccounted for."""
    for ledger in ledgers:
        if not ledger.balanced:
            return SourceError(
                f"{ledger.stream}: {ledger.in_flight} of {ledger.captured} frames are unaccounted for: a bug"
            )
    return None
