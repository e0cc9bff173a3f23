"""Real servers for feeds, and a feed that is watched from a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from bench.feeds import RtspServer
from pipeline.errors import RunError
from pipeline.feed import FeedEvent, live_frames
from pipeline.messages import Frame, Ledger, StreamInfo
from pipeline.sources import SourceSpec, resolve_sources


def rtsp(*options: str) -> RtspServer:
    """GStreamer's RTSP server; the test is skipped where it is missing."""
    try:
        return RtspServer(*options)
    except RunError as error:
        pytest.skip(str(error))


class Watched:
    """A feed, read in the background; with `with`."""

    def __init__(self, address: str, **options: Any) -> None:
        if address.startswith("camera:"):
            self.spec = SourceSpec(address, address)
        else:
            self.spec = resolve_sources([address], [], options.pop("rtsp_transport", "tcp"))[0]
        self.ledger = Ledger(self.spec.stream)
        self.infos: list[StreamInfo] = []
        self.frames: list[Frame] = []
        self.frame_at: list[float] = []
        self.events: list[FeedEvent] = []
        self.event_at: list[float] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, kwargs=options, daemon=True)

    def _read(self, **options: Any) -> None:
        for item in live_frames(
            self.spec, stop=self._stopped.is_set, on_event=self._note, ledger=self.ledger, **options
        ):
            if isinstance(item, Frame):
                self.frame_at.append(time.monotonic())
                self.frames.append(item)
            else:
                self.infos.append(item)

    def _note(self, event: FeedEvent) -> None:
        self.event_at.append(time.monotonic())
        self.events.append(event)

    def until(self, seen: Callable[[], object], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < deadline, (self.kinds, len(self.frames))
            time.sleep(0.01)

    def until_end(self) -> None:
        """Until the feed gives up by itself."""
        self.until(lambda: not self._thread.is_alive())

    def until_frames(self, more: int = 10) -> None:
        """Until so many more frames have come."""
        wanted = len(self.frames) + more
        self.until(lambda: len(self.frames) >= wanted)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
