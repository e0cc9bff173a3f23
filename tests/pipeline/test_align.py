"""Alignment and mask against a second least-squares solution and against what the paper asks of the mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline import align, mesh

finite = st.floats(-500, 500, width=32)


@settings(max_examples=50, deadline=None)
@given(npst.arrays(np.float64, (5, 2), elements=finite), npst.arrays(np.float64, (5, 2), elements=finite))
def test_similarity_is_the_least_squares_one(source: np.ndarray, target: np.ndarray) -> None:
    assume(np.ptp(source, axis=0).max() > 1)
    # The same problem as a linear one: (x, y) ↦ (p·x − q·y + s, q·x + p·y + t).
    rows = [[x, -y, 1, 0] for x, y in source] + [[y, x, 0, 1] for x, y in source]
    p, q, s, t = np.linalg.lstsq(np.array(rows), np.concatenate([target[:, 0], target[:, 1]]), rcond=None)[0]
    np.testing.assert_allclose(
        align.similarity(source, target), [[p, -q, s], [q, p, t]], atol=1e-5, rtol=1e-6
    )


def test_similarity_of_one_point_is_refused() -> None:
    with pytest.raises(ValueError, match="expected points that differ"):
        align.similarity(np.ones((5, 2)), np.zeros((5, 2)))


def frontal_face(size: int = 224) -> np.ndarray:
    """478×3 points of which only those that alignment and mask read are meant."""
    points = np.zeros((478, 3), np.float32)
    points[list(align.FIVE_POINTS), :2] = align._TEMPLATE * size
    angles = np.linspace(np.pi, 0, len(mesh.JAW))
    points[list(mesh.JAW), 0] = size * (0.5 + 0.33 * np.cos(angles))
    points[list(mesh.JAW), 1] = size * (0.42 + 0.42 * np.sin(angles))
    for brow, xs in (
        (mesh.BROW_RIGHT, (0.24, 0.28, 0.33, 0.38, 0.44)),
        (mesh.BROW_LEFT, (0.56, 0.62, 0.67, 0.72, 0.76)),
    ):
        points[list(brow), 0] = size * np.array(xs)
        points[list(brow), 1] = size * 0.28
    points[mesh.NOSE_ROOT, :2] = size * 0.5, size * 0.33
    return points


def test_a_face_in_the_template_stays_where_it_is() -> None:
    np.testing.assert_allclose(align.five_point_transform(frontal_face()), [[1, 0, 0], [0, 1, 0]], atol=1e-5)


def test_turning_and_scaling_the_picture_leaves_the_crop() -> None:
    face = frontal_face()
    turn = cv2.getRotationMatrix2D((150, 90), 25, 1.7)
    moved = face.copy()
    moved[:, :2] = align.transform_points(turn, face)
    transform = align.five_point_transform(moved)
    np.testing.assert_allclose(align.transform_points(transform, moved), face[:, :2], atol=1e-2)


def test_the_mask_lies_5_px_inside_the_contour_and_5_px_above_the_brows() -> None:
    xy = frontal_face()[:, :2].astype(np.float64)
    mask = align.face_mask(xy)
    assert set(np.unique(mask)) == {0, 255}
    chin = xy[mesh.CHIN]
    column = np.flatnonzero(mask[:, round(chin[0])])
    assert abs(column.max() - (chin[1] - 5)) <= 1
    for brow in (mesh.BROW_RIGHT[2], mesh.BROW_LEFT[2]):
        top = np.flatnonzero(mask[:, round(xy[brow, 0])]).min()
        assert abs(top - (xy[brow, 1] - 5)) <= 1


def test_the_mask_rises_between_the_brows() -> None:
    xy = frontal_face()[:, :2].astype(np.float64)
    top = np.flatnonzero(align.face_mask(xy)[:, 112]).min()
    between = xy[mesh.BROW_RIGHT[-1], 1] - 5
    rise = xy[mesh.NOSE_ROOT, 1] - between
    assert abs(top - (between - rise)) <= 1.5


def test_a_face_partly_outside_the_crop_gives_a_mask_without_complaint() -> None:
    xy = frontal_face()[:, :2].astype(np.float64) + np.array([150, -120])
    mask = align.face_mask(xy)
    assert 0 < (mask > 0).mean() < 0.2


def test_the_box_crop_is_upright_centred_and_has_a_margin() -> None:
    transform = align.box_transform((100, 50, 180, 170), 224)
    center = transform @ [140, 110, 1]
    np.testing.assert_allclose(center, [112, 112])
    assert transform[0, 1] == transform[1, 0] == 0
    top, bottom = (transform @ [140, 50, 1])[1], (transform @ [140, 170, 1])[1]
    np.testing.assert_allclose([top, bottom], [224 * 0.1 / 1.2, 224 * 1.1 / 1.2])
