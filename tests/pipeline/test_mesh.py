from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import data

from pipeline import align, mesh
from pipeline.mesh import FaceDetector, FaceMesh, Region

PORTRAIT = np.ascontiguousarray(data.astronaut()[..., ::-1])

angles = st.floats(-3.1, 3.1)
scales = st.floats(0.05, 20)
shifts = st.floats(-3000, 3000)


def similarity(scale: float, angle: float, dx: float, dy: float) -> NDArray[np.float64]:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, dx], [sin, cos, dy]])


@pytest.fixture(scope="module")
def finder() -> Iterator[FaceMesh]:
    found = FaceMesh()
    yield found
    found.close()


@pytest.fixture(scope="module")
def detector() -> Iterator[FaceDetector]:
    found = FaceDetector()
    yield found
    found.close()


@pytest.fixture(scope="module")
def points(detector: FaceDetector, finder: FaceMesh) -> NDArray[np.float32]:
    found, _ = finder(PORTRAIT, detector(PORTRAIT)[0])
    return finder(PORTRAIT, mesh.region_of(found))[0]


def test_the_mesh_lies_on_the_face(points: NDArray[np.float32]) -> None:
    assert points.shape == (478, 3)
    assert points.dtype == np.float32
    # Read off the portrait by eye.
    for index, xy in (
        (mesh.EYE_OUTER_RIGHT, (195, 100)),
        (mesh.EYE_OUTER_LEFT, (256, 104)),
        (mesh.NOSE_BASE, (223, 133)),
    ):
        assert points[index, :2] == pytest.approx(xy, abs=4)
    nose_tip, temple = points[4, 2], points[234, 2]
    assert nose_tip < temple, "smaller is nearer"


def test_presence_tells_a_face_from_a_wall(finder: FaceMesh, points: NDArray[np.float32]) -> None:
    assert finder(PORTRAIT, mesh.region_of(points))[1] > 0.99
    assert finder(PORTRAIT, Region((40.0, 40.0), 120.0, 0.0))[1] < 0.5
    assert finder(np.zeros((1, 1, 3), np.uint8), Region((0.0, 0.0), 5.0, 0.0))[1] < 0.5


@pytest.mark.parametrize("degrees", [-60, 25, 90, 180])
def test_the_mesh_turns_with_the_picture(
    finder: FaceMesh, points: NDArray[np.float32], degrees: float
) -> None:
    turn = cv2.getRotationMatrix2D((223.0, 130.0), -degrees, 1.0)
    turned = cv2.warpAffine(PORTRAIT, turn, (512, 400), borderMode=cv2.BORDER_REPLICATE)
    expected = points.copy()
    expected[:, :2] = align.transform_points(turn, points)
    found, _ = finder(turned, mesh.region_of(expected))
    assert np.linalg.norm(found[:, :2] - expected[:, :2], axis=1).mean() < 1.5


def test_the_same_picture_gives_the_same_points(finder: FaceMesh, points: NDArray[np.float32]) -> None:
    region = mesh.region_of(points)
    first, _ = finder(PORTRAIT, region)
    finder(np.ascontiguousarray(PORTRAIT[::-1]), Region((200.0, 200.0), 300.0, 1.0))
    second, _ = finder(PORTRAIT, region)
    assert np.array_equal(first, second)


def test_a_thorough_search_finds_what_a_quick_one_loses(detector: FaceDetector) -> None:
    wide = np.full((360, 640, 3), 100, np.uint8)
    wide[250:286, 460:496] = cv2.resize(PORTRAIT[40:200, 140:300], (36, 36), interpolation=cv2.INTER_AREA)

    def finds_it(regions: list[Region]) -> bool:
        return any(np.hypot(r.center_xy[0] - 478, r.center_xy[1] - 268) < 12 for r in regions)

    assert finds_it(detector(wide, thorough=True))
    assert not finds_it(detector(wide))


@pytest.mark.parametrize(
    "size_wh", [(640, 360), (360, 640), (640, 480), (100, 100), (1, 2000), (1, 1), (3, 2)]
)
def test_squares_cover_the_picture(size_wh: tuple[int, int]) -> None:
    width, height = size_wh
    squares = mesh._squares(width, height)
    assert bool(squares) == (width != height)
    for x0, y0, x1, y1 in squares:
        assert x1 - x0 == y1 - y0 == min(size_wh)
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
    if squares and max(size_wh) <= 4 * min(size_wh):
        seen = np.zeros((height, width), bool)
        for x0, y0, x1, y1 in squares:
            seen[y0:y1, x0:x1] = True
        assert seen.all()


@given(angles, scales, shifts, shifts)
def test_region_of_moves_with_the_face(angle: float, scale: float, dx: float, dy: float) -> None:
    rng = np.random.default_rng(3)
    face = rng.uniform(-50, 50, (478, 3)).astype(np.float32)
    face[mesh.EYE_OUTER_RIGHT], face[mesh.EYE_OUTER_LEFT] = (-20, 0, 0), (20, 0, 0)
    start = mesh.region_of(face)
    moved = face.copy()
    transform = similarity(scale, angle, dx, dy)
    moved[:, :2] = align.transform_points(transform, face)
    region = mesh.region_of(moved)
    expected = transform[:, :2] @ start.center_xy + transform[:, 2]
    assert region.center_xy == pytest.approx(expected, abs=0.01 + 0.01 * scale)
    assert region.side_px == pytest.approx(scale * start.side_px, rel=1e-2)
    assert np.cos(region.angle_rad - angle) > 0.999


@given(angles, scales, shifts, shifts)
def test_a_region_fills_the_networks_input(angle: float, side: float, x: float, y: float) -> None:
    region = Region((x, y), 10 * side, angle)
    to_input = mesh._region_transform(region)
    middle = to_input[:, :2] @ (x, y) + to_input[:, 2]
    assert middle == pytest.approx([96, 96], abs=1e-6)
    right = np.array([np.cos(angle), np.sin(angle)]) * region.side_px / 2 + (x, y)
    assert to_input[:, :2] @ right + to_input[:, 2] == pytest.approx([192, 96], abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.06, 3.0), angles, st.floats(100, 400), st.floats(100, 400))
def test_warp_puts_the_picture_where_the_transform_says(
    scale: float, angle: float, x: float, y: float
) -> None:
    """A plane of grey that rises along x and y has a known value in every place, whatever the reduction."""
    rows, columns = np.mgrid[0:512, 0:512]
    picture = np.stack([columns / 4, rows / 4, (columns + rows) / 8], axis=-1).round().astype(np.uint8)
    transform = similarity(scale, angle, 0, 0)
    transform[:, 2] = 32 - transform[:, :2] @ (x, y)
    back = cv2.invertAffineTransform(transform)
    square = mesh.warp(picture, transform, 64)
    inner = 0
    for i, j in ((32, 32), (20, 40), (45, 25)):
        sx, sy = back[:, :2] @ (i, j) + back[:, 2]
        margin = 3 / scale + 2
        if margin < sx < 511 - margin and margin < sy < 511 - margin:
            inner += 1
            assert square[j, i] == pytest.approx([sx / 4, sy / 4, (sx + sy) / 8], abs=1.3)
    assert inner or scale < 0.2


def test_warp_does_not_alias() -> None:
    fine = np.zeros((512, 512, 3), np.uint8)
    fine[:, ::2] = 255
    shrunk = similarity(0.2, 0.3, 10, 0)
    bare = cv2.warpAffine(fine, shrunk, (64, 64))[24:40, 24:40]
    assert np.std(bare) > 60
    assert np.std(mesh.warp(fine, shrunk, 64)[24:40, 24:40]) < 30


def test_warp_of_a_place_outside_the_picture() -> None:
    picture = np.full((40, 40, 3), 77, np.uint8)
    for scale in (0.1, 1.0):
        assert (mesh.warp(picture, similarity(scale, 0, 5000, -5000), 32) == 77).all()
