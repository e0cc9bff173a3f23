"""The kernel against its NumPy twin, OpenCV's chain and a loop that follows the paper's words."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from bench.diffmap import opencv_chain
from pipeline.diffmap import THRESHOLDS, level_map, level_map_numpy

SIZE = 32


def by_the_paper(crop: np.ndarray, neutral: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Section 3.2 pixel by pixel: difference, grey, face only, pass at ≥ each threshold."""
    levels = np.zeros(mask.shape, np.uint8)
    for y, x in np.ndindex(mask.shape):
        b, g, r = (abs(int(crop[y, x, c]) - int(neutral[y, x, c])) for c in range(3))
        grey = round(0.114 * b + 0.587 * g + 0.299 * r) if mask[y, x] else 0
        levels[y, x] = sum(grey >= threshold for threshold in THRESHOLDS)
    return levels


images = npst.arrays(np.uint8, (SIZE, SIZE, 3))
masks = npst.arrays(np.uint8, (SIZE, SIZE), elements=st.sampled_from([0, 255]))


@settings(max_examples=60, deadline=None)
@given(images, images, masks)
def test_kernel_equals_numpy_and_opencv_bit_for_bit(crop, neutral, mask) -> None:
    levels = level_map(crop, neutral, mask)
    np.testing.assert_array_equal(levels, level_map_numpy(crop, neutral, mask))
    np.testing.assert_array_equal(
        levels, sum((m > 0).astype(np.uint8) for m in opencv_chain(crop, neutral, mask))
    )


@pytest.mark.parametrize("shape", [(224, 224), (224, 192), (1, 32), (7, 64)])
def test_kernel_equals_numpy_at_full_size_with_every_kind_of_mask(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    crop, neutral = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    face = np.zeros(shape, np.uint8)
    cv2.ellipse(
        face, (shape[1] // 2, shape[0] // 2), (shape[1] // 3, max(shape[0] // 3, 1)), 0, 0, 360, 255, -1
    )
    last_pixel = np.zeros(shape, np.uint8)
    last_pixel[-1, -1] = 255
    for mask in (face, last_pixel, np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)):
        np.testing.assert_array_equal(level_map(crop, neutral, mask), level_map_numpy(crop, neutral, mask))


def test_a_pixel_passes_at_the_threshold_itself() -> None:
    steps = np.array([29, 30, 34, 35, 39, 40, 44, 45, 49, 50, 255] + [0] * 21, np.uint8)
    crop = np.repeat(np.tile(steps, (2, 1))[:, :, None], 3, axis=2)
    levels = level_map(crop, np.zeros_like(crop), np.full((2, 32), 255, np.uint8))
    assert levels[0, :11].tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_levels_agree_with_the_papers_words() -> None:
    rng = np.random.default_rng(3)
    # Grey differences only, so that real-valued and fixed-point weights cannot round apart.
    crop = np.repeat(rng.integers(0, 256, (SIZE, SIZE, 1), dtype=np.uint8), 3, axis=2)
    neutral = np.repeat(rng.integers(0, 256, (SIZE, SIZE, 1), dtype=np.uint8), 3, axis=2)
    mask = (rng.random((SIZE, SIZE)) > 0.3).astype(np.uint8) * 255
    np.testing.assert_array_equal(level_map(crop, neutral, mask), by_the_paper(crop, neutral, mask))


def test_writes_into_the_array_it_is_given() -> None:
    crop = np.full((SIZE, SIZE, 3), 200, np.uint8)
    out = np.full((SIZE, SIZE), 77, np.uint8)
    result = level_map(crop, np.zeros_like(crop), np.zeros((SIZE, SIZE), np.uint8), out)
    assert result is out
    assert not out.any()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"neutral_bgr": np.zeros((SIZE, SIZE, 4), np.uint8)},
            r"neutral_bgr: expected .*\(32, 32, 3\), got uint8 \(32, 32, 4\)",
        ),
        (
            {"crop_bgr": np.zeros((SIZE, SIZE, 3), np.float32)},
            "crop_bgr: expected C-contiguous uint8 .*got float32",
        ),
        (
            {"mask": np.zeros((SIZE, SIZE + 1), np.uint8)},
            r"mask: expected .*\(32, 32\), got uint8 \(32, 33\)",
        ),
        ({"mask": np.zeros((SIZE, SIZE), bool)}, "mask: expected .*got bool"),
        ({"out": np.zeros((SIZE, 2 * SIZE), np.uint8)[:, ::2]}, "out: .*not C-contiguous"),
    ],
)
def test_wrong_input_is_refused_with_expected_and_actual(change: dict, complaint: str) -> None:
    good = {
        "crop_bgr": np.zeros((SIZE, SIZE, 3), np.uint8),
        "neutral_bgr": np.zeros((SIZE, SIZE, 3), np.uint8),
        "mask": np.zeros((SIZE, SIZE), np.uint8),
    }
    with pytest.raises(ValueError, match=complaint):
        level_map(**(good | change))


def test_a_width_that_is_no_multiple_of_32_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32, got 30"):
        level_map(np.zeros((8, 30, 3), np.uint8), np.zeros((8, 30, 3), np.uint8), np.zeros((8, 30), np.uint8))
