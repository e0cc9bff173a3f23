"""EAC-Net, E-Net and FVGG: VGG-19, told by landmarks where to look.

Li, Abtahi, Zhu, Yin: "EAC-Net: A Region-based Deep Enhancing and Cropping Approach for Facial Action Unit
Detection". Equation and table numbers below are that paper's.

FVGG is VGG-19 with a new top. E-Net adds an attention map around the AU centres of Table I (Eq. 1) to the
third and fourth group of convolutions. EAC-Net cuts 3×3 pixels around each centre out of the fourth group's
output, enlarges them to 6×6 and gives each a convolution and a layer of its own, 150 wide.

What the paper leaves open or contradicts, and what was decided. The authors' public Theano code answers
some of it ("as published"):

- What is multiplied by the map. Section III.B says the output of Group 2 (128 channels) and adds it to that
  of Group 3 (256), which cannot be. It is the output of the group's first convolution (as published): no
  new weights, and the pretrained ones mean what they did.
- 28×28 or 14×14. Section III.C calls the cropped map that of Group 5 and 28×28 large; III.B has Group 5 at
  14×14. Crops follow "right after the enhanced feature maps" of Group 4 and 3 px of 28 is 11 px of 100, so
  it is Group 4 before its pooling, 28×28, and EAC-Net has no Group 5.
- Ten areas or twenty. Table I has 9 kinds of centre, each a pair: 18. Ten kinds in pairs make both of the
  paper's numbers, ten areas and twenty centres, and only AU23 and AU24 can be the tenth: both lie at the
  "lip centre", and are given a pair each (`pipeline.align.au_centers` says where). The AUs that a network
  is trained for do not change the centres, as in the paper's own transfer to DISFA.
- Which groups stay frozen. The introduction keeps 1 and 2, Section III.A keeps 1 to 3 for FVGG. Each is
  taken at its place: `frozen` is 1 to 3 for FVGG, and 1 and 2 for the others, whose map acts on Group 3.
- The map's resolution. Table I's areas are 11×11 of 100×100 px. Eq. 1 is evaluated at the pixels of the
  56×56 and 28×28 maps directly, in hundredths of the face, instead of being shrunk; where areas overlap,
  the higher weight counts. At 100 px and whole centres it is the paper's, pixel by pixel.
- A centre at the rim: the 3×3 pixels are moved inside (as published).
- Enlarging: each pixel becomes 2×2 (as published). The convolution then goes without padding, 4×4 in the end.
- Normalisation (Eq. 2): over 3×3 neighbouring pixels of the same channel, as the text says, of the 28×28 map,
  whose values it calls too large. (The public code normalises across channels.)
- The top: FVGG and E-Net keep VGG's 4096 and change the next two layers to 2048 and n; EAC-Net's 20·150 go
  into the same 2048 and n. ReLU and dropout one half after each of them in training.
- What new layers begin with: He's initialisation. There is no normalisation, and PyTorch's default would fade
  from layer to layer where published weights are not at hand.
- Input: RGB normalised as torchvision's weights want it, which are the public form of the ImageNet VGG-19.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.base import AUNetwork
from engines.networks.layers import IMAGENET_MEAN, IMAGENET_STD
from engines.networks.published import fill_published, read_published
from engines.spec import AU_CENTERS
from pipeline.errors import UsageError

Variant = Literal["fvgg", "enet", "eacnet"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
GROUPS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Width and convolutions of VGG-19's five groups."""
STARTS = (0, 5, 10, 19, 28)
"""Where torchvision's numbering of `features` has each group's first convolution."""
CENTERS = AU_CENTERS
FACE_PX = 100
"""The face that Table I's areas are measured on."""
REACH_PX = 5.5
"""An area is 11 px wide."""
FALL = 0.095
"""Eq. 1, per pixel."""
BRANCH_WIDTH = 150
TOP_WIDTH = 2048


def attention_map(centers: Tensor, size: int) -> Tensor:
    """Eq. 1 at the pixels of a size×size map.

    Args:
        centers: (B, 20, 2), x and y as shares of the picture's side.
        size: of the map.

    Returns:
        (B, 1, size, size), 0 outside the areas.
    """
    pixels = (torch.arange(size, dtype=centers.dtype, device=centers.device) + 0.5) * (FACE_PX / size)
    away = (pixels - FACE_PX * centers.unsqueeze(-1)).abs()  # (B, 20, 2, size)
    x, y = away[:, :, 0].unsqueeze(2), away[:, :, 1].unsqueeze(3)
    inside = (torch.maximum(x, y) < REACH_PX).to(centers.dtype)
    return ((1 - FALL * (x + y)) * inside).amax(dim=1, keepdim=True)


def crop_areas(features: Tensor, centers: Tensor) -> Tensor:
    """The 3×3 pixels around each centre, moved inside at the rim: (B, C, S, S) → (B, 20, C, 3, 3)."""
    batch, channels, size, _ = features.shape
    # Whole numbers from here on: a runtime that computes in bfloat16 would round an index of three digits.
    middle = (centers * size).floor().clamp(1, size - 2).long()  # (B, 20, 2)
    step = torch.arange(-1, 2, device=centers.device)
    index = (middle[:, :, 1, None, None] + step[:, None]) * size + middle[:, :, 0, None, None] + step
    index = index.reshape(batch, 1, CENTERS * 9).expand(-1, channels, -1)
    areas = features.flatten(2).gather(2, index)
    return areas.reshape(batch, channels, CENTERS, 3, 3).transpose(1, 2)


def local_response_norm(x: Tensor) -> Tensor:
    """Eq. 2: x / (k + α·Σx²)^β over 3×3 neighbours of the same channel, with k = 2, α = 0.002, β = 0.75."""
    x = x.float()  # where the rest is in float16, the squares would not fit it
    squares = functional.avg_pool2d(x * x, 3, stride=1, padding=1) * 9  # the padding counts as zeros
    # Square roots instead of a power, which runtimes compute by logarithm: y^0.75 = √y·√√y.
    root = torch.sqrt(2 + 0.002 * squares)
    return x / (root * torch.sqrt(root))


class CropNet(nn.Module):
    """The cropping layers: every area with its own convolution and its own layer, side by side in the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3) for _ in range(CENTERS))
        self.layers = nn.ModuleList(nn.Linear(16 * channels, BRANCH_WIDTH) for _ in range(CENTERS))

    def forward(self, features: Tensor, centers: Tensor) -> Tensor:
        """(B, 512, 28, 28) and (B, 20, 2) → (B, 3000)."""
        areas = crop_areas(local_response_norm(features), centers)
        outputs = []
        for i, (conv, layer) in enumerate(zip(self.convs, self.layers, strict=True)):
            large = functional.interpolate(areas[:, i], scale_factor=2.0, mode="nearest")
            local = functional.relu(conv(large)).flatten(1)
            outputs.append(functional.relu(layer(local)))
        return torch.cat(outputs, dim=1)


class EACNet(AUNetwork):
    """EAC-Net, E-Net or FVGG, by `variant`; the convolutions have torchvision's names of VGG-19."""

    input_px = 224
    pixel_mean = IMAGENET_MEAN
    pixel_std = IMAGENET_STD
    winograd_from = 128

    def __init__(self, n_aus: int, variant: Variant = "eacnet") -> None:
        """Draws new weights.

        Raises:
            UsageError: `variant` is not one of `VARIANTS`.
        """
        super().__init__()
        if variant not in VARIANTS:
            raise UsageError(f"eacnet: variant must be one of {VARIANTS}, got {variant!r}")
        self.variant = variant
        self.reads_au_centers = variant != "fvgg"
        groups = GROUPS[:4] if variant == "eacnet" else GROUPS
        self.features = nn.ModuleDict()
        channels = 3
        for start, (width, count) in zip(STARTS, groups, strict=False):
            for i in range(count):
                self.features[str(start + 2 * i)] = nn.Conv2d(channels, width, 3, padding=1)
                channels = width
        frozen_groups = 3 if variant == "fvgg" else 2
        self.frozen = tuple(f"features.{n}." for n in self.features if int(n) < STARTS[frozen_groups])
        if variant == "eacnet":
            self.crops = CropNet(512)
            joined = CENTERS * BRANCH_WIDTH
        else:
            self.fc6 = nn.Linear(512 * 7 * 7, 4096)
            joined = 4096
        self.fc7 = nn.Linear(joined, TOP_WIDTH)
        self.fc8 = nn.Linear(TOP_WIDTH, n_aus)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def load_published(self, path: Path) -> None:
        """See `load_vgg19`."""
        load_vgg19(self, path)

    @property
    def classifier(self) -> nn.Linear:
        """The layer that gives the logits."""
        return self.fc8

    def _group(self, x: Tensor, group: int, attention: Tensor | None) -> Tensor:
        """A group of convolutions, without its pooling, enhanced where there is a map."""
        first = functional.relu(self.features[str(STARTS[group])](x))
        x = first
        for i in range(1, GROUPS[group][1]):
            x = functional.relu(self.features[str(STARTS[group] + 2 * i)](x))
        return x if attention is None else x + first * attention

    def forward(
        self, image: Tensor, au_centers: Tensor | None = None, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """One logit per AU.

        Args:
            image: (B, 3, 224, 224) float RGB, normalised by `IMAGENET_MEAN` and `IMAGENET_STD`.
            au_centers: (B, 20, 2), x and y as shares of the picture's side; for all but FVGG.
            return_attention: also hand back the maps of the enhanced groups.

        Returns:
            Logits (B, n_aus), and with `return_attention` maps (B, 1, 56, 56) and (B, 1, 28, 28), 0–1, beside
            them; none for FVGG.
        """
        if self.reads_au_centers and au_centers is None:
            raise ValueError(f"au_centers: expected (B, {CENTERS}, 2) for {self.variant}, got None")
        maps: tuple[Tensor, ...] = ()
        if self.reads_au_centers and au_centers is not None:
            maps = (attention_map(au_centers, 56), attention_map(au_centers, 28))
        x = image
        for group in range(4):
            if group > 0:
                x = functional.max_pool2d(x, 2)
            x = self._group(x, group, maps[group - 2] if group >= 2 and maps else None)
        if self.variant == "eacnet":
            assert au_centers is not None
            x = self.crops(x, au_centers)
        else:
            x = functional.max_pool2d(self._group(functional.max_pool2d(x, 2), 4, None), 2)
            x = self._dropped(functional.relu(self.fc6(x.flatten(1))))
        logits = self.fc8(self._dropped(functional.relu(self.fc7(x))))
        return (logits, maps) if return_attention else logits

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, self.training)


def load_vgg19(network: EACNet, path: Path) -> None:
    """Fill in ImageNet's VGG-19 from a state dict in torchvision's names, kept as safetensors.

    Taken are the convolutions that the network has and, for FVGG and E-Net, the first fully connected layer.
    The rest keeps its weights.

    Raises:
        EngineError: the file cannot be read, or is not a whole VGG-19; names the keys.
    """
    what = "VGG-19"
    found = read_published(path, what)
    public = [
        f"features.{start + 2 * i}" for start, g in zip(STARTS, GROUPS, strict=True) for i in range(g[1])
    ]
    names = {name: name for name in public if name.split(".")[1] in network.features}
    if network.variant != "eacnet":
        names["classifier.0"] = "fc6"
    left_out = {*public, "classifier.0", "classifier.3", "classifier.6"} - set(names)
    fill_published(
        network,
        found,
        {f"{a}.{part}": f"{b}.{part}" for a, b in names.items() for part in ("weight", "bias")},
        {f"{name}.{part}" for name in left_out for part in ("weight", "bias")},
        f"{path}: expected {what} in torchvision's names",
    )
