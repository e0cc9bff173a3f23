"""A network that trains in milliseconds, under the name `tiny` in engines.networks while tests run."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

import engines.networks
from engines.networks.base import AUNetwork


class Tiny(AUNetwork):
    """Picture and level map, shrunk to 28×28; two convolutions; a mean over each of eight rows of the map."""

    temporal = False
    reads_level_map = True
    input_px = 224
    pixel_mean = (0.5, 0.5, 0.5)
    pixel_std = (0.5, 0.5, 0.5)

    def __init__(self, n_aus: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.fc = nn.Linear(64, n_aus)

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, image: Tensor, level_map: Tensor) -> Tensor:
        x = torch.cat((image, level_map.unsqueeze(1).to(image.dtype) / 5), dim=1)
        x = functional.relu(self.norm(self.first(functional.avg_pool2d(x, 8))))
        x = functional.relu(self.second(x))
        return self.fc(functional.adaptive_avg_pool2d(x, (8, 1)).flatten(1))


def register() -> None:
    """Let recipes name it."""
    sys.modules["engines.networks.tiny"] = sys.modules[__name__]
    engines.networks.NETWORKS["tiny"] = "tiny.Tiny"
