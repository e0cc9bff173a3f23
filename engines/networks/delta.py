"""Delta: what has changed in a face since it was at rest. austream's own network, of no paper.

The signed difference between a face and its neutral, which the published networks threshold or do not see,
and how far its landmarks have moved, beside the face itself. Two parts read them:

    pixels     of the crop the 160×160 from above the brows to below the chin, in 7 planes: the face (3),
               face − neutral (3), whether there is a neutral (1); a small residual network down to 20×20 and
               10×10
    landmarks  468 points and their way from the neutral, two layers

Every AU has an attention map of its own over the 20×20 cells of the pixel part: what a cell shows, and where
on the aligned face it lies, say how much it counts. What is gathered there, the pooled 10×10 features and
the landmark features together give the logit.

Decided for transfer from rendered to real faces: pictures are standardised one by one, so that exposure and
skin tone say nothing; while training, one part's features are left out now and then, so that neither relies
on the other; a missing neutral gives zeros everywhere that it would be read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.base import AUNetwork
from engines.networks.layers import ConvNorm
from engines.spec import LANDMARKS
from pipeline.errors import UsageError

ROWS, COLUMNS = slice(44, 204), slice(32, 192)
"""Of the crop: the part that AUs move, a mouth wide open included."""
_STAGES = ((24, 1), (48, 2), (112, 2), (192, 1))
"""Channels and blocks of the stages at 80, 40, 20 and 10 px."""
_CELLS = 20
_PLACE_GAIN = 4.0
"""Places are learned so many times as fast as weights, which a short training needs."""
_LANDMARK_FEATURES = 96
_LEFT_OUT = (0.1, 0.4)
"""How often a training sample goes without the features of the pixels, and of the landmarks. Landmarks are
learned in no time, and while they explain nearly everything the pixels learn nothing; but a real frown is in
the pixels alone."""
_MOVED = 10.0
"""Ways are short beside the face: 0.1 of the distance between the eyes becomes 1."""
_CONTRAST = 0.03
"""Least spread of a picture's grey levels that is scaled up, of 1."""


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut; the first may halve the size."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.second = ConvNorm(channels, channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, channels, H / stride, W / stride)."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class AttentionPool(nn.Module):
    """One softmax map per AU over all cells, and the features that it gathers.

    Faces are aligned, so a cell's place says which part of the face it shows: every AU learns how much to
    look at each place, beside what is to be seen there.
    """

    def __init__(self, channels: int, n_aus: int, cells: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(channels, n_aus, 1)
        self.place = nn.Parameter(torch.zeros(n_aus, cells, cells))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, cells, cells) → (B, n_aus, C), and maps (B, n_aus, cells, cells) that sum to 1 each."""
        attention = torch.softmax((self.map(x) + _PLACE_GAIN * self.place).flatten(2), dim=2)
        return attention @ x.flatten(2).transpose(1, 2), attention.unflatten(2, x.shape[2:])


class Wide(nn.Linear):
    """A linear layer over thousands of inputs, written as a 1×1 convolution: otherwise OpenVINO shares the
    long sums among its threads, and the result depends on how many there are."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) → (B, out)."""
        return functional.conv2d(x[:, :, None, None], self.weight[:, :, None, None], self.bias)[:, :, 0, 0]


class Delta(AUNetwork):
    """See the module."""

    input_px = 224
    pixel_mean = (0.0, 0.0, 0.0)
    pixel_std = (1.0, 1.0, 1.0)

    def __init__(self, n_aus: int, pixels: bool = True, landmarks: bool = True) -> None:
        """A fresh network.

        Args:
            n_aus: outputs.
            pixels: whether the pixel part is there.
            landmarks: whether the landmark part is.

        Raises:
            UsageError: neither.
        """
        super().__init__()
        if not (pixels or landmarks):
            raise UsageError("delta: expected pixels, landmarks or both, got neither")
        self.reads_neutral, self.reads_landmarks = pixels, landmarks
        fine, coarse = _STAGES[-2][0], _STAGES[-1][0]
        width = (fine + coarse) * pixels + _LANDMARK_FEATURES * landmarks
        if pixels:
            self.stem = nn.Sequential(
                nn.Conv2d(7, _STAGES[0][0], 5, 2, 2, bias=False), nn.BatchNorm2d(_STAGES[0][0]), nn.ReLU()
            )
            self.stages = nn.ModuleList(_stages())
            self.pool = AttentionPool(fine, n_aus, _CELLS)
        if landmarks:
            self.points = nn.Sequential(
                Wide(2 * 3 * LANDMARKS + 1, 192),
                nn.BatchNorm1d(192),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.Linear(192, _LANDMARK_FEATURES),
                nn.ReLU(),
            )
        self.dropout = nn.Dropout(0.3)
        self.weight = nn.Linear(width, n_aus)

    @property
    def classifier(self) -> nn.Module:
        """One row of weights per AU, over the features gathered for it."""
        return self.weight

    def rows_of_aus(self) -> dict[str, list[int]]:
        """The attention has one for each AU too."""
        pool = self.pool.named_parameters(prefix="pool") if self.reads_neutral else ()
        return super().rows_of_aus() | {name: list(range(len(p))) for name, p in pool}

    def forward(
        self,
        images: Tensor,
        neutral: Tensor | None = None,
        landmarks: Tensor | None = None,
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits.

        Args:
            images: (B, 3, 224, 224), RGB, 0–1.
            neutral: the same of the neutral faces, all 0 where there is none; with the pixel part.
            landmarks: (B, 2, 468, 3), `EngineSpec.landmarks`; with the landmark part.
            return_attention: also hand back the pixel part's maps, over `ROWS` and `COLUMNS` of the picture.

        Returns:
            (B, n_aus), and with `return_attention` maps (B, n_aus, 20, 20) that sum to 1 each.

        Raises:
            UsageError: maps are asked for, and there is no pixel part.
        """
        features: list[Tensor] = []
        attention = None
        n_aus = self.weight.out_features
        if self.reads_neutral:
            assert neutral is not None
            fine = self._fine(images, neutral)
            gathered, attention = self.pool(fine)
            pooled = self.stages[-1](fine).mean(dim=(2, 3))
            features.append(torch.cat([gathered, pooled[:, None].expand(-1, n_aus, -1)], dim=2))
        if self.reads_landmarks:
            assert landmarks is not None
            moved = self.points(_as_ways(landmarks))
            features.append(moved[:, None].expand(-1, n_aus, -1))
        if self.training and len(features) == 2:
            features = _with_one_left_out(features)
        seen = self.dropout(torch.cat(features, dim=2))
        logits = (seen * self.weight.weight).sum(dim=2) + self.weight.bias
        if not return_attention:
            return logits
        if attention is None:
            raise UsageError("return_attention: expected a delta with its pixel part, this one has none")
        return logits, attention

    def _fine(self, images: Tensor, neutral: Tensor) -> Tensor:
        """(B, 112, 20, 20)."""
        there = (neutral.amax(dim=(1, 2, 3), keepdim=True) > 0).to(images.dtype)
        face, rest = images[:, :, ROWS, COLUMNS], neutral[:, :, ROWS, COLUMNS]
        mean = face.mean(dim=(1, 2, 3), keepdim=True)
        spread = (face - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(_CONTRAST)
        planes = ((face - mean) / spread, 2 * there * (face - rest) / spread, there.expand_as(face[:, :1]))
        x = self.stem(torch.cat(planes, dim=1))
        for stage in list(self.stages)[:-1]:
            x = stage(x)
        return x


def _stages() -> list[nn.Module]:
    stages: list[nn.Module] = []
    before = _STAGES[0][0]
    for k, (channels, blocks) in enumerate(_STAGES):
        halves = [1 if k == 0 else 2] + [1] * (blocks - 1)
        widths = [before] + [channels] * blocks
        stages.append(nn.Sequential(*(Block(widths[i], channels, halves[i]) for i in range(blocks))))
        before = channels
    return stages


def _as_ways(landmarks: Tensor) -> Tensor:
    """(B, 2, 468, 3) → (B, 2809): the points, their way from the neutral, and whether there is one."""
    face, rest = landmarks[:, 0].flatten(1), landmarks[:, 1].flatten(1)
    there = (rest.abs().amax(dim=1, keepdim=True) > 0).to(face.dtype)
    return torch.cat([face, _MOVED * there * (face - rest), there], dim=1)


def _with_one_left_out(features: list[Tensor]) -> list[Tensor]:
    """Zeros for one part's features in some of the samples, larger values in the others: the mean stays."""
    chance = torch.rand(len(features[0]), 1, 1, device=features[0].device)
    pixels, landmarks = _LEFT_OUT
    kept = (chance >= pixels, chance < 1 - landmarks)
    return [part * k / (1 - out) for part, k, out in zip(features, kept, _LEFT_OUT, strict=True)]
