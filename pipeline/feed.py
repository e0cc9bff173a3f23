"""A live source: read for as long as the run lasts, opened again when it was lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.errors import SourceError
from pipeline.messages import Frame, Ledger, StreamInfo
from pipeline.sources import SourceSpec, open_source

_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """Something that befell a live source."""

    stream: str
    kind: Literal["connected", "lost", "stalled", "failed", "changed"]
    epoch: int
    reason: str
    wait_seconds: float
    """Until the next try."""


def live_frames(
    spec: SourceSpec,
    *,
    stop: Callable[[], bool],
    on_event: Callable[[FeedEvent], None],
    ledger: Ledger,
    epoch: int = 0,
) -> Iterator[StreamInfo | Frame]:
    """A StreamInfo at the start of every epoch, and its frames; numbers go on over epochs. The ledger counts
    what is captured and dropped, and `epoch` is the number of the first."""
    while not stop():
        connected = False
        try:
            source = open_source(spec)
            connected = True
            on_event(FeedEvent(spec.stream, "connected", epoch, "", 0.0))
            try:
                yield replace(source.info, live=True, frames=None)
                for frame in source.frames(ledger, epoch, ledger.captured):
                    yield frame
                    epoch = frame.stamp.epoch
                    if stop():
                        return
                on_event(FeedEvent(spec.stream, "lost", epoch, "it ended", _WAIT_SECONDS))
            finally:
                source.close()
        except SourceError as error:
            kind: Literal["lost", "failed"] = "lost" if connected else "failed"
            on_event(FeedEvent(spec.stream, kind, epoch, str(error), _WAIT_SECONDS))
        epoch += connected
        until = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < until and not stop():
            time.sleep(0.05)
