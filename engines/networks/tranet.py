"""TRA-Net: the upper, middle and lower face, each with a branch of its own.

Xia: "Upper, Middle and Lower Region Learning for Facial Action Unit Detection". Equation, table and figure
numbers below are that paper's.

SENet-50 sees the whole face; a decoder with skip connections brings its last map back to 56×56; three hard
masks keep one region each (Eq. 4); in every branch three attention modules (CBAM) alternate with pairs of
convolutions, and two layers give the region's AUs.

What the paper leaves open or contradicts, and what was decided:

- The residual of squeeze-and-excitation. Eq. 3 adds a block's own output, SENet-50 adds its input. The
  backbone is SENet-50, whose published weights mean the input; the decoder has no input of the same shape
  to add and follows Eq. 3.
- The decoder. It mirrors the last three blocks with one convolution each: from 7×7 (2048 channels) to 14×14
  (1024), 28×28 (512) and 56×56 (256), the shapes that blocks 5, 4 and 3 take in. Each step: 3×3 convolution,
  normalisation, ReLU, Eq. 3, doubled size (bilinear), plus the encoder's map of that shape as the skip.
- The masks. Faces are aligned so that the point halfway from nose tip to nose root is the centre (y = H/2):
  the upper half, the lower half, and the half between H/4 and 3H/4 (the text's signs are swapped for the
  latter).
- Fig. 1's caption has the average pooling behind the first module; the text has it behind the last, as there.
- Widths of a branch: 256 throughout, as nothing is said; the two layers at its end 256 and its AUs. Its
  convolutions are 3×3, each with normalisation and ReLU; the pairs after the first two modules are residual.
- CBAM. Channel attention as there (ratio 16), spatial attention with a kernel of 7: pooled by maximum and by
  mean, a filter each, added. No sum with what comes in, but in the variant `residual`.
- Table 2's variants. Without masks there is one branch for all AUs; without CBAM the convolutions stay;
  `senet50` ends as SENet-50 does, by its average pooling, in one layer.
- Which AU belongs where is configuration (`regions`, one for each AU); the paper's is for DISFA's eight.
- Published weights: VGGFace2's SENet-50 in the names of the widely used PyTorch port (`conv1`,
  `layer1.0.conv1`, … with `conv4` and `conv5` for squeeze and excitation). It reads BGR minus a mean,
  0–255. Here the input is RGB in units of 64 grey levels, so that untrained weights do not see numbers in
  the hundreds; the first convolution is turned around and multiplied when it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.base import AUNetwork
from engines.networks.layers import ConvNorm, SqueezeExcite
from engines.networks.published import counts, fill_published, read_published
from pipeline.errors import UsageError

Variant = Literal["tranet", "residual", "no_channel", "no_spatial", "masks", "cbam", "senet50"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
"""TRA-Net, and from below the rows of Table 2: with residual, without AT, without ST, + HM, + CBAM,
SENet-50."""
Region = Literal["upper", "middle", "lower"]
REGIONS: tuple[Region, ...] = get_args(Region)
DISFA_REGIONS: tuple[Region, ...] = (
    "upper", "upper", "upper", "middle", "middle", "lower", "lower", "lower",
)  # fmt: skip
"""Of AUs 1, 2, 4, 6, 9, 12, 25 and 26."""
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Width and number of bottlenecks in blocks 2 to 5."""
EXPANSION = 4
BRANCH_WIDTH = 256
RATIO = 16
GREY = 64
"""Grey levels to a unit of the input; a power of two, so that published weights fit exactly."""
BACKBONE = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


class Bottleneck(nn.Module):
    """SE-ResNet's block, under the port's names: the first 1×1 convolution has the stride."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels = EXPANSION * width
        self.conv1 = nn.Conv2d(channels_in, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv4 = nn.Conv2d(channels, channels // RATIO, 1)
        self.conv5 = nn.Conv2d(channels // RATIO, channels, 1)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, 4·width, H/stride, W/stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        squeezed = functional.relu(self.conv4(y.mean(dim=(2, 3), keepdim=True)))  # Eqs. 1 and 2
        y = y * torch.sigmoid(self.conv5(squeezed))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


def stage(channels_in: int, width: int, count: int, stride: int) -> nn.Sequential:
    """Some bottlenecks, the first of which shrinks the picture."""
    first = Bottleneck(channels_in, width, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * width, width, 1) for _ in range(count - 1)))


class DecoderStep(nn.Module):
    """One convolution, squeeze-and-excitation by Eq. 3, twice the size, and the skip."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels_in, channels)
        self.se = SqueezeExcite(channels, RATIO)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C_in, H, W) and (B, C, 2H, 2W) → (B, C, 2H, 2W)."""
        x = functional.relu(self.conv(x))
        x = self.se(x) + x
        return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False) + skip


class CBAM(nn.Module):
    """Channel attention, then spatial attention (Woo et al.), without a residual unless asked for."""

    def __init__(self, channels: int, channel: bool, spatial: bool, residual: bool) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, channels // RATIO) if channel else None
        self.expand = nn.Linear(channels // RATIO, channels) if channel else None
        self.spatial = nn.Conv2d(2, 1, 7, padding=3) if spatial else None
        self.residual = residual

    def _excite(self, pooled: Tensor) -> Tensor:
        assert self.reduce is not None
        assert self.expand is not None
        excited: Tensor = self.expand(functional.relu(self.reduce(pooled)))
        return excited

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, C, H, W) → the same, weighted, and the spatial weights (B, 1, H, W) if there are any."""
        y, weights = x, None
        if self.reduce is not None:
            both = self._excite(x.mean(dim=(2, 3))) + self._excite(x.amax(dim=(2, 3)))
            y = y * torch.sigmoid(both)[:, :, None, None]
        if self.spatial is not None:
            pooled = torch.cat((y.mean(dim=1, keepdim=True), y.amax(dim=1, keepdim=True)), dim=1)
            weights = torch.sigmoid(self.spatial(pooled))
            y = y * weights
        return (y + x if self.residual else y), weights


class Branch(nn.Module):
    """Three attention modules and three pairs of convolutions, then two layers."""

    def __init__(self, n_aus: int, variant: Variant) -> None:
        super().__init__()
        attends = variant != "masks"
        channel, spatial = variant != "no_channel", variant != "no_spatial"
        width = BRANCH_WIDTH
        self.attentions = nn.ModuleList(
            CBAM(width, channel, spatial, variant == "residual") for _ in range(3 if attends else 0)
        )
        self.firsts = nn.ModuleList(ConvNorm(width, width) for _ in range(3))
        self.seconds = nn.ModuleList(ConvNorm(width, width) for _ in range(3))
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, n_aus)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, 256, 56, 56) → logits (B, n_aus), and the spatial weights at 56, 28 and 14 px."""
        maps = []
        for i, (first, second) in enumerate(zip(self.firsts, self.seconds, strict=True)):
            if len(self.attentions):
                x, weights = self.attentions[i](x)
                maps += [] if weights is None else [weights]
            y = second(functional.relu(first(x)))
            x = functional.relu(y + x) if i < 2 else functional.relu(y)
            if i < 2:
                x = functional.max_pool2d(x, 2)
        return self.fc2(functional.relu(self.fc1(x.mean(dim=(2, 3))))), tuple(maps)


def region_rows(region: str, height: int) -> slice:
    """The rows that a hard mask keeps, the centre of the face being half way down."""
    start = {"upper": 0, "middle": height // 4, "lower": height // 2}[region]
    return slice(start, start + height // 2)


class TRANet(AUNetwork):
    """TRA-Net or a variant of Table 2."""

    input_px = 224
    pixel_mean = (131.0912 / 255, 103.8827 / 255, 91.4953 / 255)
    pixel_std = (GREY / 255,) * 3
    winograd_from = 128

    def __init__(
        self, n_aus: int, variant: Variant = "tranet", regions: Sequence[Region] | None = None
    ) -> None:
        """Draws new weights.

        Args:
            n_aus: outputs.
            variant: one of `VARIANTS`.
            regions: `upper`, `middle` or `lower` for each AU; left out for the paper's eight.

        Raises:
            UsageError: a value is not one of these.
        """
        super().__init__()
        if variant not in VARIANTS:
            raise UsageError(f"tranet: variant must be one of {VARIANTS}, got {variant!r}")
        if regions is None and n_aus == len(DISFA_REGIONS):
            regions = DISFA_REGIONS
        masked = variant not in ("senet50", "cbam")
        if masked and (regions is None or len(regions) != n_aus or not set(regions) <= set(REGIONS)):
            raise UsageError(
                f"tranet: regions must be one of {REGIONS} for each of {n_aus} AUs, got {regions!r}"
            )
        self.frozen = ("conv1.", "bn1.", "layer1.")
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for i, (width, count) in enumerate(STAGES, start=1):
            setattr(self, f"layer{i}", stage(channels, width, count, 1 if i == 1 else 2))
            channels = EXPANSION * width
        self.branch_of: tuple[str, ...] = tuple(regions) if masked and regions else ("all",) * n_aus
        """Which branch gives each AU."""
        if variant == "senet50":
            self.fc = nn.Linear(channels, n_aus)
            return
        self.decoder = nn.ModuleList(DecoderStep(c, c // 2) for c in (2048, 1024, 512))
        names = [name for name in (*REGIONS, "all") if name in self.branch_of]
        members = {name: [i for i, at in enumerate(self.branch_of) if at == name] for name in names}
        self.branches = nn.ModuleDict({name: Branch(len(m), variant) for name, m in members.items()})
        order = [i for own in members.values() for i in own]
        self.order = [order.index(i) for i in range(n_aus)]

    def load_published(self, path: Path) -> None:
        """See `load_senet50`."""
        load_senet50(self, path)

    @property
    def classifier(self) -> nn.Module:
        """The layer, or one for each branch."""
        if hasattr(self, "fc"):
            return self.fc
        return nn.ModuleList(branch.fc2 for branch in self.branches.values())  # type: ignore[misc]

    def rows_of_aus(self) -> dict[str, list[int]]:
        """Those of its own AUs in every branch."""
        if hasattr(self, "fc"):
            return super().rows_of_aus()
        return {
            f"branches.{name}.fc2.{kind}": [i for i, at in enumerate(self.branch_of) if at == name]
            for name in self.branches
            for kind in ("weight", "bias")
        }

    def forward(
        self, image: Tensor, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, tuple[Tensor, ...]]]:
        """One logit per AU.

        Args:
            image: (B, 3, 224, 224) float RGB, grey levels less the mean of VGGFace2, divided by 64.
            return_attention: also hand back the spatial weights.

        Returns:
            Logits (B, n_aus), and with `return_attention` by region the maps (B, 1, H, W), 0–1, of 56, 28
            and 14 px; none where the variant has no spatial attention.
        """
        x = functional.relu(self.bn1(self.conv1(image)))
        x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        skips = []
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            skips.append(x)
        attention: dict[str, tuple[Tensor, ...]] = {}
        if hasattr(self, "fc"):
            logits = self.fc(x.mean(dim=(2, 3)))
        else:
            for step, skip in zip(self.decoder, skips[-2::-1], strict=True):
                x = step(x, skip)
            answers = []
            for name, branch in self.branches.items():
                answer, attention[name] = branch(self._masked(x, name))
                answers.append(answer)
            logits = torch.cat(answers, dim=1)[:, self.order]
        return (logits, attention) if return_attention else logits

    @staticmethod
    def _masked(x: Tensor, region: str) -> Tensor:
        """Eq. 4: everything outside the region is zero."""
        if region not in REGIONS:
            return x
        height = x.shape[2]
        rows = region_rows(region, height)
        return functional.pad(x[:, :, rows], (0, 0, rows.start, height - rows.stop))


def load_senet50(network: TRANet, path: Path) -> None:
    """Fill in VGGFace2's SENet-50 from a state dict in the port's names, kept as safetensors.

    The rest (decoder, branches) keeps its weights; the classifier of identities is left out.

    Raises:
        EngineError: the file cannot be read, or lacks, exceeds or contradicts the backbone; names the keys.
    """
    what = "SENet-50"
    found = read_published(path, what)
    backbone = [n for n in network.state_dict() if n.split(".")[0] in BACKBONE and counts(n)]
    if (first := found.get("conv1.weight")) is not None and first.ndim == 4:
        found["conv1.weight"] = first.flip(1) * GREY  # BGR → RGB, grey levels → units
    origin = f"{path}: expected VGGFace2's {what} in the names of its PyTorch port"
    fill_published(network, found, {n: n for n in backbone}, {"fc.weight", "fc.bias"}, origin)
