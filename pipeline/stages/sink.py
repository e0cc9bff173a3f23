"""sink: rows and overlays into files, to subscribers and onto the screen; and the ledger at the end."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engines.bundle import resolve
from pipeline.channels import Receiver
from pipeline.errors import PeerLostError
from pipeline.messages import Frame, Ledger
from pipeline.ring import Ring
from pipeline.sinks import open_sinks, stop_requested
from pipeline.sinks.base import Sink
from pipeline.snapshot import Histogram
from pipeline.sources import resolve_sources
from pipeline.stages.worker import Worker
from pipeline.streams import Control, ResultsPacket, Seen, StreamBegin, StreamEnd, Timing

_TELL_EVERY_SECONDS = 0.25
_LAST_WORD_SECONDS = 2.0
_NO_PIXELS: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)


def run(worker: Worker) -> None:
    config = worker.config
    if not worker.wait_for_start():
        return
    specs = resolve_sources(config.source, config.camera)
    sinks = open_sinks(
        config.out,
        header=worker.header,
        engines=[resolve(name).spec for name in config.engine],
        streams=[info.stream for info in worker.infos],
        sources=[spec.path for spec in specs if spec.path is not None],
        publish=config.publish,
        window=config.window,
        rotate=config.rotate,
        keys=config.keys,
    )
    try:
        worker.ready()
        loop = _Loop(worker, sinks)
        ledgers = loop.run()
        if not ledgers or (worker.last_control is not None and not any(x.delivered for x in ledgers)):
            for sink in sinks:  # it ended before anything was written
                sink.abort()
            return
        paths = [str(path) for sink in sinks for path in sink.finish()]
    except BaseException:
        for sink in sinks:
            sink.abort()
        raise
    for message in (*ledgers, *loop.measured()):
        worker.report_surely(message)
    worker.ready(paths=paths)


class _Loop:
    """Receive, write, release; one ledger per stream."""

    def __init__(self, worker: Worker, sinks: list[Sink]) -> None:
        self._worker, self._sinks = worker, sinks
        self._received: Receiver = worker.receiver("results")
        self._frames: Ring = worker.ring("frames")
        self._open: Ledger | None = None
        self._ledgers: list[Ledger] = []
        self._latency: dict[tuple[str, str], Histogram] = {}
        self._seen: dict[str, Seen] = {}
        self._told = 0.0

    def run(self) -> list[Ledger]:
        try:
            while (message := self._received.receive()) is not None:
                if isinstance(message, StreamBegin):
                    self._open = Ledger(message.info.stream)
                    for sink in self._sinks:
                        sink.open_stream(message.info)
                elif isinstance(message, ResultsPacket):
                    self._write(message)
                elif isinstance(message, StreamEnd):
                    self._close(message.ledger)
                self._received.done()
        except PeerLostError:
            if self._open is not None:
                self._close(self._last_words(self._open))
        return self._ledgers

    def measured(self) -> list[Seen | Timing]:
        """What was seen and measured so far."""
        timings = [Timing(stage, taken, engine) for (stage, engine), taken in self._latency.items()]
        return [*self._seen.values(), *timings]

    def _measure(self, message: ResultsPacket) -> None:
        stamp = message.frame.stamp
        faces = sum(result.crop is not None for result in message.results)
        self._seen[stamp.stream] = Seen(stamp.stream, stamp.epoch, faces)
        # The sink has no time of its own in the rows; under its name goes the total.
        taken = {("sink" if s == "total" else s, ""): ms for s, ms in message.results[0].latency_ms.items()}
        taken |= {("infer", engine): ms for engine, ms in message.compute_ms.items()}
        for key, ms in taken.items():
            self._latency[key] = self._latency.get(key, Histogram()).plus(ms)

    def _write(self, message: ResultsPacket) -> None:
        image = message.frame.image
        pixels = _NO_PIXELS if image is None else self._frames.view(image)
        frame = Frame(message.frame.stamp, pixels)
        for sink in self._sinks:
            sink.write(frame, message.results)
        if image is not None:
            self._frames.release(image)
        assert self._open is not None
        self._open.delivered += 1
        self._measure(message)
        self._open.captured = max(self._open.captured, message.frame.stamp.seq + 1)
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_SECONDS:
            self._told = now
            for report in (replace(self._open), *self.measured()):
                self._worker.report(report)
            if stop_requested(self._sinks):
                self._worker.report(Control("stop", "window closed", None))

    def _close(self, ledger: Ledger) -> None:
        assert self._open is not None
        ledger.delivered = self._open.delivered
        for sink in self._sinks:
            sink.close_stream(ledger)
        self._ledgers.append(ledger)
        self._open = None

    def _last_words(self, known: Ledger) -> Ledger:
        """The ledger of a stream whose stage died: what capture counted, as far as the supervisor knows."""
        deadline = time.monotonic() + _LAST_WORD_SECONDS
        while time.monotonic() < deadline:
            control = self._worker.control(timeout_seconds=0.1)
            if control is not None and control.verb == "stop":
                ledger = control.ledger or known
                ledger.ended = control.reason
                return ledger
        known.ended = "a stage died"
        return known
