"""A network in training: built, fed with bytes as streaming feeds it, parts of it frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engines.export import ExportedEngine
from engines.networks.base import AUNetwork
from engines.spec import EngineSpec
from pipeline.errors import UsageError
from train.batches import Batch
from train.recipe import PAPER


class Learner(nn.Module):
    """Logits for batches."""

    def __init__(self, spec: EngineSpec, freeze: tuple[str, ...] = ()) -> None:
        """New weights from PyTorch's generator.

        Args:
            spec: what to build.
            freeze: parts whose weights and statistics stay, by their name in the network; `paper` for those
                in its `AUNetwork.frozen`.

        Raises:
            UsageError: no such part.
        """
        super().__init__()
        self.engine = ExportedEngine(spec)
        self.frozen = _parts(self.network, spec.network, freeze)
        for part in self.frozen:
            part.requires_grad_(False)
        last = {id(p) for p in self.network.classifier.parameters()}
        self._only_last = all(id(p) in last for p in self.network.parameters() if p.requires_grad)

    @property
    def network(self) -> AUNetwork:
        """The network itself, whose state dict is what is saved."""
        return self.engine.network

    def train(self, mode: bool = True) -> Learner:
        """Frozen parts keep their statistics; a last layer that learns alone sees what it will see live,
        without dropout."""
        super().train(mode and not self._only_last)
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

    def attend(self, batch: Batch) -> tuple[Tensor, Any]:
        """Logits (B, A), float32, and what the network hands back for `return_attention`."""
        images = self.engine.images(batch.pictures)
        logits, attention = self.network(images, return_attention=True, **batch.beside)
        return logits.to(torch.float32), attention


def _parts(network: AUNetwork, name: str, freeze: Sequence[str]) -> list[nn.Module]:
    """The modules of these names."""
    if PAPER in freeze and not network.frozen:
        raise UsageError(f"freeze: 'paper': the paper of {name} keeps no part; name parts, or leave it out")
    papers = [prefix.rstrip(".") for prefix in network.frozen]
    names = [part for entry in freeze for part in (papers if entry == PAPER else [entry])]
    parts = {part: module for part, module in network.named_modules() if part}
    if unknown := [part for part in names if part not in parts]:
        known = ", ".join(part for part, _module in network.named_children())
        raise UsageError(f"freeze: no part {unknown[0]!r} in {name}; it has {known}")
    return [parts[part] for part in names]
