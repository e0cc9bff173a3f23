"""The pacer against a simulated pipeline: how often it changes its mind, what it loses, how late it is."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from pipeline.pacing import Pacer, Stall


class Simulation:
    """A source at `rate` frames/s, two in waiting, a queue of six, and a pipeline that takes one frame every
    1/capacity s, or so."""

    def __init__(self, rate: float) -> None:
        self.rate, self.pacer = rate, Pacer()
        self.waiting: deque[float] = deque()
        self.queue: deque[float] = deque()
        self.random = np.random.default_rng(0)
        self.free_at = 0.0
        self.seq = 0
        self.strides: list[int] = []
        self.delays: list[float] = []
        self.delivered = self.dropped = self.decimated = 0

    def run(self, seconds: float, capacity: float, noise: float = 0.0) -> None:
        for _ in range(round(seconds * self.rate)):
            now = self.seq / self.rate
            self._drain()
            while self.queue and self.free_at <= now:
                self._serve(capacity * (1 + noise * self.random.uniform(-1, 1)))
                self._drain()
            lost = 0
            if self.pacer.keep(self.seq):
                self.waiting.append(now)
                self._drain()
                if len(self.waiting) > 2:
                    self.waiting.popleft()
                    lost = 1
                    self.dropped += 1
                self.pacer.note(now, lost, bool(self.waiting))
            else:
                self.decimated += 1
            self.strides.append(self.pacer.stride)
            self.seq += 1

    def _drain(self) -> None:
        while self.waiting and len(self.queue) < 6:
            self.queue.append(self.waiting.popleft())

    def _serve(self, capacity: float) -> None:
        captured = self.queue.popleft()
        begin = max(self.free_at, captured)
        self.free_at = begin + 1 / capacity
        self.delays.append(self.free_at - captured)
        self.delivered += 1

    @property
    def changes(self) -> int:
        return sum(a != b for a, b in zip(self.strides, self.strides[1:], strict=False))


def test_a_pipeline_that_keeps_up_is_left_alone() -> None:
    s = Simulation(30)
    s.run(60, capacity=35)
    assert set(s.strides) == {1}
    assert s.dropped == s.decimated == 0


@pytest.mark.parametrize(
    ("rate", "capacity", "strides"),
    [(60, 15.5, {4}), (30, 16, {2}), (60, 35, {2}), (30, 4, {8}), (25, 24, {2})],
)
def test_under_overload_the_stride_fits_the_capacity_and_changes_rarely(rate, capacity, strides) -> None:
    s = Simulation(rate)
    s.run(10, capacity)
    before = s.dropped
    s.run(110, capacity)
    assert max(set(s.strides[-rate * 60 :]), key=s.strides[-rate * 60 :].count) in strides
    assert s.changes <= 20
    # Full queues make a result 8 services late. After it has settled they are full in tries to go lower only.
    assert s.dropped - before < 0.01 * s.delivered
    assert np.median(s.delays[len(s.delays) // 10 :]) <= 3.0 / capacity
    assert np.percentile(s.delays[len(s.delays) // 10 :], 90) <= 7.0 / capacity


@pytest.mark.parametrize("capacity", [15.5, 19.0, 22.0, 31.0])
def test_an_unsteady_pipeline_has_flat_latency_too(capacity: float) -> None:
    s = Simulation(60)
    s.run(10, capacity, noise=0.5)
    settled = len(s.delays)
    s.run(110, capacity, noise=0.5)
    assert np.median(s.delays[settled:]) <= 2.0 / capacity
    assert np.percentile(s.delays[settled:], 90) <= 6.0 / capacity
    assert s.delivered / 120 > 0.6 * capacity  # the next stride of 60 frames/s may be a third lower


def test_one_hiccup_changes_nothing() -> None:
    s = Simulation(30)
    s.run(10, capacity=40)
    s.free_at += 0.4
    s.run(20, capacity=40)
    assert s.dropped > 0
    assert set(s.strides) == {1}


def test_when_the_load_goes_the_stride_returns_to_one() -> None:
    s = Simulation(60)
    s.run(20, capacity=15)
    assert max(s.strides) >= 4
    s.run(120, capacity=100)
    assert s.pacer.stride == 1


def test_every_frame_is_delivered_dropped_decimated_or_waiting() -> None:
    s = Simulation(60)
    s.run(30, capacity=13)
    assert s.seq == s.delivered + s.dropped + s.decimated + len(s.waiting) + len(s.queue)


@pytest.mark.parametrize("service_seconds", [0.01, 0.1, 0.3, 1.0])
def test_a_stage_that_is_slow_does_not_stand_still_and_one_that_hangs_does(service_seconds: float) -> None:
    stall, done, stood = Stall(), 0, []
    every = round(100 * service_seconds)
    for tick in range(3000):  # every 10 ms; from the 2000th on it hangs
        if tick < 2000 and tick % every == 0:
            done += 1
        stood.append(stall.look(tick / 100, done, 1))
    first = stood.index(True, 300)  # what is usual shows after a few frames
    assert not any(stood[300:2000])
    last = 1999 // every * every
    assert (first - last) / 100 == pytest.approx(max(0.25, 4 * service_seconds), abs=0.05)
    assert all(stood[first:])


def test_an_idle_stage_does_not_stand_still_and_its_next_life_begins_anew() -> None:
    stall = Stall()
    assert not any(stall.look(seconds, 5, 0) for seconds in range(10))
    assert not stall.look(9.2, 5, 1)
    assert stall.look(9.7, 5, 1)
    assert not stall.look(9.8, 0, 1)  # another one
