"""The capture stage's logic: the frames of one source, with its limits, again and again with --loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from pipeline.config import RunConfig
from pipeline.messages import Frame, Ledger, StreamInfo
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


def live_captured(
    items: Iterable[StreamInfo | Frame],
    told: Ledger,
    config: RunConfig,
    ledger: Ledger,
    started: Callable[[], bool],
    out_of_time: Callable[[float], bool] = lambda _: False,
) -> Iterator[StreamInfo | Frame]:
    """What `feed.live_frames` gives, within the limits of the run; frame numbers from 0.

    What comes before the run has started does not count: nobody waits for it. `ledger` goes on from what it
    holds already, and says in `ended` why the stream ended.

    Args:
        told: the ledger that the feed counts on.
        out_of_time: whether --duration is over at a moment of the monotonic clock. It ends the stream with
            the next frame; that there is one at all, or the feed ends, is up to the feed's own `stop`.
    """
    before = replace(ledger, dropped=dict(ledger.dropped))
    base: Ledger | None = None
    for item in items:
        if isinstance(item, StreamInfo):
            yield item
            continue
        stamp = item.stamp
        if not started():
            continue
        if base is None:
            base = _counts_before(told, stamp.seq)
        _add_since(base, told, before, ledger)
        if out_of_time(stamp.captured_monotonic_seconds):
            ledger.drop("capture", "duration limit")
            ledger.ended = "duration limit"
            return
        yield Frame(replace(stamp, seq=before.captured + stamp.seq - base.captured), item.image_bgr)
        if config.frames is not None and ledger.captured >= config.frames:
            ledger.ended = "frame limit"
            return
    ledger.ended = "duration limit" if out_of_time(time.monotonic()) else "the feed ended"


def _counts_before(told: Ledger, seq: int) -> Ledger:
    """What a feed had counted before the frame of this number, which it has just given."""
    return replace(told, captured=seq, dropped=dict(told.dropped))


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
