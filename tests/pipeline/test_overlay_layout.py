from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pipeline.overlay_layout import Rect, area, arrange, clipped, gap, glide, overlap, within

ROOM = (4, 24, 636, 356)
MARGIN = 6

numbers = st.integers(-900, 900)
corners = st.tuples(st.integers(0, 600), st.integers(0, 320))
sizes = st.tuples(st.integers(2, 300), st.integers(2, 300))


def rect(xy: tuple[int, int], size_wh: tuple[int, int]) -> Rect:
    return (*xy, xy[0] + size_wh[0], xy[1] + size_wh[1])


def inside(inner: Rect, outer: Rect) -> bool:
    return overlap(inner, outer) == area(inner)


rects = st.builds(rect, corners, sizes)


@given(rects, rects)
def test_rectangles_either_overlap_or_stand_apart(a: Rect, b: Rect) -> None:
    assert overlap(a, b) == overlap(b, a) <= min(area(a), area(b))
    assert gap(a, b) == gap(b, a)
    assert not (overlap(a, b) and gap(a, b))
    assert overlap(a, a) == area(a)


@given(*[st.floats(-2000, 2000)] * 2, *[st.floats(0, 2000)] * 2, st.integers(0, 3))
def test_clipped_boxes_lie_in_the_picture(x: float, y: float, width: float, height: float, pad: int) -> None:
    box = (x, y, x + width, y + height)
    x1, y1, x2, y2 = clipped(box, (640, 360), pad)
    assert 0 <= x1 <= x2 - 2
    assert 0 <= y1 <= y2 - 2
    assert x2 <= 640
    assert y2 <= 360
    if box[0] >= 0 and box[1] >= 0 and box[2] <= 640 and box[3] <= 360:
        assert (x1, y1) <= (math.floor(box[0]), math.floor(box[1]))
        assert x2 >= box[2]
        assert y2 >= box[3]


@given(st.tuples(numbers, numbers), sizes)
def test_within_keeps_the_size_and_what_lies_inside(xy: tuple[int, int], size_wh: tuple[int, int]) -> None:
    placed = within(xy, size_wh, ROOM)
    assert (placed[2] - placed[0], placed[3] - placed[1]) == size_wh
    assert inside(placed, ROOM)
    if inside(rect(xy, size_wh), ROOM):
        assert placed[:2] == xy


@given(st.tuples(numbers, numbers), st.tuples(numbers, numbers), st.integers(1, 100))
def test_gliding_ends_at_the_goal(xy: tuple[int, int], goal: tuple[int, int], reach: int) -> None:
    def distance(at: tuple[int, int]) -> int:
        return max(abs(at[0] - goal[0]), abs(at[1] - goal[1]))

    for _ in range(20):
        after = glide(xy, goal, reach)
        assert distance(after) < distance(xy) or xy == goal
        assert distance(xy) > reach or distance(after) >= distance(xy) * 3 // 4
        xy = after
    assert xy == goal


@given(st.lists(st.tuples(rects, st.none() | corners), min_size=1, max_size=5), sizes)
def test_panels_stand_in_the_room(
    faces: list[tuple[Rect, tuple[int, int] | None]], size_wh: tuple[int, int]
) -> None:
    boxes, lasts = [box for box, _ in faces], [last for _, last in faces]
    placed, covered = arrange([size_wh] * len(faces), boxes, lasts, ROOM, MARGIN)
    assert len(placed) == len(covered) == len(faces)
    assert all(inside(panel, ROOM) for panel in placed)
    assert all(hidden >= 0 for hidden in covered)


def test_panels_stand_beside_their_faces_and_cover_none() -> None:
    boxes = [(60, 100, 160, 230), (400, 100, 500, 230)]
    placed, covered = arrange([(120, 150)] * 2, boxes, [None, None], ROOM, MARGIN)
    assert covered == [0, 0]
    for i, panel in enumerate(placed):
        assert gap(panel, boxes[i]) <= 2 * MARGIN
        assert gap(panel, boxes[1 - i]) > 2 * MARGIN
        assert sum(overlap(panel, box) for box in boxes) == 0
    assert overlap(*placed) == 0


def test_a_panel_stays_until_its_face_comes_over_it_or_goes_away() -> None:
    size_wh, box = (120, 150), (300, 100, 400, 230)
    ((first,), _) = arrange([size_wh], [box], [None], ROOM, MARGIN)

    def moved(dx: int) -> Rect:
        shifted = (box[0] + dx, box[1], box[2] + dx, box[3])
        ((panel,), _) = arrange([size_wh], [shifted], [first[:2]], ROOM, MARGIN)
        return panel

    assert first[0] == box[2] + MARGIN
    assert moved(2 * MARGIN) == moved(-2 * MARGIN) == first
    assert moved(6 * MARGIN) != first
    assert moved(-20 * MARGIN) != first


def test_a_panel_prefers_its_own_face_to_a_neighbour() -> None:
    own, other = (250, 100, 320, 230), (450, 100, 520, 230)
    placed, _ = arrange([(110, 150)] * 2, [own, other], [None, None], ROOM, MARGIN)
    assert gap(placed[0], own) < gap(placed[0], other)
    assert gap(placed[1], other) < gap(placed[1], own)
