"""What several of the papers' networks have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Per RGB channel, of pixels scaled to 0–1."""
IMAGENET_STD = (0.229, 0.224, 0.225)


class ConvNorm(nn.Sequential):
    """A 3×3 convolution that keeps the size, and batch normalisation."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels))


@contextmanager
def unmixed(device_type: str) -> Iterator[None]:
    """Products in here stay in their inputs' precision, whatever autocast decides around it."""
    # Only within autocast: exporters of float32 would find a context that they do not know.
    within = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    with torch.autocast(device_type, enabled=False) if within else nullcontext():
        yield


def whole(x: Tensor) -> Tensor:
    """float32 of what autocast halved; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


class SqueezeExcite(nn.Module):
    """Channel attention: pool, two 1×1 convolutions, sigmoid, multiply (Hu et al.,
    squeeze-and-excitation)."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // ratio, 1)
        self.expand = nn.Conv2d(channels // ratio, channels, 1)

    def share(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → what each channel is weighted by, 0–1: (B, C, 1, 1)."""
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.expand(functional.relu(self.reduce(pooled))))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same, each channel weighted."""
        return x * self.share(x)
