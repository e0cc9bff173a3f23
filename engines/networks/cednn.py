"""CEDNN: interleaved group convolutions with difference attention maps.

Chen, Wang, Wang, Liu: "Computational efficient deep neural network with difference attention maps for facial
action unit detection". Equation and table numbers below are that paper's.

Six blocks work on 18, 36, … 576 channels at 224, 112, … 7 px and double the channels each; a max-pool stands
between them. A block is a grouped 3×3 convolution (L groups of M channels), a grouped 1×1 convolution over
the interleaved channels (M groups of L), a skip connection (sum or concatenation) and a merging 1×1
convolution.

What the paper leaves open or contradicts, and what was decided:

- How M grows. The text says M·i for block i; Table 3 doubles it (3, 6, 12, … 96 at L=6). Doubling it is: only
  that ends at the 1152 channels which the text reduces to 144, and at the parameters of Table 6.
- Biases and normalisation. The text names neither. The parameters of Table 6 leave room for 13.7 to 15.9
  thousand besides the weights proper. A bias on every convolution and an affine batch normalisation after
  each of a block's three convolutions, none in the top, makes 15.8 thousand; every printed figure then
  agrees.
- Table 6 prints "9.8" for residual L9M2, one digit short; ours is 9.80.
- ReLU. Not placed by the text (Section 3.4 only speaks of a non-linearity after convolutions). Here after the
  first group convolution, after the merging 1×1 and after each convolution of the top; not after the second
  group convolution, so that the sum of Eq. 5 stays one of signed terms as in ResNet.
- Squeeze-and-excitation. The ratio is not given. 18 divides every channel count and gives the 9.79 M of Table
  8. "First" weighs a block's whole output (Fig. 10), "second" the output of the second group convolution
  before the skip connection (Fig. 11).
- How a map is merged. The text multiplies map and image and "then" adds, without saying to what: read as
  x + x·map, so that nothing outside the map is lost.
- Which map meets which channels. The text makes 18 channels of one image and five maps, and lets lower blocks
  take maps because their L·M divides by 6. So: six equal groups of channels, the first plain, each other one
  with a map of its own, lowest threshold first; in lower blocks alike, with the maps max-pooled as the text
  says. Without maps the image still comes six times, because Table 6 has one parameter count for both.
- Which blocks. Table 3 says the first two, Table 13 has the best result with three, Table 14 tries four:
  `attention_blocks`.
- Input. "Normalised" is said of the maps, which end at 0 and 1. The image likewise is scaled to 0–1 and
  nothing more, so that black stays zero and a map scales brightness.
- IGC-L24M2, the baseline of Tables 4 to 6, is named there and not described. It is an interleaved group
  convolution network (Zhang et al., reference [13]), whose own form of that name has a 3×3 convolution to
  L·M = 48 channels and three stages of blocks, the second and third of which halve the picture and double
  M. Three blocks a stage, of two layers each as the paper counts its own (16), make the printed depth of
  20. On all of 224×224, with biases and normalisations as above, they come to 0.716 G multiply-accumulates
  and 0.11 G element-wise operations: the printed 0.83. That leaves 0.49 of the printed 0.57 million
  parameters to the top. Pooling 56×56 to 14×14 before one fully connected layer makes 0.57 with the 13 AUs
  of CK+ (0.53 with the 12 of DISFA+); so it is built, and the top is the least certain part.

Multiply-accumulates (`python -m engines params cednn`) are those of the convolutions and the classifier. The
paper's FLOPs lie above them by the same amount in all twelve variants, to its rounding: any one number from
34.9 to 35.5 million explains every figure. It does not depend on L and hardly on the connection, as
element-wise work does not: ours comes to some 30 to 32 million (biases, pooling, ReLU and the sum at one
operation an element, batch normalisation at two), so that is what it is taken for.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.base import AUNetwork
from engines.networks.layers import ConvNorm, SqueezeExcite
from pipeline.errors import UsageError

Connection = Literal["residual", "dense"]
SqueezeExcitation = Literal["first", "second"]

BRANCHES = (1, 2, 3, 6, 9, 18)
"""The values of L; M is 18/L in the first block."""
INPUT_CHANNELS = 18
BLOCKS = 6
MAPS = 5
MAX_ATTENTION_BLOCKS = 4
SE_RATIO = 18
IGC_BRANCHES, IGC_CHANNELS, IGC_STAGES = 24, 2, 3
"""L and M of the baseline, and its stages."""


def interleave(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of `groups` equal groups out, one from each in turn: Eq. 2, z² = Pᵀ z¹.

    (B, L·M, H, W) with channel l·M + m → channel m·L + l. `interleave(·, M)` undoes `interleave(·, L)` (Eq.
    4).
    """
    batch, channels, height, width = x.shape
    split = x.reshape(batch, groups, channels // groups, height, width)
    return split.transpose(1, 2).reshape(batch, channels, height, width)


class Block(nn.Module):
    """One block: C channels in, 2C out, the size kept (Eqs. 1–8)."""

    def __init__(
        self, channels: int, branches: int, connection: Connection, se: SqueezeExcitation | None
    ) -> None:
        super().__init__()
        self.branches = branches
        self.partitions = channels // branches
        self.dense = connection == "dense"
        self.first = nn.Conv2d(channels, channels, 3, padding=1, groups=branches)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 1, groups=self.partitions)
        self.second_norm = nn.BatchNorm2d(channels)
        self.merge = nn.Conv2d(2 * channels if self.dense else channels, 2 * channels, 1)
        self.merge_norm = nn.BatchNorm2d(2 * channels)
        self.second_se = SqueezeExcite(channels, SE_RATIO) if se == "second" else nn.Identity()
        self.block_se = SqueezeExcite(2 * channels, SE_RATIO) if se == "first" else nn.Identity()

    def basic(self, x: Tensor) -> Tensor:
        """Both group convolutions, channels in their old order afterwards: Eqs. 1–4."""
        return self.mixed(functional.relu(self.first_norm(self.first(x))))

    def mixed(self, z: Tensor) -> Tensor:
        """The second group convolution between two permutations: linear in evaluation."""
        y = self.second_norm(self.second(interleave(z, self.branches)))
        return interleave(y, self.partitions)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 2C, H, W)."""
        y = self.second_se(self.basic(x))
        joined = torch.cat((y, x), dim=1) if self.dense else y + x  # Eqs. 6 and 5
        return self.block_se(functional.relu(self.merge_norm(self.merge(joined))))


def binary_maps(level_map: Tensor) -> Tensor:
    """Level map (B, H, W), 0–5 → the five nested binary maps (B, 5, H, W), 0 or 1, lowest threshold first."""
    levels = torch.arange(1, MAPS + 1, dtype=level_map.dtype, device=level_map.device)
    return (level_map.unsqueeze(1) >= levels.view(1, MAPS, 1, 1)).to(torch.float32)


def apply_maps(x: Tensor, maps: Tensor) -> Tensor:
    """x + x·map on five of the six groups of channels: (B, C, H, W) and (B, 5, H, W) → (B, C, H, W)."""
    batch, channels, height, width = x.shape
    factors = functional.pad(maps + 1.0, (0, 0, 0, 0, 1, 0), value=1.0)  # the first group is met by no map
    groups = x.reshape(batch, MAPS + 1, channels // (MAPS + 1), height, width)
    return (groups * factors.unsqueeze(2)).reshape(batch, channels, height, width)


class CEDNN(AUNetwork):
    """The network; its twelve variants are L ∈ {1, 2, 3, 6, 9, 18}, residual or dense."""

    temporal = False
    input_px = 224
    floating = (
        *("network", "blocks.0", "blocks.1", "blocks.2"),
        *(f"blocks.{i}.block.{part}_norm" for i in (3, 4, 5) for part in ("first", "second")),
    )
    """Rounded, the first blocks and the grouped convolutions move one probability in a hundred by 0.06 to 0.1
    (LOG.md); the merging convolutions of the others and the top, 95 % of the weights, by 0.02."""
    pixel_mean = (0.0, 0.0, 0.0)
    pixel_std = (1.0, 1.0, 1.0)

    def __init__(
        self,
        n_aus: int,
        branches: int = 18,
        connection: Connection = "residual",
        attention_blocks: int = 3,
        se: SqueezeExcitation | None = "first",
    ) -> None:
        """Draws new weights.

        Args:
            n_aus: outputs.
            branches: L, the groups of a block's first convolution.
            connection: `residual` (Eq. 5) or `dense` (Eq. 6).
            attention_blocks: maps meet the inputs of this many blocks, from the first; 0 to 4.
            se: channel attention on the block's output (`first`), within it (`second`), or none.

        Raises:
            UsageError: a value is not one of these.
        """
        super().__init__()
        if branches not in BRANCHES:
            raise UsageError(f"cednn: branches must be one of {BRANCHES}, got {branches!r}")
        if connection not in ("residual", "dense"):
            raise UsageError(f"cednn: connection must be 'residual' or 'dense', got {connection!r}")
        if attention_blocks not in range(MAX_ATTENTION_BLOCKS + 1):
            raise UsageError(
                f"cednn: attention_blocks must be 0 to {MAX_ATTENTION_BLOCKS}, got {attention_blocks!r}"
            )
        if se not in (None, "first", "second"):
            raise UsageError(f"cednn: se must be none (null), 'first' or 'second', got {se!r}")
        self.attention_blocks = attention_blocks
        self.reads_level_map = attention_blocks > 0
        widths = [INPUT_CHANNELS * 2**i for i in range(BLOCKS)]
        self.blocks = nn.ModuleList(Block(width, branches, connection, se) for width in widths)
        self.reduce = nn.Conv2d(2 * widths[-1], 144, 1)
        self.top = nn.Conv2d(144, 1024, 7)
        self.top_dense = nn.Conv2d(1024, 1024, 1)
        self.fc = nn.Linear(1024, n_aus)

    @property
    def classifier(self) -> nn.Linear:
        """The layer that gives the logits."""
        return self.fc

    def deployed(self) -> AUNetwork:
        """See `cednn_deployed`."""
        from engines.networks.cednn_deployed import DeployedCEDNN

        return DeployedCEDNN(self)

    def forward(
        self, image: Tensor, level_map: Tensor | None = None, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """One logit per AU.

        Args:
            image: (B, 3, 224, 224) float, RGB, 0–1.
            level_map: (B, 224, 224), values 0–5: how many thresholds a pixel's difference passes. Needed
                unless `attention_blocks` is 0.
            return_attention: also hand back the maps that the blocks met, (B, 5, H, W) float 0 or 1 each.

        Returns:
            Logits (B, n_aus), and with `return_attention` a tuple of `attention_blocks` maps beside them.
        """
        x = image.repeat(1, INPUT_CHANNELS // 3, 1, 1)
        used: list[Tensor] = []
        level = None if level_map is None else level_map.to(image.dtype)
        for i, block in enumerate(self.blocks):
            if i > 0:
                x = functional.max_pool2d(x, 2)
            if i < self.attention_blocks:
                if level is None:
                    raise ValueError(
                        f"level_map: expected (B, 224, 224) for {self.attention_blocks} blocks, got None"
                    )
                # The thresholds are nested, so pooling the levels pools all five maps at once.
                level = functional.max_pool2d(level.unsqueeze(1), 2).squeeze(1) if i > 0 else level
                used.append(binary_maps(level))
                x = apply_maps(x, used[-1])
            x = block(x)
        x = functional.relu(self.reduce(x))
        x = functional.relu(self.top(x))
        x = functional.relu(self.top_dense(x))
        logits = self.fc(x.flatten(1))
        return (logits, tuple(used)) if return_attention else logits


class IGCBlock(nn.Module):
    """An interleaved group convolution: L groups of M channels (3×3), M groups of L (1×1); no skip."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.partitions = channels // IGC_BRANCHES
        self.first = nn.Conv2d(channels_in, channels, 3, stride, padding=1, groups=IGC_BRANCHES)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 1, groups=self.partitions)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, C, H/stride, W/stride)."""
        x = functional.relu(self.first_norm(self.first(x)))
        x = functional.relu(self.second_norm(self.second(interleave(x, IGC_BRANCHES))))
        return interleave(x, self.partitions)


class IGC(AUNetwork):
    """IGC-L24M2, the baseline of Table 6."""

    input_px = 224
    pixel_mean = (0.0, 0.0, 0.0)
    pixel_std = (1.0, 1.0, 1.0)

    def __init__(self, n_aus: int) -> None:
        """Draws new weights."""
        super().__init__()
        widths = [IGC_BRANCHES * IGC_CHANNELS * 2**i for i in range(IGC_STAGES)]
        self.stem = ConvNorm(3, widths[0])
        shapes = [
            (width if b or not i else width // 2, width) for i, width in enumerate(widths) for b in range(3)
        ]
        self.blocks = nn.ModuleList(IGCBlock(c_in, c, 1 if c_in == c else 2) for c_in, c in shapes)
        self.fc = nn.Linear(widths[-1] * 14 * 14, n_aus)

    @property
    def classifier(self) -> nn.Linear:
        """The layer that gives the logits."""
        return self.fc

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, 224, 224) float, RGB, 0–1 → logits (B, n_aus)."""
        x = functional.relu(self.stem(image))
        for block in self.blocks:
            x = block(x)
        return self.fc(functional.avg_pool2d(x, 4).flatten(1))
