"""Rendered people, seen again by the streaming face mesh, move as they are labelled."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.geometry import head_rotation
from train.synth.actions import ACTIONS, JOINT
from train.synth.figure import Acting, Figure, View
from train.synth.head import MOUTH, SKIN, mean_head, to_texture_px
from train.synth.pose import Pose
from train.synth.streaming import Watcher
from train.synth.studio import Studio, plain

PEOPLE = 6


@pytest.fixture(scope="module")
def watcher() -> Iterator[Watcher]:
    watcher = Watcher([])
    yield watcher
    watcher.close()


@pytest.fixture(scope="module")
def figures() -> list[Figure]:
    return [Studio(3, number).figure for number in range(PEOPLE)]


def found(watcher: Watcher, figure: Figure, *aus: str) -> np.ndarray:
    """(478, 3) mesh of a render, in face units, head turned straight."""
    watcher.forget()
    acting = Acting(dict.fromkeys(aus, (1.0, 1.0)))
    seen = watcher.find(plain(figure, acting, Pose(2, 1, 1), 320))
    assert seen is not None
    points = seen.points.astype(np.float64) @ head_rotation(seen.points)
    points -= (points[33] + points[263]) / 2
    return np.asarray(points / np.linalg.norm(points[33] - points[263]))


def test_the_mean_head_is_closed_and_symmetric() -> None:
    head = mean_head()
    assert np.allclose(head.points[:468], head.points[head.mirror] * (-1, 1, 1))
    edges = np.sort(head.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    counts = np.unique(edges, axis=0, return_counts=True)[1]
    assert counts.max() == 2
    assert (counts == 1).sum() == 36  # the hole in the neck and behind: the last ring
    assert (head.kinds == MOUTH).sum() == 18
    assert set(head.fields) == set(ACTIONS) | {"+".join(pair) for pair in JOINT}


def test_the_texture_does_not_fold() -> None:
    head = mean_head()
    skin = head.triangles[head.kinds == SKIN]
    a, b, c = (to_texture_px(head.texture_xy[skin[:, k]]) for k in range(3))
    area = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    oval = (2 * 0.75 * 1.28 * 512 / 2.4) * (2 * 0.77 * 1.28 * 512 / 2.4)
    assert area.sum() < 1.25 * oval


@pytest.mark.parametrize(
    ("aus", "points", "sign", "least"),
    [
        (("AU01", "AU02"), (107, 336, 105, 334, 63, 293), -1, 0.03),
        (("AU01",), (107, 336, 55, 285), -1, 0.02),
        (("AU02",), (105, 334, 63, 293), -1, 0.025),
        (("AU01", "AU04"), (107, 336, 55, 285), -1, 0.01),
        (("AU04",), (107, 336, 55, 285, 105, 334), +1, 0.015),
        (("AU06", "AU12"), (61, 291), -1, 0.04),
        (("AU12",), (61, 291), -1, 0.04),
        (("AU15",), (61, 291), +1, 0.02),
        (("AU10",), (0, 37, 267), -1, 0.015),
        (("AU26", "AU25"), (152, 17), +1, 0.08),
    ],
)
def test_the_mesh_sees_points_move(
    watcher: Watcher,
    figures: list[Figure],
    aus: tuple[str, ...],
    points: tuple[int, ...],
    sign: int,
    least: float,
) -> None:
    index = list(points)
    moved = [sign * (found(watcher, f, *aus)[index, 1] - found(watcher, f)[index, 1]).mean() for f in figures]
    assert np.mean(moved) > least
    assert (np.array(moved) > 0).mean() >= (PEOPLE - 1) / PEOPLE


def test_the_mesh_sees_lids_close_lips_part_and_mouths_stretch(
    watcher: Watcher, figures: list[Figure]
) -> None:
    for figure in figures:
        rest, shut = found(watcher, figure), found(watcher, figure, "AU43")
        opening = [(mesh[[145, 374], 1] - mesh[[159, 386], 1]).mean() for mesh in (rest, shut)]
        assert opening[1] < 0.3 * opening[0]
        parted = found(watcher, figure, "AU25")
        assert parted[14, 1] - parted[13, 1] > rest[14, 1] - rest[13, 1] + 0.06
        stretched = found(watcher, figure, "AU20")
        assert stretched[291, 0] - stretched[61, 0] > rest[291, 0] - rest[61, 0] + 0.04


def test_lids_and_lips_never_pass_through_each_other(figures: list[Figure]) -> None:
    rng = np.random.default_rng(4)
    lids = (([159, 158, 160], [145, 153, 144]), ([386, 385, 387], [374, 380, 373]))
    for figure in figures:
        for _ in range(40):
            names = rng.choice(list(ACTIONS), 5, replace=False)
            points = figure.geometry(Acting({name: tuple(rng.random(2)) for name in names}))
            for upper, lower in (*lids, ([13, 82, 312], [14, 87, 317])):
                assert (points[lower, 1] - points[upper, 1]).min() > -1e-6


def test_a_side_acts_alone(figures: list[Figure]) -> None:
    figure = figures[0]
    moved = figure.geometry(Acting({"AU02": (0.0, 1.0)})) - figure.geometry(Acting())
    assert abs(moved[70, 1]) < 0.005
    assert moved[300, 1] < -0.03


def test_a_turned_head_is_seen_turned(watcher: Watcher, figures: list[Figure]) -> None:
    from pipeline.geometry import head_pose

    figure = figures[1]
    for pose in (Pose(25, 0, 0), Pose(-25, 0, 0), Pose(0, 14, 0), Pose(0, -14, 0), Pose(0, 0, 12)):
        watcher.forget()
        seen = watcher.find(plain(figure, Acting(), pose, 320))
        assert seen is not None
        pose_seen = head_pose(head_rotation(seen.points))
        assert abs(pose_seen.yaw - pose.yaw_deg) < 9
        assert abs(pose_seen.pitch - pose.pitch_deg) < 12
        assert abs(pose_seen.roll - pose.roll_deg) < 5


def test_nearer_points_are_larger() -> None:
    view = View(Pose(), (100.0, 100.0), 50.0, 6.0)
    near, far = view.project(np.array([[1.0, 0.0, -1.0], [1.0, 0.0, 1.0]]))[:, 0] - 100
    assert near == pytest.approx(50 * 6 / 5)
    assert far == pytest.approx(50 * 6 / 7)


def test_a_picture_of_256_px_takes_little_time(figures: list[Figure]) -> None:
    acting = Acting({"AU06": (0.5, 0.5), "AU12": (0.7, 0.7), "AU25": (0.5, 0.5)})
    plain(figures[0], acting, Pose(3, 2, 1), 256)
    took = []
    for _ in range(5):
        begin = time.process_time()
        plain(figures[0], acting, Pose(3, 2, 1), 256)
        took.append(time.process_time() - begin)
    assert min(took) < 0.1  # about 10 ms where this was written; a Python loop would take seconds
