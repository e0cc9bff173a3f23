"""sink: rows and overlays into files, to subscribers and onto the screen; and the ledger at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engines.bundle import resolve
from pipeline.books import RUNNING, read_book
from pipeline.errors import PeerLostError
from pipeline.messages import AUResult, Frame, Ledger, StreamInfo
from pipeline.sinks import open_sinks, stop_requested
from pipeline.sinks.base import Sink
from pipeline.snapshot import Histogram
from pipeline.sources import read_streams
from pipeline.stages.links import Incoming
from pipeline.stages.worker import Worker
from pipeline.streams import (
    Control,
    FramePacket,
    Message,
    ResultsPacket,
    Seen,
    StreamBegin,
    StreamEnd,
    Timing,
)

_TELL_EVERY_SECONDS = 0.25
_LAST_WORD_SECONDS = 2.0
_CLOSING_SECONDS = 600.0
"""How long it may take to make files whole: a long video's index is put in front of its pictures."""
_NO_PIXELS: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)


def run(worker: Worker) -> None:
    config = worker.config
    if not worker.wait_for_start():
        return
    sinks = open_sinks(
        config.out,
        header=worker.header,
        engines=[resolve(name).spec for name in config.engine],
        streams=worker.streams,
        sources=[spec.path for spec in read_streams(worker.folder) if spec.path is not None],
        publish=config.publish,
        window=config.window,
        rotate=config.rotate,
        keys=config.keys,
        before_closing=lambda: worker.take_time(_CLOSING_SECONDS),
    )
    try:
        worker.ready()
        loop = _Loop(worker, sinks)
        ledgers = loop.run()
        if not ledgers or (worker.wish() is not None and not any(x.delivered for x in ledgers)):
            for sink in sinks:  # it ended before anything was written
                sink.abort()
            return
        worker.take_time(_CLOSING_SECONDS)
        paths = [str(path) for sink in sinks for path in sink.finish()]
    except BaseException:
        for sink in sinks:
            sink.abort()
        raise
    last_words: list[Message] = [*ledgers, *loop.timings()]  # nothing follows that tells of the last frames
    for word in last_words:
        worker.report_surely(word)
    worker.ready(paths=paths)


class _Stream:
    """What the sink knows of one stream."""

    def __init__(self, stream: str, restarted: str | None = None) -> None:
        """restarted: the stage that was started anew last: it has what is missing since."""
        self.ledger = Ledger(stream, ended=RUNNING)
        """Of what came here: delivered, lost in a restart, what the rows say."""
        self.epoch = self.faces = self.next_index = 0
        self.restarted = restarted

    def arrived(self, packet: FramePacket, results: Sequence[AUResult]) -> None:
        self.missing(packet.index)
        self.next_index = packet.index + 1
        self.epoch = packet.stamp.epoch
        self.faces = sum(result.crop is not None for result in results)
        ledger = self.ledger
        ledger.delivered += 1
        ledger.captured = max(ledger.captured, packet.stamp.seq + 1)
        ledger.count_row_states([r.window.state for r in results if r.window is not None], self.faces)

    def missing(self, index: int) -> None:
        """Frames before this one that never came were in a stage when it died. Without a death they are a
        bug, and stay unaccounted for."""
        for _ in range(self.next_index, index if self.restarted else 0):
            self.ledger.drop(str(self.restarted), "restarted")

    def closed(self, end: StreamEnd) -> Ledger:
        """The whole ledger."""
        self.missing(end.frames)
        return end.ledger.with_arrivals(self.ledger)


class _Loop:
    """Receive, write, release; one ledger per stream."""

    def __init__(self, worker: Worker, sinks: list[Sink]) -> None:
        self._worker, self._sinks = worker, sinks
        self._frames = worker.rings("frames")
        self._in = Incoming(worker, "results", [self._frames])
        self._open: dict[str, _Stream] = {}
        self._closed: dict[str, Ledger] = {}
        self._down: str | None = None
        """The stage that died last. It may have had frames of streams that have not yet come this far."""
        self._latency: dict[tuple[str, str], Histogram] = {}
        self._told = 0.0

    def run(self) -> list[Ledger]:
        try:
            while (message := self._in.receive()) is not None:
                self._obey()
                if isinstance(message, StreamBegin):
                    self._begin(message.info)
                elif isinstance(message, ResultsPacket):
                    self._write(message)
                elif isinstance(message, StreamEnd) and message.stream not in self._closed:
                    self._close(message)
                self._in.done()
                self._tell()
        except PeerLostError:
            self._obey()
            reason = self._worker.await_wish(_LAST_WORD_SECONDS) or "a stage died"
            for number, spec in enumerate(read_streams(self._worker.folder)):
                if spec.stream in self._open:
                    self._close(self._last_words(number, spec.stream, reason))
        return list(self._closed.values())

    def _begin(self, info: StreamInfo) -> None:
        if info.stream not in self._open:
            self._open[info.stream] = _Stream(info.stream, self._down)
            for sink in self._sinks:
                sink.open_stream(info)

    def _write(self, message: ResultsPacket) -> None:
        image = message.frame.image
        pixels = _NO_PIXELS if image is None else self._frames.view(image)
        frame = Frame(message.frame.stamp, pixels)
        for sink in self._sinks:
            sink.write(frame, message.results)
        if image is not None:
            self._frames.release(image)
        self._open[frame.stamp.stream].arrived(message.frame, message.results)
        # The sink has no time of its own in the rows; under its name goes the total.
        taken = {("sink" if s == "total" else s, ""): ms for s, ms in message.results[0].latency_ms.items()}
        taken |= {("infer", engine): ms for engine, ms in message.compute_ms.items()}
        for key, taken_ms in taken.items():
            self._latency[key] = self._latency.get(key, Histogram()).plus(taken_ms)

    def _close(self, end: StreamEnd) -> None:
        """Of a stream that never began, too: a live source that was never there has a ledger."""
        ledger = self._open.pop(end.stream, _Stream(end.stream, self._down)).closed(end)
        self._worker.take_time(_CLOSING_SECONDS)
        for sink in self._sinks:
            sink.close_stream(ledger)
        self._closed[end.stream] = ledger
        self._worker.report_soon(ledger)

    def _last_words(self, number: int, stream: str, reason: str) -> StreamEnd:
        """The end of a stream that is cut off: by the book that the capture kept."""
        known = self._open[stream].ledger
        book = read_book(self._worker.folder, number)
        end = book or StreamEnd(stream, None, known.delivered, Ledger(stream, known.captured))
        # What was lost on the way stays in flight: nobody knows which stage had it.
        return replace(end, frames=0, ledger=replace(end.ledger, ended=end.ledger.ended or reason))

    def _obey(self) -> None:
        while self._worker.commands:
            command = self._worker.commands.popleft()
            if command.verb == "down":
                hit = [
                    self._open[s]
                    for s in ([command.stream] if command.stream else self._open)
                    if s in self._open
                ]
                if not command.stream:
                    self._down = command.reason
                for stream in hit:
                    stream.restarted = command.reason
                    restarts = stream.ledger.restarts
                    restarts[command.reason] = restarts.get(command.reason, 0) + 1

    def timings(self) -> list[Timing]:
        """What every frame so far took, by stage and engine."""
        return [Timing(stage, latency, engine) for (stage, engine), latency in self._latency.items()]

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < _TELL_EVERY_SECONDS:
            return
        self._told = now
        for stream, known in self._open.items():
            self._worker.report(replace(known.ledger, dropped=dict(known.ledger.dropped)))
            self._worker.report(Seen(stream, known.epoch, known.faces))
        for timing in self.timings():
            self._worker.report(timing)
        if stop_requested(self._sinks):
            self._worker.report(Control("stop", "window closed"))
