"""What surrounds a rendered head: light, what stands behind it, ears, hair that hangs, glasses."""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from train.synth.figure import Figure, View
from train.synth.noise import noise
from train.synth.shader import Lamps

_BACKDROP_PX = 128


@dataclass(frozen=True)
class Glasses:
    """A pair of glasses, in face units; lens: how strongly it is tinted or mirrors, 0–1."""

    size_wh: tuple[float, float]
    power: float
    thickness: float
    frame_bgr: tuple[float, float, float]
    lens: float
    lens_bgr: tuple[float, float, float]
    half_rim: bool


@dataclass(frozen=True)
class Setting:
    """What stays the same over one clip or still: backdrop, clothes, hair behind the head, glasses."""

    backdrop_bgr: NDArray[np.uint8]
    clothes_bgr: NDArray[np.float64]
    long_hair: float
    ears: float
    glasses: Glasses | None


@lru_cache(maxsize=1)
def _pictures() -> tuple[NDArray[np.uint8], ...]:
    """Pictures without people that scikit-image ships under CC0 or into the public domain."""
    loaded = (skimage.data.coffee(), skimage.data.rocket(), skimage.data.hubble_deep_field())
    return tuple(np.ascontiguousarray(picture[..., ::-1]) for picture in loaded)


def draw_lamps(rng: np.random.Generator) -> Lamps:
    """Rooms, daylight, lamps from the side or below, soft and hard, warm and cold."""
    warm = rng.normal(0, 0.08)
    tint = np.array([1 - warm, 1.0, 1 + warm])
    overall = rng.lognormal(0, 0.18)
    ambient = rng.uniform(0.25, 0.85)
    key = 1.05 - ambient + rng.uniform(-0.15, 0.15)
    azimuth, height = rng.normal(0, 0.75), rng.normal(0.5, 0.4)
    to = np.array([np.sin(azimuth) * np.cos(height), -np.sin(height), -np.cos(azimuth) * np.cos(height)])
    fill_to = np.array([-np.sign(to[0]) * rng.uniform(0.2, 0.9), rng.uniform(-0.3, 0.5), -0.6])
    other = np.array([1 + rng.normal(0, 0.1), 1.0, 1 + rng.normal(0, 0.1)])
    return Lamps(
        sky_bgr=overall * ambient * tint * rng.uniform(0.85, 1.15),
        ground_bgr=overall * ambient * other * rng.uniform(0.35, 0.9),
        key_to=to,
        key_bgr=overall * max(key, 0.1) * tint * 1.1,
        fill_to=fill_to / np.linalg.norm(fill_to),
        fill_bgr=overall * rng.uniform(0, 0.3) * other,
        wrap=float(rng.uniform(0.0, 0.6)),
        shadow=_draw_shadow(rng),
    )


def stirred(lamps: Lamps, rng: np.random.Generator) -> Lamps:
    """The same light a little later: lamps moved and dimmed a little."""
    to = lamps.key_to + rng.normal(0, 0.10, 3)
    return replace(
        lamps,
        sky_bgr=lamps.sky_bgr * rng.lognormal(0, 0.04),
        ground_bgr=lamps.ground_bgr * rng.lognormal(0, 0.06),
        key_to=to / np.linalg.norm(to),
        key_bgr=lamps.key_bgr * rng.lognormal(0, 0.07),
    )


def _draw_shadow(rng: np.random.Generator) -> NDArray[np.float64]:
    """Mostly none; else the edge of a hat's, a tree's or a wall's shadow somewhere across the face."""
    if rng.random() > 0.15:
        return np.zeros(5)
    angle, through = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7, 2)
    across = np.array([np.cos(angle), np.sin(angle)])
    return np.array(
        [*across, across @ through, np.exp(rng.uniform(np.log(12), np.log(120))), rng.uniform(0.3, 0.9)]
    )


def draw_setting(figure: Figure, size_wh: tuple[int, int], rng: np.random.Generator) -> Setting:
    """Another backdrop each time; clothes, hair and glasses are mostly what the person always wears."""
    person = figure.person
    own = np.random.default_rng([person.seed, 3]) if rng.random() < 0.9 else rng
    long_hair = own.uniform(0.4, 1.6) if person.hair and own.random() > 0.25 + 0.6 * person.masculine else 0.0
    ears = 0.0 if long_hair > 0.6 and own.random() < 0.7 else 1.0
    clothes = own.uniform(0.05, 0.9) * own.uniform(0.5, 1, 3)
    glasses = draw_glasses(own) if own.random() < 0.18 else None
    backdrop = cv2.resize(_backdrop(rng), size_wh, interpolation=cv2.INTER_LINEAR)
    return Setting(np.asarray(backdrop, np.uint8), clothes, float(long_hair), ears, glasses)


def draw_glasses(rng: np.random.Generator) -> Glasses:
    dark = rng.random() < 0.6
    colour = rng.uniform(0.02, 0.2, 3) if dark else rng.uniform(0.2, 0.8, 3)
    return Glasses(
        (float(rng.uniform(0.19, 0.25)), float(rng.uniform(0.12, 0.20))),
        float(rng.uniform(2, 5)),
        float(rng.choice((0.012, 0.02, 0.035, 0.05)) * rng.uniform(0.8, 1.2)),
        (float(colour[0]), float(colour[1]), float(colour[2])),
        float(rng.uniform(0, 0.14)),
        (float(rng.uniform(0.4, 1)), float(rng.uniform(0.4, 1)), float(rng.uniform(0.3, 1))),
        bool(rng.random() < 0.25),
    )


def _backdrop(rng: np.random.Generator) -> NDArray[np.uint8]:
    """(_BACKDROP_PX, _BACKDROP_PX, 3) uint8: gradients, clouds, edges, or a photograph out of focus."""
    size_wh = (_BACKDROP_PX, _BACKDROP_PX)
    kind = rng.integers(4)
    if kind == 3:
        picture = _pictures()[rng.integers(len(_pictures()))]
        side = int(rng.uniform(0.3, 0.95) * min(picture.shape[:2]))
        y, x = (int(rng.integers(0, n - side)) for n in picture.shape[:2])
        cut = cv2.resize(picture[y : y + side, x : x + side], size_wh, interpolation=cv2.INTER_AREA)
        soft = cv2.GaussianBlur(cut, (0, 0), rng.uniform(0.3, 4))
        return np.asarray(np.clip(soft * rng.uniform(0.4, 1.3), 0, 255), np.uint8)
    ends = rng.uniform(0.05, 0.95) + rng.normal(0, 0.12, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    across, down = np.meshgrid(*[np.linspace(-0.7, 0.7, _BACKDROP_PX)] * 2)
    t = np.clip(0.5 + 0.5 * (across * np.cos(angle) + down * np.sin(angle)), 0, 1).astype(np.float32)
    if kind == 2:  # edges of furniture, doors, windows
        for _ in range(rng.integers(2, 7)):
            a, at = rng.uniform(0, np.pi), rng.uniform(-0.6, 0.6)
            t += np.float32(rng.normal(0, 0.35)) * ((across * np.cos(a) + down * np.sin(a)) > at)
    t = t + rng.uniform(0, 0.3) * noise("cloud", _BACKDROP_PX, rng)
    colours = ends[0] + t[..., None] * (ends[1] - ends[0])
    soft = cv2.GaussianBlur(colours.astype(np.float32), (0, 0), rng.uniform(0.3, 2))
    return np.asarray(np.clip(255 * soft, 0, 255), np.uint8)


def draw_behind(figure: Figure, setting: Setting, view: View, lamps: Lamps, gain: float) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: backdrop, shoulders, hair that hangs, ears; the head comes over it."""
    picture = np.clip(setting.backdrop_bgr * min(gain, 1.3) ** 0.5, 0, 255).astype(np.uint8)
    light = 0.8 * lamps.sky_bgr + 0.2 * lamps.key_bgr + 0.5 * lamps.fill_bgr

    def lit(colour: NDArray[np.float64], share: float) -> tuple[float, ...]:
        return tuple(float(v) for v in 255 * np.sqrt(np.clip(colour**2 * light * share * gain, 0, 1)))

    def fill(points: NDArray[np.float64], colour: tuple[float, ...]) -> None:
        at = np.round(view.project(points)[:, :2] * 16).astype(np.int32)
        cv2.fillPoly(picture, [at], colour, cv2.LINE_AA, 4)

    hair = 0.9 + figure.person.hair
    if setting.long_hair:
        down = 0.3 + setting.long_hair
        knots = [(-hair, -0.5), (-hair - 0.06, 0.2), (-hair - 0.05 * down, down), (-0.3, down + 0.1)]
        outline = np.array([*knots, *((-x, y) for x, y in reversed(knots)), (0.5, -1.0), (-0.5, -1.0)])
        fill(_flat(outline, 0.85), lit(figure.hair_bgr.astype(np.float64), 0.55))
    shoulders = np.array([(-0.55, 1.55), (0.55, 1.55), (1.9, 2.2), (2.1, 4.0), (-2.1, 4.0), (-1.9, 2.2)])
    fill(_flat(shoulders, 0.55), lit(setting.clothes_bgr, 0.8))
    if setting.ears:
        angle = np.linspace(0, 2 * np.pi, 24)
        skin = figure.complexion.tone_bgr.astype(np.float64) * (0.94, 0.92, 1.0)
        for side in (-1, 1):
            edge = figure.person.points[[234, 454], 0][0 if side < 0 else 1]
            ear = np.stack([edge + side * 0.06 + 0.11 * np.cos(angle), 0.16 + 0.21 * np.sin(angle)], axis=1)
            fill(_flat(ear, 0.72, side * 0.35), lit(skin, 0.75))
            inner = np.stack([edge + side * 0.09 + 0.05 * np.cos(angle), 0.14 + 0.12 * np.sin(angle)], axis=1)
            fill(_flat(inner, 0.72, side * 0.35), lit(skin, 0.5))
    return picture


def lit_skin(figure: Figure, lamps: Lamps, gain: float) -> NDArray[np.float64]:
    """(3,) BGR 0–255: the skin's mean colour as the lamps show it."""
    light = 0.6 * lamps.sky_bgr + 0.3 * lamps.ground_bgr + 0.5 * lamps.key_bgr + 0.4 * lamps.fill_bgr
    tone = np.square(figure.complexion.tone_bgr.astype(np.float64))
    return np.asarray(255 * np.sqrt(np.clip(tone * light * gain, 0, 1)), np.float64)


def draw_in_front(
    picture: NDArray[np.uint8], setting: Setting, view: View, lamps: Lamps, gain: float
) -> None:
    """Glasses, in place."""
    if setting.glasses is None:
        return
    glasses = setting.glasses
    light = np.sqrt(np.clip((lamps.sky_bgr + 0.5 * lamps.key_bgr) * gain, 0, 1.5))
    frame = tuple(float(v) for v in np.clip(255 * np.array(glasses.frame_bgr) * light, 0, 255))
    angle = np.linspace(0, 2 * np.pi, 40)
    c, s = np.cos(angle), np.sin(angle)
    w, h = glasses.size_wh
    round_off = 2 / glasses.power
    thickness = max(1, round(glasses.thickness * view.unit_px))

    def draw(points: NDArray[np.float64], closed: bool) -> NDArray[np.int32]:
        at = np.round(view.project(points)[:, :2] * 16).astype(np.int32)
        cv2.polylines(picture, [at], closed, frame, thickness, cv2.LINE_AA, 4)
        return at

    yaw = view.pose.yaw_deg
    for side in (-1, 1):
        x = side * 0.36 + w * np.sign(c) * np.abs(c) ** round_off
        y = 0.03 + h * np.sign(s) * np.abs(s) ** round_off
        lens = np.stack([x, y, -0.17 + 0.25 * x**2], axis=1)
        at = np.round(view.project(lens)[:, :2] * 16).astype(np.int32)
        if glasses.lens > 0.02:
            over = picture.copy()
            colour = tuple(float(v) for v in 255 * np.array(glasses.lens_bgr) * np.clip(light, 0, 1))
            cv2.fillPoly(over, [at], colour, cv2.LINE_AA, 4)
            cv2.addWeighted(over, glasses.lens, picture, 1 - glasses.lens, 0, picture)
        draw(lens[20:] if glasses.half_rim else lens, not glasses.half_rim)
        if side * yaw < 12:  # the far temple hides behind the head
            draw(np.array([(side * (0.36 + w), 0.0, -0.08), (side * 0.80, 0.03, 0.45)]), False)
    draw(np.array([(-0.36 + w, 0.0, -0.15), (0.0, -0.03, -0.24), (0.36 - w, 0.0, -0.15)]), False)


def _flat(outline: NDArray[np.float64], depth: float, slant: float = 0.0) -> NDArray[np.float64]:
    """(K, 2) → (K, 3) at one depth, leaning back towards the outside."""
    return np.concatenate([outline, depth + abs(slant) * (np.abs(outline[:, :1]) - 0.8)], axis=1)
