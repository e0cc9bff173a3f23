"""Where the overlay's panels stand: rectangles and their distances, nothing drawn."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

Rect = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels; x2 and y2 lie outside."""


def clipped(box_xyxy: Sequence[float], size_wh: tuple[int, int], pad: int = 0) -> Rect:
    """A box rounded outwards, widened by `pad` and cut to a picture; at least 2 px wide and high."""
    low = [min(max(int(v) - pad, 0), size - 2) for v, size in zip(box_xyxy[:2], size_wh, strict=True)]
    high = [ceil(v) + pad for v in box_xyxy[2:]]
    x2, y2 = (min(max(v, lo + 2), size) for v, lo, size in zip(high, low, size_wh, strict=True))
    return low[0], low[1], x2, y2


def area(rect: Rect) -> int:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])


def overlap(a: Rect, b: Rect) -> int:
    """The area that two rectangles share, in px²."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0


def gap(a: Rect, b: Rect) -> int:
    """Distance between two rectangles along the axis in which they are further apart; 0 when they touch."""
    return max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3], 0)


def within(xy: tuple[int, int], size_wh: tuple[int, int], room: Rect) -> Rect:
    """The rectangle with its top left corner at `xy`, or as near to it as `room` allows."""
    (x, y), (width, height) = xy, size_wh
    x = min(max(x, room[0]), room[2] - width)
    y = min(max(y, room[1]), room[3] - height)
    return x, y, x + width, y + height


def glide(xy: tuple[int, int], goal_xy: tuple[int, int], reach: int) -> tuple[int, int]:
    """A quarter of the way on to the goal, 1 px at least; at once when it is further away than `reach`."""
    dx, dy = goal_xy[0] - xy[0], goal_xy[1] - xy[1]
    if max(abs(dx), abs(dy)) > reach:
        return goal_xy
    return xy[0] + _away_from_zero(dx / 4), xy[1] + _away_from_zero(dy / 4)


def _away_from_zero(length: float) -> int:
    return ceil(length) if length > 0 else floor(length)


def arrange(
    sizes_wh: Sequence[tuple[int, int]],
    boxes: Sequence[Rect],
    lasts_xy: Sequence[tuple[int, int] | None],
    room: Rect,
    margin: int,
) -> tuple[list[Rect], list[int]]:
    """Places of panels, one for each face's box, and what each covers of faces and other panels, in px².

    `lasts_xy` is where the panels stood in the frame before; `room` is large enough for each of them. One
    panel is placed after the other, from the left and from the right, and what turns out better is taken.
    """
    forward = range(len(boxes))
    attempts = []
    # Once the panels stand, they hardly move, and one pass is enough.
    for order in (forward,) if all(lasts_xy) or len(boxes) == 1 else (forward, forward[::-1]):
        placed: dict[int, tuple[Rect, int, int]] = {}
        for i in order:
            others = [rect for rect, _, _ in placed.values()]
            placed[i] = _place(sizes_wh[i], i, boxes, others, room, lasts_xy[i], margin)
        attempts.append([placed[i] for i in forward])
    best = min(attempts, key=lambda attempt: sum(cost for _, _, cost in attempt))
    return [rect for rect, _, _ in best], [covered for _, covered, _ in best]


def _place(
    size_wh: tuple[int, int],
    own: int,
    boxes: Sequence[Rect],
    panels: Sequence[Rect],
    room: Rect,
    last_xy: tuple[int, int] | None,
    margin: int,
) -> tuple[Rect, int, int]:
    """Where a panel covers least of faces and other panels and stands near to its face, or to where it was;
    with the area that it covers, in px², and what that place costs."""
    width, height = size_wh
    box = boxes[own]
    xs = (box[2] + margin, box[0] - margin - width, box[0], box[2] - width, room[0], room[2] - width)
    middle = (box[1] + box[3] - height) // 2
    above, below = box[1] - margin - height, box[3] + margin
    ys = (box[1], middle, box[3] - height, below, above, room[1], room[3] - height)
    candidates = [(x, y) for x in xs for y in ys]
    slack = 0
    if last_xy is not None:
        candidates.append(last_xy)
        slack = margin  # a panel that stands may come to lie a little over its face's edge before it moves
    inner = (box[0] + slack, box[1] + slack, box[2] - slack, box[3] - slack)
    # Its own face counts twice.
    avoid = [inner, *panels, *panels, *(inner if i == own else face for i, face in enumerate(boxes))]

    def covered(rect: Rect) -> int:
        return sum(overlap(rect, other) for other in avoid)

    def cost(rect: Rect) -> int:
        # A little away is near enough: a panel need not follow every movement of its face.
        away = 4 * max(0, gap(rect, box) - 4 * margin)
        # Next to somebody else's face it would seem to be theirs.
        away += sum(
            4 * margin for i, face in enumerate(boxes) if i != own and gap(rect, face) <= gap(rect, box)
        )
        if last_xy is not None:
            away += abs(rect[0] - last_xy[0]) + abs(rect[1] - last_xy[1])
        return covered(rect) + away * margin

    best = min((within(xy, size_wh, room) for xy in candidates), key=cost)
    return best, covered(best), cost(best)
