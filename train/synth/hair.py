"""Brows, beards and the hair on the head, painted over a complexion."""

import cv2
import numpy as np
from numpy.typing import NDArray

from train.synth.complexion import Complexion, lay_inside, region_masks
from train.synth.drawing import blur, polygon
from train.synth.head import TEXTURE_PX, TEXTURE_SPAN, Head, to_texture_px
from train.synth.noise import noise
from train.synth.person import Person

_UNIT_PX = TEXTURE_PX / TEXTURE_SPAN
_HAIR_BGR = np.array(
    [
        (0.06, 0.06, 0.07),
        (0.08, 0.10, 0.14),
        (0.12, 0.17, 0.25),
        (0.18, 0.27, 0.40),
        (0.32, 0.48, 0.62),
        (0.48, 0.64, 0.76),
        (0.14, 0.24, 0.50),
        (0.50, 0.50, 0.50),
        (0.78, 0.78, 0.78),
    ],
    np.float32,
)
_BROWS = (
    ((107, 66, 105, 63, 70), (55, 65, 52, 53, 46)),
    ((336, 296, 334, 293, 300), (285, 295, 282, 283, 276)),
)
"""Upper and lower edge, from the inner end to the tail, right and left."""


def hair_colour(person: Person, complexion: Complexion, rng: np.random.Generator) -> NDArray[np.float32]:
    """(3,) BGR: dark on dark skin mostly; grey with age."""
    dark_skin = complexion.tone_bgr[2] < 0.72
    chances = (
        np.array([5, 5, 5, 3, 2, 1.5, 1, 0, 0])
        if not dark_skin
        else np.array([9, 4, 1, 0.2, 0.1, 0.1, 0, 0, 0])
    )
    if rng.random() < 0.8 * max(person.age - 0.35, 0):
        chances = np.array([0, 0, 0, 0, 0, 0, 0, 1.0, 1.0])
    colour = _HAIR_BGR[rng.choice(len(_HAIR_BGR), p=chances / chances.sum())]
    return np.asarray(
        np.clip(colour * rng.lognormal(0, 0.12) + rng.normal(0, 0.012, 3), 0.02, 0.95), np.float32
    )


def paint_hair(
    complexion: Complexion, colour: NDArray[np.float32], person: Person, head: Head, rng: np.random.Generator
) -> None:
    """Beard, brows and hair, in place."""
    bgr = complexion.bgr
    if person.masculine > 0.45 and rng.random() < 0.65:
        _beard(bgr, colour, rng)
    _brows(bgr, colour, person, head, rng)
    if person.hair:
        _scalp(bgr, colour, person, rng)
    elif rng.random() < 0.5:
        _scalp(bgr, colour, person, rng, thin=0.3)


def _brows(
    bgr: NDArray[np.float32],
    colour: NDArray[np.float32],
    person: Person,
    head: Head,
    rng: np.random.Generator,
) -> None:
    """Short hairs that stand up at the inner end and lie flat towards the tail, over a soft ground."""
    at = to_texture_px(head.texture_xy)
    thickness = float(np.clip(rng.normal(0.68 + 0.35 * person.masculine, 0.22), 0.28, 1.35))
    density = float(np.clip(rng.normal(0.80 + 0.15 * person.masculine, 0.22), 0.2, 1.0))
    start, end = rng.uniform(0.0, 0.14), rng.uniform(0.86, 1.05)
    count = int(60 + 240 * density)
    lift = float(rng.normal(0, 0.012)) * _UNIT_PX
    own = colour * min(rng.uniform(0.4, 0.9), 0.45 / float(colour.max()))
    groomed = rng.random() < 0.3 * (1.3 - person.masculine)
    for upper, lower in _BROWS:
        top, bottom = (_further_in(at[list(edge)], 0.14) for edge in (upper, lower))
        middle = (top + bottom) / 2 + (0, lift)
        half = (bottom - top) / 2 * thickness
        t = np.linspace(0, 1, len(top))
        taper = np.interp(t, (0, 0.3, 0.7, 1), (0.55, 1.0, 0.85, 0.30))
        ground_edge = np.concatenate([middle - half * taper[:, None], (middle + half * taper[:, None])[::-1]])
        ground = blur(polygon(bgr.shape, ground_edge), 1.5 if groomed else 3.0)
        ground *= _inner_fade(middle)
        ground *= np.float32(density * (0.75 if groomed else rng.uniform(0.25, 0.55)))
        strokes = np.zeros(bgr.shape[:2], np.uint8)
        along, across = start + (end - start) * rng.beta(1.25, 1.05, count), rng.uniform(-1, 1, count)
        centre = np.stack([np.interp(along, t, middle[:, i]) for i in (0, 1)], axis=1)
        width = np.stack([np.interp(along, t, (half * taper[:, None])[:, i]) for i in (0, 1)], axis=1)
        root = centre + width * across[:, None]
        tangent = np.stack([np.interp(along, t, np.gradient(middle[:, i])) for i in (0, 1)], axis=1)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        up = np.array([0.0, -1.0])
        lean = np.clip(along * 1.3 + rng.normal(0, 0.15, count), 0, 1)[:, None]
        way = (
            tangent * lean
            + up * (1 - lean)
            + 0.25 * up * (across > 0)[:, None]
            - 0.25 * up * (across < -0.3)[:, None]
        )
        length = rng.uniform(0.030, 0.065, count) * np.interp(along, (0, 0.3), (0.55, 1.0))
        tip = root + way * (length * _UNIT_PX)[:, None]
        ends = np.round(np.stack([root, tip], axis=1) * 16).astype(np.int32)
        cv2.polylines(strokes, list(ends), False, (255.0,), 1, cv2.LINE_AA, 4)
        alpha = np.maximum(
            ground, blur(strokes.astype(np.float32) / 255, 0.6) * np.float32(0.6 + 0.35 * density)
        )
        lay_inside(bgr, own, np.clip(alpha, 0, 0.95), np.concatenate([root, tip, top, bottom]))


def _further_in(edge: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """(K, 2) → (K + 1, 2): the edge of a brow, prolonged towards the nose by a share of its length."""
    return np.concatenate([edge[:1] + share * (edge[0] - edge[-1]) * (1, 0.3), edge])


def _inner_fade(middle: NDArray[np.float64]) -> NDArray[np.float32]:
    """(TEXTURE_PX, TEXTURE_PX) float32: brows begin softly; 0 at the inner end, 1 from a fifth on."""
    way = middle[-1] - middle[0]
    y, x = np.indices((TEXTURE_PX, TEXTURE_PX), dtype=np.float32)
    along = ((x - middle[0, 0]) * way[0] + (y - middle[0, 1]) * way[1]) / float(way @ way)
    return np.asarray(np.clip(along / 0.2, 0, 1), np.float32)


def _beard(bgr: NDArray[np.float32], colour: NDArray[np.float32], rng: np.random.Generator) -> None:
    masks = region_masks()
    kind = rng.choice(4, p=(0.5, 0.2, 0.18, 0.12))  # stubble, full, goatee with moustache, moustache
    area = masks["moustache"] * 0.9
    if kind in (0, 1):
        area = np.maximum(area, 1.15 * masks["jaw"])
    if kind in (1, 2):
        area = np.maximum(area, masks["chin"] * 1.2)
    # The lips stay free of hair.
    x, y = to_texture_px(np.array([0.0, 0.595]))
    rows, columns = np.indices(bgr.shape[:2], dtype=np.float32)
    lips = np.exp(-0.5 * (((columns - x) / (0.21 * _UNIT_PX)) ** 4 + ((rows - y) / (0.052 * _UNIT_PX)) ** 4))
    area = np.clip(area * 1.6 - 0.35, 0, 1) * (1 - lips)
    grain = noise("pores" if kind == 0 else "hairs", TEXTURE_PX, rng)
    strength = rng.uniform(0.08, 0.45) if kind == 0 else rng.uniform(0.6, 0.95)
    alpha = np.clip(area * strength * (1 + (0.45 if kind == 0 else 0.35) * grain), 0, 0.96)
    shade = (colour * (0.55 if kind == 0 else 0.9))[None, None] * (1 + 0.25 * grain[..., None])
    bgr += alpha[..., None].astype(np.float32) * (shade.astype(np.float32) - bgr)


def _scalp(
    bgr: NDArray[np.float32],
    colour: NDArray[np.float32],
    person: Person,
    rng: np.random.Generator,
    thin: float = 1.0,
) -> None:
    """Hair down to a hairline: high, low, with a fringe over the forehead, with or without sideburns."""
    size = TEXTURE_PX
    x = np.linspace(-1.2, 1.2, size)
    side = float(rng.uniform(0.70, 0.86))
    if rng.random() < 0.22:
        top = float(rng.uniform(-0.40, -0.20))  # a fringe
        line_y = top + rng.uniform(-0.15, 0.15) * x + rng.uniform(-0.1, 0.15) * np.abs(x)
        ragged = 0.03
    else:
        top = float(rng.uniform(-0.58, -0.40))
        recede = rng.uniform(-0.1, 0.6) * max(person.age, 0.2)
        line_y = top - recede * np.exp(-0.5 * ((np.abs(x) - 0.42) / 0.13) ** 2) * 0.2 + 0.35 * x**4
        ragged = 0.012
    wobble = noise("cloud", size, rng)[size // 2]
    line_y = line_y + ragged * wobble
    line_y = np.where(np.abs(x) > side, np.maximum(line_y, rng.choice((0.0, 0.25, 0.5, 1.4))), line_y)
    line_y = cv2.GaussianBlur(line_y.astype(np.float32)[None], (0, 0), 5)[0]
    rows = np.linspace(-0.93, 1.47, size, dtype=np.float32)[:, None]
    grain = noise("hairs", size, rng)
    edge = (line_y[None] - rows) / 0.025 + 0.9 * grain
    alpha = np.clip(0.5 + 0.5 * edge, 0, 1).astype(np.float32) * np.float32(thin)
    streaks = np.clip(1 + 0.18 * grain + 0.15 * noise("cloud", size, rng), 0.3, 2.0)
    shade = colour[None, None] * streaks[..., None]
    bgr += alpha[..., None] * (shade - bgr)
