from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline import geometry, mesh
from pipeline.geometry import face_geometry, head_pose, head_rotation, is_frontal
from pipeline.messages import Geometry, HeadPose
from pipeline.tracking import FaceTracker
from train.synth.demo import timeline_at
from train.synth.donor import load_donor
from train.synth.pose import Pose
from train.synth.render import Renderer
from train.synth.timeline import SEGMENTS

Points = NDArray[np.float32]
Find = Callable[[NDArray[np.uint8]], Points]

turns = st.tuples(st.floats(-85, 85), st.floats(-170, 170), st.floats(-170, 170))


def posed(rotation: NDArray[np.float64], scale: float = 1.0) -> Points:
    """A mesh whose rigid points stand as they should under a rotation; the others are anywhere."""
    points = np.random.default_rng(0).normal(0, 50, (478, 3))
    points[geometry._RIGID_INDEX] = 100 * scale * geometry._RIGID_XYZ @ rotation.T + (300, 200, -40)
    return points.astype(np.float32)


@given(turns, st.floats(0.2, 5))
def test_a_rotation_of_the_rigid_points_is_recovered(
    angles: tuple[float, float, float], scale: float
) -> None:
    yaw, pitch, roll = angles
    # HeadPose's signs against x right, y down, z away: to the right edge is −y, up is −x, clockwise is +z.
    expected = Rotation.from_euler("ZYX", [roll, -yaw, -pitch], degrees=True).as_matrix()
    found = head_rotation(posed(expected, scale))
    assert found == pytest.approx(expected, abs=1e-5)
    pose = head_pose(found)
    assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx((yaw, pitch, roll), abs=1e-2)


@given(st.integers(0, 2**32 - 1))
def test_head_rotation_is_a_rotation_whatever_the_points(seed: int) -> None:
    points = np.random.default_rng(seed).normal(0, 30, (478, 3)).astype(np.float32)
    rotation = head_rotation(points)
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


@given(turns)
def test_mirroring_flips_yaw_and_roll(angles: tuple[float, float, float]) -> None:
    yaw, pitch, roll = angles
    rotation = Rotation.from_euler("ZYX", [roll, -yaw, -pitch], degrees=True).as_matrix()
    flip = np.diag([-1.0, 1.0, 1.0])
    pose = head_pose(flip @ rotation @ flip)
    assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx((-yaw, pitch, -roll), abs=1e-6)


@given(turns, st.floats(0.1, 10))
def test_geometry_does_not_depend_on_pose_and_size(angles: tuple[float, float, float], scale: float) -> None:
    face = posed(np.eye(3)).astype(np.float64)
    rotation = Rotation.from_euler("ZYX", angles, degrees=True).as_matrix()
    turned = (scale * face @ rotation.T).astype(np.float32)
    here, there = face_geometry(face.astype(np.float32), np.eye(3)), face_geometry(turned, rotation)
    for name in Geometry.__dataclass_fields__:
        assert getattr(here, name) == pytest.approx(getattr(there, name), abs=1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("pose", "frontal"),
    [
        (HeadPose(20, 20, 90), True),
        (HeadPose(-20.1, 0, 0), False),
        (HeadPose(0, 20.1, 0), False),
        (HeadPose(0, -20.1, 0), False),
    ],
)
def test_frontal(pose: HeadPose, frontal: bool) -> None:
    assert is_frontal(pose) is frontal


# On pictures


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(load_donor())


@pytest.fixture(scope="module")
def find() -> Iterator[Find]:
    tracker = FaceTracker(1)

    def points(picture: NDArray[np.uint8]) -> Points:
        tracker.reset()
        (track,) = tracker.update(np.ascontiguousarray(picture), 0.0)
        return track.seen.points

    yield points
    tracker.close()


def pose_of(points: Points) -> HeadPose:
    return head_pose(head_rotation(points))


@pytest.mark.parametrize("degrees", [-40, -15, 15, 40])
def test_rolling_the_picture_rolls_the_head_by_as_much(
    renderer: Renderer, find: Find, degrees: float
) -> None:
    picture = renderer.render({})
    start = pose_of(find(picture))
    turn = cv2.getRotationMatrix2D((320.0, 270.0), -degrees, 1.0)  # OpenCV counts anticlockwise
    end = pose_of(find(cv2.warpAffine(picture, turn, (640, 480), borderMode=cv2.BORDER_REPLICATE)))
    assert end.roll - start.roll == pytest.approx(degrees, abs=1.5)
    assert end.yaw == pytest.approx(start.yaw, abs=3)
    assert end.pitch == pytest.approx(start.pitch, abs=3)


def test_a_mirrored_picture_flips_yaw_and_roll(renderer: Renderer, find: Find) -> None:
    picture = renderer.render({}, Pose(yaw_deg=15, roll_deg=10))
    one, other = pose_of(find(picture)), pose_of(find(picture[:, ::-1]))
    assert one.yaw > 8
    assert (other.yaw, other.pitch, other.roll) == pytest.approx((-one.yaw, one.pitch, -one.roll), abs=2.5)


@pytest.mark.parametrize(
    ("axis", "slope"), [("yaw", (0.6, 1.1)), ("pitch", (0.6, 1.1)), ("roll", (0.9, 1.15))]
)
def test_rendered_motion_is_measured(
    renderer: Renderer, find: Find, axis: str, slope: tuple[float, float]
) -> None:
    """The mesh sees about three quarters of a rendered yaw or pitch: a warped portrait hides no far cheek."""
    angles = np.array([-20.0, -10.0, 0.0, 10.0, 20.0])
    found = [
        getattr(pose_of(find(renderer.render({}, Pose(**{f"{axis}_deg": float(angle)})))), axis)
        for angle in angles
    ]
    assert np.corrcoef(angles, found)[0, 1] > 0.98
    assert slope[0] < np.polyfit(angles, found, 1)[0] < slope[1]


@pytest.mark.parametrize(
    ("segment", "name", "low", "high"),
    [
        ("AU1+2", "brow_raise", 0.04, 0.2),
        ("AU6+12+25", "mouth_width", 0.1, 0.3),
        ("AU6+12+25", "corner_lift", 0.06, 0.2),
        ("AU25", "lip_gap", 0.06, 0.2),
        ("AU25+26", "lip_gap", 0.2, 0.5),
        ("AU25+26", "jaw_drop", 0.08, 0.3),
        ("AU15+17", "corner_lift", -0.15, -0.025),
        ("AU20", "mouth_width", 0.04, 0.2),
        ("AU43", "eye_opening", -0.4, -0.2),
        ("AU04", "brow_gap", -0.05, -0.003),
        ("AU04", "brow_raise", -0.1, -0.005),
    ],
)
def test_geometry_follows_the_demos_action_units(
    renderer: Renderer, find: Find, segment: str, name: str, low: float, high: float
) -> None:
    seconds = {one.name: one.look for one in SEGMENTS}[segment]

    def measure(intensities: dict[str, float]) -> float:
        points = find(renderer.render(intensities))
        return float(getattr(face_geometry(points, head_rotation(points)), name))

    change = measure(timeline_at(seconds)) - measure({})
    assert low < change < high


def test_the_eye_opening_of_open_and_closed_eyes(renderer: Renderer, find: Find) -> None:
    for closed, low, high in ((0.0, 0.2, 0.4), (1.0, -0.05, 0.15)):
        points = find(renderer.render({"AU43": closed}))
        assert low < face_geometry(points, head_rotation(points)).eye_opening < high


def test_left_and_right_are_the_persons_own(renderer: Renderer, find: Find) -> None:
    points = find(renderer.render({}))
    assert points[mesh.EYE_OUTER_RIGHT, 0] < points[mesh.EYE_OUTER_LEFT, 0]
    assert points[mesh.MOUTH_CORNER_RIGHT, 0] < points[mesh.MOUTH_CORNER_LEFT, 0]
