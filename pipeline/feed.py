"""A live feed that goes on: connect, watch, and connect again whenever it breaks.

A camera or an address is read until somebody says stop. What ends a connection (the server closes it, no more
pictures come, the cable is pulled) ends an epoch and nothing more; then the next try follows, after a wait
that grows while tries fail. Only the monotonic clock is looked at, so that the wall clock may jump.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Literal

from pipeline.address import scheme_of, without_credentials
from pipeline.errors import SourceError, StalledError
from pipeline.messages import Frame, Ledger, StreamInfo
from pipeline.sources import Source, SourceSpec, open_source

STALL_SECONDS = 1.8
"""Without a picture for so long a feed has stalled. It is noticed up to 0.1 s later, which is within 2 s."""
LASTED_SECONDS = 10.0
"""After a connection that lasted so long the next outage begins with short waits again."""
_LONGEST_JUMP_SECONDS = 5.0
"""A PTS that runs further ahead of the last one than any stall can last is another clock's."""
_LOOK_SECONDS = 0.05

FeedKind = Literal["connected", "lost", "stalled", "failed", "changed", "damaged"]


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """What happened to a feed, for the ledger, the metrics and the log."""

    stream: str
    kind: FeedKind
    """`connected`; `lost` (the connection ended) or `stalled` (it is there, but no picture comes) after that;
    `failed` (a try to connect); `changed` (another size or another clock within a connection); `damaged` (it
    goes on, but pictures are not whole: said once when that begins)."""
    epoch: int
    """The epoch that begins with `connected` and `changed`; otherwise the last one, or the first to come."""
    reason: str
    """One line, without credentials; it does not repeat the stream."""
    wait_seconds: float
    """Until the next try to connect; 0 with `connected` and `changed`."""


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next try: a bound that doubles, and by chance somewhere in its upper half.

    Chance keeps many feeds of one server that restarts from coming back in the same moment.
    """

    first_seconds: float = 0.5
    """The least wait; the first one is between this and its double."""
    most_seconds: float = 5.0
    """The longest wait during the first `early_seconds` of an outage."""
    early_seconds: float = 120.0
    later_most_seconds: float = 30.0
    """The longest wait after those."""
    chance: Callable[[], float] = random.random
    """A number from 0 to 1."""
    _tries: int = field(default=0, init=False)
    _began: float | None = field(default=None, init=False)

    def wait_seconds(self, now: float) -> float:
        """The wait after a try that failed at `now` (seconds on a monotonic clock)."""
        self._began = now if self._began is None else self._began
        most = self.most_seconds if now - self._began < self.early_seconds else self.later_most_seconds
        bound = min(most, self.first_seconds * 2.0 ** min(self._tries + 1, 32))
        self._tries += 1
        return max(self.first_seconds, bound * (0.5 + 0.5 * self.chance()))

    def reset(self) -> None:
        """The outage is over."""
        self._tries, self._began = 0, None


def _ignore(_: FeedEvent) -> None:
    pass


def live_frames(
    spec: SourceSpec,
    *,
    stop: Callable[[], bool],
    on_event: Callable[[FeedEvent], None] = _ignore,
    backoff: Backoff | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    ledger: Ledger | None = None,
    epoch: int = 0,
) -> Iterator[StreamInfo | Frame]:
    """Frames of a feed, over all its connections, until `stop` says so or the iterator is closed.

    At the start of every epoch comes its `StreamInfo`, then its frames. An epoch begins with every connection
    and, within a connection, with every change of size and every jump of the feed's clock. A feed that is not
    there is tried again and again; with one thread to a feed, none keeps the others waiting. What turns out
    to be a file, which shows only when http:// is open, is not read: it would begin again after every end.

    Frames are numbered (`Stamp.seq`) over all epochs, as they are decoded: a frame that is dropped here, for
    damage, takes a number with it. The ledger says which those were, and `ledger.captured` is always the next
    number; what is yielded and what `ledger.dropped` counts make up `ledger.captured`.

    Args:
        spec: the feed.
        stop: asked between packets, and all the while during waits and connecting. A read that hangs ends by
            itself after `STALL_SECONDS`.
        on_event: told at once, in this thread, what happens to the feed.
        backoff: the waits between tries.
        clock: seconds on a monotonic clock.
        sleep: waits for some seconds.
        ledger: counts what is captured and dropped; it and the numbers go on from what it already holds.
        epoch: the number of the first epoch; more than 0 when somebody else has read the feed before.
    """
    backoff = Backoff() if backoff is None else backoff
    ledger = Ledger(spec.stream) if ledger is None else ledger
    next_epoch = epoch
    while not stop():
        kind: FeedKind = "failed"
        try:
            source = _opened(spec, stop)
            if source is None:
                return
            if scheme_of(spec.uri) in ("http", "https") and not source.info.live:
                source.close()
                on_event(FeedEvent(spec.stream, "failed", max(epoch, next_epoch - 1), _A_FILE, 0.0))
                return
            since = clock()
            next_epoch, kind, reason = yield from _connection(source, ledger, next_epoch, on_event)
            if clock() - since >= LASTED_SECONDS:
                backoff.reset()
        except SourceError as error:
            reason = str(error)
        if stop():
            return
        reason = reason.removeprefix(f"{without_credentials(spec.uri)}: ")
        wait_seconds = backoff.wait_seconds(clock())
        on_event(FeedEvent(spec.stream, kind, max(epoch, next_epoch - 1), reason, wait_seconds))
        until = clock() + wait_seconds
        while not stop() and (left := until - clock()) > 0:
            sleep(min(left, _LOOK_SECONDS))


_A_FILE = "it is a file with an end, no live source; read it by --source in a run of its own"


def _connection(
    source: Source, ledger: Ledger, epoch: int, on_event: Callable[[FeedEvent], None]
) -> Generator[StreamInfo | Frame, None, tuple[int, FeedKind, str]]:
    """What one connection gives; then the next epoch's number, how the connection ended, and why."""
    info = replace(source.info, live=True, frames=None)
    on_event(FeedEvent(info.stream, "connected", epoch, _about(info), 0.0))
    last: Frame | None = None
    first_epoch, jumps, ended = epoch, 0, ledger.ended
    kind: FeedKind = "lost"
    reason = "the feed ended"
    try:
        for frame in source.frames(ledger, first_epoch, ledger.captured):
            jumps += last is not None and _jumped(last, frame)
            frame = replace(frame, stamp=replace(frame.stamp, epoch=frame.stamp.epoch + jumps))
            if last is None or frame.stamp.epoch != epoch:
                epoch = frame.stamp.epoch
                height, width = frame.image_bgr.shape[:2]
                info = replace(info, size_wh=(width, height))
                if last is not None:
                    on_event(FeedEvent(info.stream, "changed", epoch, _change(last, frame), 0.0))
                yield info
            last = frame
            yield frame
        if ledger.ended != ended:  # said of this connection, not of the feed
            reason, ledger.ended = ledger.ended, ended
    except StalledError as error:
        kind, reason = "stalled", str(error)
    except SourceError as error:
        reason = str(error)
    finally:
        source.close()
    return epoch + 1, kind, reason


def _jumped(last: Frame, frame: Frame) -> bool:
    """Whether the feed's clock went back, or further ahead than time can have passed."""
    step = frame.stamp.pts_seconds - last.stamp.pts_seconds
    return step < 0 or step > _LONGEST_JUMP_SECONDS


def _about(info: StreamInfo) -> str:
    return f"{info.size_wh[0]}×{info.size_wh[1]}, {info.rate_hz:.3g} frames/s"


def _change(last: Frame, frame: Frame) -> str:
    before, after = ("{1}×{0}".format(*f.image_bgr.shape) for f in (last, frame))
    if before != after:
        return f"{before} became {after}"
    return f"its clock jumped by {frame.stamp.pts_seconds - last.stamp.pts_seconds:+.3f} s"


def _opened(spec: SourceSpec, stop: Callable[[], bool]) -> Source | None:
    """The source; None when a wish to stop came first. Opening may wait for the network for seconds; the wish
    does not: it leaves the opening behind, to be closed when it is through."""
    opening: Future[Source] = Future()

    def work() -> None:
        try:
            opening.set_result(open_source(spec, stop=stop, stall_seconds=STALL_SECONDS))
        except BaseException as error:
            opening.set_exception(error)

    Thread(target=work, name=f"open {spec.stream}", daemon=True).start()
    while not stop():
        if wait_for([opening], timeout=_LOOK_SECONDS).done:
            return opening.result()
    opening.add_done_callback(_close)
    return None


def _close(opening: Future[Source]) -> None:
    if opening.exception() is None:
        opening.result().close()
