"""The graph that backends compile: preprocessing, network and sigmoid in one module.

A runtime hands over the bytes of the crops and gets probabilities, whichever backend it uses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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

    def images(self, crops: Tensor) -> Tensor:
        """uint8 BGR (…, px, px, 3) → what the network reads, (…, 3, px, px)."""
        # Turned last: OpenVINO moves whole planes then, instead of bytes one by one.
        rgb = crops.to(torch.float32).movedim(-1, -3).flip(-3)
        return rgb * self.scale + self.offset

    def logits(self, crops: Tensor, **beside: Tensor) -> Tensor:
        """Logits (B, n_aus), float, of `EngineSpec.inputs`; what the network does not read is left out."""
        if "neutral" in beside:
            beside["neutral"] = self.images(beside["neutral"])
        logits: Tensor = self.network(self.images(crops), **beside)
        return logits

    def forward(
        self,
        crops: Tensor,
        level_map: Tensor | None = None,
        au_centers: Tensor | None = None,
        neutral: Tensor | None = None,
        landmarks: Tensor | None = None,
    ) -> Tensor:
        """Probabilities (B, n_aus), float32: see `logits`. Named one by one for those who trace it."""
        beside = {
            "level_map": level_map,
            "au_centers": au_centers,
            "neutral": neutral,
            "landmarks": landmarks,
        }
        return torch.sigmoid(self.logits(crops, **{n: t for n, t in beside.items() if t is not None}))


class Mixed(nn.Module):
    """A module whose convolutions and products are computed in another precision, as autocast decides; what
    must stay exact (positions, exponentials, the CRF's sums) stays float32, and so do inputs and outputs."""

    def __init__(self, module: nn.Module, device_type: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.device_type, self.dtype = module, device_type, dtype
        self.eval()

    def forward(self, **inputs: Tensor) -> Tensor:
        """The module's result, float32."""
        # Without the cache, which would keep halves of the weights that the trace took for inputs.
        with torch.autocast(self.device_type, self.dtype, cache_enabled=False):
            computed: Tensor = self.module(**inputs)
        return computed.float()


class FramePart(nn.Module):
    """What a sliding engine computes once per frame: uint8 crops (B, 224, 224, 3) → features (B, 30, 30, 128)
    up to the ConvLSTM, channels last, with the border of zeros that its convolutions want.
    """

    def __init__(self, engine: ExportedEngine) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, crops: Tensor) -> Tensor:
        """See the class."""
        network: Any = self.engine.network
        features = network.frame_features(self.engine.images(crops))
        return functional.pad(features, (1, 1, 1, 1)).movedim(1, -1)


class HeadPart(nn.Module):
    """What it computes once per output: hidden states (B, 30, 30, 128), laid out the same → probabilities."""

    def __init__(self, engine: ExportedEngine) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        network: Any = self.engine.network
        logits, _attention = network.head(hidden[:, 1:-1, 1:-1].movedim(-1, 1))
        return torch.sigmoid(logits)
