"""Scenes composed of two or three real people's heads, cut out softly and moved about on a plain backdrop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import cbook
from numpy.typing import NDArray
from skimage import data

from pipeline import mesh, tracking
from pipeline.tracking import FaceTracker, Observation, Track, appearance

Picture = NDArray[np.uint8]
CLIP = Path(__file__).parents[3] / "shared/media/WolfgangLanger_Pexels.mp4"
FPS = 25
MIDDLE = (320.0, 180.0)
FACE_PX = 150.0
"""Height of a composed face."""


@dataclass(frozen=True, eq=False)
class Head:
    """A head, 256×256, whose face is 160 px high and centred; `alpha` is 0 around it."""

    bgr: Picture
    alpha: NDArray[np.float32]


@dataclass(frozen=True)
class Shown:
    """A head in a scene: who, the middle of the face, its height in pixels."""

    head: Head
    xy: tuple[float, float] = MIDDLE
    px: float = FACE_PX
    roll_deg: float = 0.0


def cut_out(picture: Picture, points: NDArray[np.float32]) -> Head:
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    scale = 160 / (high - low).max()
    shift = np.array([128.0, 136.0]) - scale * (low + high) / 2
    bgr = mesh.warp(picture, np.column_stack([scale * np.eye(2), shift]), 256)
    alpha = np.zeros((256, 256), np.float32)
    cv2.ellipse(alpha, (128, 128), (88, 112), 0, 0, 360, 1.0, -1)
    return Head(bgr, cv2.GaussianBlur(alpha, (0, 0), 3))


def backdrop(width: int = 640, height: int = 360) -> Picture:
    ramp = np.linspace(70, 130, width)[None] + np.linspace(0, 30, height)[:, None]
    return np.repeat(ramp[..., None], 3, 2).astype(np.uint8)


def compose(*shown: Shown, on: Picture | None = None) -> Picture:
    """The heads over a backdrop, later ones in front."""
    picture = backdrop() if on is None else on.copy()
    height, width = picture.shape[:2]
    for one in shown:
        scale, angle = one.px / 160, np.radians(one.roll_deg)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        place = np.column_stack([turn, np.array(one.xy) - turn @ (128.0, 136.0)])
        # Shrinking by bilinear sampling alone would alias.
        sigma = max(0.0, 0.5 / scale - 0.5)
        soft = cv2.GaussianBlur(one.head.bgr, (0, 0), sigma) if sigma else one.head.bgr
        reach = 150 * scale
        x0, y0 = (max(0, int(v - reach)) for v in one.xy)
        x1, y1 = (min(full, int(v + reach)) for v, full in zip(one.xy, (width, height), strict=True))
        if x1 <= x0 or y1 <= y0:
            continue
        place[:, 2] -= (x0, y0)
        bgr = cv2.warpAffine(soft, place, (x1 - x0, y1 - y0), borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpAffine(one.head.alpha, place, (x1 - x0, y1 - y0))[..., None]
        part = picture[y0:y1, x0:x1]
        part[:] = (part * (1 - alpha) + bgr * alpha + 0.5).astype(np.uint8)
    return picture


def covered(picture: Picture, x: float = MIDDLE[0], side: float = 240) -> Picture:
    """A plain square before a face."""
    result = picture.copy()
    top_left, bottom_right = (
        (int(x - side / 2), int(180 - side / 2)),
        (int(x + side / 2), int(180 + side / 2)),
    )
    cv2.rectangle(result, top_left, bottom_right, (90, 120, 160), -1)
    return result


def portraits() -> dict[str, Picture]:
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        admiral = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    return {"astronaut": np.ascontiguousarray(data.astronaut()[..., ::-1]), "admiral": admiral}


@pytest.fixture(scope="module")
def any_tracker() -> Iterator[FaceTracker]:
    tracker = FaceTracker(8)
    yield tracker
    tracker.close()


@pytest.fixture(scope="module")
def heads(any_tracker: FaceTracker) -> dict[str, Head]:
    found = {}
    for name, picture in portraits().items():
        any_tracker.reset()
        (track,) = any_tracker.update(picture, 0.0)
        found[name] = cut_out(picture, track.seen.points)
    return found


@pytest.fixture(scope="module")
def ann(heads: dict[str, Head]) -> Head:
    return heads["astronaut"]


@pytest.fixture(scope="module")
def bea(heads: dict[str, Head]) -> Head:
    return heads["admiral"]


@pytest.fixture(scope="module")
def actress(any_tracker: FaceTracker) -> list[Head]:
    """A third woman, every second frame of 13 s of real footage."""
    if not CLIP.exists():
        pytest.skip(f"{CLIP} is absent: the real footage is not a part of the project")
    found: list[Head] = []
    any_tracker.reset()
    with av.open(str(CLIP)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == 320:
                break
            if index % 2 == 0:
                picture = frame.to_ndarray(format="bgr24")
                (track,) = any_tracker.update(picture, index / 24)
                found.append(cut_out(picture, track.seen.points))
    return found


def track(pictures: Sequence[Picture], max_faces: int = 4) -> list[dict[int, Observation]]:
    tracker = FaceTracker(max_faces)
    try:
        return [
            {one.face: one.seen for one in tracker.update(picture, index / FPS)}
            for index, picture in enumerate(pictures)
        ]
    finally:
        tracker.close()


def ids(seen: Sequence[dict[int, Observation]]) -> list[tuple[int, ...]]:
    """The ids in view, a repetition left out."""
    views = [tuple(one) for one in seen]
    return [view for index, view in enumerate(views) if index == 0 or view != views[index - 1]]


def owners(
    seen: Sequence[dict[int, Observation]], truth: Sequence[Sequence[tuple[float, float]]]
) -> dict[int, set[int]]:
    """By id: which people it stood for. Frames in which faces overlap are nobody's word."""
    result: dict[int, set[int]] = {}
    for faces, places in zip(seen, truth, strict=True):
        gaps = [np.hypot(*np.subtract(a, b)) for i, a in enumerate(places) for b in places[:i]]
        if gaps and min(gaps) < 0.75 * FACE_PX:
            continue
        for face, observation in faces.items():
            away = [np.hypot(*np.subtract(tracking._center(observation), xy)) for xy in places]
            result.setdefault(face, set()).add(int(np.argmin(away)))
    return result


def people_keep_to_their_ids(
    seen: list[dict[int, Observation]], truth: list[list[tuple[float, float]]]
) -> bool:
    return all(len(who) == 1 for who in owners(seen, truth).values())


# Following


def test_two_people_side_by_side(ann: Head, bea: Head) -> None:
    frames = [compose(Shown(ann, (180.0 + i, 180.0)), Shown(bea, (440.0, 180.0 + i))) for i in range(12)]
    assert ids(track(frames)) == [(0, 1)]


@pytest.mark.parametrize("step_px", [8, 16, 30])
@pytest.mark.parametrize("swap_roles", [False, True])
def test_ids_never_swap_when_one_passes_in_front_and_returns(
    ann: Head, bea: Head, step_px: int, swap_roles: bool
) -> None:
    behind, before = (bea, ann) if swap_roles else (ann, bea)
    way = np.arange(140, 501, step_px).tolist()
    truth = [[(320.0, 180.0), (float(x), 183.0)] for x in way + way[::-1] + [way[0]] * 8]
    frames = [compose(Shown(behind, a), Shown(before, b)) for a, b in truth]
    seen = track(frames)
    assert people_keep_to_their_ids(seen, truth)
    assert len(seen[-1]) == 2
    assert max(face for faces in seen for face in faces) <= 4
    (in_front,) = (face for face, who in owners(seen, truth).items() if who == {1})
    assert all(in_front in faces for faces in seen), "nothing ever covered this one"


@pytest.mark.parametrize("step_px", [8, 16])
def test_two_people_who_swap_sides_keep_their_ids(ann: Head, bea: Head, step_px: int) -> None:
    way = np.arange(140, 501, step_px).tolist()
    way += [way[-1]] * 8
    truth = [[(float(x), 180.0), (640.0 - x, 183.0)] for x in way]
    seen = track([compose(Shown(ann, a), Shown(bea, b)) for a, b in truth])
    assert people_keep_to_their_ids(seen, truth)
    assert set(seen[-1]) == {0, 1}


def test_with_one_place_the_id_of_a_covered_face_does_not_pass_to_the_one_before_it(
    ann: Head, bea: Head
) -> None:
    truth = [[(320.0, 180.0), (100.0 + 4 * i, 183.0)] for i in range(110)]
    seen = track([compose(Shown(ann, a), Shown(bea, b)) for a, b in truth], max_faces=1)
    assert people_keep_to_their_ids(seen, truth)
    assert any(seen)


def test_shake_with_motion_blur_zoom_and_steps_of_the_light(ann: Head, bea: Head) -> None:
    for head in (ann, bea):
        frames = []
        for i in range(14):
            moments = [320 + 70 * np.sin(2 * np.pi * (i + k / 8) / 10) for k in range(4)]
            blurred = np.mean([compose(Shown(head, (x, 180.0))) for x in moments], axis=0)
            frames.append(blurred.astype(np.uint8))
        sizes = [150 * 0.88 ** min(i, 24 - i) for i in range(24)]
        frames += [compose(Shown(head, px=px)) for px in sizes]
        for gain in (1.0, 0.5, 1.6, 1.0):
            frames += [np.clip(compose(Shown(head)) * gain, 0, 255).astype(np.uint8)] * 3
        assert ids(track(frames)) == [(0,)]


def test_a_head_that_turns_far_keeps_its_id() -> None:
    from train.synth.donor import load_donor
    from train.synth.pose import Pose
    from train.synth.render import Renderer

    renderer = Renderer(load_donor())
    swings = [np.sin(2 * np.pi * i / 24) for i in range(25)]
    frames = [renderer.render({}, Pose(yaw_deg=40 * s)) for s in swings]
    frames += [renderer.render({}, Pose(pitch_deg=20 * s, roll_deg=35 * s)) for s in swings[::2]]
    assert ids(track(frames)) == [(0,)]


def test_real_footage_of_one_woman_is_one_id(actress: list[Head]) -> None:
    assert ids(track([compose(Shown(head)) for head in actress])) == [(0,)]


def test_real_footage_crossing_never_swaps(actress: list[Head], ann: Head) -> None:
    way = np.arange(140, 501, 16).tolist()
    truth = [[(320.0, 180.0), (float(x), 183.0)] for x in way + way[::-1]]
    frames = [compose(Shown(actress[i], a), Shown(ann, b)) for i, (a, b) in enumerate(truth)]
    assert people_keep_to_their_ids(track(frames), truth)


# Losing and returning


@pytest.mark.parametrize(("seconds", "after"), [(0.2, 0), (0.5, 0), (0.9, 0), (1.5, 1), (3.0, 1)])
@pytest.mark.parametrize("who", ["astronaut", "admiral"])
def test_a_covered_face_returns_within_a_second_or_is_new(
    heads: dict[str, Head], who: str, seconds: float, after: int
) -> None:
    clear = compose(Shown(heads[who]))
    frames = [clear] * 6 + [covered(clear)] * round(seconds * FPS) + [clear] * 4
    assert ids(track(frames)) == [(0,), (), (after,)]


def test_whoever_takes_a_covered_persons_place_is_new(ann: Head, bea: Head) -> None:
    for gone, come in ((ann, bea), (bea, ann)):
        before, after = compose(Shown(gone)), compose(Shown(come))
        assert ids(track([before] * 6 + [covered(before)] * 10 + [after] * 6)) == [(0,), (), (1,)]


def test_a_face_that_comes_back_where_it_cannot_have_gone_is_new(ann: Head) -> None:
    away = [backdrop()] * 15
    here, there = compose(Shown(ann, (80.0, 180.0), 100)), compose(Shown(ann, (560.0, 180.0), 100))
    assert ids(track([here] * 5 + away + [there] * 3)) == [(0,), (), (1,)]


def test_a_face_that_slides_in_at_the_edge_is_begun_once(ann: Head, bea: Head) -> None:
    for head in (ann, bea):
        seen = track([compose(Shown(head, (690.0 - 5 * i, 180.0))) for i in range(40)])
        assert ids(seen) == [(), (0,)]


# Cuts and dissolves


def test_a_cut_to_somebody_else_is_a_new_id_at_once(ann: Head, bea: Head) -> None:
    a, b = compose(Shown(ann)), compose(Shown(bea))
    for here, there in ((a, b), (b, a)):
        seen = track([here] * 5 + [there] * 5)
        assert [tuple(one) for one in seen] == [(0,)] * 5 + [(1,)] * 5


def test_a_cut_back_within_a_second_returns_the_id_and_later_does_not(ann: Head, bea: Head) -> None:
    a, b = compose(Shown(ann)), compose(Shown(bea))
    assert ids(track([a] * 5 + [b] * 10 + [a] * 5)) == [(0,), (1,), (0,)]
    assert ids(track([a] * 5 + [b] * 30 + [a] * 5)) == [(0,), (1,), (2,)]


@pytest.mark.parametrize("frames_long", [4, 12, 25])
@pytest.mark.parametrize("same_room", [True, False])
def test_a_dissolve_into_somebody_else_is_a_new_id(
    ann: Head, bea: Head, frames_long: int, same_room: bool
) -> None:
    other_room = backdrop() if same_room else backdrop()[:, ::-1]
    for here, there in ((ann, bea), (bea, ann)):
        frames = []
        for i in range(24 + frames_long):
            mix = np.clip((i - 11) / frames_long, 0, 1)
            one = compose(Shown(here, (320.0 + i / 4, 180.0)))
            other = compose(Shown(there, (330.0 + i / 4, 176.0), 156), on=other_room)
            frames.append((one * (1 - mix) + other * mix).astype(np.uint8))
        seen = track(frames)
        assert set(seen[11]) == {0}
        assert len(seen[-1]) == 1
        assert 0 not in seen[-1]


vectors = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(0, 9, (3, 1024)))


@given(vectors, st.floats(0.3, 0.7))
def test_a_sum_is_told_from_an_unrelated_picture(three: NDArray[np.float64], share: float) -> None:
    before, now, unrelated = three.astype(np.float32)
    middle = ((1 - share) * before + share * now).astype(np.float32)
    assert tracking._is_sum(middle, before, now)
    assert not tracking._is_sum(unrelated, before, now)
    assert not tracking._is_sum(now, before, now)


@given(st.floats(1.1, 1.6), st.floats(0, 6))
def test_a_moving_wave_is_no_sum(phase: float, start: float) -> None:
    x = np.linspace(0, 60, 1024)
    before, middle, now = (np.sin(x + start + k * phase / 2).astype(np.float32) for k in range(3))
    assert not tracking._is_sum(middle, before, now)


# Beginning


def test_the_most_certain_faces_get_the_places_and_keep_them(ann: Head, bea: Head) -> None:
    places = [(100.0, 90.0), (320.0, 90.0), (540.0, 90.0), (100.0, 270.0), (320.0, 270.0), (540.0, 270.0)]
    sizes = [110, 130, 120, 80, 70, 64]

    def scene(without: int | None = None) -> Picture:
        shown = [
            Shown((ann, bea)[k % 2], xy, px, 2.0 * k)
            for k, (xy, px) in enumerate(zip(places, sizes, strict=True))
            if k != without
        ]
        return compose(*shown)

    seen = track([scene()] * 12 + [scene(without=0)] * 40)
    assert all(tuple(one) == (0, 1, 2, 3) for one in seen[:12])
    nearest = [
        min(range(6), key=lambda k: np.hypot(*np.subtract(tracking._center(one), places[k])))
        for one in seen[0].values()
    ]
    assert {0, 1, 2} <= set(nearest)
    (gone,) = set(seen[11]) - set(seen[12])
    assert set(seen[-1]) == {0, 1, 2, 3, 4} - {gone}


@pytest.mark.parametrize(("width", "height", "px"), [(640, 360, 40), (1920, 1080, 100), (3840, 2160, 200)])
def test_small_faces_are_found(
    ann: Head, bea: Head, any_tracker: FaceTracker, width: int, height: int, px: float
) -> None:
    for head in (ann, bea):
        any_tracker.reset()
        picture = compose(Shown(head, (0.37 * width, 0.5 * height), px), on=backdrop(width, height))
        assert len(any_tracker.update(picture, 0.0)) == 1


@pytest.mark.parametrize("roll_deg", [-45, -20, 20, 45])
def test_faces_that_lean_are_found(ann: Head, bea: Head, any_tracker: FaceTracker, roll_deg: float) -> None:
    for head in (ann, bea):
        any_tracker.reset()
        assert len(any_tracker.update(compose(Shown(head, roll_deg=roll_deg)), 0.0)) == 1


def test_pictures_without_a_face(any_tracker: FaceTracker) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (360, 640, 3), dtype=np.uint8)
    pictures = [backdrop(), noise, cv2.GaussianBlur(noise, (0, 0), 2), np.zeros((360, 640, 3), np.uint8)]
    for name in ("coffee", "rocket", "chelsea", "brick", "coins", "page", "colorwheel"):
        picture = getattr(data, name)()
        colour = np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture[..., :3]
        pictures += [colour, np.rot90(cv2.resize(colour, None, fx=0.5, fy=0.5), 3)]
    pictures += [cv2.resize(data.colorwheel()[..., ::-1], None, fx=s, fy=s) for s in (0.5, 1, 2)]
    for picture in pictures:
        any_tracker.reset()
        assert any_tracker.update(np.ascontiguousarray(picture), 0.0) == []


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (16, 16), (1, 2000), (2000, 1)])
def test_tiny_pictures(any_tracker: FaceTracker, shape: tuple[int, int]) -> None:
    any_tracker.reset()
    for _ in range(2):
        assert any_tracker.update(np.full((*shape, 3), 90, np.uint8), 0.0) == []


def test_a_picture_may_change_its_size_after_a_reset(ann: Head) -> None:
    tracker = FaceTracker(4)
    try:
        (first,) = tracker.update(compose(Shown(ann)), 0.0)
        tracker.reset()
        (second,) = tracker.update(compose(Shown(ann), on=backdrop(500, 400)), 0.04)
    finally:
        tracker.close()
    assert (first.face, second.face) == (0, 1), "ids go on counting"


# Invariants


def test_two_meshes_on_one_face_become_one(ann: Head, bea: Head) -> None:
    tracker = FaceTracker(4)
    try:
        picture = compose(Shown(ann))
        (right,) = tracker.update(picture, 0.0)
        shifted = right.seen._replace(points=right.seen.points + np.float32(6))
        other = tracker._observe(compose(Shown(bea)), mesh.region_of(right.seen.points))
        intruder = Track(7, shifted, 0.0)
        intruder.gallery = [other.appearance]
        tracker._present.append(intruder)
        assert [one.face for one in tracker.update(picture, 0.04)] == [0]
    finally:
        tracker.close()


def test_a_mesh_that_slid_off_its_face_is_noticed(ann: Head, bea: Head) -> None:
    tracker = FaceTracker(1)
    try:
        picture = compose(Shown(ann))
        (mine,) = tracker.update(picture, 0.0)
        other = tracker._observe(compose(Shown(bea)), mesh.region_of(mine.seen.points))
        slid = Track(5, mine.seen._replace(appearance=other.appearance), 0.0)
        regions = tracker._detector(picture)
        for one, finds, kept in ((mine, regions, True), (slid, [], True), (slid, regions, False)):
            tracker._present = [one]
            tracker._check(picture, finds)
            assert (tracker._present == [one]) is kept
    finally:
        tracker.close()


def test_a_face_that_resembles_two_missing_people_is_somebody_new(ann: Head) -> None:
    tracker = FaceTracker(4)
    try:
        picture = compose(Shown(ann))
        (first,) = tracker.update(picture, 0.0)
        twin = Track(1, first.seen, 0.0)
        for missing, expected in (([first], 0), ([first, twin], 2)):
            tracker._next_face = 2
            tracker._present, tracker._lost = [], list(missing)
            assert [one.face for one in tracker.update(picture, 0.04)] == [expected]
    finally:
        tracker.close()


def test_same_frames_same_result(ann: Head, bea: Head) -> None:
    frames = [
        compose(Shown(ann, (180.0 + 9 * i, 180.0)), Shown(bea, (440.0 - 9 * i, 183.0))) for i in range(30)
    ]
    for one, other in zip(track(frames), track(frames), strict=True):
        assert list(one) == list(other)
        for face, observation in one.items():
            assert np.array_equal(observation.points, other[face].points)
            assert observation.presence == other[face].presence


def test_a_still_picture_keeps_still(ann: Head) -> None:
    seen = track([compose(Shown(ann))] * 12)
    points = np.array([faces[0].points[:, :2] for faces in seen])
    moved = np.linalg.norm(np.diff(points, axis=0), axis=2).mean(1)
    assert moved[-4:].max() < 0.002 * FACE_PX


def test_appearance_is_of_unit_length_and_blind_to_exposure(ann: Head) -> None:
    face = cv2.resize(ann.bgr, (224, 224))
    dark = (face * 0.5 + 20).astype(np.uint8)
    assert np.linalg.norm(appearance(face)) == pytest.approx(1.0, abs=1e-5)
    assert appearance(face) @ appearance(dark) > 0.9
    assert np.isfinite(appearance(np.zeros((224, 224, 3), np.uint8))).all()
