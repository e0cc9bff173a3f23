"""sink: rows and overlays into files, to subscribers and onto the screen; and the ledger at the end.

A frame counts as delivered once every sink has taken it, and is in the stream's book from then on. When this
process dies, its next life goes on counting from the books, in files of its own; what was on its way is
missing then, and counted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engines.bundle import resolve
from pipeline.books import RUNNING, Arrivals, SinkBooks, read_book
from pipeline.errors import PeerLostError
from pipeline.messages import AUResult, Frame, Ledger, StreamInfo
from pipeline.sinks import open_sinks, stop_requested
from pipeline.sinks.base import Sink, Taken
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
    if worker.life:  # what the run was set up with is there
        worker.ready()
    if not worker.wait_for_start():
        return
    books = SinkBooks(worker.folder)
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
        after=_taken(books) if worker.life else None,
    )
    try:
        if not worker.life:
            worker.ready()
        loop = _Loop(worker, sinks, books)
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


def _taken(books: SinkBooks) -> dict[str, Taken]:
    """By stream, of earlier lives of the sink; the last is the one that last opened files."""
    last = max((before.life for before in books.before.values()), default=0)
    return {
        stream: Taken((before.end.ledger.delivered - before.earlier) * (before.life == last), before.rows)
        for stream, before in books.before.items()
    }


class _Stream:
    """What the sink knows of one stream."""

    def __init__(self, stream: str, restarted: str | None = None) -> None:
        """restarted: the stage that was started anew last: it has what is missing since."""
        self.ledger = Ledger(stream, ended=RUNNING)
        """Of what came here: delivered, lost in a restart, what the rows say."""
        self.epoch = self.faces = self.next_index = self.earlier = self.rows = 0
        self.last_seq: int | None = None
        self.restarted = restarted
        self.opened = False
        """Whether this life's sinks know of it."""

    @classmethod
    def going_on(cls, before: Arrivals, life: int) -> _Stream:
        """As an earlier life of the sink left it."""
        end = before.end
        known = cls(end.stream, "sink")
        known.ledger, known.earlier, known.rows = before.ledger(life), end.ledger.delivered, before.rows
        known.epoch, known.next_index, known.last_seq = end.epoch, end.frames, end.last_seq
        return known

    def arrivals(self, life: int, ledger: Ledger | None = None) -> Arrivals:
        """For the book; `ledger`: the whole one, once the stream has ended."""
        ledger = ledger or self.ledger
        end = StreamEnd(ledger.stream, self.last_seq, self.next_index, ledger, self.epoch)
        return Arrivals(life, self.earlier, self.rows, end)

    def arrived(self, packet: FramePacket, results: Sequence[AUResult]) -> None:
        self.missing(packet.index)
        self.next_index = packet.index + 1
        self.epoch, self.last_seq = packet.stamp.epoch, packet.stamp.seq
        self.faces = sum(result.crop is not None for result in results)
        ledger = self.ledger
        ledger.delivered += 1
        self.rows += len(results)
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

    def __init__(self, worker: Worker, sinks: list[Sink], books: SinkBooks) -> None:
        self._worker, self._sinks, self._books = worker, sinks, books
        self._frames = worker.rings("frames")
        self._in = Incoming(worker, "results", [self._frames])
        self._open: dict[str, _Stream] = {}
        self._closed: dict[str, Ledger] = {}
        self._down = "sink" if worker.life else None
        """The stage that died last. It may have had frames of streams that have not yet come this far."""
        self._down_of: dict[str, str] = {}
        """By stream, when it was one for this stream alone."""
        for stream, before in books.before.items():
            self._go_on(stream, before)
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

    def _go_on(self, stream: str, before: Arrivals) -> None:
        """With a stream that an earlier life of the sink knew."""
        if before.end.ledger.ended == RUNNING:
            self._open[stream] = _Stream.going_on(before, self._worker.life)
            self._note(self._open[stream])
            return
        self._closed[stream] = before.end.ledger
        if self._worker.config.rotate is None:
            # Ledgers come last in a file, so none has this one; with --rotate one may have been closed with
            # it. Whoever subscribes has had it.
            for sink in self._sinks:
                if sink.lossless:
                    sink.close_stream(before.end.ledger)

    def _note(self, known: _Stream, ledger: Ledger | None = None) -> None:
        self._books.write(known.arrivals(self._worker.life, ledger))

    def _new(self, stream: str) -> _Stream:
        return _Stream(stream, self._down_of.get(stream, self._down))

    def _begin(self, info: StreamInfo) -> None:
        known = self._open.setdefault(info.stream, self._new(info.stream))
        if not known.opened:
            known.opened = True
            for sink in self._sinks:
                sink.open_stream(info)
            self._note(known)

    def _write(self, message: ResultsPacket) -> None:
        image = message.frame.image
        pixels = _NO_PIXELS if image is None else self._frames.view(image)
        frame = Frame(message.frame.stamp, pixels)
        for sink in self._sinks:
            sink.write(frame, message.results)
        known = self._open[frame.stamp.stream]
        known.arrived(message.frame, message.results)
        self._note(known)
        if image is not None:
            self._frames.release(image)
        # The sink has no time of its own in the rows; under its name goes the total.
        taken = {("sink" if s == "total" else s, ""): ms for s, ms in message.results[0].latency_ms.items()}
        taken |= {("infer", engine): ms for engine, ms in message.compute_ms.items()}
        for key, taken_ms in taken.items():
            self._latency[key] = self._latency.get(key, Histogram()).plus(taken_ms)

    def _close(self, end: StreamEnd) -> None:
        """Of a stream that never began, too: a live source that was never there has a ledger."""
        known = self._open.pop(end.stream, None) or self._new(end.stream)
        ledger = known.closed(end)
        self._worker.take_time(_CLOSING_SECONDS)
        for sink in self._sinks:
            sink.close_stream(ledger)
        self._note(known, ledger)
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
            if command.verb == "down" and command.reason != "sink":  # its own deaths its books have counted
                if command.stream:  # what reads it was its own
                    self._down_of[command.stream] = command.reason
                    hit = [self._open[command.stream]] if command.stream in self._open else []
                else:
                    self._down, hit = command.reason, list(self._open.values())
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
