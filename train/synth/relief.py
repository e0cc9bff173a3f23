"""The relief of one person's skin: furrows and bulges as maps in the texture, added up frame by frame.

A map holds log brightness, read twice: as what a hollow swallows of the light from all around, and, through
its slope, as what turns the skin towards a lamp or away from it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.head import TEXTURE_SPAN, Head, to_texture_px
from train.synth.marks import MARKS, RESTING, Furrow, Mark

RELIEF_PX = 384
_PX = RELIEF_PX / TEXTURE_SPAN
_ALWAYS = ("sockets", "nose", "mouth")
LID_FOLD = "lid fold"


class Relief:
    """Marks of one person: each a patch of the map, right and left apart."""

    def __init__(self, head: Head, rng: np.random.Generator, age: float) -> None:
        deep = (0.75 + 0.75 * age) * rng.lognormal(0, 0.3)
        at = head.texture_xy
        self.resting = np.zeros((RELIEF_PX, RELIEF_PX), np.float32)
        self._patches: dict[tuple[str, int], tuple[int, int, NDArray[np.float32]]] = {}
        for name, marks in MARKS.items():
            own = deep * rng.lognormal(0, 0.25)
            keep = [mark for mark in marks if rng.random() < 0.72 + 0.25 * age]
            self._paint_both(name, keep or list(marks), at, rng, own)
            if rng.random() < 0.75:  # what a face often does stays behind in it
                self._leave(name, float(rng.uniform(0, 0.55)) * max(age - 0.15, 0.03))
        for name in (*_ALWAYS, "nasolabial", "marionette", "bags"):
            strength = rng.uniform(0.5, 1.2) if name in _ALWAYS else 1.3 * age * rng.uniform(0, 1)
            if name in ("nasolabial", "bags"):
                strength += rng.uniform(0, 0.4)
            self._paint_both(name, RESTING[name], at, rng, 1.0)
            self._leave(name, float(strength))
            for side in (0, 1):
                del self._patches[name, side]
        self._paint_both(LID_FOLD, RESTING[LID_FOLD], at, rng, float(rng.uniform(0.0, 1.5)))

    def at(self, intensities: Mapping[str, Sequence[float]]) -> NDArray[np.float32]:
        """{"AU04": (right, left), …} → (RELIEF_PX, RELIEF_PX) float32 log brightness."""
        total = self.resting.copy()
        for name, sides in intensities.items():
            for side, intensity in enumerate(sides):
                if intensity and (name, side) in self._patches:
                    x, y, patch = self._patches[name, side]
                    _add(total, patch, x, y, np.float32(intensity))
        return total

    def _leave(self, name: str, share: float) -> None:
        for side in (0, 1):
            x, y, patch = self._patches[name, side]
            _add(self.resting, patch, x, y, np.float32(share))

    def _paint_both(
        self,
        name: str,
        marks: Sequence[Mark],
        at: NDArray[np.float64],
        rng: np.random.Generator,
        strength: float,
    ) -> None:
        shared = rng.normal(0, 0.010, (len(marks), 2))
        for side in (0, 1):
            drawn = np.zeros((RELIEF_PX, RELIEF_PX), np.float32)
            low, high = [RELIEF_PX, RELIEF_PX], [0, 0]
            for mark, moved in zip(marks, shared, strict=True):
                box = _draw(drawn, mark, side, at, rng, moved, strength)
                low = [min(low[i], box[i]) for i in (0, 1)]
                high = [max(high[i], box[i + 2]) for i in (0, 1)]
            self._patches[name, side] = (low[0], low[1], drawn[low[1] : high[1], low[0] : high[0]].copy())


def slopes(relief: NDArray[np.float32]) -> NDArray[np.float32]:
    """(S, S) → (S, S, 3): the relief and its slope to the right and down, per face unit."""
    out = np.empty((*relief.shape, 3), np.float32)
    _slopes(relief, np.float32(_PX / 2), out)
    return out


def _draw(
    out: NDArray[np.float32],
    mark: Mark,
    side: int,
    at: NDArray[np.float64],
    rng: np.random.Generator,
    moved: NDArray[np.float64],
    strength: float,
) -> tuple[int, int, int, int]:
    """Paints one half of a mark; returns the box x0, y0, x1, y1 that it lies in."""
    sign = 1.0 if side else -1.0

    def place(point: int, outward: float, down: float) -> NDArray[np.float64]:
        here = lm.MIRROR.get(point, point) if side else point
        return at[here] + (sign * (outward + moved[0]), down + moved[1]) + rng.normal(0, 0.004, 2)

    own = strength * rng.lognormal(0, 0.15)
    if isinstance(mark, Furrow):
        knots = np.array([place(*knot) for knot in mark.path])
        if mark.path[-1][1] == 0 and mark.path[-1][0] not in lm.MIRROR:
            knots[-1, 0] = 0.0  # both halves meet on the midline
        knots = to_texture_px(_smooth(knots), RELIEF_PX)
        width = mark.width * _PX * rng.lognormal(0, 0.2)
        meets = bool(mark.path[-1][0] not in lm.MIRROR)
        box = _box(knots, 5 * width)
        if meets:  # at the midline, each half ends where the other begins
            middle = RELIEF_PX // 2
            box = (max(box[0], middle), *box[1:]) if side else (*box[:2], min(box[2], middle), box[3])
        _furrow(out, knots, width, mark.depth * own, meets, *box)
        return box
    centre = to_texture_px(place(*mark.at), RELIEF_PX)
    sx, sy = (size * _PX * rng.lognormal(0, 0.12) for size in mark.size_wh)
    if mark.at[0] not in lm.MIRROR and mark.at[1] == 0:
        own *= 0.5  # a bulge on the midline is painted from both sides
    box = _box(centre[None], 3 * max(sx, sy))
    _bulge(out, centre[0], centre[1], sx, sy, mark.light * own, *box)
    return box


def _box(points: NDArray[np.float64], margin: float) -> tuple[int, int, int, int]:
    low = np.clip(np.floor(points.min(axis=0) - margin), 0, RELIEF_PX - 1).astype(int)
    high = np.clip(np.ceil(points.max(axis=0) + margin) + 1, 1, RELIEF_PX).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _smooth(knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two rounds of corner cutting."""
    for _ in range(2 if len(knots) > 2 else 0):
        cut = np.stack([0.75 * knots[:-1] + 0.25 * knots[1:], 0.25 * knots[:-1] + 0.75 * knots[1:]], 1)
        knots = np.concatenate([knots[:1], cut.reshape(-1, 2), knots[-1:]])
    return knots


@njit(cache=True, fastmath=True)
def _furrow(out, knots, width, depth, meets, x0, y0, x1, y1):  # type: ignore[no-untyped-def]
    """A valley along a line, thinning out at its ends, between two low ridges."""
    count = knots.shape[0]
    length = 0.0
    for k in range(count - 1):
        length += np.hypot(knots[k + 1, 0] - knots[k, 0], knots[k + 1, 1] - knots[k, 1])
    for y in range(y0, y1):
        for x in range(x0, x1):
            best, along, walked = 1e9, 0.0, 0.0
            for k in range(count - 1):
                dx, dy = knots[k + 1, 0] - knots[k, 0], knots[k + 1, 1] - knots[k, 1]
                square = dx * dx + dy * dy + 1e-9
                t = min(max(((x - knots[k, 0]) * dx + (y - knots[k, 1]) * dy) / square, 0.0), 1.0)
                ex, ey = x - knots[k, 0] - t * dx, y - knots[k, 1] - t * dy
                distance = ex * ex + ey * ey
                if distance < best:
                    best, along = distance, walked + t * np.sqrt(square)
                walked += np.sqrt(square)
            d = np.sqrt(best) / width
            if d > 5.0:
                continue
            end = along if meets else min(along, length - along)
            fade = min(end / (0.16 * length + 1e-6), 1.0)
            valley = np.exp(-0.5 * d * d)
            ridge = np.exp(-0.5 * ((d - 2.2) / 0.9) ** 2)
            out[y, x] += depth * fade * (0.22 * ridge - valley)


@njit(cache=True, fastmath=True)
def _bulge(out, cx, cy, sx, sy, light, x0, y0, x1, y1):  # type: ignore[no-untyped-def]
    for y in range(y0, y1):
        for x in range(x0, x1):
            out[y, x] += light * np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))


@njit(cache=True)
def _add(total, patch, x0, y0, share):  # type: ignore[no-untyped-def]
    for y in range(patch.shape[0]):
        for x in range(patch.shape[1]):
            total[y0 + y, x0 + x] += share * patch[y, x]


@njit(cache=True)
def _slopes(relief, scale, out):  # type: ignore[no-untyped-def]
    size = relief.shape[0]
    for y in range(size):
        above, below = max(y - 1, 0), min(y + 1, size - 1)
        for x in range(size):
            before, after = max(x - 1, 0), min(x + 1, size - 1)
            out[y, x, 0] = relief[y, x]
            out[y, x, 1] = (relief[y, after] - relief[y, before]) * scale
            out[y, x, 2] = (relief[below, x] - relief[above, x]) * scale
