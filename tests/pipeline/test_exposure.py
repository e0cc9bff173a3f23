"""Exposure compensation: an auto-gain step does not light up the level map, an expression still does."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.align import ALIGNED_PX
from pipeline.diffmap import level_map
from pipeline.exposure import expose, match_exposure


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """Smooth relief of a face's contrast, 60 to 200, without pixels at the ends of the scale."""
    y, x = np.mgrid[:ALIGNED_PX, :ALIGNED_PX] / ALIGNED_PX
    relief = 130 + 45 * np.sin(7 * x + 2) * np.cos(5 * y) + 20 * np.sin(23 * x * y)
    return np.repeat(np.clip(relief, 60, 200)[:, :, None], 3, axis=2).astype(np.uint8)


MASK = np.zeros((ALIGNED_PX, ALIGNED_PX), np.uint8)
MASK[50:200, 50:174] = 255


def lit(frame: np.ndarray, neutral: np.ndarray) -> float:
    return float((level_map(frame, neutral, MASK) > 0).sum() / (MASK > 0).sum())


@pytest.mark.parametrize("gain", [0.6, 0.75, 1.25, 1.5])
def test_a_gain_step_is_found_and_the_level_map_stays_dark(face: np.ndarray, gain: float) -> None:
    noise = np.random.default_rng(0).normal(0, 3, face.shape)
    frame = np.clip(face * gain + noise, 0, 255).astype(np.uint8)
    found, offset = match_exposure(frame, face, MASK)
    assert found == pytest.approx(gain, rel=0.05)
    assert abs(offset) < 6
    assert lit(frame, face) > 0.3
    assert lit(frame, expose(face, found, offset)) < 0.005


def test_an_expression_is_not_explained_away(face: np.ndarray) -> None:
    frame = face.copy()
    frame[150:190, 80:150] = 20  # an open mouth, a seventh of the mask
    gain, offset = match_exposure(frame, face, MASK)
    assert gain == pytest.approx(1.0, abs=0.03)
    levels = level_map(frame, expose(face, gain, offset), MASK)
    assert (levels[150:190, 80:150] == 5).mean() > 0.95
    levels[150:190, 80:150] = 0
    assert (levels > 0).mean() < 0.01


def test_gain_and_expression_together(face: np.ndarray) -> None:
    frame = np.clip(face * 1.3, 0, 255).astype(np.uint8)
    frame[150:190, 80:150] = 20
    gain, offset = match_exposure(frame, face, MASK)
    levels = level_map(frame, expose(face, gain, offset), MASK)
    assert (levels[150:190, 80:150] > 0).mean() > 0.95
    levels[150:190, 80:150] = 0
    assert (levels > 0).mean() < 0.02


@pytest.mark.parametrize("value", [0, 255])
def test_a_picture_without_usable_pixels_is_left_alone(face: np.ndarray, value: int) -> None:
    assert match_exposure(np.full_like(face, value), face, MASK) == (1.0, 0.0)


def test_exposing_rounds_and_stays_in_range() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.clip(np.rint(values * 1.5 - 20.4), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(expose(values, 1.5, -20.4), expected)
