"""The colour of one person's skin: tone, complexion, lips, lids, freckles, make-up, as a texture.

Colours are BGR on a scale of 0–1, as a screen wants them (gamma 2); the shader squares them.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.drawing import blur, line, polygon
from train.synth.head import TEXTURE_PX, Head, to_texture_px
from train.synth.noise import noise
from train.synth.person import Person

_UNIT_PX = TEXTURE_PX / 2.4

# From the lightest skin to the darkest, as cameras show it in plain light (R, G, B of 255).
_TONES_RGB = np.array(
    [
        (246, 222, 208),
        (240, 205, 184),
        (231, 187, 160),
        (219, 168, 136),
        (203, 149, 115),
        (180, 126, 92),
        (152, 101, 71),
        (122, 79, 56),
        (94, 61, 45),
        (66, 44, 35),
    ],
    np.float32,
)

_REGIONS: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "cheeks": ((-0.45, 0.36, 0.17, 0.13), (0.45, 0.36, 0.17, 0.13)),
    "nose": ((0.0, 0.30, 0.11, 0.12),),
    "chin": ((0.0, 0.88, 0.20, 0.12),),
    "forehead": ((0.0, -0.38, 0.40, 0.12),),
    "under eyes": ((-0.34, 0.09, 0.15, 0.045), (0.34, 0.09, 0.15, 0.045)),
    "lids": ((-0.345, -0.07, 0.16, 0.05), (0.345, -0.07, 0.16, 0.05)),
    "moustache": ((0.0, 0.50, 0.24, 0.05),),
    "jaw": ((-0.45, 0.75, 0.16, 0.20), (0.45, 0.75, 0.16, 0.20), (0.0, 0.92, 0.3, 0.12)),
}


@dataclass(frozen=True)
class Complexion:
    """bgr: (TEXTURE_PX, TEXTURE_PX, 3) float32 0–1; tone_bgr: (3,) its mean; gloss: 0 dull … 1 oily."""

    bgr: NDArray[np.float32]
    tone_bgr: NDArray[np.float32]
    gloss: float


@lru_cache(maxsize=1)
def region_masks() -> dict[str, NDArray[np.float32]]:
    """{"cheeks": (TEXTURE_PX, TEXTURE_PX) float32 in 0–1, …} on the mean head."""
    y, x = np.indices((TEXTURE_PX, TEXTURE_PX), dtype=np.float32)
    masks = {}
    for name, spots in _REGIONS.items():
        total = np.zeros_like(x)
        for cx, cy, sx, sy in spots:
            px, py = to_texture_px(np.array([cx, cy]))
            away = ((x - px) / (sx * _UNIT_PX)) ** 2 + ((y - py) / (sy * _UNIT_PX)) ** 2
            total = np.maximum(total, np.exp(-0.5 * away, dtype=np.float32))
        masks[name] = total
    return masks


def paint_skin(
    person: Person, head: Head, rng: np.random.Generator, detail: NDArray[np.float32] | None
) -> Complexion:
    """detail: (TEXTURE_PX, TEXTURE_PX, 3) float32 around 1, the donor's texture over its mean; or None."""
    darkness = float(rng.uniform(0, len(_TONES_RGB) - 1))
    k = min(int(darkness), len(_TONES_RGB) - 2)
    tone = (_TONES_RGB[k] + (darkness - k) * (_TONES_RGB[k + 1] - _TONES_RGB[k]))[::-1] / 255
    tone = tone * rng.normal(1, (0.05, 0.025, 0.02)).astype(np.float32)
    masks = region_masks()
    rough = 0.4 + 0.9 * person.age * rng.random() + 0.3 * rng.random()
    bgr = np.empty((TEXTURE_PX, TEXTURE_PX, 3), np.float32)
    light = 1 + 0.025 * rough * noise("cloud", TEXTURE_PX, rng)
    light += 0.022 * rough * rng.random() * noise("blotches", TEXTURE_PX, rng)
    light += 0.030 * rough * rng.random() * noise("pores", TEXTURE_PX, rng)
    fair = 1 - darkness / 9
    red = 0.02 * rough * noise("cloud", TEXTURE_PX, rng) + _redness(masks, rng, 0.04 + 0.09 * fair)
    light -= masks["under eyes"] * rng.uniform(0, 0.16) + masks["lids"] * rng.uniform(-0.03, 0.12)
    light += masks["forehead"] * rng.uniform(-0.04, 0.06)
    if rng.random() < 0.30 * fair + 0.05:
        light -= _freckles(masks, rng)
    _moles(light, rng, person.age)
    for channel, share in enumerate((-0.9, -0.8, 0.25)):
        bgr[..., channel] = tone[channel] * light * (1 + share * red)
    if detail is not None:
        share = float(rng.uniform(0.4, 1.0))
        bgr *= 1 + share * (detail - 1)
    _lips(bgr, head, tone, rng, person)
    _nostrils(bgr, head, rng)
    _lids(bgr, head, rng, person)
    np.clip(bgr, 0.01, 1.0, out=bgr)
    return Complexion(bgr, tone.astype(np.float32), float(rng.beta(1.5, 2.5)))


def _redness(
    masks: dict[str, NDArray[np.float32]], rng: np.random.Generator, strength: float
) -> NDArray[np.float32]:
    total = np.zeros((TEXTURE_PX, TEXTURE_PX), np.float32)
    for name in ("cheeks", "nose", "chin", "lids", "under eyes"):
        total += masks[name] * np.float32(strength * rng.uniform(-0.2, 1.2))
    if rng.random() < 0.12:  # rouge
        total += masks["cheeks"] * np.float32(rng.uniform(0.04, 0.13))
    return total


def _freckles(masks: dict[str, NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.float32]:
    spots = np.clip(noise("blotches", TEXTURE_PX, rng) - rng.uniform(1.2, 2.0), 0, 0.6)
    where = np.clip(masks["cheeks"] + masks["nose"] + 0.4 * masks["forehead"], 0.1, 1)
    return np.asarray(spots * where * rng.uniform(0.2, 0.5), np.float32)


def _moles(light: NDArray[np.float32], rng: np.random.Generator, age: float) -> None:
    for _ in range(rng.poisson(1 + 4 * age)):
        at = to_texture_px(rng.uniform((-0.75, -0.5), (0.75, 1.0)))
        radius = rng.uniform(0.004, 0.011) * _UNIT_PX
        x0, y0 = (max(int(v - 4 * radius), 0) for v in at)
        part = light[y0 : y0 + int(8 * radius) + 1, x0 : x0 + int(8 * radius) + 1]
        y, x = np.indices(part.shape)
        away = ((x + x0 - at[0]) ** 2 + (y + y0 - at[1]) ** 2) / radius**2
        part -= np.float32(rng.uniform(0.08, 0.45)) * np.exp(-0.5 * away).astype(np.float32)


def _lay(bgr: NDArray[np.float32], colour: NDArray[np.float32], alpha: NDArray[np.float32]) -> None:
    bgr += alpha[..., None] * (colour - bgr)


def lay_inside(
    bgr: NDArray[np.float32],
    colour: NDArray[np.float32],
    alpha: NDArray[np.float32],
    points: NDArray[np.float64],
) -> None:
    """bgr ← colour where alpha is 1, only within the box of the points (and a margin), in place."""
    low = np.clip(np.floor(points.min(axis=0)).astype(int) - 16, 0, TEXTURE_PX)
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 16, 0, TEXTURE_PX)
    box = np.s_[low[1] : high[1], low[0] : high[0]]
    _lay(bgr[box], colour, alpha[box])


def _lips(
    bgr: NDArray[np.float32], head: Head, tone: NDArray[np.float32], rng: np.random.Generator, person: Person
) -> None:
    at = to_texture_px(head.texture_xy)
    outline = np.concatenate([at[list(lm.UPPER_LIP_LOOPS[-1])], at[list(lm.LOWER_LIP_LOOPS[-1][-2:0:-1])]])
    colour = tone * (np.array([0.80, 0.72, 0.90]) + rng.normal(0, (0.06, 0.05, 0.04)))
    strength = rng.uniform(0.45, 1.0)
    if rng.random() < 0.22 * (1.4 - person.masculine):  # lipstick
        stick = np.array([rng.uniform(0.10, 0.45), rng.uniform(0.08, 0.35), rng.uniform(0.45, 0.85)])
        colour = stick * (0.5 + 0.5 * tone[2])
        strength = rng.uniform(0.5, 0.95)
    sharp = rng.uniform(0.8, 3.0)
    alpha = blur(polygon(bgr.shape, outline), sharp) * np.float32(strength)
    alpha *= 1 + 0.07 * noise("hairs", TEXTURE_PX, rng)
    lay_inside(bgr, colour.astype(np.float32), np.clip(alpha, 0, 1), outline)
    seam = at[[*lm.UPPER_LIP_INNER]]
    dark = blur(line(bgr.shape, seam, 3), 1.2) * np.float32(rng.uniform(0.4, 0.75))
    dark = np.maximum(dark, blur(line(bgr.shape, at[[*lm.LOWER_LIP_INNER]], 2), 1.2) * np.float32(0.4))
    lay_inside(bgr, (0.35 * colour).astype(np.float32), dark, seam)


def _nostrils(bgr: NDArray[np.float32], head: Head, rng: np.random.Generator) -> None:
    at = to_texture_px(head.texture_xy)
    for hole in ((75, 60, 20, 238, 79, 166), (305, 290, 250, 458, 309, 392)):
        points = at[list(hole)]
        middle = points.mean(axis=0)
        alpha = blur(polygon(bgr.shape, middle + 0.95 * (points - middle)), 1.6)
        colour = bgr[int(middle[1]), int(middle[0])] * np.float32(rng.uniform(0.12, 0.4))
        lay_inside(bgr, colour, alpha, points)


def _lids(bgr: NDArray[np.float32], head: Head, rng: np.random.Generator, person: Person) -> None:
    """Lashes and the wet edge of the lids; sometimes eyeliner, mascara and shadow."""
    at = to_texture_px(head.texture_xy)
    painted = rng.random() < 0.35 * (1.3 - person.masculine)
    dark = np.array([0.10, 0.09, 0.12], np.float32) + np.float32(rng.uniform(0, 0.08))
    upper_px = int(rng.integers(2, 4)) + 2 * painted
    strong = np.float32(rng.uniform(0.45, 0.8) + 0.2 * painted)
    shadow = np.array(rng.uniform(0.1, 0.6, 3), np.float32)
    shaded = painted and rng.random() < 0.5
    amount = np.float32(rng.uniform(0.15, 0.5))
    for upper, lower, fold in (
        (lm.RIGHT_LID_UPPER, lm.RIGHT_LID_LOWER, lm.RIGHT_LID_FOLD),
        (lm.LEFT_LID_UPPER, lm.LEFT_LID_LOWER, lm.LEFT_LID_FOLD),
    ):
        edge, below = at[list(upper)], at[list(lower)]
        around = np.concatenate([edge, below, at[list(fold)]])
        if shaded:
            lid = blur(polygon(bgr.shape, np.concatenate([edge, at[list(fold)][::-1]])), 4.0)
            lay_inside(bgr, shadow, lid * amount, around)
        rim = blur(line(bgr.shape, _down(below[1:-1], 2.0), 3), 1.2) * np.float32(0.5)
        lay_inside(bgr, np.array([0.55, 0.52, 0.75], np.float32) * bgr[256, 256].max(), rim, around)
        lashes = blur(line(bgr.shape, edge[:-1] - (0, 1.0), upper_px), 0.9) * strong
        lay_inside(bgr, dark, lashes, around)
        if painted:
            long = blur(line(bgr.shape, edge[:-1] - (0, 3.0), 7), 1.8) * np.float32(0.35)
            lay_inside(bgr, dark, long, around)
        thin = blur(line(bgr.shape, _down(below[:5], 1.0), 1), 1.0) * (0.5 * strong)
        lay_inside(bgr, dark, thin, around)


def _down(points: NDArray[np.float64], pixels: float) -> NDArray[np.float64]:
    return points + np.array([0.0, pixels])
