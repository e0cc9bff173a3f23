"""Calibration with NNCF: layers that cannot be rounded stay in floating point; figures are what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_engine_int8_graph import converted, run
from torch import nn

from engines.cache import Parity
from engines.int8 import Int8
from engines.int8_graph import apply
from engines.quantise import judge, quantise_graph, refuse_beyond
from pipeline.errors import EngineError

pytest.importorskip("nncf", reason="NNCF is not installed: pip install .[int8]")


class Outlier(nn.Sequential):
    """Three convolutions. One channel that the second reads, and has no weight for, is 3000 times as large as
    the others: one range for all of them leaves nothing of these."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        with torch.no_grad():
            first.weight[0] = first.weight[0].abs() * 3000
            second.weight[:, 0] = 0
            second.weight.mul_(3)
        top = (nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(8, 4, 4), nn.Sigmoid())
        super().__init__(first, nn.ReLU(), second, *top)


def faces(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 1, 3, 4, 4)) * rng.uniform(0.3, 1, (count, 1, 3, 1, 1))
    return [{"x": np.kron(c, np.ones((4, 4))).astype(np.float32)} for c in coarse]


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    return faces(24, 0)


def quantised(samples: list[dict[str, np.ndarray]], aim: float) -> tuple[Any, list[str]]:
    """What quantise_graph makes of the network, and what it logged."""
    said: list[str] = []
    wanted = [run(converted(Outlier(), (1, 3, 16, 16)), s["x"]).ravel() for s in samples]

    def predict(compiled: Any, i: int) -> np.ndarray:
        return np.array(compiled(samples[i])[0]).ravel()

    model = converted(Outlier(), (1, 3, 16, 16))
    return quantise_graph(model, samples, predict, np.stack(wanted), said.append, aim), said


def moved(form: Any) -> float:
    """99th percentile of the differences on other faces, by a graph built from the form alone."""
    rounded = converted(Outlier(), (1, 3, 16, 16))
    apply(rounded, form, "a test")
    plain = converted(Outlier(), (1, 3, 16, 16))
    others = faces(24, 1)
    return float(np.percentile([np.abs(run(rounded, f["x"]) - run(plain, f["x"])) for f in others], 99))


def test_the_offending_layer_stays_in_floating_point(samples: list[dict[str, np.ndarray]]) -> None:
    careless, said = quantised(samples, aim=1.0)
    assert careless.floating_point == ()
    assert said == ["3 layers in INT8; in floating point: none"]
    careful, said = quantised(samples, aim=0.01)
    assert careful.floating_point == ("2/Convolution",)
    assert said == ["2 layers in INT8; in floating point: 2/Convolution"]
    assert moved(careful) < 0.02 < moved(careless)


def test_figures_are_recomputed_by_hand() -> None:
    rng = np.random.default_rng(2)
    wanted, noise = rng.random((200, 3), np.float32), rng.normal(0, 0.01, (200, 3)).astype(np.float32)
    parity = judge(wanted, wanted + noise, [0.5, 0.2, 0.9], "somebody")
    sorted_moves = np.sort(np.abs((wanted + noise).astype(np.float64) - wanted).ravel())
    assert parity.max_abs == pytest.approx(sorted_moves[-1])
    assert sorted_moves[592] <= parity.p99_abs <= sorted_moves[594]  # 0.99 · 599 = 593.01
    crossed = sum(
        (wanted[i, a] >= t) != (wanted[i, a] + noise[i, a] >= t)
        for a, t in enumerate((0.5, 0.2, 0.9))
        for i in range(200)
    )
    assert (parity.decisions_changed, parity.decisions) == (crossed, 600)
    assert judge(wanted, np.full_like(wanted, np.nan), [0.5] * 3, "").holds is False


@pytest.mark.parametrize(
    ("p99", "auc_int8", "said"),
    [(0.051, 0.9, "99th percentile 0.0510"), (0.01, 0.894, r"AUC 0.9000 → 0.8940 \(tolerance 0.005\)")],
)
def test_out_of_tolerance_is_refused_with_figures(p99: float, auc_int8: float, said: str) -> None:
    parity = Parity(0.2, 0.01, 4, 100, 0.05, p99, "judged on somebody")
    form = Int8("w", {}, parity, np.zeros((5, 1), np.float32), {"auc_fp32": 0.9, "auc_int8": auc_int8})
    with pytest.raises(EngineError, match=said) as error:
        refuse_beyond(form, "delta")
    assert "4 of 100 decisions changed" in str(error.value)


def test_signals_are_handled_after_a_calibration() -> None:
    """NNCF makes OpenVINO Cores and lets them die, which takes the stack of signal handlers away."""
    script = """
import gc, os, signal
import test_engine_quantise as t
t.quantised(t.faces(24, 0), aim=0.01)
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout.strip().splitlines()[-1:]) == (0, ["handled"]), done.stderr
