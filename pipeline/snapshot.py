"""A run at one moment, in plain numbers: the supervisor makes it, whoever watches from outside reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of every histogram; what takes longer falls into one more."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often something took how long."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_SECONDS) + 1)
    """By bucket, not summed up: values up to each of BOUNDS_SECONDS, then those beyond the last."""
    sum_seconds: float = 0.0

    def __post_init__(self) -> None:
        if len(self.counts) != len(BOUNDS_SECONDS) + 1:
            raise ValueError(f"counts: expected {len(BOUNDS_SECONDS) + 1} buckets, got {len(self.counts)}")

    def plus(self, seconds: float) -> Histogram:
        """The same with one value more."""
        bucket = bisect_left(BOUNDS_SECONDS, seconds)
        counts = (*self.counts[:bucket], self.counts[bucket] + 1, *self.counts[bucket + 1 :])
        return Histogram(counts, self.sum_seconds + seconds)


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """One stream so far."""

    stream: str
    live: bool
    epoch: int
    captured: int
    """Decoded frames."""
    delivered: int
    dropped: Mapping[tuple[str, str], int]
    """(stage, reason) → frames."""
    in_flight: int
    faces: int
    """Faces found, summed over all delivered frames."""
    faces_in_view: int
    """Faces in the frame delivered last."""
    reconnects: int
    latency: Mapping[str, Histogram]
    """By stage, and `total`: one value for every delivered frame."""
    engines: Mapping[str, Histogram]
    """Time that each engine computed, by its name: one value for every delivered frame with a face."""
    last_delivered_monotonic_seconds: float | None
    """When a frame was last known to be delivered; None before the first."""


@dataclass(frozen=True, slots=True)
class StageSnapshot:
    """One process."""

    stage: str
    alive: bool
    restarts: int
    queue_length: int
    """Messages sent to it that it has not worked through."""


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """One engine, as it was chosen."""

    name: str
    backend: str
    precision: str
    trained: str


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """All of a run."""

    streams: tuple[StreamSnapshot, ...]
    stages: tuple[StageSnapshot, ...]
    engines: tuple[EngineSnapshot, ...]
    """Empty until all are compiled and loaded."""
    uptime_seconds: float
    taken_monotonic_seconds: float
