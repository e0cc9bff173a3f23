"""Faces from many threads and feeds, computed together in batches of one size.

A batch always has the size that the engine was compiled for and is filled up with zeros. Kernels for another
size add up in another order, so a size chosen by how many happen to wait would let a face's result depend on
its company. This way what is left is its place in the batch: the last bits of a sum, on some kernels.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

WAIT_SECONDS = 0.0005
"""How long a face waits for company: a quarter of the 2 ms within which a lone one is to have its result, and
long enough for the others of its frame, which are asked for together."""

Inputs = Mapping[str, np.ndarray]
RunBatch = Callable[[dict[str, np.ndarray]], Any]
"""Inputs of a whole batch → a result for each of its faces, in an array or a list."""


def fitting(batches: Sequence[int], faces: int) -> int:
    """The smallest batch that holds so many faces; the largest there is where none does."""
    return min((batch for batch in batches if batch >= faces), default=max(batches))


def in_batches(inputs: Inputs, batch: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Inputs of any number of faces in batches of one size: each filled up with zeros, and its faces."""
    total = len(next(iter(inputs.values())))
    for begin in range(0, total, batch):
        faces = min(batch, total - begin)
        filled = {}
        for name, array in inputs.items():
            filled[name] = np.zeros((batch, *array.shape[1:]), array.dtype)
            filled[name][:faces] = array[begin : begin + faces]
        yield filled, faces


class Batcher:
    """Gathers faces that threads ask for one by one, until a batch is full or the first has waited enough."""

    def __init__(self, run: RunBatch, batch: int, wait_seconds: float = WAIT_SECONDS) -> None:
        """run: computes inputs of exactly `batch` faces; called by one thread, its own."""
        asked: queue.SimpleQueue[tuple[Inputs, Future[Any]] | None] = queue.SimpleQueue()
        self._asked = asked
        # The thread knows the queue only, so that a forgotten batcher goes, and its thread with it.
        threading.Thread(
            target=_serve, args=(asked, run, batch, wait_seconds), name="austream-batches", daemon=True
        ).start()
        self._end = weakref.finalize(self, asked.put, None)

    def ask(self, inputs: Inputs) -> Any:
        """The result of one face, inputs (1, …) each; waits for it.

        Raises:
            RuntimeError: the batcher is closed.
            Exception: whatever `run` raised.
        """
        if not self._end.alive:
            raise RuntimeError("expected an open batcher, this one is closed")
        answer: Future[Any] = Future()
        self._asked.put((inputs, answer))
        return answer.result()

    def close(self) -> None:
        """Compute what was asked for, then end the thread."""
        self._end()


def _serve(asked: queue.SimpleQueue[Any], run: RunBatch, batch: int, wait_seconds: float) -> None:
    open_for_more = True
    while open_for_more:
        gathered, open_for_more = _gather(asked, batch, wait_seconds)
        if not gathered:
            continue
        names = gathered[0][0].keys()
        try:
            inputs = {name: np.concatenate([one[name] for one, _ in gathered]) for name in names}
            [(filled, _)] = in_batches(inputs, batch)
            results = run(filled)
            if len(results) != batch:
                raise ValueError(f"expected results of {batch} faces, got {len(results)}")
        except BaseException as error:  # whoever asked has to know, or would wait for ever
            for _, answer in gathered:
                answer.set_exception(error)
            continue
        for (_, answer), result in zip(gathered, results, strict=False):
            answer.set_result(result)


def _gather(
    asked: queue.SimpleQueue[Any], batch: int, wait_seconds: float
) -> tuple[list[tuple[Inputs, Future[Any]]], bool]:
    """At most `batch` questions, and whether more may come."""
    first = asked.get()
    if first is None:
        return [], False
    gathered = [first]
    until = time.monotonic() + wait_seconds
    while len(gathered) < batch:
        try:
            another = asked.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if another is None:
            return gathered, False
        gathered.append(another)
    return gathered, True


class GatheringSession:
    """A `Session` that computes single faces, asked for by many threads, together."""

    def __init__(self, run: Callable[[Inputs], Any], batch: int) -> None:
        self._run = run
        self._batcher = Batcher(run, batch)

    def run(self, inputs: Inputs) -> np.ndarray:
        """See `Session`. Several faces in one call are company enough for each other."""
        if len(inputs["crops"]) > 1:
            return np.asarray(self._run(inputs))
        return np.asarray(self._batcher.ask(inputs))[None]
