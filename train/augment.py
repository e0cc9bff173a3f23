"""Random changes of training pictures; the level map goes through those that move things."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.spec import AU_CENTERS
from train.recipe import AugmentTable
from train.synth.head import mean_head

Picture = NDArray[np.uint8]
_MIRRORED_CENTERS = [i ^ 1 if i // 2 != 8 else i for i in range(AU_CENTERS)]
"""Which AU centre is which in a mirrored face. All pairs are right and left but that of AU23, the middles of
the upper and the lower lip: `pipeline.align.au_centers`."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one sample, or alike to all frames of one window."""

    px: int
    """Side of the pictures that come in."""
    cut: tuple[int, int, int] | None
    """x, y and side of the piece that is kept of a picture once it is moved, None for all of it."""
    flip: bool
    matrix: NDArray[np.float64] | None
    """(2, 3) from old to new pixels."""
    tone: Picture
    """(256, 1, 3): what each grey level of B, G and R becomes."""
    blur: float
    noise: float
    noise_seed: int
    jpeg: int
    """Quality, 0 for none."""
    hidden: tuple[int, int, int, int] | None
    """x, y, width and height of the rectangle that is hidden."""
    hidden_bgr: tuple[int, int, int]
    hidden_level: int
    """What the level map shows there: something new before a face differs from its neutral, or does not."""
    neutral: bool
    """Whether the neutral face, and with it the level map, is kept."""
    jitter: float
    """How far a head's pose and proportions are misread, as a share."""

    def picture(self, crop: Picture, frame: int = 0) -> Picture:
        """(px, px, 3) BGR, changed; every frame of a window gets noise of its own."""
        out = np.ascontiguousarray(crop[:, ::-1]) if self.flip else crop
        if self.matrix is not None:
            size = crop.shape[1::-1]
            out = cv2.warpAffine(
                out, self.matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
        if self.cut is not None:
            x, y, side = self.cut
            out = np.ascontiguousarray(out[y : y + side, x : x + side])
        out = cv2.LUT(out, self.tone)
        if self.blur > 0.05:
            out = cv2.GaussianBlur(out, (0, 0), self.blur)
        if self.noise > 0.1:
            grain = np.random.default_rng((self.noise_seed, frame)).standard_normal(out.shape, np.float32)
            out = np.clip(out + self.noise * grain, 0, 255).astype(np.uint8)
        if self.jpeg:
            _done, data = cv2.imencode(".jpg", out, (cv2.IMWRITE_JPEG_QUALITY, self.jpeg))
            out = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if self.hidden is not None:
            x, y, width, height = self.hidden
            out = out.copy()
            out[y : y + height, x : x + width] = self.hidden_bgr
        return out

    def neutral_face(self, face: Picture) -> Picture:
        """(px, px, 3) BGR, moved and toned as the picture is; black where the neutral is left out."""
        if not self.neutral or not face.any():
            return np.zeros_like(face)
        out = np.ascontiguousarray(face[:, ::-1]) if self.flip else face
        if self.matrix is not None:
            out = cv2.warpAffine(out, self.matrix, face.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        out = cv2.LUT(out, self.tone)
        if self.hidden is not None and not self.hidden_level:
            x, y, width, height = self.hidden
            out[y : y + height, x : x + width] = self.hidden_bgr
        return out

    def landmarks(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(2, 468, 3), mirrored as the picture is, both faces a little turned and stretched, as if the head's
        pose and proportions had been misread, mostly alike in both; without a neutral zeros."""
        rng = np.random.default_rng(self.noise_seed)
        out = points.copy()
        if self.flip:
            out = out[:, mean_head().mirror] * np.array((-1, 1, 1), np.float32)
        there = self.neutral and bool(points[1].any())
        alike, apart = 0.9 * rng.normal(0, self.jitter, (3, 3)), rng.normal(0, self.jitter, (2, 3, 3))
        jitter = (alike + 0.4 * apart).astype(np.float32)
        out += out @ jitter
        out += rng.normal(0, 0.2 * self.jitter, out.shape).astype(np.float32)
        out[1] *= there
        return out

    def centers(self, shares: NDArray[np.float32]) -> NDArray[np.float32]:
        """(20, 2) shares of the picture's side, moved as the picture is, left and right exchanged when it is
        mirrored; of the piece's side where one is cut."""
        at, side = shares * float(self.px) - 0.5, self.px
        if self.flip:
            at = at[_MIRRORED_CENTERS]
            at[:, 0] = self.px - 1 - at[:, 0]
        if self.matrix is not None:
            at = at @ self.matrix[:, :2].T + self.matrix[:, 2]
        if self.cut is not None:
            at, side = at - self.cut[:2], self.cut[2]
        return ((at + 0.5) / side).astype(np.float32)

    def levels(self, level_map: Picture) -> Picture:
        """(px, px), 0–5, moved as the picture is."""
        if not self.neutral or not level_map.any():
            return np.zeros_like(level_map)
        out = np.ascontiguousarray(level_map[:, ::-1]) if self.flip else level_map
        if self.matrix is not None:
            out = cv2.warpAffine(out, self.matrix, level_map.shape[::-1], flags=cv2.INTER_NEAREST)
        if self.hidden is not None:
            x, y, width, height = self.hidden
            out = out.copy()
            out[y : y + height, x : x + width] = self.hidden_level
        return out


def draw(table: AugmentTable, px: int, rng: np.random.Generator, kept_px: int | None = None) -> Change:
    """One change; the same generator gives the same one.

    Args:
        table: how strong.
        px: side of the pictures.
        rng: its generator.
        kept_px: side of the piece to cut out at random; all of the picture where none is given.
    """
    if kept_px == px:
        kept_px = None

    def either(size: float) -> float:
        return float(rng.uniform(-size, size))

    gain = (1 + either(table.contrast)) * (1 + rng.uniform(-table.colour, table.colour, 3))
    tone = (np.arange(256)[:, None, None] - 127.5) * gain + 127.5 + either(table.brightness)
    angle, scale = math.radians(either(table.rotate_deg)), 1 + either(table.scale)
    shift = (either(table.shift_px), either(table.shift_px))
    moves = bool(table.rotate_deg or table.scale or table.shift_px)
    shown = kept_px or px
    width, height = rng.integers(shown // 10, shown // 2, 2)
    corner = rng.integers(0, shown - np.array([width, height]))
    blurs, compresses, hides = rng.uniform(size=3) < (0.5, table.jpeg, table.erase)
    cut = None if kept_px is None else (*rng.integers(0, px - kept_px + 1, 2).tolist(), kept_px)
    return Change(
        px=px,
        cut=cut,
        flip=bool(rng.uniform() < table.flip),
        matrix=_similarity(px, angle, scale, shift) if moves else None,
        tone=np.clip(np.round(tone), 0, 255).astype(np.uint8),
        blur=table.blur * float(rng.uniform()) if blurs else 0.0,
        noise=table.noise * float(rng.uniform()),
        noise_seed=int(rng.integers(2**31)),
        jpeg=int(rng.integers(25, 91)) if compresses else 0,
        hidden=(int(corner[0]), int(corner[1]), int(width), int(height)) if hides else None,
        hidden_bgr=tuple(int(v) for v in rng.integers(0, 256, 3)),  # type: ignore[arg-type]
        hidden_level=int(rng.integers(0, 6)),
        neutral=bool(rng.uniform() >= table.neutral_dropout),
        jitter=table.jitter,
    )


def _similarity(px: int, angle: float, scale: float, shift: tuple[float, float]) -> NDArray[np.float64]:
    """(2, 3): turn and scale about the middle, then shift."""
    cos, sin, middle = scale * math.cos(angle), scale * math.sin(angle), (px - 1) / 2
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack((turn, middle - turn @ (middle, middle) + shift))
