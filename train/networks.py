"""A network in training: built, fed with bytes as streaming feeds it, parts of it frozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engines.export import ExportedEngine
from engines.networks.base import AUNetwork
from engines.spec import EngineSpec
from pipeline.errors import UsageError
from train.batches import Batch


class Learner(nn.Module):
    """Logits for batches."""

    def __init__(self, spec: EngineSpec, freeze: tuple[str, ...] = ()) -> None:
        """New weights from PyTorch's generator.

        Args:
            spec: what to build.
            freeze: parts whose weights and statistics stay, by their name in the network.

        Raises:
            UsageError: no such part.
        """
        super().__init__()
        self.engine = ExportedEngine(spec)
        parts = dict(self.network.named_children())
        if unknown := [name for name in freeze if name not in parts]:
            raise UsageError(f"freeze: no part {unknown[0]!r} in {spec.network}; it has {', '.join(parts)}")
        self.frozen = [parts[name] for name in freeze]
        for part in self.frozen:
            part.requires_grad_(False)

    @property
    def network(self) -> AUNetwork:
        """The network itself, whose state dict is what is saved."""
        return self.engine.network

    def train(self, mode: bool = True) -> Learner:
        """Frozen parts keep their statistics."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, A), float32."""
        network: Any = self.network
        if batch.pictures.is_floating_point():
            logits = network.head(network.fuse(batch.pictures.to(torch.float32)))[0]
        else:
            logits = self.engine.logits(batch.pictures, **batch.beside)
        return logits.to(torch.float32)
