"""capture: decode, stamp, hand over. A file waits for the rest of the pipeline; a live source keeps up.

A feed has such a process to itself (`sources.captures_of`); everything else shares one. There every live
source is read in a thread of its own, and so is every --source that is played as if it were live; files that
wait are read one after another, in one more thread. The main thread takes frames from their lanes, turn by
turn, whenever the face stage has room; it alone knows rings and sockets.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.books import RUNNING, Book, read_book
from pipeline.capture import LiveCount, captured_frames, live_captured
from pipeline.config import RunConfig
from pipeline.errors import RunError, SourceError
from pipeline.feed import FeedEvent, live_frames
from pipeline.lanes import Lane, next_turn
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo
from pipeline.pacing import Stall
from pipeline.ring import PixelRef, Ring, attach_ring, create_rings, packed_bytes, ring_names
from pipeline.sources import SourceSpec, captures_of, open_source, read_streams
from pipeline.stages.links import Outgoing
from pipeline.stages.wiring import frames_link, kind_of, number_of
from pipeline.stages.worker import FIRST_WORD_SECONDS, Worker, info_entry
from pipeline.streams import Event, FramePacket, StreamBegin, StreamEnd, frames_ring

_REPORT_EVERY_SECONDS = 0.25
_WHOLE_SECONDS = 10.0
"""Damage after so long without any is worth a word."""
_MOST_LOOKS = 8
"""Sources that are looked at at a time; one that hangs takes seconds."""
_GROWTH = 1.5
"""How much larger than a frame that did not fit the next ring's slots are."""


def run(worker: Worker) -> None:
    specs = read_streams(worker.folder)
    mine = [n for n, capture in enumerate(captures_of(specs)) if capture == number_of(worker.name)]
    feeds = _Feeds(worker.config, worker.folder)
    feeds.plan({number: specs[number] for number in mine}, beside_feeds=any(spec.feed for spec in specs))
    if not worker.life:
        feeds.await_first_words(worker)
    infos = [info_entry(info) for info in feeds.infos]
    worker.ready(infos=infos, keeps_up=feeds.keeps_up, resumes=feeds.resumes)
    if worker.wait_for_start():
        feeds.begin(live=False)
        _Loop(worker, feeds).run()


@dataclass(eq=False)
class _Feed:
    """One stream, how it is read, and where its frames go."""

    number: int
    spec: SourceSpec
    lane: Lane
    info: StreamInfo | None
    """None: a live source that is not yet there."""
    live: bool
    """Read by `live_frames`; otherwise a file, also one that is played as if it were live."""
    failure: str = ""
    """Why a live source was not there at first."""


def _look_at(spec: SourceSpec) -> StreamInfo | SourceError:
    """Open a source for a moment: what it is, or why it cannot be read."""
    try:
        source = open_source(spec)
    except SourceError as error:
        return error
    source.close()
    return source.info


class _Feeds:
    """The threads that read, and their lanes."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._bell_out, self._bell_in = os.pipe()
        os.set_blocking(self._bell_out, False)
        os.set_blocking(self._bell_in, False)
        self._all: list[_Feed] = []
        self._begun: set[str] = set()
        self._started = threading.Event()
        self.ended_before: list[StreamEnd] = []
        """Of an earlier life of this process."""
        self.events: deque[FeedEvent] = deque(maxlen=100)
        self.refused: SourceError | None = None
        """A file that could not be read to its end."""
        self.broken: BaseException | None = None
        """A bug that ended a thread."""

    @property
    def bell(self) -> int:
        """A descriptor that can be read when there is something to do."""
        return self._bell_out

    @property
    def infos(self) -> list[StreamInfo]:
        return [feed.info for feed in self._all if feed.info is not None]

    @property
    def keeps_up(self) -> bool:
        """Whether every stream may lose frames."""
        return all(feed.lane.keeps_up for feed in self._all)

    @property
    def resumes(self) -> bool:
        """Whether a next life of this process could go on: a file it would play from its beginning."""
        return all(feed.live or self._config.loop for feed in self._all)

    @property
    def lanes(self) -> list[Lane]:
        return [feed.lane for feed in self._all]

    def is_live(self, stream: str) -> bool:
        """Whether a stream is there from the start; a file's begins when its turn comes."""
        return any(feed.live and feed.spec.stream == stream for feed in self._all)

    def plan(self, specs: Mapping[int, SourceSpec], beside_feeds: bool) -> None:
        """Make lanes for sources, by the numbers of their streams, and begin to read those that are live.

        Whether it is live shows of some only when it is open: those are looked at, all at once. One of them
        that cannot be reached is taken for a camera that will be, where the run has live sources anyway.

        Args:
            beside_feeds: the run has feeds, here or in other processes.

        Raises:
            SourceError: a source that is not live cannot be read.
        """
        unknown: list[tuple[int, SourceSpec, StreamEnd | None]] = []
        for number, spec in specs.items():
            before = read_book(self._folder, number)
            if before is not None and before.ledger.ended != RUNNING:
                self.ended_before.append(before)
            elif spec.feed or (before is not None and before.ledger.events):
                self._add(number, spec, None, before)
            else:
                unknown.append((number, spec, before))
        self.begin(live=True)
        with ThreadPoolExecutor(_MOST_LOOKS) as pool:
            looks = list(pool.map(_look_at, [spec for _, spec, _ in unknown]))
        has_live = beside_feeds or any(feed.live for feed in self._all)
        has_live |= any(isinstance(look, StreamInfo) and look.live for look in looks)
        for (number, spec, before), look in zip(unknown, looks, strict=True):
            if isinstance(look, StreamInfo):
                self._add(number, spec, look, before)
            elif has_live and "://" in spec.uri:
                self._add(number, spec, None, before)
            else:
                raise look
        self.begin(live=True)

    def _add(self, number: int, spec: SourceSpec, info: StreamInfo | None, before: StreamEnd | None) -> None:
        live = info is None or info.live
        keeps_up = live if self._config.live is None else self._config.live
        book = Book(self._folder, number)
        lane = Lane(spec.stream, keeps_up, live or keeps_up, book.write, self.ring_bell, before)
        self._all.append(_Feed(number, spec, lane, None if live else info, live))
        self._all.sort(key=lambda feed: feed.number)

    def begin(self, live: bool) -> None:
        """Start reading what is live, before the run starts; or the rest, now that it does."""
        if not live:
            self._started.set()
        if self._started.is_set():
            for feed in self._all:
                if feed.lane.keeps_up:  # the time of others is what their frames say
                    feed.lane.start()
        queues: dict[object, list[_Feed]] = {}
        for feed in self._all:
            if feed.spec.stream not in self._begun and feed.live == live:
                # What keeps up goes side by side, but for the files of one glob.
                key = id(feed) if live else feed.spec.argument if feed.lane.keeps_up else None
                queues.setdefault(key, []).append(feed)
                self._begun.add(feed.spec.stream)
        for queue in queues.values():
            threading.Thread(target=self._read_all, args=(queue,), daemon=True).start()

    def await_first_words(self, worker: Worker) -> None:
        """Wait until the live sources are there, or have failed once; not for the last one."""
        first: float | None = None
        while any(feed.info is None and not feed.failure for feed in self._all):
            first = first or (time.monotonic() if self.infos else None)
            if worker.wish() or (first is not None and time.monotonic() - first > FIRST_WORD_SECONDS):
                return
            time.sleep(0.02)

    def ring_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            os.write(self._bell_in, b"!")

    def hush(self) -> None:
        """Take the bell's rings."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell_out, 4096)

    def _read_all(self, queue: Sequence[_Feed]) -> None:
        for feed in queue:
            try:
                if feed.lane.ended is None:
                    self._read(feed)
            except BaseException as error:
                self.broken = error
                self.ring_bell()
                return
            if self.refused is not None and not feed.lane.live:
                return

    def _read(self, feed: _Feed) -> None:
        lane, config = feed.lane, self._config
        counted, first_epoch, first_seq = lane.counts(), lane.epoch, lane.counts().captured
        try:
            if feed.live:
                told, out_of_time = Ledger(lane.stream), partial(self._out_of_time, lane)
                count = LiveCount(told, counted, self._started.is_set)
                on_event = partial(self._on, feed)
                items = live_frames(
                    feed.spec,
                    stop=_Stop(lane, count, out_of_time, on_event),
                    on_event=on_event,
                    ledger=told,
                    epoch=first_epoch,
                )
                for item in live_captured(items, count, config.frames, out_of_time):
                    if isinstance(item, StreamInfo):
                        feed.info = feed.info or item
                        lane.begin(item)
                    elif not lane.put(item, 0.0, counted):
                        return
            else:
                self._play(feed, counted, first_epoch, first_seq)
        except SourceError as error:
            counted.ended = str(error)
            self.refused = self.refused or error
        lane.end(counted)

    def _out_of_time(self, lane: Lane, now_seconds: float) -> bool:
        """Whether --duration is over for a stream, whether or not it gives pictures."""
        most, began = self._config.duration, lane.began_seconds
        return most is not None and began is not None and now_seconds - began >= most

    def _play(self, feed: _Feed, counted: Ledger, first_epoch: int, first_seq: int) -> None:
        lane, info = feed.lane, feed.info
        assert info is not None
        lane.begin(info)
        # Played as if it were live, no frame need be lost while the face stage makes ready.
        while lane.keeps_up and lane.ended is None and not lane.opened.wait(0.1):
            pass
        asked = time.perf_counter()

        def wish() -> str | None:
            # A file's own times say how long it was played, but not for how long in an earlier life.
            late = first_epoch > 0 and self._out_of_time(lane, time.monotonic())
            return lane.ended or ("duration limit" if late else None)

        frames = captured_frames(open_source(feed.spec), feed.spec, self._config, counted, wish)
        for frame in _at_its_own_speed(frames, info.rate_hz, lane) if lane.keeps_up else frames:
            decoded_ms = 0.0 if lane.keeps_up else 1e3 * (time.perf_counter() - asked)
            if not lane.put(_from(frame, first_epoch, first_seq), decoded_ms, counted):
                return
            asked = time.perf_counter()

    def _on(self, feed: _Feed, event: FeedEvent) -> None:
        feed.lane.happened(event.kind)
        if event.kind in ("lost", "stalled", "failed") and feed.info is None:
            feed.failure = event.reason or event.kind
        self.events.append(event)
        self.ring_bell()


class _Stop:
    """Whether a feed is to end. It asks all the time: so what it loses without a frame is noted here."""

    def __init__(
        self,
        lane: Lane,
        count: LiveCount,
        out_of_time: Callable[[float], bool],
        on_event: Callable[[FeedEvent], None],
    ) -> None:
        self._lane, self._count, self._out_of_time, self._on_event = lane, count, out_of_time, on_event
        self._thread = threading.get_ident()
        self._noted_at = 0.0
        self._dropped, self._dropped_at = 0, -_WHOLE_SECONDS

    def __call__(self) -> bool:
        now = time.monotonic()
        # Another thread, which opens the source, asks too.
        if threading.get_ident() == self._thread and now - self._noted_at >= _REPORT_EVERY_SECONDS:
            self._noted_at = now
            if self._count.update():
                self._lane.note(self._count.ledger)
                self._look_for_damage(now)
        return self._lane.ended is not None or self._out_of_time(now)

    def _look_for_damage(self, now: float) -> None:
        dropped = sum(self._count.told.dropped.values())
        if dropped > self._dropped:
            if now - self._dropped_at >= _WHOLE_SECONDS:
                reason = "pictures are not whole; they are dropped up to the next key frame"
                self._on_event(FeedEvent(self._lane.stream, "damaged", self._lane.epoch, reason, 0.0))
            self._dropped, self._dropped_at = dropped, now


def _from(frame: Frame, epoch: int, seq: int) -> Frame:
    """The frame, its numbers counted from these."""
    stamp = frame.stamp
    return Frame(replace(stamp, epoch=stamp.epoch + epoch, seq=stamp.seq + seq), frame.image_bgr)


class _Clock:
    """When the frames of a file are due that is played at its own speed, loop after loop."""

    def __init__(self, rate_hz: float) -> None:
        self._interval_seconds = 1.0 / rate_hz
        self._last: Stamp | None = None
        self._due = 0.0

    def due(self, stamp: Stamp) -> float:
        """Seconds on the monotonic clock."""
        if stamp is self._last:
            return self._due
        if self._last is None:
            self._due = time.monotonic()
        elif stamp.epoch != self._last.epoch:
            self._due += self._interval_seconds
        else:
            self._due += stamp.pts_seconds - self._last.pts_seconds
        self._last = stamp
        return self._due


def _at_its_own_speed(frames: Iterator[Frame], rate_hz: float, lane: Lane) -> Iterator[Frame]:
    clock = _Clock(rate_hz)
    for frame in frames:
        while lane.ended is None and (early := clock.due(frame.stamp) - time.monotonic()) > 0:
            time.sleep(min(early, 0.05))
        yield frame


class _Frames:
    """The rings of pictures: where a frame does not fit, a larger ring is made."""

    def __init__(self, worker: Worker) -> None:
        self._folder, self._stage, self._to_sink = worker.folder, worker.stage, worker.pixels_to_sink
        self._link = frames_link(worker.name)
        self._captures = sum(kind_of(link) == "frames" for link in worker.lives)
        self.rings: list[Ring] = [worker.ring(name) for name in ring_names(worker.folder, self._link)]
        """The largest last."""

    @property
    def room(self) -> bool:
        """Whether `put` finds a slot, as long as the frame fits."""
        return not self.rings or self.rings[-1].free

    def put(self, image_bgr: NDArray[np.uint8]) -> tuple[Ring, PixelRef]:
        """Copy a picture into a slot, leased to this stage; call it when there is `room`.

        Raises:
            RunError: there is too little shared memory for a larger ring.
        """
        if not self.rings or packed_bytes([image_bgr.shape]) > self.rings[-1].spec.slot_bytes:
            self._make(image_bgr)
        ring = self.rings[-1]
        slot = ring.take()
        assert slot is not None
        return ring, slot.put(image_bgr)

    def _make(self, image_bgr: NDArray[np.uint8]) -> None:
        size_wh = (image_bgr.shape[1], image_bgr.shape[0])
        spec = frames_ring(
            size_wh, to_sink=self._to_sink, index=len(self.rings), link=self._link, captures=self._captures
        )
        if self.rings:
            least = int(_GROWTH * self.rings[-1].spec.slot_bytes)
            spec = replace(spec, slot_bytes=max(spec.slot_bytes, least))
        create_rings(self._folder, [spec])
        self.rings.append(attach_ring(self._folder, spec.name, self._stage))


class _Loop:
    """Take frames from the lanes, hand them over."""

    def __init__(self, worker: Worker, feeds: _Feeds) -> None:
        self._worker, self._feeds = worker, feeds
        self._frames = _Frames(worker)
        self._out = Outgoing(worker, frames_link(worker.name), self._frames.rings)
        self._lanes = list(feeds.lanes)
        self._handed: Counter[str] = Counter()
        """By stream: messages so far; the first one is its beginning."""
        self._reported_at = 0.0
        self._stall = Stall()
        self._down, self._held = False, ""
        for end in feeds.ended_before:
            self._out.mark(end)

    def run(self) -> None:
        while self._lanes:
            self._obey()
            while self._out.room() and self._frames.room and (lane := next_turn(self._lanes)) is not None:
                self._hand_over(lane)
            self._hold()
            self._lanes = [lane for lane in self._lanes if not self._see_to(lane)]
            self._tell_and_wait()
        self._out.finish()
        if self._feeds.refused is not None:
            self._worker.fail(self._feeds.refused)

    def _obey(self) -> None:
        """What the supervisor wants, and what the threads ran into."""
        if self._feeds.broken is not None:
            raise self._feeds.broken
        if (wish := self._worker.wish()) is not None:
            self._forget_unread()
            for lane in self._lanes:
                lane.close(wish)
        elif self._feeds.refused is not None:
            self._forget_unread()  # as far as files go, the run is over
        while self._worker.commands:
            command = self._worker.commands.popleft()
            if command.verb in ("down", "up"):
                self._down = command.verb == "down"
            for lane in self._lanes:
                if command.verb == "remove" and lane.stream == command.stream:
                    lane.close("removed")

    def _hold(self) -> None:
        """Let frames wait while a stage further on stands still, which may be before anybody has noticed."""
        stalled = self._stall.look(time.monotonic(), *self._out.worked_off)
        why = "restarting" if self._down else "overload" if stalled else ""
        if why != self._held:
            self._held = why
            for lane in self._lanes:
                lane.hold(why)

    def _forget_unread(self) -> None:
        begun, live = self._handed, self._feeds.is_live
        self._lanes = [lane for lane in self._lanes if lane.stream in begun or live(lane.stream)]

    def _hand_over(self, lane: Lane) -> None:
        item = lane.take()
        if isinstance(item, StreamInfo):
            self._handed[lane.stream] += 1
            self._out.mark(StreamBegin(item))
            return
        try:
            ring, image = self._frames.put(item.frame.image_bgr)
        except RunError as error:
            lane.lose("no memory")
            lane.close(str(error))
            return
        stamp = replace(item.frame.stamp, epoch=item.frame.stamp.epoch + self._out.life)
        packet = FramePacket(stamp, item.stride, image, {"capture": item.capture_ms}, lane.sent(item))
        ring.pass_on(image, "face")
        self._out.send(packet)
        self._handed[lane.stream] += 1

    def _see_to(self, lane: Lane) -> bool:
        """Let a stream's thread know how far the face stage is; end what is over, and say whether it is.

        The lane is asked once: its feed's thread may end it at any moment.
        """
        pending, handed = self._out.pending(lane.stream), self._handed[lane.stream]
        lane.confirm(pending)
        # Many feeds, or one at full load, may never leave it without a message: one frame done will do.
        if (handed and pending == 0) or handed - pending > 1:
            lane.opened.set()
        if over := lane.over:
            self._out.mark(lane.statement())
            self._report(lane)
        return over

    def _tell_and_wait(self) -> None:
        now = time.monotonic()
        self._worker.waiting = sum(lane.frames_waiting for lane in self._lanes)
        if now - self._reported_at >= _REPORT_EVERY_SECONDS:
            self._reported_at = now
            for lane in self._lanes:
                self._report(lane)
        while self._feeds.events:
            event = self._feeds.events.popleft()
            text = event.reason + (f"; next try in {event.wait_seconds:.1f} s" if event.wait_seconds else "")
            self._worker.report_soon(Event(event.stream, event.kind, text))
        self._out.wait(0.1, self._feeds.bell)
        self._feeds.hush()

    def _report(self, lane: Lane) -> None:
        self._worker.report(lane.statement().ledger)
