"""The capture stage's logic: the frames of one source, with its limits, again and again with --loop."""

from __future__ import annotations

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
    config: RunConfig,
    ledger: Ledger,
    started: Callable[[], bool],
) -> Iterator[StreamInfo | Frame]:
    """What `feed.live_frames` gives, from the run's start on, within its limits; frame numbers from 0.

    Counts what is captured, goes on from what `ledger` has already, and says in `ledger.ended` why the stream
    ended. A number that the feed left out is a frame that was decoded and that nobody should look at.
    """
    next_seq: int | None = None
    began_seconds: float | None = None
    for item in items:
        if isinstance(item, StreamInfo):
            yield item
            continue
        stamp = item.stamp
        if not started():
            continue
        next_seq = stamp.seq if next_seq is None else next_seq
        began_seconds = stamp.captured_monotonic_seconds if began_seconds is None else began_seconds
        for _ in range(next_seq, stamp.seq):
            ledger.drop("capture", "damaged")
        ledger.captured += stamp.seq - next_seq + 1
        next_seq = stamp.seq + 1
        if (
            config.duration is not None
            and stamp.captured_monotonic_seconds - began_seconds >= config.duration
        ):
            ledger.drop("capture", "duration limit")
            ledger.ended = "duration limit"
            return
        yield Frame(replace(stamp, seq=ledger.captured - 1), item.image_bgr)
        if config.frames is not None and ledger.captured >= config.frames:
            ledger.ended = "frame limit"
            return
