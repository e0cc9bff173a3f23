"""How fast frames go by."""

from __future__ import annotations

import time
from collections import deque


class RateMeter:
    """Frames a second over about the last two seconds."""

    def __init__(self, window_seconds: float = 2.0) -> None:
        self._window_seconds = window_seconds
        self._times: deque[float] = deque()

    def tick(self, now: float | None = None) -> float | None:
        """Counts a frame; returns the rate, or None while there are too few frames to tell."""
        now = time.monotonic() if now is None else now
        self._times.append(now)
        while len(self._times) > 2 and now - self._times[0] > self._window_seconds:
            self._times.popleft()
        span = now - self._times[0]
        return (len(self._times) - 1) / span if len(self._times) > 4 and span > 0 else None
