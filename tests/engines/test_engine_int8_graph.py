"""INT8 graphs against NumPy, and names that last."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engines.backends.openvino import core
from engines.int8 import GraphInt8, Rounding
from engines.int8_graph import apply, name_operations, quantise_weights, weight_ports
from pipeline.errors import EngineError


class Wrapped(nn.Module):
    """Under `network`, as in engines.export."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def converted(network: nn.Module, shape: tuple[int, ...]) -> Any:
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        return openvino.convert_model(Wrapped(network), example_input=torch.zeros(shape), input=[shape])


def run(model: Any, x: np.ndarray) -> np.ndarray:
    return np.array(core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0])


def small() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.normal_(norm.bias)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), norm, nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_weights_are_within_half_a_step(outputs: int, inputs: int, size: float, seed: int) -> None:
    weights = (size * np.random.default_rng(seed).normal(size=(outputs, inputs, 3, 3))).astype(np.float32)
    weights[0] *= seed % 2  # a channel of zeros is no division by zero
    stored, scale = quantise_weights(weights, (0,))
    assert stored.dtype == np.int8
    assert scale.shape == (outputs, 1, 1, 1)
    assert (np.abs(stored * scale - weights) <= 0.5001 * scale).all()
    for channel in range(outputs):
        if weights[channel].any():
            assert np.abs(stored[channel]).max() == 127


def rounded(x: np.ndarray, low: float, high: float, levels: int) -> np.ndarray:
    """FakeQuantize by its definition."""
    step = (high - low) / (levels - 1)
    return np.rint((x.clip(low, high) - low) / step) * step + low


def _sums_overflow() -> bool:
    """An x86 processor without 8-bit dot products (VNNI) sums two products in 16 bits, which these random
    weights overflow; a bundle's hardly do, and whoever builds INT8 holds the answers against the expected."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return "avx2" in flags and not {"avx512_vnni", "avx_vnni"} & flags


@pytest.mark.skipif(_sums_overflow(), reason="this processor has no 8-bit dot products; its sums overflow")
def test_one_layer_is_numpys(rng: np.random.Generator) -> None:
    """A convolution by a loop over its window, on rounded inputs and dequantised weights."""
    torch.manual_seed(1)
    conv = nn.Conv2d(6, 5, 3, bias=True)
    model = converted(conv, (1, 6, 9, 9))
    [name] = [n for n, op in name_operations(converted(conv, (1, 6, 9, 9))).items() if weight_ports(op)]
    low, high = -2 * 128 / 127, 2.0  # zero is one of the levels
    int8 = GraphInt8((Rounding(((name, 0),), (low,), (high,), 256),), ((name, 1),), ())
    apply(model, int8, "a test")
    x = rng.normal(size=(1, 6, 9, 9)).astype(np.float32)
    weights = conv.weight.detach().numpy()
    scale = np.abs(weights).max(axis=(1, 2, 3)) / 127
    w = np.rint(weights / scale[:, None, None, None]) * scale[:, None, None, None]
    seen = rounded(x.astype(np.float64), low, high, 256)
    wanted = np.zeros((1, 5, 7, 7)) + conv.bias.detach().numpy()[:, None, None]
    for i in range(3):
        for j in range(3):
            wanted += np.einsum("oc,bchw->bohw", w[:, :, i, j], seen[:, :, i : i + 7, j : j + 7])
    got = run(model, x)
    np.testing.assert_allclose(got, wanted, atol=2e-4)
    plain = run(converted(conv, (1, 6, 9, 9)), x)
    assert np.abs(got - plain).max() > 1e-3  # it was rounded at all


def test_a_new_conversion_has_the_same_names() -> None:
    first, again = (name_operations(converted(small(), (1, 3, 20, 20))) for _ in range(2))
    assert list(first) == list(again)
    weighted = [name for name, op in first.items() if weight_ports(op)]
    assert weighted == ["1/Convolution", "3/GroupConvolution"]  # the first with its normalisation in it
    assert len(set(first)) == len(first)


@pytest.mark.parametrize(
    ("place", "said"),
    [(("9/Convolution", 0), "names input 0 of 9/Convolution"), (("1/Convolution", 7), "names input 7")],
)
def test_another_network_is_refused(place: tuple[str, int], said: str) -> None:
    int8 = GraphInt8((Rounding((place,), (0.0,), (1.0,), 256),), (), ())
    with pytest.raises(EngineError, match=f"int8.json: {said}.*calibrate again"):
        apply(converted(small(), (1, 3, 20, 20)), int8, "int8.json")


def test_weights_that_are_none_and_ranges_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EngineError, match="is no constant"):
        apply(converted(small(), (1, 3, 20, 20)), GraphInt8((), (("1/Convolution", 0),), ()), "x")
    three = Rounding((("3/GroupConvolution", 0),), (0.0,) * 3, (1.0,) * 3, 256)
    with pytest.raises(EngineError, match="3 ranges for a tensor"):
        apply(converted(small(), (1, 3, 20, 20)), GraphInt8((three,), (), ()), "x")
