"""SAT-Net: ResNet-18 with a ConvLSTM after its second stage and an attention map per AU at its end.

Li, Zhang, Yin: "SAT-Net: Self-Attention and Temporal Fusion for Facial Action Unit Detection". Equation and
figure numbers below are that paper's. Its ablations come from the same class: T-Net (no attention), SA-Net
(no ConvLSTM) and the ResNet-18 baseline.

What the paper leaves open, and what was decided:

- Biases of the ConvLSTM. Eqs. 1–3 have one per gate, so the convolution of the input has one and that of the
  hidden state none. Parameters: 4·9·(128 + 128)·128 = 1,179,648 (the paper's 1.2 million, which
  leaves biases out) and 512 biases.
- The first hidden and cell state: zero. The first frame's hidden convolution, zero without a bias, is
  skipped.
- No peepholes and no normalisation in the ConvLSTM: the equations show none.
- How the ConvLSTM starts, between stages whose ImageNet weights expect ResNet's own features: as a passage.
  Gates begin nearly constant, the candidate of a channel as that channel, and the past fades by a factor of
  0.27 a frame; so what the stages know is there from the first step, and memory is learnt on top.
- What goes on: the hidden state of the last frame alone, without a skip around the ConvLSTM (Fig. 2). It is
  signed where ResNet's own features are not; the stage after it takes it as it is.
- The two 1×1 convolutions of Fig. 3 have biases (PyTorch's default); the product is averaged over the map and
  is the logit (Eq. 4 applies the sigmoid to it). T-Net keeps the baseline's pooling and fully connected
  layer.
- Input: RGB, normalised as ImageNet pretraining does, because the paper always starts from it. Length 16 as
  in training; the network itself takes any.
- Parameter names are torchvision's for ResNet-18, so that a published ImageNet state dict loads as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.base import AUNetwork
from engines.networks.layers import IMAGENET_MEAN, IMAGENET_STD
from engines.networks.published import counts, fill_published, read_published
from pipeline.errors import UsageError

Variant = Literal["satnet", "tnet", "sanet", "resnet18"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
BACKBONE = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


class BasicBlock(nn.Module):
    """ResNet's block of two 3×3 convolutions, under torchvision's names."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, C, H/stride, W/stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


def stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    """One of ResNet-18's four stages: two blocks, the first of which shrinks the picture."""
    return nn.Sequential(BasicBlock(channels_in, channels, stride), BasicBlock(channels, channels, 1))


PASSED_ON, OPEN = 0.5, 1.0
"""Of a new ConvLSTM: the weight from a feature to its own candidate, and the bias of a gate rather open."""
State = tuple[Tensor, Tensor]
"""Hidden and cell state, (B, C, H, W) each."""


class ConvLSTM(nn.Module):
    """Eqs. 1–3, in two halves: what a frame adds to its gates, and the step from frame to frame.

    The input half sees one frame only, so overlapping windows can share it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input_gates = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.hidden_gates = nn.Conv2d(channels, 4 * channels, 3, padding=1, bias=False)
        self._begin_as_passage()

    @torch.no_grad()
    def _begin_as_passage(self) -> None:
        """Newly drawn, hand on what the last frames show, monotonically."""
        channels = self.hidden_gates.in_channels
        for convolution in (self.input_gates, self.hidden_gates):
            convolution.weight.mul_(0.1)
        i, f, g, o = range(0, 4 * channels, channels)
        diagonal = torch.arange(channels)
        self.input_gates.weight[g + diagonal, diagonal, 1, 1] = PASSED_ON
        bias = self.input_gates.bias
        assert bias is not None
        bias.zero_()
        bias[i : i + channels] = OPEN
        bias[f : f + channels] = -OPEN
        bias[o : o + channels] = 2 * OPEN

    def step(self, from_input: Tensor, state: State | None) -> State:
        """One frame on.

        Args:
            from_input: `input_gates` of the frame, (B, 4C, H, W): input, forget, candidate, output.
            state: after the frame before; None before the first, where both are zero.
        """
        gates = from_input if state is None else from_input + self.hidden_gates(state[0])
        i, f, g, o = gates.chunk(4, dim=1)
        cell = torch.sigmoid(i) * torch.tanh(g)
        if state is not None:
            cell = cell + torch.sigmoid(f) * state[1]
        return torch.sigmoid(o) * torch.tanh(cell), cell


class SelfAttention(nn.Module):
    """A map per AU, learnt beside its features, multiplied and averaged (Fig. 3)."""

    def __init__(self, channels: int, n_aus: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(channels, n_aus, 1)
        self.mask = nn.Conv2d(channels, n_aus, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) → logits (B, n_aus) and attention maps (B, n_aus, H, W), 0–1."""
        attention = torch.sigmoid(self.mask(x))
        return (self.features(x) * attention).mean(dim=(2, 3)), attention


class SATNet(AUNetwork):
    """SAT-Net, T-Net, SA-Net or ResNet-18, by `variant`."""

    reads_level_map = False
    takes_any_px = True
    input_px = 224
    pixel_mean = IMAGENET_MEAN
    pixel_std = IMAGENET_STD

    def __init__(self, n_aus: int, variant: Variant = "satnet") -> None:
        """Draws new weights.

        Raises:
            UsageError: `variant` is not one of `VARIANTS`.
        """
        super().__init__()
        if variant not in VARIANTS:
            raise UsageError(f"satnet: variant must be one of {VARIANTS}, got {variant!r}")
        self.temporal = variant in ("satnet", "tnet")
        self.attends = variant in ("satnet", "sanet")
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(64, 64, 1)
        self.layer2 = stage(64, 128, 2)
        if self.temporal:
            self.conv_lstm = ConvLSTM(128)
        self.layer3 = stage(128, 256, 2)
        self.layer4 = stage(256, 512, 2)
        if self.attends:
            self.attention = SelfAttention(512, n_aus)
        else:
            self.fc = nn.Linear(512, n_aus)

    def load_published(self, path: Path) -> None:
        """See `load_backbone`."""
        load_backbone(self, path)

    @property
    def classifier(self) -> nn.Conv2d | nn.Linear:
        """The layer that gives the logits."""
        return self.attention.features if self.attends else self.fc

    def rows_of_aus(self) -> dict[str, list[int]]:
        """The attention has one for each AU too."""
        masks = self.attention.mask.named_parameters(prefix="attention.mask") if self.attends else ()
        return super().rows_of_aus() | {name: list(range(len(p))) for name, p in masks}

    def frame_features(self, images: Tensor) -> Tensor:
        """Through the second stage, frame by frame: (N, 3, 224, 224) → (N, 128, 28, 28)."""
        x = functional.relu(self.bn1(self.conv1(images)))
        x = functional.max_pool2d(x, 3, 2, padding=1)
        return self.layer2(self.layer1(x))

    def fuse(self, features: Tensor) -> Tensor:
        """The last hidden state over (B, T, 128, 28, 28), (B, 128, 28, 28)."""
        batch, frames = features.shape[:2]
        from_input = self.conv_lstm.input_gates(features.flatten(0, 1)).unflatten(0, (batch, frames))
        state = self.conv_lstm.step(from_input[:, 0], None)
        for t in range(1, frames):
            state = self.conv_lstm.step(from_input[:, t], state)
        return state[0]

    def head(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """From the third stage on: (B, 128, 28, 28) → logits (B, n_aus) and maps (B, n_aus, 7, 7) or None."""
        x = self.layer4(self.layer3(features))
        if self.attends:
            return self.attention(x)
        return self.fc(x.mean(dim=(2, 3))), None

    def forward(self, images: Tensor, return_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """One logit per AU, for the last frame.

        Args:
            images: float RGB, normalised by `IMAGENET_MEAN` and `IMAGENET_STD`; (B, T, 3, 224, 224) with a
                ConvLSTM, else (B, 3, 224, 224).
            return_attention: also hand back the attention maps; only variants with self-attention have them.

        Returns:
            Logits (B, n_aus), and with `return_attention` maps (B, n_aus, 7, 7), 0–1, beside them.
        """
        expected = 5 if self.temporal else 4
        if images.ndim != expected:
            layout = "(B, T, 3, 224, 224)" if self.temporal else "(B, 3, 224, 224)"
            raise ValueError(f"images: expected {layout}, got {tuple(images.shape)}")
        if self.temporal:
            features = self.frame_features(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            logits, attention = self.head(self.fuse(features))
        else:
            logits, attention = self.head(self.frame_features(images))
        if not return_attention:
            return logits
        if attention is None:
            raise ValueError(
                "return_attention: expected the satnet or sanet variant, this one has no attention"
            )
        return logits, attention


def load_backbone(network: SATNet, path: Path) -> None:
    """Fill ResNet-18's part from a published state dict in torchvision's names, kept as safetensors.

    The rest (ConvLSTM, attention) keeps its weights. `fc` is taken where the network has one of the same
    size.

    Raises:
        EngineError: the file cannot be read, or lacks, exceeds or contradicts the backbone; names the keys.
    """
    found = read_published(path, "ResNet-18")
    wanted = network.state_dict()
    names = [name for name in wanted if name.split(".")[0] in BACKBONE and counts(name)]
    heads = ("fc.weight", "fc.bias")
    if all(n in wanted and n in found and wanted[n].shape == found[n].shape for n in heads):
        names += heads
    origin = f"{path}: expected ResNet-18 in torchvision's names"
    fill_published(network, found, {name: name for name in names}, heads, origin)
