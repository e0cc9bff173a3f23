"""From the threads of a capture process that read to its main thread: a lane for each stream, and whose turn
it is.

A feed is read in a thread of its own and puts its frames into its lane; the process's main thread takes them
out, one at a time, whenever the face stage has room.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.books import RUNNING
from pipeline.messages import Frame, Ledger, StreamInfo
from pipeline.pacing import Pacer
from pipeline.streams import StreamEnd

WAITING = 2
"""Frames of a stream that may wait for room; then the oldest goes, or, lossless, its decoder waits."""
HELD_BYTES = 64 << 20
"""So much of a stream may wait while a stage further on is started anew: late is better than lost then."""
SETTLING_SECONDS = 1.0
"""So long after a connection has begun its frames say nothing of the load: those that it was opened by come
all at once."""
CATCH_UP_SECONDS = 3.0
"""So long what has waited may be behind, once the stage is back; what is left then goes."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A frame that waits for room."""

    frame: Frame
    stride: int
    capture_ms: float


Item = Waiting | StreamInfo
"""What goes through a lane; a StreamInfo begins the stream, or says that it has changed."""


class Lane:
    """One stream between its thread and the main thread, with its stride and its ledger."""

    def __init__(
        self,
        stream: str,
        keeps_up: bool,
        live: bool,
        book: Callable[[StreamEnd], None] = lambda _: None,
        bell: Callable[[], None] = lambda: None,
        before: StreamEnd | None = None,
    ) -> None:
        """
        Args:
            keeps_up: the newest frames win; otherwise `put` waits for room.
            live: has its turn before those that are not.
            book: where the lane's state is written after every change.
            bell: rung when there is something to take.
            before: the book of an earlier life of this process, which this one goes on with.
        """
        self.stream, self.keeps_up, self.live = stream, keeps_up, live
        self._book, self._bell = book, bell
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._pacer = Pacer()
        self._counted = Ledger(stream, ended=RUNNING)
        self._dropped: dict[tuple[str, str], int] = {}
        self._events: dict[str, int] = {}
        self._reconnects = 0
        self._sent, self._last_seq, self._epoch = 0, None if before is None else before.last_seq, 0
        self._began_seconds = None if before is None else before.began_seconds
        self._at_next_stage = 0
        self._ending: str | None = None
        self.opened = threading.Event()
        """Set when the next stage has made ready for the stream; frames before that may be dropped."""
        self._held = ""
        self._settles_epoch, self._settled_seconds = -1, 0.0
        self._sent_stride = 1
        """Of the last frame that was sent."""
        self._behind, self._back_seconds = "", 0.0
        """Why frames wait that waited for a stage to go on, and since when it does."""
        if before is not None:
            self._go_on_from(before)

    def _go_on_from(self, before: StreamEnd) -> None:
        ledger = replace(before.ledger, dropped=dict(before.ledger.dropped), ended=RUNNING)
        lost = ledger.captured - before.frames - sum(ledger.dropped.values())
        if lost > 0:
            ledger.dropped["capture", "restarted"] = ledger.dropped.get(("capture", "restarted"), 0) + lost
        self._counted, self._sent, self._epoch = ledger, before.frames, before.epoch + 1
        self._events, self._reconnects = dict(ledger.events), ledger.reconnects

    # The feed's thread.

    def counts(self) -> Ledger:
        """A ledger for the feed's thread to count on in: captured, and dropped before it came to the lane."""
        return replace(self._counted, dropped=dict(self._counted.dropped), ended="end of file")

    @property
    def epoch(self) -> int:
        """The number of the feed's last epoch, and of its first before there is a frame."""
        return self._epoch

    @property
    def began_seconds(self) -> float | None:
        """When `start` was called first, also in an earlier life of this process."""
        return self._began_seconds

    @property
    def ended(self) -> str | None:
        """Why the stream has ended, if it has."""
        return self._ending

    def begin(self, info: StreamInfo) -> None:
        """The stream begins, or goes on otherwise than before."""
        with self._changed:
            if self._ending is None:
                self._items.append(info)
        self._bell()

    def put(self, frame: Frame, capture_ms: float, counted: Ledger) -> bool:
        """A frame, and what has been counted up to it; False when the stream has been ended meanwhile."""
        with self._changed:
            if self._ending is not None:
                return False
            self._note(counted)
            self._epoch = frame.stamp.epoch
            if self.keeps_up:
                self._keep_up(frame, capture_ms)
            else:
                self._items.append(Waiting(frame, 1, capture_ms))
            self._write()
        self._bell()
        with self._changed:
            while not self.keeps_up and self._ending is None and len(self._items) >= WAITING:
                self._changed.wait(0.5)
        return True

    def note(self, counted: Ledger) -> None:
        """What has been counted, without a frame."""
        with self._changed:
            if self._ending is None:
                self._note(counted)
                self._write()

    def happened(self, kind: str) -> None:
        """Count an event of a live source; every connection after the first is a reconnect."""
        with self._changed:
            self._reconnects += kind == "connected" and kind in self._events
            self._events[kind] = self._events.get(kind, 0) + 1
            self._write()

    def end(self, counted: Ledger) -> None:
        """The feed is at its end, and `counted.ended` says why."""
        with self._changed:
            if self._ending is None:
                self._note(counted)
                self._end(counted.ended)
        self._bell()

    # The main thread.

    def start(self) -> None:
        """The run starts, or has started before: the stream's time begins."""
        with self._changed:
            if self._began_seconds is None:
                self._began_seconds = time.monotonic()
                self._write()

    def close(self, reason: str) -> None:
        """End the stream from outside; what its thread still brings is not counted."""
        with self._changed:
            if self._ending is None:
                self._end(reason)

    def hold(self, why: str) -> None:
        """While a stage further on stands still or is started anew frames wait, as many as fit into
        HELD_BYTES; afterwards they may take CATCH_UP_SECONDS to catch up. How many find no room says nothing
        of the load then, nor did it since the last frame was sent.

        Args:
            why: the reason to count for frames beyond that; empty: frames go on.
        """
        with self._changed:
            if why:
                self._behind = why
            self._held, self._back_seconds = why, time.monotonic()
            self._pacer.look_anew(self._sent_stride)

    @property
    def waits(self) -> bool:
        """Whether there is something to take."""
        return bool(self._items)

    @property
    def frames_waiting(self) -> int:
        """Frames to take."""
        with self._changed:
            return sum(isinstance(item, Waiting) for item in self._items)

    def take(self) -> Item:
        """The oldest of what waits; of a frame say `sent` or `lose` next."""
        with self._changed:
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def sent(self, item: Waiting) -> int:
        """This frame is about to be sent: how many were before it."""
        with self._changed:
            self._sent += 1
            self._sent_stride = item.stride
            self._last_seq = item.frame.stamp.seq
            self._at_next_stage += 1
            self._write()
            return self._sent - 1

    def lose(self, reason: str) -> None:
        """A frame that was taken cannot be sent."""
        with self._changed:
            self._drop(reason)
            self._write()

    def confirm(self, pending: int) -> None:
        """How many of the stream's messages the next stage has not yet worked through."""
        self._at_next_stage = pending

    @property
    def over(self) -> bool:
        """Whether the stream has ended and nothing waits any more."""
        with self._changed:
            return self._ending is not None and not self._items

    def statement(self) -> StreamEnd:
        """How the stream stands; its end, once it is over."""
        with self._changed:
            return self._statement()

    # With the lock held.

    def _keep_up(self, frame: Frame, capture_ms: float) -> None:
        if not self._pacer.keep(frame.stamp.seq):
            self._drop("stride")
            return
        # The one before has not left the next stage: every queue is full, or it alone is too slow.
        waits = self._at_next_stage > 0 or any(isinstance(item, Waiting) for item in self._items)
        self._items.append(Waiting(frame, self._pacer.stride, capture_ms))
        waiting = deque(item for item in self._items if isinstance(item, Waiting))
        behind = self._behind
        if behind and not self._held:
            late = time.monotonic() - self._back_seconds > CATCH_UP_SECONDS
            if late or len(waiting) <= WAITING:
                self._behind = ""
        most = max(WAITING, HELD_BYTES // frame.image_bgr.nbytes) if self._behind else WAITING
        crowded_out = 0
        while len(waiting) > most:
            self._items.remove(waiting.popleft())
            self._drop(behind or ("overload" if self.opened.is_set() else "starting"))
            crowded_out += 1
        now_seconds = frame.stamp.captured_monotonic_seconds
        if frame.stamp.epoch != self._settles_epoch:
            self._settles_epoch, self._settled_seconds = frame.stamp.epoch, now_seconds + SETTLING_SECONDS
        if not behind and self.opened.is_set() and now_seconds >= self._settled_seconds:
            self._pacer.note(now_seconds, crowded_out, waits)

    def _end(self, reason: str) -> None:
        self._ending = reason
        self._write()
        self._changed.notify_all()

    def _note(self, counted: Ledger) -> None:
        self._counted = replace(counted, dropped=dict(counted.dropped))

    def _drop(self, reason: str) -> None:
        self._dropped["capture", reason] = self._dropped.get(("capture", reason), 0) + 1

    def _write(self) -> None:
        self._book(self._statement())

    def _statement(self) -> StreamEnd:
        dropped = dict(self._counted.dropped)
        for key, frames in self._dropped.items():
            dropped[key] = dropped.get(key, 0) + frames
        ledger = replace(
            self._counted,
            dropped=dropped,
            ended=self._ending or RUNNING,
            events=dict(self._events),
            reconnects=self._reconnects,
        )
        return StreamEnd(self.stream, self._last_seq, self._sent, ledger, self._epoch, self._began_seconds)


def next_turn(lanes: list[Lane]) -> Lane | None:
    """The lane whose turn it is, of those with something to take; it goes to the end of the list.

    Live ones first, and of these the one that has waited longest since its last turn: however fast another
    feed is, it gets one turn in between.
    """
    for live in (True, False):
        for lane in lanes:
            if lane.live == live and lane.waits:
                lanes.remove(lane)
                lanes.append(lane)
                return lane
    return None
