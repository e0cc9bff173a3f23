"""ARL and iARL: attention per AU, refined by a fully connected CRF over its pixels.

Shao, Liu, Cai, Wu, Ma: "Facial Action Unit Detection Using Attention and Relation Learning". Equation and
table numbers below are that paper's; its hyper-parameters are l = 176 and c = 8.

Two hierarchical and multi-scale region layers, shared by all AUs, each with a max-pool behind it, turn the
face into 64 maps of 44×44. Every AU then has a branch of five convolutions: channel attention after the
second (Eqs. 1, 2), spatial attention after the fourth (Eq. 6), whose map a CRF over all 1936 pixels refines
(Eqs. 3–5). iARL is the same network: its output times 5 is the intensity (Eq. 10), so a bundle says
`max_intensity`.

What the paper leaves open or contradicts, and what was decided. The authors' public Caffe model of ARL
answers most of it and is followed there ("as published"):

- Widths of the region layers. The text leaves them to JAA-Net: 4c and 8c; of the three patch-wise layers, the
  first gives half, the others a quarter each, so that together they can be added to the layer's input.
- Where the patches are normalised: each patch by itself, before its convolution, and the sum again (as
  published). A patch is padded by zeros of its own; its neighbours are not looked at.
- Normalisation and activation in a branch: batch normalisation and ReLU after each convolution, behind the
  multiplication where there is one (f⁽²⁾, f⁽⁴⁾); tanh after the pixel features f⁽³ˢ⁾; nothing after the
  last convolution (as published). Without its attentions a branch is Section 4.3's five stacked
  convolutions: B-Net.
- B-Net and W-Net differ by the weights of the loss only, and so do iWCSP-Net and iARL: one network each. In
  a recipe, the rows of Table 9 are the `variant` b, b, wc, wcs and wcsp with `loss = "arl"`; B-Net has
  `arl = { weights = "equal" }`; those with an i have `max_intensity = 5`, and all but iARL
  `arl = { cosine = 0.0 }`. H, the region layers, is in every row.
- The CRF's messages. Eq. 4 gives kernels without a norm. The hyper-parameters are the defaults of Zheng et
  al.'s CRF layer [19], which divides each kernel's sum by its sum of weights (as published): so it is here.
  Undivided, 1935 pixels outvote any −log P⁽⁰⁾ by hundreds to one; divided, they weigh 5 + 3 at most.
- Where the CRF begins. Divided, it is a switch all the same: tanh features part pixels little at β = 3, so
  each hears nearly the mean of all, and near 1/2 one step takes that (5 + 3)/2 times as far from there, five
  steps a thousand times. New weights, whose maps are within a few hundredths of 1/2, leave it to chance
  whether an AU attends to everything or to nothing; one that attends to nothing hardly answers to the face,
  and its convolutions have a twentieth of the others' gradients. Ours: every map begins on the side of
  attention, by a bias of 1 (`settle`), and training takes away. Its price: a map so near 1 everywhere has
  gradients of some 1e-5 of the convolutions', so it is the last to move.
- j ≠ k. Eq. 3 sums over pairs, so a pixel sends itself nothing; [19]'s lattice includes it, approximately.
  Here Eq. 3 is followed, and the sums are exact.
- What is learnt in the CRF. Section 4.1.2 says the label compatibility, started as Potts, and calls w⁽¹⁾ and
  w⁽²⁾ hyper-parameters; the published layer could adapt these as well. Section 4.1.2 is followed.
- The energy in Eqs. 9 and 13. Mean field is what minimises it; train/paper_losses.py can add it all the same
  (`arl = { energy = 1.0 }`), by exact sums over all pairs.
- Input: minus 128, divided by 128 (as published). Training cuts 176 of 200 px at random (`augment.crop =
  "level_eyes_whole_200"`), streaming takes the middle.

Both labels of a pixel sum to 1, so one product with the 1936×1936 kernel a step suffices. While gradients are
asked for, one AU's kernel is kept at a time and computed anew on the way back: 15 MB a face instead of 180.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from engines.networks.base import AUNetwork
from engines.networks.layers import ConvNorm, unmixed, whole
from pipeline.errors import UsageError

Variant = Literal["b", "wc", "wcs", "wcsp"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
UNIT = 8
"""c: all widths are multiples of it."""
GRID = 44
STEPS = 5
APPEARANCE_WEIGHT, SMOOTHNESS_WEIGHT = 5.0, 3.0
"""w⁽¹⁾ and w⁽²⁾ of Eq. 4."""
ATTENTIVE = 1.0
"""Bias of a new map's logits: P⁽⁰⁾(y = 1) of about 0.73 everywhere."""
ALPHA, BETA, GAMMA = 160.0, 3.0, 3.0
"""Scales of the kernels of Eq. 4: positions (in pixels of the grid) and features of the first, positions of
the second."""


def to_patches(x: Tensor, side: int) -> Tensor:
    """side×side equal patches, side by side as channels: (B, C, H, W) → (B, side²·C, H/side, W/side)."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, side, height // side, side, width // side)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, height // side, width // side)


def from_patches(patches: Tensor, side: int) -> Tensor:
    """The way back: (B, side²·C, h, w) → (B, C, side·h, side·w)."""
    batch, channels, height, width = patches.shape
    x = patches.reshape(batch, side, side, channels // side**2, height, width)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, side * height, side * width)


class PatchConv(nn.Module):
    """A convolution with its own filters and normalisation for each of side×side patches."""

    def __init__(self, side: int, channels_in: int, channels: int) -> None:
        super().__init__()
        self.side = side
        patches = side * side
        self.norm = nn.BatchNorm2d(patches * channels_in)
        self.conv = nn.Conv2d(patches * channels_in, patches * channels, 3, padding=1, groups=patches)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, C, H, W)."""
        patches = functional.relu(self.norm(to_patches(x, self.side)))
        return from_patches(self.conv(patches), self.side)


class RegionLayer(nn.Module):
    """Hierarchical and multi-scale region layer (Section 3.2): 8×8, then 4×4, then 2×2 patches, and their
    input."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.fine = PatchConv(8, channels, channels // 2)
        self.middle = PatchConv(4, channels // 2, channels // 4)
        self.coarse = PatchConv(2, channels // 4, channels // 4)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, C, H, W); H and W multiples of 8."""
        x = self.conv(x)
        fine = self.fine(x)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        return functional.relu(self.norm(x + torch.cat((fine, middle, coarse), dim=1)))


def gaussian_rows(side: int, scale: float) -> Tensor:
    """exp(−(i − k)²/2·scale²), side×side: a Gaussian of positions is the product of two of these."""
    at = torch.arange(side, dtype=torch.float64) / scale
    return torch.exp(-((at[:, None] - at[None]) ** 2) / 2)


class FullyConnectedCRF(nn.Module):
    """Mean-field inference over all pairs of pixels, exact: Eqs. 3–5, five steps."""

    rows: Tensor
    columns: Tensor
    positions: Tensor

    def __init__(self, height: int = GRID, width: int = GRID) -> None:
        super().__init__()
        self.compatibility = nn.Parameter(1 - torch.eye(2))
        """μ(y, y'): what a pixel with label y pays for one with y'. Potts at first."""
        self.register_buffer("rows", gaussian_rows(height, GAMMA).float(), persistent=False)
        self.register_buffer("columns", gaussian_rows(width, GAMMA).float(), persistent=False)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centred = torch.stack((x - (width - 1) / 2, y - (height - 1) / 2), dim=-1)
        self.register_buffer("positions", (centred.flatten(0, 1) / ALPHA).float(), persistent=False)

    def appearance_kernel(self, features: Tensor) -> Tensor:
        """The first kernel of Eq. 4: (B, C, H, W) → (B, H·W, H·W), 1 on the diagonal."""
        points = features.flatten(2).transpose(1, 2) / BETA
        points = torch.cat((points, self.positions.expand(points.shape[0], -1, -1)), dim=2)
        # −|a − b|²/2 = a·b − |a|²/2 − |b|²/2, all of it in one product.
        half = (points * points).sum(dim=2, keepdim=True) / -2
        one = torch.ones_like(half)
        left, right = torch.cat((points, half, one), dim=2), torch.cat((points, one, half), dim=2)
        return torch.exp(left @ right.transpose(1, 2))

    def smooth(self, x: Tensor) -> Tensor:
        """Sum over all other pixels, weighted by the second kernel of Eq. 4: (B, H, W) → the same."""
        return self.rows @ x @ self.columns - x

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        """Probability of label 1, in float32 also where autocast halves what is around.

        Args:
            logits: (B, 1, H, W), whose sigmoid is P⁽⁰⁾(y = 1).
            features: (B, C, H, W).

        Returns:
            P(y = 1), (B, 1, H, W).
        """
        with unmixed(logits.device.type):
            return self._mean_field(whole(logits), whole(features))

    def _mean_field(self, logits: Tensor, features: Tensor) -> Tensor:
        batch, _, height, width = logits.shape
        kernel = self.appearance_kernel(features)
        appearance_norm = kernel.sum(dim=2, keepdim=True) - 1
        smoothness_norm = self.smooth(torch.ones_like(logits[:1, 0]))
        mu = self.compatibility
        attended = torch.sigmoid(logits[:, 0])
        for _ in range(STEPS):
            flat = attended.reshape(batch, -1, 1)
            appearance = ((kernel @ flat - flat) / appearance_norm).reshape(batch, height, width)
            smoothness = self.smooth(attended) / smoothness_norm
            ones = APPEARANCE_WEIGHT * appearance + SMOOTHNESS_WEIGHT * smoothness
            zeros = APPEARANCE_WEIGHT + SMOOTHNESS_WEIGHT - ones
            cost = (mu[1, 0] - mu[0, 0]) * zeros + (mu[1, 1] - mu[0, 1]) * ones
            attended = torch.sigmoid(logits[:, 0] - cost)
        return attended.unsqueeze(1)


class Attention(NamedTuple):
    """What an AU's branch looked at: (B, 1, 44, 44) each, 0–1; None where the variant has no such thing."""

    channels: Tensor | None
    """v⁽ᶜ⁾, (B, 64)."""
    initial: Tensor | None
    """v⁽⁰ˢ⁾."""
    refined: Tensor | None
    """v⁽ˢ⁾."""
    pixel_logits: Tensor | None = None
    """Whose sigmoid is v⁽⁰ˢ⁾."""
    pixel_features: Tensor | None = None
    """f⁽³ˢ⁾, (B, 16, 44, 44)."""


class Branch(nn.Module):
    """One AU's five convolutions and attentions (Fig. 2)."""

    def __init__(self, channels: int, variant: Variant) -> None:
        super().__init__()
        self.attends_channels = variant != "b"
        self.attends_pixels = variant in ("wcs", "wcsp")
        self.first = ConvNorm(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(channels)
        self.third = ConvNorm(channels, channels)
        self.fourth = nn.Conv2d(channels, channels, 3, padding=1)
        self.fourth_norm = nn.BatchNorm2d(channels)
        self.fifth = nn.Conv2d(channels, channels, 3, padding=1)
        self.fc = nn.Linear(channels, 1)
        if self.attends_channels:
            self.channel_weights = nn.Linear(channels, channels)
        if self.attends_pixels:
            self.pixel_features = ConvNorm(channels, 2 * UNIT)
            self.pixel_weights = nn.Conv2d(2 * UNIT, 1, 3, padding=1)
        self.crf = FullyConnectedCRF() if variant == "wcsp" else None

    def forward(self, shared: Tensor) -> tuple[Tensor, Attention]:
        """(B, 64, 44, 44) → the AU's logit (B, 1) and its attention."""
        channel_weights = initial = refined = logits = features = None
        x = functional.relu(self.first(shared))
        y = self.second(x)
        if self.attends_channels:
            channel_weights = torch.sigmoid(self.channel_weights(x.mean(dim=(2, 3))))  # Eq. 1
            y = y * channel_weights[:, :, None, None]  # Eq. 2
        x = functional.relu(self.third(functional.relu(self.second_norm(y))))
        y = self.fourth(x)
        if self.attends_pixels:
            features = torch.tanh(self.pixel_features(x))
            logits = self.pixel_weights(features)
            initial = torch.sigmoid(logits)
            refined = initial
            if self.crf is not None:
                refined = self.of_crf(FullyConnectedCRF.__call__, logits, features)
            y = y * refined  # Eq. 6
        y = self.fifth(functional.relu(self.fourth_norm(y)))
        answer = self.fc(y.mean(dim=(2, 3)))  # Eq. 7
        return answer, Attention(channel_weights, initial, refined, logits, features)

    def of_crf(self, function: Callable[..., Tensor], *maps: Tensor) -> Tensor:
        """A function of this branch's CRF and maps, whose kernel is computed anew on the way back."""
        if torch.is_grad_enabled() and any(m.requires_grad for m in maps):
            found: Tensor = checkpoint(function, self.crf, *maps, use_reentrant=False)
            return found
        return function(self.crf, *maps)


class ARL(AUNetwork):
    """ARL (`wcsp`) and its ablations of Table 9; iARL is the same with another loss and bundle."""

    input_px = 176
    pixel_mean = (128 / 255,) * 3
    pixel_std = (128 / 255,) * 3

    def __init__(self, n_aus: int, variant: Variant = "wcsp") -> None:
        """Draws new weights.

        Args:
            n_aus: outputs.
            variant: `b` (B-Net, W-Net), `wc`, `wcs` or `wcsp` (ARL, iARL).

        Raises:
            UsageError: `variant` is not one of these.
        """
        super().__init__()
        if variant not in VARIANTS:
            raise UsageError(f"arl: variant must be one of {VARIANTS}, got {variant!r}")
        self.regions = nn.ModuleList([RegionLayer(3, 4 * UNIT), RegionLayer(4 * UNIT, 8 * UNIT)])
        self.branches = nn.ModuleList(Branch(8 * UNIT, variant) for _ in range(n_aus))
        self.settle()

    def settle(self) -> None:
        """Let every CRF begin with attention, not without."""
        for branch in self.branches:
            if branch.crf is not None:
                nn.init.constant_(branch.pixel_weights.bias, ATTENTIVE)  # type: ignore[union-attr, arg-type]

    @property
    def classifier(self) -> nn.ModuleList:
        """One layer per AU."""
        return nn.ModuleList(branch.fc for branch in self.branches)  # type: ignore[misc]

    def forward(
        self, image: Tensor, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, tuple[Attention, ...]]:
        """One logit per AU.

        Args:
            image: (B, 3, 176, 176) float RGB, (pixel − 128)/128.
            return_attention: also hand back what each AU's branch looked at.

        Returns:
            Logits (B, n_aus), and with `return_attention` an `Attention` per AU beside them.
        """
        x = image
        for layer in self.regions:
            x = functional.max_pool2d(layer(x), 2)
        answers = [branch(x) for branch in self.branches]
        logits = torch.cat([logit for logit, _ in answers], dim=1)
        return (logits, tuple(attention for _, attention in answers)) if return_attention else logits
