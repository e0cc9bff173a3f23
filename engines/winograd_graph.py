"""Convolutions in other forms, for runtimes that compute them directly: 3×3 ones by Winograd's F(4×4, 3×3) as
plain operations, and those as large as their picture as one product.

The same algorithm and points as `engines.winograd` (whose docstring has the equations), written as slices,
sums and one product of matrices, so that it can be traced into any backend's graph. It pays where the picture
is large: for a small one the 36 transformed weights, four times the memory of the nine, take longer to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

TILE, POINTS = 4, 6
"""Pixels of an output tile along an axis, and points of its transform."""
SMALLEST = 20
"""Pixels along an axis from which a map is large enough."""
A2, B2 = 0.5, 2.0
"""Squares of the polynomial's points; 0 and ∞ are the others."""


def transforms() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Bᵀ (6×6), G (6×3) and Aᵀ (4×6): correlation of 6 values with 3 is Aᵀ[(G w) ⊙ (Bᵀ d)]."""
    a, b = A2**0.5, B2**0.5
    inputs = np.array(
        [
            [A2 * B2, 0, -(A2 + B2), 0, 1, 0],
            [0, -a * B2, -B2, a, 1, 0],
            [0, a * B2, -B2, -a, 1, 0],
            [0, -b * A2, -A2, b, 1, 0],
            [0, b * A2, -A2, -b, 1, 0],
            [0, A2 * B2, 0, -(A2 + B2), 0, 1],
        ]
    )
    over_a, over_b = 2 * A2 * (A2 - B2), 2 * B2 * (B2 - A2)
    weights = np.array(
        [
            [1 / (A2 * B2), 0, 0],
            [1 / over_a, a / over_a, A2 / over_a],
            [1 / over_a, -a / over_a, A2 / over_a],
            [1 / over_b, b / over_b, B2 / over_b],
            [1 / over_b, -b / over_b, B2 / over_b],
            [0, 0, 1],
        ]
    )
    points = np.array([0, a, -a, b, -b])
    outputs = np.vstack([points**n for n in range(TILE)])
    return inputs, weights, np.hstack([outputs, [[0], [0], [0], [1]]])


def combine(matrix: NDArray[np.float64], parts: Sequence[Tensor]) -> list[Tensor]:
    """The product of a small constant matrix and a list of tensors; zeros cost nothing."""
    rows = []
    for row in matrix:
        terms = [
            part if weight == 1 else part * float(weight)
            for weight, part in zip(row, parts, strict=True)
            if weight
        ]
        rows.append(sum(terms[1:], terms[0]))
    return rows


class WinogradConv(nn.Module):
    """A 3×3 convolution of stride 1 and padding 1, computed by tiles; directly where the picture is small."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.direct = conv
        self._weight: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """G w Gᵀ, (36, C, O); made when it is first wanted."""
        if self._weight is None:
            _, transform, _ = transforms()
            given = self.direct.weight.detach().double().numpy()
            points = np.einsum("iy,ocyx,jx->ijco", transform, given, transform, optimize=True)
            flat = points.reshape(POINTS * POINTS, *points.shape[2:]).astype(np.float32)
            self._weight = torch.from_numpy(flat)
        return self._weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, O, H, W)."""
        batch, channels, height, width = x.shape
        if min(height, width) < SMALLEST:
            return self.direct(x)
        inputs, _, outputs = transforms()
        down, across = -(-height // TILE), -(-width // TILE)
        border = (1, 1 + TILE * across - width, 1, 1 + TILE * down - height)
        x = functional.pad(x, border).permute(0, 2, 3, 1)
        rows = combine(inputs, [x[:, i : i + TILE * down : TILE] for i in range(POINTS)])
        points = [
            point.reshape(-1, channels)
            for row in rows
            for point in combine(inputs, [row[:, :, j : j + TILE * across : TILE] for j in range(POINTS)])
        ]
        products = torch.stack(points) @ self.weight  # (36, tiles, O)
        products = products.reshape(POINTS, POINTS, batch, down, across, -1)
        lines = [
            torch.stack(combine(outputs, list(row)), dim=3)  # (B, down, across, 4, O)
            for row in combine(outputs, list(products))
        ]
        y = torch.stack(lines, dim=2).reshape(batch, TILE * down, TILE * across, -1)
        y = y[:, :height, :width].permute(0, 3, 1, 2)
        return y if self.direct.bias is None else y + self.direct.bias[:, None, None]


def _suits(module: nn.Module, channels: int) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
        and module.padding == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and min(module.in_channels, module.out_channels) >= channels
    )


class WholeConv(nn.Module):
    """A convolution as large as its picture is one product, whose weights OpenVINO reads twice as fast."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.direct = conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, O, H', W')."""
        if tuple(x.shape[-2:]) != self.direct.kernel_size:
            return self.direct(x)
        y = functional.linear(x.flatten(1), self.direct.weight.flatten(1), self.direct.bias)
        return y[:, :, None, None]


def _may_be_whole(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and min(module.kernel_size) > 1
        and module.padding == (0, 0)
        and module.dilation == (1, 1)
        and module.groups == 1
    )


@contextmanager
def by_winograd(network: nn.Module, channels: int | None) -> Iterator[None]:
    """For as long as it lasts, the network's 3×3 convolutions of so many channels are computed by tiles.

    Args:
        network: is as before afterwards.
        channels: in and out, at least; None changes nothing.
    """
    with _swapped(network, WinogradConv, lambda module: channels is not None and _suits(module, channels)):
        yield


@contextmanager
def by_product(network: nn.Module) -> Iterator[None]:
    """For as long as it lasts, the network's convolutions as large as their picture are products."""
    with _swapped(network, WholeConv, _may_be_whole):
        yield


@contextmanager
def _swapped(
    network: nn.Module, form: Callable[[nn.Conv2d], nn.Module], wanted: Callable[[nn.Module], bool]
) -> Iterator[None]:
    swapped = [
        (parent, name, cast(nn.Conv2d, child))
        for parent in list(network.modules())
        for name, child in parent.named_children()
        if wanted(child)
    ]
    try:
        for parent, name, conv in swapped:
            parent._modules[name] = form(conv)
        yield
    finally:
        for parent, name, conv in swapped:
            parent._modules[name] = conv
