"""Exposure: tying a person's neutral face to the light of a frame, so that auto-gain is no expression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_OFFSET_COST = 0.1


def match_exposure(
    crop_bgr: NDArray[np.uint8], neutral_bgr: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> tuple[float, float]:
    """Gain and offset (grey levels) that bring the neutral to the frame's exposure inside the mask.

    An auto-gain step multiplies every pixel, an expression changes few; so the median ratio comes first, and
    then least squares over the pixels that fit it. The offset is held back as if it cost something: turned
    heads and light from the side would else be explained by a paler picture.

    Args:
        crop_bgr, neutral_bgr: S×S×3 uint8 in the same alignment. mask: S×S uint8, 255 inside the face.
    """
    inside = mask[::4, ::4] > 0
    frame = cv2.cvtColor(np.ascontiguousarray(crop_bgr[::4, ::4]), cv2.COLOR_BGR2GRAY)[inside].astype(
        np.float64
    )
    rest = cv2.cvtColor(np.ascontiguousarray(neutral_bgr[::4, ::4]), cv2.COLOR_BGR2GRAY)[inside].astype(
        np.float64
    )
    # Black and clipped pixels say nothing of the gain.
    usable = (frame > 12) & (frame < 250) & (rest > 12) & (rest < 250)
    frame, rest = frame[usable], rest[usable]
    if len(frame) < 50:
        return 1.0, 0.0
    gain, offset = float(np.median(frame / rest)), 0.0
    for tolerance in (40.0, 20.0):
        fits = np.abs(gain * rest + offset - frame) < tolerance
        if fits.sum() < 0.3 * len(frame):
            break
        f, n = frame[fits], rest[fits]
        # Normal equations of Σ (gain·n + offset − f)² + cost · count · offset².
        a = np.array([[n @ n, n.sum()], [n.sum(), len(n) * (1 + _OFFSET_COST)]])
        gain, offset = np.linalg.solve(a, np.array([n @ f, f.sum()]))
    return float(np.clip(gain, 0.5, 2.0)), float(np.clip(offset, -40.0, 40.0))


def expose(neutral_bgr: NDArray[np.uint8], gain: float, offset: float) -> NDArray[np.uint8]:
    """The neutral under another exposure: gain · value + offset, rounded and kept within 0–255."""
    table = np.clip(np.rint(np.arange(256) * gain + offset), 0, 255).astype(np.uint8)
    return cv2.LUT(neutral_bgr, table)
