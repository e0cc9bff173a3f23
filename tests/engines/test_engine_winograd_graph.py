"""Winograd in plain operations against PyTorch's own convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engines.winograd_graph import WholeConv, WinogradConv, by_product, by_winograd, transforms


def test_transforms_make_a_correlation() -> None:
    rng = np.random.default_rng(0)
    d, w = rng.normal(size=6), rng.normal(size=3)
    inputs, weights, outputs = transforms()
    got = outputs @ ((weights @ w) * (inputs @ d))
    np.testing.assert_allclose(got, np.correlate(d, w), atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 37), st.integers(20, 37), st.integers(1, 3), st.booleans())
def test_it_is_the_convolution(height: int, width: int, batch: int, bias: bool) -> None:
    torch.manual_seed(height * width)
    conv = nn.Conv2d(8, 5, 3, padding=1, bias=bias).eval()
    x = torch.randn(batch, 8, height, width)
    with torch.inference_mode():
        torch.testing.assert_close(WinogradConv(conv)(x), conv(x), rtol=1e-4, atol=2e-5)


def test_small_pictures_go_the_direct_way() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 7, 30)
    assert torch.equal(WinogradConv(conv)(x), conv(x))


def test_only_what_suits_is_swapped_and_only_for_a_while() -> None:
    kinds = {
        "suits": nn.Conv2d(16, 16, 3, padding=1),
        "narrow": nn.Conv2d(16, 8, 3, padding=1),
        "strided": nn.Conv2d(16, 16, 3, 2, padding=1),
        "grouped": nn.Conv2d(16, 16, 3, padding=1, groups=2),
        "valid": nn.Conv2d(16, 16, 3),
        "large": nn.Conv2d(16, 16, 5, padding=2),
    }
    network = nn.ModuleDict({"inside": nn.ModuleDict(kinds)})
    before = dict(network.named_modules())
    with by_winograd(network, 16):
        swapped = [name for name, m in network.named_modules() if isinstance(m, WinogradConv)]
        assert swapped == ["inside.suits"]
    assert dict(network.named_modules()) == before
    with by_winograd(network, None):
        assert not any(isinstance(m, WinogradConv) for m in network.modules())
    with pytest.raises(RuntimeError), by_winograd(network, 16):
        raise RuntimeError
    assert dict(network.named_modules()) == before


@pytest.mark.parametrize("picture", [(7, 7), (9, 7), (12, 12)])
def test_a_convolution_as_large_as_its_picture_is_a_product(picture: tuple[int, int]) -> None:
    network = nn.Sequential(nn.Conv2d(5, 8, 7), nn.Conv2d(8, 8, 1))
    x = torch.randn(2, 5, *picture)
    direct = network(x)
    with by_product(network), torch.no_grad():
        assert isinstance(network[0], WholeConv)
        assert isinstance(network[1], nn.Conv2d)
        torch.testing.assert_close(network(x), direct, atol=1e-5, rtol=1e-5)
    assert isinstance(network[0], nn.Conv2d)
