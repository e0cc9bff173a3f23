"""The level map: CEDNN's five nested binary attention maps in one byte a pixel, made in one pass.

Chen et al., CEDNN, section 3.2: the difference image of the aligned face and the person's aligned neutral
face is turned to grey, cut out by the face mask, and binarised at 30, 35, 40, 45 and 50 (a pixel passes at
≥). The thresholds are nested, so the number of them that a pixel passes, 0–5, carries all five maps; the
network expands it.

The grey value is OpenCV's, bit for bit: (3735·B + 19235·G + 9798·R + 2¹⁴) >> 15.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

THRESHOLDS = (30, 35, 40, 45, 50)
LEVELS = len(THRESHOLDS)

_BLOCK = 32
"""Pixels that are skipped or computed together: whole vector steps, no remainder loop."""
_WORDS = _BLOCK // 8


# Numba widens every small integer to 64 bits unless told otherwise at each step; told, LLVM turns the pixel
# loop into vector code (LOG.md, 2026-11-21: 245 µs → 14 µs a face).


@njit(inline="always")
def _absolute_difference(a: int, b: int) -> Any:  # pragma: no cover - compiled
    return np.uint32(np.uint8(max(a, b) - min(a, b)))


@njit(inline="always")
def _level(blue: int, green: int, red: int) -> Any:  # pragma: no cover - compiled
    weighted = blue * np.uint32(3735) + green * np.uint32(19235) + red * np.uint32(9798)
    grey = np.uint8(np.uint32(np.uint32(weighted + np.uint32(16384)) >> np.uint32(15)))
    return np.uint8(
        np.uint8(grey >= np.uint8(30))
        + np.uint8(grey >= np.uint8(35))
        + np.uint8(grey >= np.uint8(40))
        + np.uint8(grey >= np.uint8(45))
        + np.uint8(grey >= np.uint8(50))
    )


@njit(cache=True, nogil=True, boundscheck=False)
def _level_map(
    crop: NDArray[np.uint8],
    neutral: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    mask_words: NDArray[np.uint64],
    width: int,
    out: NDArray[np.uint8],
) -> None:  # pragma: no cover - compiled
    out[:] = 0
    blocks = width // _BLOCK
    for row in range(mask.size // width):
        first, last = blocks, 0
        for block in range(blocks):
            w = (row * blocks + block) * _WORDS
            if mask_words[w] | mask_words[w + 1] | mask_words[w + 2] | mask_words[w + 3]:
                first = min(first, block)
                last = block + 1
        if last == 0:
            continue
        start, end = row * width + first * _BLOCK, row * width + last * _BLOCK
        # Views whose index starts at 0, so that no negative index has to be ruled out in the loop.
        c, n, m, o = crop[3 * start : 3 * end], neutral[3 * start : 3 * end], mask[start:end], out[start:end]
        for i in range(o.size):
            level = _level(
                _absolute_difference(c[3 * i], n[3 * i]),
                _absolute_difference(c[3 * i + 1], n[3 * i + 1]),
                _absolute_difference(c[3 * i + 2], n[3 * i + 2]),
            )
            o[i] = level & m[i]


def level_map(
    crop_bgr: NDArray[np.uint8],
    neutral_bgr: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """How many of the five thresholds each pixel of the difference passes.

    Args:
        crop_bgr: the aligned face, S×S'×3 uint8, C-contiguous, S' a multiple of 32.
        neutral_bgr: the same person's aligned neutral face, like `crop_bgr`.
        mask: S×S' uint8, 255 inside the face mask and 0 outside.
        out: where to write, S×S' uint8; made anew when left out. Given, nothing is allocated.

    Returns:
        `out`: S×S' uint8, 0–5, 0 outside the mask.

    Raises:
        ValueError: a wrong shape, type or layout, with what was expected and what came.
    """
    shape = crop_bgr.shape[:2]
    if out is None:
        out = np.empty(shape, np.uint8)
    _check("crop_bgr", crop_bgr, (*shape, 3))
    _check("neutral_bgr", neutral_bgr, (*shape, 3))
    _check("mask", mask, shape)
    _check("out", out, shape)
    if shape[1] % _BLOCK:
        raise ValueError(f"crop_bgr: expected a width that is a multiple of {_BLOCK}, got {shape[1]}")
    flat_mask = mask.reshape(-1)
    _level_map(
        crop_bgr.reshape(-1),
        neutral_bgr.reshape(-1),
        flat_mask,
        flat_mask.view(np.uint64),
        shape[1],
        out.reshape(-1),
    )
    return out


def preload() -> None:
    """Load the compiled kernel, so that the first face with a neutral does not wait for it."""
    level_map(
        np.zeros((1, _BLOCK, 3), np.uint8),
        np.zeros((1, _BLOCK, 3), np.uint8),
        np.zeros((1, _BLOCK), np.uint8),
    )


def _check(name: str, array: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.uint8 or not array.flags.c_contiguous:
        layout = "" if array.flags.c_contiguous else ", not C-contiguous"
        raise ValueError(
            f"{name}: expected C-contiguous uint8 {shape}, got {array.dtype} {array.shape}{layout}"
        )


def level_map_numpy(
    crop_bgr: NDArray[np.uint8], neutral_bgr: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """`level_map` written plainly in NumPy: the oracle of the tests and the yardstick of the bench."""
    difference = np.abs(crop_bgr.astype(np.int32) - neutral_bgr.astype(np.int32))
    grey = (difference @ np.array([3735, 19235, 9798]) + (1 << 14)) >> 15
    grey = np.where(mask > 0, grey, 0)
    return sum((grey >= threshold).astype(np.uint8) for threshold in THRESHOLDS)  # type: ignore[return-value]
