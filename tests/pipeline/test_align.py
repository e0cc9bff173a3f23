"""Alignment and mask against a second least-squares solution and against what the paper asks of the mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from engines.spec import CropSpec
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


def whole_face() -> np.ndarray:
    """478×3 points of a symmetrical face, those that the other papers' crops and centres read."""
    points = np.full((478, 3), np.nan, np.float32)
    points[:, 2] = 0

    def put(right: int, left: int, x: float, y: float) -> None:
        points[right, :2], points[left, :2] = (100 - x, y), (100 + x, y)

    put(mesh.EYE_OUTER_RIGHT, mesh.EYE_OUTER_LEFT, 45, 60)
    put(mesh.EYE_INNER_RIGHT, mesh.EYE_INNER_LEFT, 15, 60)
    for right, left, y in (
        *((r, le, 56) for r, le in zip(mesh.LID_UPPER_RIGHT, mesh.LID_UPPER_LEFT, strict=True)),
        *((r, le, 64) for r, le in zip(mesh.LID_LOWER_RIGHT, mesh.LID_LOWER_LEFT, strict=True)),
    ):
        put(right, left, 30, y)
    for i in range(5):
        put(mesh.BROW_RIGHT[i], mesh.BROW_LEFT[4 - i], 50 - 9 * i, 45 - i)
    for index, y in (
        (4, 100),
        (mesh.NOSE_ROOT, 56),
        (0, 118),
        (13, 124),
        (14, 126),
        (17, 134),
        (mesh.CHIN, 160),
    ):
        points[index, :2] = 100, y
    put(mesh.MOUTH_CORNER_RIGHT, mesh.MOUTH_CORNER_LEFT, 25, 125)
    put(37, 267, 6, 117)
    put(84, 314, 7, 133)
    put(81, 311, 8, 124)
    put(178, 402, 8, 126)
    return points


def test_level_eyes_is_arls_alignment() -> None:
    """Eyes level; the square is 2.8 times the box around eyes, nose tip and mouth corners; 176 of 200 px."""
    face = whole_face()
    transform = align.level_eyes_transform(face, 176)
    # Eye centres at (±30, 60), mouth corners at y = 125: the box is 60×65, its middle (100, 92.5).
    scale = 200 / (2.8 * 65)
    np.testing.assert_allclose(
        transform, [[scale, 0, 88 - 100 * scale], [0, scale, 88 - 92.5 * scale]], rtol=1e-6
    )


def test_nose_center_is_tra_nets_alignment() -> None:
    face = whole_face()
    transform = align.nose_center_transform(face, 224)
    np.testing.assert_allclose(transform @ [100, 78, 1], [112, 112])
    np.testing.assert_allclose(transform @ [100, 160, 1], [112, 224 * 0.95])
    assert np.linalg.det(transform[:, :2]) > 0


@pytest.mark.parametrize("kind", ["five_point", "level_eyes", "nose_center"])
def test_other_crops_turn_and_grow_with_the_face(kind: str) -> None:
    face = whole_face()
    face[mesh.NOSE_BASE, :2] = 100, 108
    turn = cv2.getRotationMatrix2D((150, 90), -35, 2.3)
    moved = face.copy()
    moved[:, :2] = align.transform_points(turn, face)
    spec = CropSpec(kind, 176)
    before, after = (align.crop_transform(spec, f, (0, 0, 1, 1)) for f in (face, moved))
    seen = ~np.isnan(face[:, 0])
    expected = align.transform_points(before, face[seen])
    np.testing.assert_allclose(align.transform_points(after, moved[seen]), expected, atol=2e-2)


def test_au_centers_are_table_1s() -> None:
    """Scale is 30, the distance of the inner eye corners; up is less y. Right, then left."""
    centers = align.au_centers(whole_face())
    expected = [
        ((86, 41 - 15), (114, 41 - 15)),  # AU1: half a scale above the inner brow
        ((59, 44 - 10), (141, 44 - 10)),  # AU2: a third above the outer brow
        ((68, 43 + 10), (132, 43 + 10)),  # AU4: a third below the brow's centre
        ((70, 64 + 30), (130, 64 + 30)),  # AU6: one below the eye's bottom
        ((70, 60), (130, 60)),  # AU7: the eye's centre
        ((94, 117), (106, 117)),  # AU10: the upper lip's centre
        ((75, 125), (125, 125)),  # AU12, 14, 15: the lip corners
        ((93, 133 + 15), (107, 133 + 15)),  # AU17: half a scale below the lip
        ((100, 121), (100, 130)),  # AU23: the lips' centre, upper and lower
        ((92, 125), (108, 125)),  # AU24: the lips' centre
    ]
    np.testing.assert_allclose(centers, np.array(expected, float).reshape(20, 2), atol=1e-4)


def test_au_centers_turn_with_the_face() -> None:
    face = whole_face()
    turn = cv2.getRotationMatrix2D((20, 90), 40, 0.6)
    moved = face.copy()
    moved[:, :2] = align.transform_points(turn, face)
    expected = align.au_centers(face) @ turn[:, :2].T + turn[:, 2]
    np.testing.assert_allclose(align.au_centers(moved), expected, atol=1e-3)
    spec, box = CropSpec("box", 224), (40.0, 20.0, 160.0, 180.0)
    shares = align.au_centers_in_crop(spec, face, box)
    np.testing.assert_allclose(
        shares * 224, align.transform_points(align.box_transform(box, 224), align.au_centers(face)), atol=1e-3
    )
