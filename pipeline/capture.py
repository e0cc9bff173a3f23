"""The capture stage's logic: the frames of one source, with its limits, again and again with --loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from pipeline.config import RunConfig
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo
from pipeline.sources import Source, SourceSpec, open_source


def captured_frames(
    source: Source,
    spec: SourceSpec,
    config: RunConfig,
    ledger: Ledger,
    stop: Callable[[], str | None],
) -> Iterator[Frame]:
    """Frames of an opened source, which is closed at the end.

    Counts what is captured and dropped, and says in `ledger.ended` why the stream ended: at its own end, at
    --frames or --duration, or because `stop` gave a reason.

    Raises:
        SourceError: reading failed.
    """
    epoch, seq, played = 0, 0, 0.0
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
                if wish := stop():
                    ledger.ended = wish
                    return
            if not config.loop or source.info.live or first_pts is None or last_pts is None:
                return
            played += last_pts - first_pts + 1.0 / source.info.rate_hz
            epoch += 1
            source.close()
            source = open_source(spec)
    finally:
        source.close()


class LiveCount:
    """A feed's ledger from the run's start on: what it held before, and what the feed has told since.

    What comes before the run has started does not count: nobody waits for it.
    """

    def __init__(self, told: Ledger, ledger: Ledger, started: Callable[[], bool]) -> None:
        """`told`: the ledger that the feed counts on; `ledger`: the one to fill; it may hold something."""
        self.told, self.ledger, self._started = told, ledger, started
        self._before = replace(ledger, dropped=dict(ledger.dropped))
        self._base: Ledger | None = None

    def update(self, frame: Stamp | None = None) -> bool:
        """Bring the ledger up to date, with a frame that the feed has just given or between two; False before
        the run has started. Only in the feed's own thread."""
        if self._base is None:
            if not self._started():
                return False
            captured = self.told.captured if frame is None else frame.seq
            self._base = replace(self.told, captured=captured, dropped=dict(self.told.dropped))
        _add_since(self._base, self.told, self._before, self.ledger)
        return True

    def seq(self, stamp: Stamp) -> int:
        """The number of a frame in the stream; after an `update`."""
        assert self._base is not None
        return self._before.captured + stamp.seq - self._base.captured


def live_captured(
    items: Iterable[StreamInfo | Frame],
    count: LiveCount,
    most_frames: int | None = None,
    out_of_time: Callable[[float], bool] = lambda _: False,
) -> Iterator[StreamInfo | Frame]:
    """What `feed.live_frames` gives, within the limits of the run; frame numbers from 0, or from where the
    ledger stands. `count.ledger` says in `ended` why the stream ended.

    Args:
        items: what the feed gives.
        count: of the same feed.
        most_frames: --frames.
        out_of_time: whether --duration is over at a moment of the monotonic clock. It ends the stream with
            the next frame; that there is one at all, or the feed ends, is up to the feed's own `stop`.
    """
    ledger = count.ledger
    for item in items:
        if isinstance(item, StreamInfo):
            yield item
            continue
        stamp = item.stamp
        if not count.update(stamp):
            continue
        if out_of_time(stamp.captured_monotonic_seconds):
            ledger.drop("capture", "duration limit")
            ledger.ended = "duration limit"
            return
        yield Frame(replace(stamp, seq=count.seq(stamp)), item.image_bgr)
        if most_frames is not None and ledger.captured >= most_frames:
            ledger.ended = "frame limit"
            return
    count.update()
    ledger.ended = "duration limit" if out_of_time(time.monotonic()) else "the feed ended"


def _add_since(base: Ledger, told: Ledger, before: Ledger, ledger: Ledger) -> None:
    """ledger = before + (told − base)."""
    ledger.captured = before.captured + told.captured - base.captured
    ledger.undecodable_packets = (
        before.undecodable_packets + told.undecodable_packets - base.undecodable_packets
    )
    ledger.estimated_pts = before.estimated_pts + told.estimated_pts - base.estimated_pts
    for key, frames in told.dropped.items():
        since = frames - base.dropped.get(key, 0)
        if since:
            ledger.dropped[key] = before.dropped.get(key, 0) + since
