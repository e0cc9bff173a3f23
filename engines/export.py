"""The graph that backends compile: preprocessing, network and sigmoid in one module.

A runtime hands over the bytes of the crops and gets probabilities, whichever backend it uses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.networks import build_network
from engines.networks.base import AUNetwork
from engines.spec import EngineSpec


class ExportedEngine(nn.Module):
    """uint8 crops in, float32 probabilities out."""

    scale: Tensor
    offset: Tensor

    def __init__(self, spec: EngineSpec, network: AUNetwork | None = None) -> None:
        """Wraps the spec's network; a new one with fresh weights where none is given."""
        super().__init__()
        self.network = build_network(spec) if network is None else network
        mean = torch.tensor(self.network.pixel_mean)
        std = torch.tensor(self.network.pixel_std)
        # Not in the state dict: they belong to the network's code, not to its weights.
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("offset", (-mean / std).view(3, 1, 1), persistent=False)
        self.eval()

    def forward(self, crops: Tensor, level_map: Tensor | None = None) -> Tensor:
        """Probabilities (B, n_aus), float32.

        Args:
            crops: uint8 BGR, (B, px, px, 3), or (B, window, px, px, 3) for a temporal network.
            level_map: uint8 (B, px, px), 0–5; only for a network that reads it.
        """
        rgb = crops.to(torch.float32).flip(-1).movedim(-1, -3)
        image = rgb * self.scale + self.offset
        logits = self.network(image) if level_map is None else self.network(image, level_map)
        return torch.sigmoid(logits)
