"""Threads that share out numbered pieces of work, whoever is free taking the next."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Crew:
    """The calling thread and `size` − 1 others. Work that releases the GIL runs side by side.

    Pieces are taken one by one rather than dealt out beforehand, so that a core that a neighbour keeps busy
    does less of them. What a piece computes must not depend on its worker.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._others = ThreadPoolExecutor(size - 1, "austream-crew") if size > 1 else None

    def share(self, pieces: int, work: Callable[[int, int], None]) -> None:
        """Call `work(worker, piece)` for every piece from 0, worker from 0 to `size` − 1; wait for all."""
        taken = itertools.count()  # `next` on it is one step under the GIL

        def take(worker: int) -> None:
            while (piece := next(taken)) < pieces:
                work(worker, piece)

        helpers = min(self.size, pieces) - 1
        others = [self._others.submit(take, i + 1) for i in range(helpers)] if self._others else []
        try:
            take(0)
        finally:
            for other in others:
                other.result()
