"""A temporal engine in parts that answers whole windows."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from engines.backends.base import InParts


class Adding:
    """A window's state is the sum of its crops' brightest pixels; notes whether two threads were in it."""

    def __init__(self) -> None:
        self.inside = threading.Lock()
        self.met = False

    def features(self, crop: np.ndarray) -> float:
        return float(crop.max())

    def gates(self, features: float) -> float:
        return features

    def step(self, gates: Sequence[float], states: Sequence[float | None]) -> list[float]:
        if not self.inside.acquire(blocking=False):
            self.met = True
            return [0.0] * len(gates)
        time.sleep(0.001)
        self.inside.release()
        return [gate + (state or 0.0) for gate, state in zip(gates, states, strict=True)]

    def head(self, state: float) -> np.ndarray:
        return np.full(2, state, np.float32)


def windows(*levels: int) -> dict[str, np.ndarray]:
    """One of four frames of each level."""
    return {"crops": np.stack([np.full((4, 8, 8, 3), level, np.uint8) for level in levels])}


def test_windows_go_side_by_side() -> None:
    np.testing.assert_array_equal(InParts(Adding()).run(windows(1, 5, 3)), [[4, 4], [20, 20], [12, 12]])


def test_any_number_of_threads_may_ask() -> None:
    """What a kernel works in belongs to one call at a time."""
    session = Adding()
    parts = InParts(session)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda level: parts.run(windows(level))[0, 0], range(20)))
    assert found == [4 * level for level in range(20)]
    assert not session.met
