"""CEDNN as runtimes compute it fastest: the same function, with the memory's traffic taken out.

Multiply-accumulates are few in CEDNN, and its channels are dealt out anew twice in every block, over 224×224
pixels in the first. In a trained network:

- both permutations and the grouped 1×1 convolution between them are one linear map of the channels: where it
  has few partitions, the 1×1 convolution that writes its zeros out is cheaper than moving the channels, and
  takes the sum of Eq. 5 along;
- channel attention multiplies a channel by a positive number, so the maximum of a pooling window may be taken
  first (s·max x = max s·x, to the bit) and a quarter of the pixels be weighted;
- a pixel's five nested maps are its level against each channel's threshold, one comparison wide.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.base import AUNetwork
from engines.networks.cednn import CEDNN, INPUT_CHANNELS, MAPS, Block

MOST_PARTITIONS = 4
"""So many times the multiplications of a grouped 1×1 convolution are worth two permutations less."""


class DeployedBlock(nn.Module):
    """`cednn.Block` in evaluation, and the max-pooling behind it."""

    def __init__(self, block: Block, pools: bool) -> None:
        super().__init__()
        self.block, self.pools = block, pools
        self.second = whole_second(block) if block.partitions <= MOST_PARTITIONS else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 2C, H, W), or half of H and W with pooling."""
        block = self.block
        if self.second is None:
            y = block.basic(x)
        else:
            y = self.second(functional.relu(block.first_norm(block.first(x))))
        y = block.second_se(y)
        joined = torch.cat((y, x), dim=1) if block.dense else y + x
        merged = functional.relu(block.merge_norm(block.merge(joined)))
        pooled = functional.max_pool2d(merged, 2) if self.pools else merged
        return pooled if isinstance(block.block_se, nn.Identity) else pooled * block.block_se.share(merged)


def whole_second(block: Block) -> nn.Conv2d:
    """Interleaving, grouped 1×1 convolution, normalisation and interleaving back, as one 1×1 convolution."""
    double = copy.deepcopy(block).double().eval()
    channels = block.first.out_channels
    with torch.no_grad():
        bias = double.mixed(torch.zeros(1, channels, 1, 1, dtype=torch.float64))
        each = double.mixed(torch.eye(channels, dtype=torch.float64)[:, :, None, None]) - bias
        conv = nn.Conv2d(channels, channels, 1)
        conv.weight.copy_(each.transpose(0, 1))
        conv.bias.copy_(bias.flatten())  # type: ignore[union-attr]
    return conv


class DeployedCEDNN(AUNetwork):
    """`cednn.CEDNN` in evaluation; shares its weights, but for those that it puts together."""

    def __init__(self, network: CEDNN) -> None:
        super().__init__()
        blocks = list(cast("list[Block]", network.blocks))
        last = len(blocks) - 1
        self.blocks = nn.ModuleList(DeployedBlock(block, i < last) for i, block in enumerate(blocks))
        self.reduce, self.top = network.reduce, network.top
        self.top_dense, self.fc = network.top_dense, network.fc
        for i in range(network.attention_blocks):
            self.register_buffer(f"threshold_{i}", thresholds(blocks[i].first.in_channels))
        self.eval()

    @property
    def classifier(self) -> nn.Linear:
        """The layer that gives the logits."""
        return self.fc

    def forward(self, image: Tensor, level_map: Tensor | None = None) -> Tensor:
        """See `CEDNN.forward`."""
        x = torch.cat([image] * (INPUT_CHANNELS // 3), dim=1)
        level = None if level_map is None else level_map.to(image.dtype).unsqueeze(1)
        for i, block in enumerate(self.blocks):
            threshold = getattr(self, f"threshold_{i}", None)
            if threshold is not None:
                assert level is not None
                level = functional.max_pool2d(level, 2) if i > 0 else level
                x = x * (1.0 + (level >= threshold).to(x.dtype))
            x = block(x)
        x = functional.relu(self.reduce(x))
        x = functional.relu(self.top(x))
        x = functional.relu(self.top_dense(x))
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def thresholds(channels: int) -> Tensor:
    """The level from which each channel is met by a map, (C, 1, 1); the first group's, out of reach."""
    of_group = torch.tensor([float(MAPS + 1), *map(float, range(1, MAPS + 1))])
    return of_group.repeat_interleave(channels // (MAPS + 1))[:, None, None]
