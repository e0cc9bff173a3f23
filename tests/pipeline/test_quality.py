from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import align, quality
from pipeline.tracking import FaceTracker
from train.synth.demo import frame_at
from train.synth.donor import load_donor
from train.synth.render import Renderer

Picture = NDArray[np.uint8]
LOOKS = (10, 90, 200, 300, 480)
"""Frames of the demo: rest, brows raised, a smile, the jaw dropped, the head turning."""


@pytest.fixture(scope="module")
def demo() -> dict[int, Picture]:
    renderer = Renderer(load_donor())
    return {index: frame_at(renderer, index) for index in LOOKS}


@pytest.fixture(scope="module")
def tracker() -> Iterator[FaceTracker]:
    found = FaceTracker(1)
    yield found
    found.close()


def look(tracker: FaceTracker, picture: Picture) -> tuple[Picture, NDArray[np.float64], NDArray[np.float32]]:
    """The aligned face, its mesh in it, and its mesh in the picture."""
    tracker.reset()
    (track,) = tracker.update(picture, 0.0)
    points = track.seen.points
    return (
        track.seen.aligned_bgr,
        align.transform_points(align.five_point_transform(points), points),
        points,
    )


def symmetry(tracker: FaceTracker, picture: Picture) -> float:
    aligned, aligned_xy, _ = look(tracker, picture)
    return quality.symmetry(aligned, aligned_xy)


@pytest.mark.parametrize("index", LOOKS)
def test_uncovered_faces_are_symmetric(tracker: FaceTracker, demo: dict[int, Picture], index: int) -> None:
    assert symmetry(tracker, demo[index]) > 0.5


@pytest.mark.parametrize("index", LOOKS)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("part", ["mouth", "eye"])
def test_something_before_half_the_mouth_or_an_eye_is_seen(
    tracker: FaceTracker, demo: dict[int, Picture], index: int, side: str, part: str
) -> None:
    points = look(tracker, demo[index])[2]
    ends = {
        ("mouth", "right"): (61, 13),
        ("mouth", "left"): (291, 13),
        ("eye", "right"): (33, 133),
        ("eye", "left"): (362, 263),
    }
    middle = points[list(ends[part, side]), :2].mean(0)
    half = 0.17 * np.ptp(points[:, 0])
    covered = demo[index].copy()
    low, high = (middle - half).astype(int).tolist(), (middle + half).astype(int).tolist()
    cv2.rectangle(covered, low, high, (40, 40, 40), -1)
    found = symmetry(tracker, covered)
    assert found < 0.5
    assert found < symmetry(tracker, demo[index])


def test_symmetry_does_not_mind_exposure_and_mirroring(
    tracker: FaceTracker, demo: dict[int, Picture]
) -> None:
    aligned, aligned_xy, _ = look(tracker, demo[10])
    straight = quality.symmetry(aligned, aligned_xy)
    dark = cv2.convertScaleAbs(aligned, alpha=0.6, beta=20)
    assert quality.symmetry(dark, aligned_xy) == pytest.approx(straight, abs=0.08)
    # Light from one side: brightness that rises across the face.
    ramp = np.linspace(0.6, 1.2, 224)[None, :, None]
    lit = np.clip(aligned * ramp, 0, 255).astype(np.uint8)
    assert quality.symmetry(lit, aligned_xy) == pytest.approx(straight, abs=0.15)


def test_symmetry_of_nothing_is_a_number(demo: dict[int, Picture], tracker: FaceTracker) -> None:
    _, aligned_xy, _ = look(tracker, demo[10])
    assert -1 <= quality.symmetry(np.zeros((224, 224, 3), np.uint8), aligned_xy) <= 1


def test_pairs_are_mirror_images(demo: dict[int, Picture], tracker: FaceTracker) -> None:
    _, aligned_xy, _ = look(tracker, demo[10])
    right, left = aligned_xy[quality._PAIRS[:, 0]], aligned_xy[quality._PAIRS[:, 1]]
    assert (right[:, 0] < left[:, 0]).all()
    assert np.abs(right[:, 1] - left[:, 1]).max() < 16
    assert len(np.unique(quality._PAIRS)) == quality._PAIRS.size


def test_blur_rises_with_blur(tracker: FaceTracker, demo: dict[int, Picture]) -> None:
    aligned, _, _ = look(tracker, demo[10])
    found = [quality.blur(cv2.GaussianBlur(aligned, (0, 0), sigma)) for sigma in (0.5, 2.0, 4.0, 8.0)]
    assert found == sorted(found)
    assert found[0] < 0.5 < 0.8 < found[-1] <= 1.0


def test_blur_is_between_0_and_1() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    for picture in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
        assert 0.0 <= quality.blur(picture) <= 1.0
