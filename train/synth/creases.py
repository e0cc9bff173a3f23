"""Furrows and bulges: what action units do to the skin's brightness where geometry alone would not show it.

Each is painted once, in the portrait's pixels, as log brightness; a frame adds them up by intensity.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.donor import Donor, FaceFrame
from train.synth.drawing import blur, line, shift
from train.synth.openings import opening_mask


@dataclass(frozen=True)
class Furrow:
    """A dark line with a lit flank below it.

    path: face-unit offsets from mesh points: (point, x outward, y down) for each knot, on the right half
    width: of the dark line, in face units
    depth: log brightness at its floor
    """

    path: tuple[tuple[int, float, float], ...]
    width: float
    depth: float


@dataclass(frozen=True)
class Bulge:
    """A soft patch of light (depth < 0: of shadow).

    at: (point, x outward, y down)
    size_wh: standard deviations in face units
    """

    at: tuple[int, float, float]
    size_wh: tuple[float, float]
    light: float


MARKS: dict[str, tuple[Furrow | Bulge, ...]] = {
    "AU1": (
        Furrow(((66, -0.01, -0.030), (107, 0.0, -0.040), (9, 0.0, -0.050)), 0.014, 0.20),
        Bulge((107, 0.02, -0.010), (0.06, 0.018), 0.07),
    ),
    "AU2": (
        Furrow(((66, 0.0, -0.035), (105, 0.0, -0.035), (63, 0.0, -0.030)), 0.014, 0.18),
        Bulge((52, 0.0, 0.040), (0.07, 0.020), -0.05),
    ),
    "AU4": (
        Furrow(((107, -0.055, -0.05), (107, -0.05, 0.0), (55, -0.055, 0.02)), 0.016, 0.36),
        Furrow(((107, -0.02, -0.045), (107, -0.025, -0.005)), 0.014, 0.16),
        Bulge((55, -0.01, 0.015), (0.055, 0.026), -0.28),
        Bulge((65, 0.02, 0.035), (0.06, 0.020), -0.22),
        Bulge((107, 0.01, -0.05), (0.04, 0.02), 0.10),
    ),
    "AU6": (
        Furrow(((33, 0.045, -0.004), (33, 0.105, -0.030)), 0.011, 0.24),
        Furrow(((33, 0.045, 0.014), (33, 0.115, 0.018)), 0.011, 0.26),
        Furrow(((33, 0.040, 0.032), (33, 0.100, 0.060)), 0.011, 0.22),
        Furrow(((22, -0.02, 0.035), (23, 0.0, 0.032), (24, 0.01, 0.030), (110, 0.02, 0.028)), 0.014, 0.22),
        Bulge((50, 0.0, -0.02), (0.09, 0.05), 0.12),
        Bulge((205, 0.0, 0.05), (0.09, 0.035), -0.12),
    ),
    "AU9": (
        Furrow(((6, 0.0, -0.03), (122, 0.0, -0.03), (245, 0.0, -0.01)), 0.018, 0.24),
        Furrow(((197, 0.0, -0.060), (196, 0.01, -0.050), (188, 0.0, -0.02)), 0.018, 0.26),
        Furrow(((188, 0.01, -0.03), (114, 0.0, 0.0), (217, 0.01, 0.0)), 0.016, 0.22),
        Furrow(((129, 0.020, -0.03), (203, 0.0, -0.01), (206, 0.0, 0.0)), 0.024, 0.32),
        Bulge((142, 0.03, -0.02), (0.05, 0.035), 0.10),
        Bulge((55, -0.01, 0.02), (0.045, 0.024), -0.20),
        Bulge((193, 0.01, 0.01), (0.03, 0.025), -0.12),
    ),
    "AU15": (
        Furrow(((61, 0.005, 0.010), (61, 0.035, 0.05), (61, 0.045, 0.12)), 0.026, 0.18),
        Bulge((61, -0.05, 0.10), (0.05, 0.028), -0.10),
        Bulge((57, 0.06, 0.06), (0.04, 0.05), 0.09),
    ),
    "AU17": (
        Furrow(((18, 0.0, 0.004), (83, 0.0, 0.004), (182, 0.0, -0.01)), 0.024, 0.24),
        Bulge((199, 0.0, -0.02), (0.08, 0.040), 0.13),
        Bulge((200, 0.045, 0.025), (0.020, 0.016), -0.13),
        Bulge((199, 0.022, 0.010), (0.018, 0.014), -0.12),
        Bulge((199, 0.080, -0.005), (0.018, 0.020), -0.13),
        Bulge((199, 0.055, 0.025), (0.016, 0.012), -0.10),
    ),
    "AU20": (
        Furrow(((61, 0.055, -0.08), (61, 0.075, 0.0), (61, 0.060, 0.10)), 0.028, 0.18),
        Furrow(((61, 0.01, 0.085), (91, 0.0, 0.095)), 0.024, 0.12),
        Bulge((61, 0.14, 0.0), (0.05, 0.07), 0.09),
    ),
    "AU26": (
        Bulge((18, 0.0, 0.01), (0.07, 0.02), -0.12),
        Furrow(((206, 0.0, 0.02), (216, 0.0, 0.0), (212, 0.0, 0.0)), 0.026, 0.14),
    ),
}


class Creases:
    """The marks of a donor, painted on his portrait."""

    def __init__(self, donor: Donor) -> None:
        shape = donor.picture_bgr.shape[:2]
        frame = donor.frame
        face = frame.to_face(donor.points_px)
        skin = _bare_skin(donor)
        self._shades = {name: _paint(marks, face, frame, shape) * skin for name, marks in MARKS.items()}
        self._none = np.ones(shape, np.float32)

    def shade(self, intensities: Mapping[str, float]) -> NDArray[np.float32]:
        """{"AU4": 1.0, …} → (H, W) float32 factor on the portrait's brightness."""
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
