import numpy as np
import pytest

from pipeline.errors import RunError
from train.synth import landmarks as lm
from train.synth.donor import MESH_POINTS, Donor, find_mesh


def test_the_face_is_large_and_points_surround_it(donor: Donor) -> None:
    height, width = donor.picture_bgr.shape[:2]
    face_height = donor.points_px[lm.CHIN, 1] - donor.points_px[10, 1]
    assert 210 <= face_height <= 270
    corners = {(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)}
    assert corners <= {tuple(point) for point in np.round(donor.points_px[:, :2]).astype(int)}


def test_triangles_cover_the_picture_exactly_once(donor: Donor) -> None:
    a, b, c = (donor.points_px[donor.triangles[:, k], :2] for k in range(3))
    areas = 0.5 * np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    height, width = donor.picture_bgr.shape[:2]
    assert areas.sum() == pytest.approx((width - 1) * (height - 1), rel=0.02)
    edges = np.sort(donor.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert np.unique(edges, axis=0, return_counts=True)[1].max() <= 2


def test_the_border_does_not_follow_the_head(donor: Donor) -> None:
    height, width = donor.picture_bgr.shape[:2]
    x, y = donor.points_px[:, 0], donor.points_px[:, 1]
    border = (x <= 0) | (y <= 0) | (x >= width - 1) | (y >= height - 1)
    assert border.sum() > 40
    assert not donor.head_weight[border].any()
    assert (donor.head_weight[:MESH_POINTS] == 1).all()


def test_mirrored_points_lie_across_the_nose(donor: Donor) -> None:
    face = donor.frame.to_face(donor.points_px)
    middle = face[[6, 197, 195, 4, 164, 152], 0].mean()
    for a, b in lm.MIRROR.items():
        assert lm.MIRROR[b] == a
        if a < MESH_POINTS and abs(face[a, 0] - middle) > 0.1:
            assert np.allclose(face[a] + face[b] * (1, -1), (2 * middle, 0), atol=0.09), (a, b)


def test_face_frame_goes_there_and_back(donor: Donor) -> None:
    face = donor.frame.to_face(donor.points_px)
    assert np.allclose(donor.frame.to_px(face), donor.points_px[:, :2])
    assert np.allclose(face[[33, 263]], [(-0.5, 0), (0.5, 0)])


def test_a_picture_without_a_face_is_refused() -> None:
    with pytest.raises(RunError, match="no face"):
        find_mesh(np.full((120, 160, 3), 128, np.uint8))


def test_wrong_shapes_are_refused(donor: Donor) -> None:
    with pytest.raises(ValueError, match="weights"):
        Donor(donor.picture_bgr, donor.points_px, donor.skin_triangles, donor.hole_triangles, np.ones(3))
