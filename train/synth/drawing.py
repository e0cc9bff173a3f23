"""Drawing and filtering as the renderer needs it: OpenCV's, with sub-pixel corners and narrow types."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_FRACTION_BITS = 4  # of OpenCV's fixed-point coordinates


def polygon(shape: tuple[int, ...], corners: NDArray[np.float64]) -> NDArray[np.float32]:
    """(H, W) float32: 1 inside the polygon of (K, 2) pixels, 0 outside, antialiased between."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [_fixed(corners)], (255.0,), cv2.LINE_AA, _FRACTION_BITS)
    return mask.astype(np.float32) / 255


def line(shape: tuple[int, ...], knots: NDArray[np.float64], width_px: int) -> NDArray[np.float32]:
    """(H, W) float32: 1 on the open line through (K, 2) pixels, 0 off it, antialiased between."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.polylines(mask, [_fixed(knots)], False, (255.0,), width_px, cv2.LINE_AA, _FRACTION_BITS)
    return mask.astype(np.float32) / 255


def hull(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 2) → (K', 2): the convex hull."""
    return np.asarray(cv2.convexHull(corners.astype(np.float32)), np.float64)[:, 0]


def blur(picture: NDArray[Any], sigma_px: float) -> NDArray[np.float32]:
    """(H, W) or (H, W, C) → the same as float32, blurred."""
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma_px), np.float32)


def grow(mask: NDArray[Any], size_px: int) -> NDArray[np.float32]:
    """(H, W): the maximum within a square of an odd number of pixels."""
    return np.asarray(cv2.dilate(mask.astype(np.float32), np.ones((size_px, size_px))), np.float32)


def shrink(mask: NDArray[Any], size_px: int) -> NDArray[np.float32]:
    """(H, W): the minimum within a square of an odd number of pixels."""
    return np.asarray(cv2.erode(mask.astype(np.float32), np.ones((size_px, size_px))), np.float32)


def inpaint(picture: NDArray[np.uint8], unknown: NDArray[np.bool_], radius_px: int) -> NDArray[np.uint8]:
    """(H, W, 3) → the same with the unknown pixels grown in from around them."""
    return np.asarray(cv2.inpaint(picture, unknown.astype(np.uint8), radius_px, cv2.INPAINT_TELEA), np.uint8)


def shift(picture: NDArray[np.float32], by_xy: tuple[float, float]) -> NDArray[np.float32]:
    """The picture moved by a fraction of pixels, zero where nothing came from."""
    affine = np.array([[1, 0, by_xy[0]], [0, 1, by_xy[1]]], np.float64)
    return np.asarray(cv2.warpAffine(picture, affine, (picture.shape[1], picture.shape[0])), np.float32)


def fetch(picture: NDArray[Any], map_xy: NDArray[np.float32], interpolation: int) -> NDArray[Any]:
    """The picture's values at (H, W, 2) pixels, in its own dtype; past the border, those of the border."""
    x, y = map_xy[..., 0], map_xy[..., 1]
    return np.asarray(cv2.remap(picture, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE))


def to_uint8(picture: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(points * (1 << _FRACTION_BITS)).astype(np.int32)
