"""The neutral on rendered faces: found at rest, never in a smile; given, loaded, and refused when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import align, mesh, profile
from pipeline.errors import SourceError, UsageError
from pipeline.geometry import face_geometry, head_pose, head_rotation, is_frontal
from pipeline.messages import Geometry, HeadPose, Quality
from pipeline.neutral import (
    REST_LIMITS,
    Neutral,
    NeutralKeeper,
    NeutralPolicy,
    given,
    parse_policy,
    rest_distance,
)
from pipeline.quality import blur, symmetry
from train.synth.donor import load_donor
from train.synth.render import Light, Renderer

AVERAGE = Geometry(
    **{name: average for name, (_, average, _) in REST_LIMITS.items()}, brow_gap=0.32, jaw_drop=0.75
)
STRAIGHT = HeadPose(0.0, 0.0, 0.0)
SHARP = Quality(200.0, 0.4, 0.9, True)


class Look:
    """One rendered face as the face stage sees it."""

    def __init__(self, image: np.ndarray, finder: mesh.FaceMesh, detector: mesh.FaceDetector) -> None:
        region = detector(image)[0]
        for _ in range(2):
            points, self.presence = finder(image, region)
            region = mesh.region_of(points)
        transform = align.five_point_transform(points)
        self.aligned = mesh.warp(image, transform, align.ALIGNED_PX)
        rotation = head_rotation(points)
        self.pose = head_pose(rotation)
        self.geometry = face_geometry(points, rotation)
        xy = align.transform_points(transform, points)
        self.quality = Quality(200.0, blur(self.aligned), symmetry(self.aligned, xy), is_frontal(self.pose))

    @property
    def distance(self) -> float | None:
        return rest_distance(self.geometry, self.pose, self.quality)


@pytest.fixture(scope="module")
def look():
    renderer, finder, detector = Renderer(load_donor()), mesh.FaceMesh(), mesh.FaceDetector()
    from train.synth.pose import Pose

    def make(aus: dict[str, float], light: Light | None = None, pose: Pose | None = None) -> Look:
        image = renderer.render(aus, pose or Pose(), light or Light())
        return Look(image, finder, detector)

    yield make
    finder.close()
    detector.close()


LANDMARKS_AT_REST = np.random.default_rng(0).normal(size=(468, 3)).astype(np.float32)


def watch(keeper: NeutralKeeper, seen: Look, seconds: float, begin: float = 0.0, rate: float = 25.0):
    """Hold one look for so long; the last state and neutral."""
    state = None
    for i in range(round(seconds * rate)):
        measured = (LANDMARKS_AT_REST, seen.geometry, seen.pose, seen.quality)
        state = keeper.update(0, True, begin + i / rate, seen.aligned, *measured)
    return state


def test_a_face_at_rest_becomes_its_own_neutral_within_a_second(look) -> None:
    rest = look({})
    state, neutral = watch(NeutralKeeper(NeutralPolicy("auto")), rest, 1.0)
    assert state == "automatic"
    assert np.abs(neutral.image_bgr.astype(int) - rest.aligned).max() == 0


@pytest.mark.parametrize(
    "aus",
    [
        {"AU12": 1.0},
        {"AU12": 0.7},
        {"AU06": 1.0, "AU12": 1.0, "AU25": 0.9},
        {"AU25": 0.7},
        {"AU25": 1.0, "AU26": 1.0},
        {"AU43": 1.0},
        {"AU43": 0.82},  # lids cast down
    ],
    ids=lambda aus: "+".join(aus),
)
def test_an_expression_held_for_ten_seconds_from_the_start_is_no_neutral(look, aus: dict[str, float]) -> None:
    keeper = NeutralKeeper(NeutralPolicy("auto"))
    assert watch(keeper, look(aus), 10.0) == ("estimating", None)


def test_a_smile_held_for_ten_seconds_does_not_replace_the_neutral(look) -> None:
    keeper = NeutralKeeper(NeutralPolicy("auto"))
    rest, smile = look({}), look({"AU12": 1.0, "AU06": 1.0})
    _, before = watch(keeper, rest, 1.0)
    state, after = watch(keeper, smile, 10.0, begin=1.0)
    assert state == "automatic"
    np.testing.assert_array_equal(after.image_bgr, before.image_bgr)


def test_a_better_look_at_rest_replaces_a_worse_one(look) -> None:
    from train.synth.pose import Pose

    keeper = NeutralKeeper(NeutralPolicy("auto"))
    # The portrait was taken with the head a little down; nine degrees up, it looks into the camera.
    turned, straight = look({}), look({}, pose=Pose(0.0, 9.0, 0.0))
    assert straight.distance < turned.distance
    watch(keeper, turned, 2.0)
    _, neutral = watch(keeper, straight, 2.0, begin=2.0)
    np.testing.assert_array_equal(neutral.image_bgr, straight.aligned)


def test_a_covered_face_is_no_neutral(look) -> None:
    rest = look({})
    assert rest.distance is not None
    assert rest_distance(rest.geometry, rest.pose, replace(rest.quality, symmetry=0.3)) is None


@pytest.mark.parametrize("name", REST_LIMITS)
def test_each_measure_outside_its_limits_rules_a_face_out(name: str) -> None:
    least, _, most = REST_LIMITS[name]
    assert rest_distance(AVERAGE, STRAIGHT, SHARP) == pytest.approx(0.0)
    assert rest_distance(replace(AVERAGE, **{name: most + 1e-3}), STRAIGHT, SHARP) is None
    assert rest_distance(replace(AVERAGE, **{name: least - 1e-3}), STRAIGHT, SHARP) is None


@pytest.mark.parametrize(
    "pose", [HeadPose(16, 0, 0), HeadPose(-16, 0, 0), HeadPose(0, 16, 0), HeadPose(0, -16, 0)]
)
def test_a_turned_or_blurred_face_is_ruled_out(pose: HeadPose) -> None:
    assert rest_distance(AVERAGE, pose, SHARP) is None
    assert rest_distance(AVERAGE, STRAIGHT, replace(SHARP, blur=0.95)) is None


def test_people_have_neutrals_of_their_own() -> None:
    keeper = NeutralKeeper(NeutralPolicy("auto"))
    for i in range(25):
        for face, value in ((0, 10), (1, 200)):
            image = np.full((224, 224, 3), value, np.uint8)
            keeper.update(face, face == 0, i / 25, image, LANDMARKS_AT_REST, AVERAGE, STRAIGHT, SHARP)
    assert keeper.neutral_of(0).image_bgr.max() == 10
    assert keeper.neutral_of(1).image_bgr.min() == 200
    assert keeper.neutral_of(2) is None


def test_the_first_seconds_count_whatever_they_show(look) -> None:
    keeper = NeutralKeeper(NeutralPolicy("first", first_seconds=1.0))
    smile = look({"AU12": 1.0})
    assert watch(keeper, smile, 0.9) == ("estimating", None)
    state, neutral = watch(keeper, look({}), 0.5, begin=1.0)
    assert state == "given"
    np.testing.assert_array_equal(neutral.image_bgr, smile.aligned)


def test_a_given_neutral_belongs_to_the_largest_face_and_stays_with_it() -> None:
    held = Neutral(np.full((224, 224, 3), 99, np.uint8), "automatic", LANDMARKS_AT_REST)
    keeper = NeutralKeeper(given(held))
    image = np.zeros((224, 224, 3), np.uint8)
    assert keeper.update(0, False, 0.0, image, LANDMARKS_AT_REST, AVERAGE, STRAIGHT, SHARP) == ("none", None)
    state, neutral = keeper.update(1, True, 0.0, image, LANDMARKS_AT_REST, AVERAGE, STRAIGHT, SHARP)
    assert state == "given"
    assert neutral.image_bgr.max() == 99
    assert keeper.update(0, True, 0.1, image, LANDMARKS_AT_REST, AVERAGE, STRAIGHT, SHARP) == ("none", None)


def test_a_profile_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    profile.save_profile(tmp_path / "me.npz", Neutral(image, "automatic", LANDMARKS_AT_REST))
    loaded = profile.load_profile(tmp_path / "me.npz")
    np.testing.assert_array_equal(loaded.image_bgr, image)
    np.testing.assert_array_equal(loaded.landmarks, LANDMARKS_AT_REST)
    assert loaded.state == "given"
    assert [p.name for p in tmp_path.iterdir()] == ["me.npz"]


def test_a_damaged_or_foreign_profile_is_refused_in_one_line(tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    profile.save_profile(good, Neutral(np.zeros((224, 224, 3), np.uint8), "given", LANDMARKS_AT_REST))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(good.read_bytes()[:-200])
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, image_bgr=np.zeros((10, 10, 3), np.uint8))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, image_bgr=np.array([{"a": 1}], dtype=object), about=np.zeros(2, np.uint8))
    text = tmp_path / "text.npz"
    text.write_text("hello")
    for bad in (cut, foreign, pickled, text, tmp_path / "absent.npz"):
        with pytest.raises(SourceError, match=bad.name) as caught:
            profile.load_profile(bad)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["first:", "first:0", "first:-1", "first:x", "first:inf", "first:nan", "no/such.jpg"]
)
def test_a_neutral_that_cannot_be_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--neutral"):
        parse_policy(text)


def test_neutral_is_parsed(tmp_path: Path) -> None:
    assert parse_policy("auto") == NeutralPolicy("auto")
    assert parse_policy("first:2.5") == NeutralPolicy("first", first_seconds=2.5)
    photo = tmp_path / "me.png"
    cv2.imwrite(str(photo), np.zeros((4, 4, 3), np.uint8))
    assert parse_policy(str(photo)) == photo


SMILE = replace(AVERAGE, corner_lift=0.12, mouth_width=0.75)


def observe(keeper: NeutralKeeper, face: int, seconds: float, geometry: Geometry, value: int):
    """One frame of a face; its state and neutral."""
    picture = np.full((224, 224, 3), value, np.uint8)
    return keeper.update(face, True, seconds, picture, LANDMARKS_AT_REST, geometry, STRAIGHT, SHARP)


def test_a_person_who_comes_back_keeps_the_neutral_and_it_is_refined_as_before() -> None:
    keeper = NeutralKeeper(NeutralPolicy("auto"))
    for i in range(10):
        state, before = observe(keeper, 0, i * 0.3, AVERAGE, value=100)
    assert state == "automatic"
    keeper.new_epoch()
    keeper.carry(0, 4, shift_seconds=-1000.0)  # the feed's clock began anew
    state, held = observe(keeper, 4, 2.9 - 1000.0 + 0.2, AVERAGE, value=100)
    assert state == "automatic"
    assert held is not None
    assert before is not None
    np.testing.assert_array_equal(held.image_bgr, before.image_bgr)
    for i in range(12):
        state, held = observe(keeper, 4, -990.0 + i * 0.3, AVERAGE, value=100)
    assert state == "automatic"
    assert held is not None


def test_who_has_no_neutral_has_none_to_keep() -> None:
    keeper = NeutralKeeper(NeutralPolicy("auto"))
    keeper.carry(0, 1, 0.0)
    assert observe(keeper, 1, 0.0, AVERAGE, value=1) == ("estimating", None)


def test_the_button_makes_the_next_second_neutral_for_who_is_in_view() -> None:
    keeper = NeutralKeeper(NeutralPolicy("auto"))
    assert observe(keeper, 0, 0.0, SMILE, value=10)[0] == "estimating"
    keeper.take_now()
    for i in range(10):
        assert observe(keeper, 0, 1.0 + i * 0.1, SMILE, value=77)[0] == "estimating"
    state, held = observe(keeper, 0, 2.05, SMILE, value=200)
    assert state == "given"
    assert held is not None
    assert (held.image_bgr == 77).all()
    for i in range(10):  # what is gathered later does not push it out
        assert observe(keeper, 0, 3.0 + i * 0.3, AVERAGE, value=5) == ("given", held)
    assert observe(keeper, 1, 9.0, AVERAGE, value=5)[0] == "estimating"  # who comes later was not meant
