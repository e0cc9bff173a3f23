"""The openings of the skin: eyeballs and teeth behind them, fixed to the skull, and the skin at the edges."""

import cv2
import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.donor import Donor
from train.synth.drawing import blur, grow, inpaint, line, polygon, shift, shrink, to_uint8

SEAM_BGR = np.array((44, 38, 84), np.float32)
_LASHES_BGR = np.array((34, 40, 62), np.float32)
_DARK_BGR = np.array((20, 20, 38), np.float32)
_TONGUE_BGR = np.array((62, 52, 104), np.float32)

OPENINGS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mouth": (lm.UPPER_LIP_INNER, lm.LOWER_LIP_INNER),
    "right eye": (lm.RIGHT_LID_UPPER, lm.RIGHT_LID_LOWER),
    "left eye": (lm.LEFT_LID_UPPER, lm.LEFT_LID_LOWER),
}


def outline(points: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """(K, 2): the edge of an opening, once around."""
    upper, lower = OPENINGS[name]
    return points[[*upper, *reversed(lower[1:-1])], :2]


def opening_mask(donor: Donor, name: str) -> NDArray[np.float32]:
    """(H, W) in [0, 1]: the opening as photographed."""
    return polygon(donor.picture_bgr.shape, outline(donor.points_px, name))


def inside(donor: Donor) -> NDArray[np.uint8]:
    """(H, W, 3): eyeballs, teeth and the dark of the mouth, placed as in the portrait and drawn wider."""
    drawn = _mouth_inside(donor, _teeth(donor))
    eyes = np.maximum(opening_mask(donor, "right eye"), opening_mask(donor, "left eye"))
    near = grow(eyes, 11) > 0
    drawn[near] = donor.picture_bgr[near]
    return drawn


def lips_without_teeth(donor: Donor, picture_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lips drawn on over the opening, dark towards their line: closed, they must show no tooth."""
    mouth = opening_mask(donor, "mouth")
    unknown = (grow(mouth, 3) > 0) | (grow(_teeth(donor), 5) > 0.15)
    lips = inpaint(picture_bgr, unknown, 4)
    return to_uint8(lips + 0.85 * blur(mouth, 1.6)[..., None] * (SEAM_BGR - lips))


def lids_unrolled(donor: Donor, picture_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Closed lids: plain skin where the open lid hides in its fold, and lashes along the line below."""
    points, unit_px = donor.points_px[:, :2], donor.frame.unit_px
    picture = picture_bgr.astype(np.float32)
    skin_above = 0.96 * shift(blur(picture, 2.5), (0, 0.065 * unit_px))
    for upper, fold, eye in (
        (lm.RIGHT_LID_UPPER, lm.RIGHT_LID_FOLD, "right eye"),
        (lm.LEFT_LID_UPPER, lm.LEFT_LID_FOLD, "left eye"),
    ):
        above_fold = points[list(fold)] - (0, 0.012 * unit_px)
        lid = polygon(picture.shape, np.concatenate([points[list(upper)], above_fold[::-1]]))
        picture += blur(lid, 1.4)[..., None] * (skin_above - picture)
        lashes = np.maximum(opening_mask(donor, eye), line(picture.shape, points[list(upper[:-1])], 2))
        picture += 0.85 * blur(lashes, 0.6)[..., None] * (_LASHES_BGR - picture)
    return to_uint8(picture)


def _teeth(donor: Donor) -> NDArray[np.float32]:
    """(H, W) in [0, 1]: the pale part of the open mouth."""
    lab = np.asarray(cv2.cvtColor(donor.picture_bgr, cv2.COLOR_BGR2LAB), np.float32)
    lightness, redness = lab[..., 0], lab[..., 1] - 128
    pale = np.clip((17 - redness) / 7, 0, 1) * np.clip((lightness - 95) / 50, 0, 1)
    return blur(pale * opening_mask(donor, "mouth"), 0.006 * donor.frame.unit_px)


def _mouth_inside(donor: Donor, teeth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Teeth as photographed, drawn out upwards behind the lip; below them dark, then the tongue."""
    picture, unit_px = donor.picture_bgr, donor.frame.unit_px
    y, x = np.indices(teeth.shape, dtype=np.float32)
    lip_x, lip_y = donor.points_px[14, :2]
    away = ((x - lip_x) / (0.15 * unit_px)) ** 2 + ((y - lip_y - 0.21 * unit_px) / (0.075 * unit_px)) ** 2
    back = _DARK_BGR + np.exp(-0.5 * away)[..., None] * (_TONGUE_BGR - _DARK_BGR)
    sure = teeth > 0.7
    band = round(0.06 * unit_px)
    upwards = np.zeros((2 * band + 1, 1), np.uint8)
    upwards[band:] = 1  # dilation looks where the kernel is: below, for what grows upwards
    above = (np.asarray(cv2.dilate(sure.astype(np.uint8), upwards)) > 0) & ~sure & (y < lip_y)
    whole = shrink(grow(sure | above, 5), 5)
    alpha = np.maximum(teeth, blur(whole, 0.8))[..., None]
    return to_uint8(back * (1 - alpha) + inpaint(picture, above, 3) * alpha)
