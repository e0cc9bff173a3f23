"""Furrows and bulges: what action units do to the skin's brightness where geometry alone would not show it.

Each is painted once, in the portrait's pixels, as log brightness; a frame adds them up by intensity.
"""

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.donor import Donor, FaceFrame
from train.synth.drawing import blur, line, shift
from train.synth.marks import MARKS, Bulge, Furrow
from train.synth.openings import opening_mask

_OWN = {"AU12", "AU14"}  # the portrait's smile brings its own folds


class Creases:
    """The marks of a donor, painted on his portrait."""

    def __init__(self, donor: Donor) -> None:
        shape = donor.picture_bgr.shape[:2]
        frame = donor.frame
        face = frame.to_face(donor.points_px)
        skin = _bare_skin(donor)
        self._shades = {
            name: _paint(marks, face, frame, shape) * skin
            for name, marks in MARKS.items()
            if name not in _OWN
        }
        self._none = np.ones(shape, np.float32)

    def shade(self, intensities: Mapping[str, float]) -> NDArray[np.float32]:
        """{"AU04": 1.0, …} → (H, W) float32 factor on the portrait's brightness."""
        shades = [(self._shades[name], x) for name, x in intensities.items() if x and name in self._shades]
        if not shades:
            return self._none
        total = np.zeros_like(self._none)
        for shade, intensity in shades:
            cv2.scaleAdd(shade, float(intensity), total, total)
        return np.exp(total)


def _bare_skin(donor: Donor) -> NDArray[np.float32]:
    """(H, W) float32: 0 on the eyeballs and on the hair over the forehead, 1 on skin."""
    mask = 1 - np.maximum(opening_mask(donor, "right eye"), opening_mask(donor, "left eye"))
    # Hair is darker than the forehead between the brows and lies above them.
    grey = blur(np.asarray(cv2.cvtColor(donor.picture_bgr, cv2.COLOR_BGR2GRAY)), 2)
    x, y = np.round(donor.points_px[9, :2]).astype(int)
    forehead = float(grey[y, x])
    hair = np.clip((0.82 * forehead - grey) / (0.12 * forehead), 0, 1)
    hair[int(donor.points_px[[70, 300], 1].max()) :] = 0
    return blur(mask * (1 - hair), 1.2)


def _paint(
    marks: tuple[Furrow | Bulge, ...], face: NDArray[np.float64], frame: FaceFrame, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    total = np.zeros(shape, np.float32)
    for mark in marks:
        if isinstance(mark, Furrow):
            for knots in _halves(mark.path, face):
                total += _furrow(frame.to_px(knots), mark, frame.unit_px, shape)
        else:
            for centre in _halves((mark.at,), face):
                total += _bulge(frame.to_px(centre)[0], mark, frame.unit_px, shape)
    return total


def _halves(
    path: tuple[tuple[int, float, float], ...], face: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """(K, 2) face units, for the right half and for the left; once only where both are the same."""
    right = np.array([face[p] + (-x, y) for p, x, y in path])
    left = np.array([face[lm.MIRROR.get(p, p)] + (x, y) for p, x, y in path])
    return [right] if np.array_equal(right, left) else [right, left]


def _furrow(
    knots_px: NDArray[np.float64], furrow: Furrow, unit_px: float, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    drawn = line(shape, _smooth(knots_px), 1) > 0.4
    distance = cv2.distanceTransform((~drawn).astype(np.uint8), cv2.DIST_L2, 5) / (furrow.width * unit_px)
    ends = np.stack([knots_px[0], knots_px[-1]])
    y, x = np.indices(shape, dtype=np.float32)
    to_end = np.minimum(*(np.hypot(x - ex, y - ey) for ex, ey in ends))
    length = float(np.linalg.norm(np.diff(knots_px, axis=0), axis=1).sum())
    fade = np.clip(to_end / (0.3 * length), 0.25, 1)
    valley = np.exp(-0.5 * distance**2) * fade
    step = 1.8 * furrow.width * unit_px
    direction = knots_px[-1] - knots_px[0]
    across = np.array([-direction[1], direction[0]]) / max(float(np.linalg.norm(direction)), 1e-6)
    across *= np.sign(across[1]) or 1.0
    flank = shift(valley.astype(np.float32), (step * across[0], step * across[1]))
    return (furrow.depth * (0.22 * flank - valley)).astype(np.float32)


def _smooth(knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two rounds of corner cutting."""
    for _ in range(2 if len(knots) > 2 else 0):
        cut = np.stack([0.75 * knots[:-1] + 0.25 * knots[1:], 0.25 * knots[:-1] + 0.75 * knots[1:]], 1)
        knots = np.concatenate([knots[:1], cut.reshape(-1, 2), knots[-1:]])
    return knots


def _bulge(
    centre_px: NDArray[np.float64], bulge: Bulge, unit_px: float, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    y, x = np.indices(shape, dtype=np.float32)
    sx, sy = (s * unit_px for s in bulge.size_wh)
    away = ((x - centre_px[0]) / sx) ** 2 + ((y - centre_px[1]) / sy) ** 2
    return (bulge.light * np.exp(-0.5 * away)).astype(np.float32)
