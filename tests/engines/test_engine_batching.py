"""Batches of one size: nobody waits for long, nobody is mixed up, and company changes nothing."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.backends.fixed import Fixed, FixedSession
from engines.batching import Batcher, GatheringSession, fitting, in_batches


@pytest.mark.parametrize(("faces", "batch"), [(1, 1), (2, 8), (8, 8), (9, 32), (32, 32), (33, 32), (500, 32)])
def test_the_smallest_batch_that_holds_them(faces: int, batch: int) -> None:
    assert fitting((1, 8, 32), faces) == batch
    assert fitting((1,), faces) == 1


@given(total=st.integers(1, 40), batch=st.sampled_from([1, 3, 8]))
def test_batches_hold_every_face_once_and_zeros_beside(total: int, batch: int) -> None:
    inputs = {"crops": np.arange(1, total + 1, dtype=np.uint8), "more": np.ones((total, 2), np.float32)}
    batches = list(in_batches(inputs, batch))
    assert all(len(array) == batch for filled, _ in batches for array in filled.values())
    assert np.concatenate([filled["crops"][:n] for filled, n in batches]).tolist() == [*range(1, total + 1)]
    filled, faces = batches[-1]
    assert not filled["crops"][faces:].any()
    assert not filled["more"][faces:].any()
    assert filled["more"].dtype == np.float32


class Squares:
    """Remembers the batches that it was given."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.seconds = seconds

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        self.batches.append(inputs["crops"].tolist())
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        return inputs["crops"].astype(np.float64) ** 2


def ask_all(batcher: Batcher, numbers: range) -> list[float]:
    with ThreadPoolExecutor(len(numbers)) as pool:
        return [float(x) for x in pool.map(lambda n: batcher.ask({"crops": np.array([n])}), numbers)]


def test_everyone_gets_their_own() -> None:
    run = Squares(seconds=0.01)
    batcher = Batcher(run, 8, wait_seconds=0.05)
    assert ask_all(batcher, range(1, 21)) == [n * n for n in range(1, 21)]
    assert all(len(batch) == 8 for batch in run.batches)
    assert sorted(n for batch in run.batches for n in batch if n) == list(range(1, 21))
    assert len(run.batches) < 20  # they did go together
    assert len(run.threads) == 1  # and never two batches at once
    batcher.close()


def test_a_full_batch_does_not_wait() -> None:
    run = Squares()
    batcher = Batcher(run, 4, wait_seconds=3600)
    assert ask_all(batcher, range(1, 5)) == [1, 4, 9, 16]
    assert len(run.batches) == 1


def test_a_lonely_face_waits_no_longer_than_it_should() -> None:
    batcher = Batcher(Squares(), 32, wait_seconds=0.05)
    began = time.monotonic()
    assert batcher.ask({"crops": np.array([3])}) == 9
    assert 0.05 <= time.monotonic() - began < 30  # a loaded machine; it would be for ever


def test_an_error_reaches_all_who_asked_and_the_next_are_served() -> None:
    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        if 13 in inputs["crops"]:
            raise OSError("no")
        return inputs["crops"]

    batcher = Batcher(run, 2, wait_seconds=0.01)
    with pytest.raises(OSError, match="no"):
        batcher.ask({"crops": np.array([13])})
    assert batcher.ask({"crops": np.array([5])}) == 5


def test_too_few_results_are_an_error_for_all_who_asked() -> None:
    """Not a wait for ever for those without one."""
    batcher = Batcher(lambda inputs: inputs["crops"][:1], 2, wait_seconds=60)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(batcher.ask, {"crops": np.array([n])}) for n in (3, 4)]
        for answer in asked:
            with pytest.raises(ValueError, match="expected results of 2 faces, got 1"):
                answer.result(timeout=60)


def test_inputs_that_do_not_go_together_reach_who_asked() -> None:
    batcher = Batcher(Squares(), 1)
    with pytest.raises(ValueError, match="zero-dimensional"):
        batcher.ask({"crops": np.array(1)})


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "austream-batches"]


def test_closed_or_forgotten_its_thread_goes() -> None:
    gc.collect()
    before = set(threads())
    closed, forgotten = Batcher(Squares(), 2), Batcher(Squares(), 2)
    assert forgotten.ask({"crops": np.array([2])}) == 4
    mine = set(threads()) - before
    assert len(mine) == 2
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        closed.ask({"crops": np.array([1])})
    del forgotten
    gc.collect()
    for thread in mine:
        thread.join(timeout=30)
        assert not thread.is_alive()


# A result does not depend on company. The network's sums differ between batch sizes, as a GPU's do.


@pytest.fixture(scope="module")
def session() -> FixedSession:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * 64, 256), torch.nn.Linear(256, 5)
    ).eval()

    def call(crops: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(layers(crops.float() / 64))

    return FixedSession(Fixed(call, {"crops": ((8, 8, 8, 3), np.uint8)}, "cpu"), 8)


CROPS = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


@settings(max_examples=30, deadline=None)
@given(chosen=st.lists(st.integers(0, 19), min_size=1, max_size=20))
def test_results_are_equal_for_any_company(session: FixedSession, chosen: list[int]) -> None:
    """Whatever stands beside a face. Where it stands itself may show in the last bits of a sum."""
    alone = {i: session.run({"crops": CROPS[i : i + 1]})[0] for i in set(chosen)}
    together = session.run({"crops": CROPS[chosen]})
    assert np.array_equal(together[:1], alone[chosen[0]][None])  # the same place: to the bit
    np.testing.assert_allclose(together, [alone[i] for i in chosen], rtol=0, atol=1e-6)


def test_and_for_any_threads(session: FixedSession) -> None:
    alone = session.run({"crops": CROPS})
    gathering = GatheringSession(session.run, 8)
    asked: Callable[[int], np.ndarray] = lambda i: gathering.run({"crops": CROPS[i : i + 1]})[0]  # noqa: E731
    with ThreadPoolExecutor(20) as pool:
        for _ in range(5):
            got = np.stack(list(pool.map(asked, range(20))))
            np.testing.assert_allclose(got, alone, rtol=0, atol=1e-6)
    assert np.array_equal(gathering.run({"crops": CROPS}), alone)
