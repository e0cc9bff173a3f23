"""The whole chain in one process: capture → face → infer → sink. The Python API, and the tests' oracle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import neutral, profile, sources
from pipeline.capture import captured_frames
from pipeline.config import DEFAULT_ENGINES, RunConfig
from pipeline.errors import SourceError, UsageError
from pipeline.faces import FaceStage, Wanted, neutral_from_photo
from pipeline.header import engine_entry, header_row
from pipeline.inference import InferStage, load_engines
from pipeline.messages import AUResult, Frame, Ledger, StreamInfo
from pipeline.neutral import NeutralPolicy
from pipeline.sinks import open_sinks, stop_requested
from pipeline.sources import SourceSpec

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
        self._specs = sources.resolve_sources(config.source, config.camera, config.rtsp_transport)
        self._policy = _neutral_policy(config.neutral)
        if config.save_neutral:
            profile.check_target(Path(config.save_neutral))
        self.engines = load_engines(config, log)
        self._first, self.infos = sources.look_at(self._specs, rendering)
        seen = {info.stream: info for info in self.infos}
        self.header = header_row(config, self._specs, seen, [engine_entry(e) for e in self.engines])
        try:
            self._sinks = open_sinks(
                config.out,
                header=self.header,
                engines=[engine.spec for engine in self.engines],
                streams=[info.stream for info in self.infos],
                sources=[spec.path for spec in self._specs if spec.path is not None],
                publish=config.publish,
                window=config.window,
                rotate=config.rotate,
                keys=config.keys,
            )
        except BaseException:
            self._first.close()
            raise

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _, results in self.frames():
            yield from (result.row() for result in results)

    def wait(self, progress: Callable[[Ledger], object]) -> None:
        """Do the whole run, telling `progress` about the stream that is on."""
        for _ in self.frames():
            progress(self.ledgers[-1])

    def close(self) -> None:
        """Let go of everything without running; nothing is left behind."""
        self._first.close()
        for sink in self._sinks:
            sink.abort()

    def frames(self) -> Iterator[tuple[Frame, list[AUResult]]]:
        """Every frame with its results, after the sinks have taken them."""
        try:
            self._refuse_side_by_side()
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

    def _refuse_side_by_side(self) -> None:
        live = [info.stream for info in self.infos if info.live]
        if live and len(self.infos) > 1:
            raise UsageError(
                f"--inline reads one source after another, and {live[0]} has no end; leave out --inline, or "
                "give it one live source alone"
            )

    def _stream(
        self, spec: SourceSpec, info: StreamInfo, ledger: Ledger
    ) -> Iterator[tuple[Frame, list[AUResult]]]:
        wanted = Wanted.by([engine.spec for engine in self.engines])
        config = self.config
        faces = FaceStage(wanted, self._policy, config.max_faces, config.exposure_compensation)
        infer = InferStage(self.engines, info.rate_hz, config.hop)
        for sink in self._sinks:
            sink.open_stream(info)
        try:
            asked = time.perf_counter()
            source = self._first if spec is self._specs[0] else sources.open_source(spec)
            for frame in captured_frames(source, spec, config, ledger, self._wish):
                results = _process(frame, faces, infer, ledger, asked)
                for sink in self._sinks:
                    sink.write(frame, results)
                ledger.delivered += 1
                yield frame, results
                asked = time.perf_counter()
            if config.save_neutral and spec is self._specs[0]:
                profile.save_main_neutral(str(config.save_neutral), faces.main_neutral())
        finally:
            faces.close()
        self._close_stream(ledger)

    def _close_stream(self, ledger: Ledger) -> None:
        for sink in self._sinks:
            sink.close_stream(ledger)

    def _wish(self) -> str | None:
        return self._stop() or ("window closed" if stop_requested(self._sinks) else None)


def run(
    source: str | Sequence[str] = (), engines: str | Sequence[str] = DEFAULT_ENGINES, **options: Any
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


def _neutral_policy(text: str) -> NeutralPolicy:
    parsed = neutral.parse_policy(text)
    if isinstance(parsed, NeutralPolicy):
        return parsed
    held = profile.load_profile(parsed) if parsed.suffix == ".npz" else neutral_from_photo(parsed)
    return neutral.given(held)


def unbalanced(ledgers: Sequence[Ledger]) -> SourceError | None:
    """The error that a run ends with when frames are unaccounted for."""
    for ledger in ledgers:
        if not ledger.balanced:
            return SourceError(
                f"{ledger.stream}: {ledger.in_flight} of {ledger.captured} frames are unaccounted for: a bug"
            )
    return None
