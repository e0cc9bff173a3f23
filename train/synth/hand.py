"""A hand before a face: fingers laid over the picture, and which parts of the face they hide."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.figure import View

PARTS: dict[str, tuple[int, ...]] = {
    "brows": (70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    "eyes": (33, 159, 145, 133, 362, 386, 374, 263),
    "nose": (6, 197, 4, 64, 294, 2),
    "mouth": lm.LIPS,
}
"""Mesh points by the part of the face that they show."""
_FINGER, _PALM = 0.75, 0.62  # length of a finger, least width of a palm or fist, face units
_HIDDEN_FROM = 0.5
"""Share of a part's points from which on it counts as hidden."""


@dataclass(frozen=True)
class Hand:
    """Fingers that lie next to each other.

    tip_xy: where the middle finger ends, face units; angle_deg: where they point, 0 up, 90 to the right
    fingers: how many; width: of one, face units; shade: brightness against the face's skin
    """

    tip_xy: tuple[float, float]
    angle_deg: float
    fingers: int
    width: float
    shade: float


def draw_hand(rng: np.random.Generator) -> Hand:
    """From below or from the side, mostly up to mouth, nose or cheek."""
    side = rng.choice((-1, 1))
    tip = (
        float(rng.normal(0.12 * side, 0.25)),
        float(rng.choice((0.75, 0.5, 0.2, -0.15)) + rng.normal(0, 0.1)),
    )
    angle = float(-side * rng.uniform(-10, 65))
    return Hand(
        tip, angle, int(rng.integers(1, 5)), float(rng.uniform(0.13, 0.18)), float(rng.uniform(0.75, 1.1))
    )


def lay_hand(
    picture: NDArray[np.uint8], hand: Hand, view: View, skin_bgr: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Draws over picture (H, W, 3 uint8 BGR), in place; skin_bgr: (3,) 0–255 as lit.

    Returns (H, W) uint8, 255 where the hand is.
    """
    mask = np.zeros(picture.shape[:2], np.uint8)
    angle = np.radians(hand.angle_deg)
    way = np.array([np.sin(angle), -np.cos(angle)])
    across = np.array([-way[1], way[0]])
    tone = np.clip(skin_bgr * hand.shade, 0, 255)
    middle = (hand.fingers - 1) / 2
    palm = np.stack([np.array(hand.tip_xy) - way * reach for reach in (_FINGER + 0.15, 2.4)])
    ends = view.project(np.column_stack([palm, (-0.40, -0.40)]))[:, :2]
    wide = max(2, round(max(_PALM, hand.fingers * hand.width) * view.unit_px))
    for share, light in ((1.0, 0.66), (0.85, 0.80), (0.5, 0.92)):
        _stroke(picture, ends, round(wide * share), tuple(float(v) for v in tone * light))
    _stroke(mask, ends, wide, (255.0,))
    for k in range(hand.fingers):
        off = k - middle
        tip = np.array(hand.tip_xy) + across * off * hand.width - way * 0.07 * off**2
        root = np.array(hand.tip_xy) + across * off * hand.width * 1.05 - way * _FINGER
        ends = view.project(np.array([[*tip, -0.55], [*root, -0.45]]))[:, :2]
        width = max(2, round(hand.width * view.unit_px * 1.02))
        # Round from the middle to a dark edge: three strokes, one in the other.
        for share, light in ((1.0, 0.72), (0.80, 0.92), (0.45, 1.0)):
            colour = tuple(float(v) for v in tone * light)
            _stroke(picture, ends, max(1, round(width * share)), colour)
        _stroke(mask, ends, width, (255.0,))
        nail = tip - way * 0.05
        at = view.project(np.array([[*nail, -0.56]]))[0, :2]
        axes = (max(1, round(width * 0.26)), max(1, round(width * 0.36)))
        light_nail = tuple(float(v) for v in np.clip(tone * (1.08, 1.05, 1.1), 0, 255))
        centre = (round(float(at[0])), round(float(at[1])))
        cv2.ellipse(picture, centre, axes, hand.angle_deg, 0, 360, light_nail, -1, cv2.LINE_AA)
    return mask


def hidden_parts(mask: NDArray[np.uint8], points_px: NDArray[np.float64]) -> frozenset[str]:
    """Names of PARTS of which the mask covers half or more; points_px: (468, 2)."""
    height, width = mask.shape
    at = np.round(points_px).astype(int)
    covered = mask[np.clip(at[:, 1], 0, height - 1), np.clip(at[:, 0], 0, width - 1)] > 0
    return frozenset(name for name, points in PARTS.items() if covered[list(points)].mean() >= _HIDDEN_FROM)


def _stroke(
    picture: NDArray[np.uint8], ends: NDArray[np.float64], width_px: int, colour: tuple[float, ...]
) -> None:
    a, b = (tuple(int(v) for v in np.round(end * 16)) for end in ends)
    cv2.line(picture, a, b, colour, width_px, cv2.LINE_AA, 4)
