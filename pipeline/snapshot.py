"""A run at one moment, as the supervisor knows it: plain numbers, for whoever watches from outside."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

LATENCY_BOUNDS_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
"""Upper bounds of the histograms of latency; one more bucket holds what is above."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Latencies of one stage, counted over all frames that were delivered."""

    counts: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS_MS) + 1)
    """Frames in each bucket: the first at most LATENCY_BOUNDS_MS[0], the last above all bounds."""
    sum_ms: float = 0.0
    last_ms: float = 0.0

    def plus(self, latency_ms: float) -> Histogram:
        """One frame more."""
        counts = list(self.counts)
        counts[bisect_left(LATENCY_BOUNDS_MS, latency_ms)] += 1
        return Histogram(tuple(counts), self.sum_ms + latency_ms, latency_ms)


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """One stream, those that have ended included."""

    stream: str
    connected: bool
    """Whether its source gives frames, as far as is known; False before, between and after."""
    ended: bool
    epoch: int
    captured: int
    delivered: int
    dropped: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(stage, reason) → frames."""
    faces: int = 0
    """In the last frame that was delivered."""
    reconnects: int = 0

    @property
    def in_flight(self) -> int:
        """Frames on their way; what is counted a moment apart in two processes may differ by a frame."""
        return max(0, self.captured - self.delivered - sum(self.dropped.values()))


@dataclass(frozen=True, slots=True)
class StageSnapshot:
    """One stage's process."""

    stage: str
    """`capture`, `face`, `infer` or `sink`."""
    running: bool
    """Whether it is at work; False while it starts, also anew."""
    restarts: int
    queued: int
    """Frames that wait there or are in work."""
    latency: Histogram
    """What this stage took for a frame; the sink's holds the total, from capture to result."""


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """One engine, as it was chosen."""

    name: str
    backend: str
    precision: str
    trained: str
    compute: Histogram
    """What it computed for a frame with faces, over all of them and all threads."""


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """All of a run."""

    uptime_seconds: float
    ready: bool
    """All stages are at work."""
    streams: tuple[StreamSnapshot, ...]
    stages: tuple[StageSnapshot, ...]
    engines: tuple[EngineSnapshot, ...] = ()
    """Empty until all are compiled and loaded."""
