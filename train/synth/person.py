"""Who is rendered: the shape of one person's head, drawn from a seed.

The mean face is mixed with the photographed donor's, then bent by smooth fields: wide and narrow jaws, noses,
eyes, lids, brows, lips and chins. How strongly and where a person's muscles act differs too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.donor import MESH_POINTS
from train.synth.head import Head, with_skull

_BOTH_EYES = ((-1, -0.345), (1, 0.345))
_EYE_Y = -0.005


@dataclass(frozen=True)
class Person:
    """One rendered person.

    seed: what everything about the person is drawn from
    points: (V, 3) float64 face units, at rest
    fields: (A, V, 3) float64, what this person's action units do at full intensity, in the order of aus
    aus: names of the fields
    age: 0 young … 1 old; masculine: 0 … 1; both are of appearance only
    lid_opening: (2,) float64 face units between the lids, right and left, at rest
    """

    seed: int
    points: NDArray[np.float64]
    fields: NDArray[np.float64]
    aus: tuple[str, ...]
    age: float
    masculine: float
    hair: float
    lid_opening: NDArray[np.float64]


def make_person(seed: int, head: Head, donor_face: NDArray[np.float64]) -> Person:
    """seed → a person; donor_face: (468, 3) the photographed donor at rest, in face units."""
    rng = np.random.default_rng([seed, 1])
    age, masculine = float(rng.beta(1.1, 1.5)), float(rng.random())
    face = head.points[:MESH_POINTS].copy()
    face += rng.uniform(-0.15, 0.85) * (donor_face - face)
    face = _bent(face, rng, masculine, head.mirror)
    face = _lips_closed(face, rng)
    hair = float(rng.uniform(0.0, 0.16)) if rng.random() < 0.85 else 0.0
    points = with_skull(face, hair)
    fields = _own_fields(head, rng)
    opening = lid_openings(points)
    return Person(seed, points, fields, tuple(head.fields), age, masculine, hair, opening)


def lid_openings(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,): mean opening in the middle of the right and the left eye, face units."""
    return np.array(
        [
            np.mean(points[list(lower[3:6]), 1] - points[list(upper[3:6]), 1])
            for upper, lower in (
                (lm.RIGHT_LID_UPPER, lm.RIGHT_LID_LOWER),
                (lm.LEFT_LID_UPPER, lm.LEFT_LID_LOWER),
            )
        ]
    )


def _own_fields(head: Head, rng: np.random.Generator) -> NDArray[np.float64]:
    """(A, V, 3): each field with its own strength, and a little stronger here than there."""
    fields = np.stack(list(head.fields.values()))
    strength = np.clip(rng.lognormal(0.0, 0.14, len(fields)), 0.75, 1.3)
    centres = rng.uniform((-0.7, -0.5), (0.7, 1.0), (4, 2))
    away = np.square(head.points[None, :, :2] - centres[:, None]).sum(axis=2)
    waves = np.exp(-away / (2 * 0.35**2))  # (4, V)
    local = 1 + rng.normal(0, 0.14, (len(fields), 4)) @ waves
    return np.asarray(fields * strength[:, None, None] * local[..., None], np.float64)


def _bent(
    face: NDArray[np.float64], rng: np.random.Generator, masculine: float, mirror: NDArray[np.int64]
) -> NDArray[np.float64]:
    x, y = face[:, :2].T.copy()
    out = face.copy()

    def around(cx: float, cy: float, sx: float, sy: float) -> NDArray[np.float64]:
        return np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))

    def n(sigma: float) -> float:
        return float(np.clip(rng.normal(0, sigma), -2.2 * sigma, 2.2 * sigma))

    # The whole: width, length of the parts above and below the eyes, jaw, forehead, depth.
    sides = np.clip(np.abs(x) - 0.45, 0, None) * np.sign(x)
    out[:, 0] += n(0.20) * sides
    out[:, 0] += x * (n(0.07) + 0.04 * (masculine - 0.5)) * _step((y - 0.35) / 0.6)
    out[:, 0] += x * n(0.05) * _step((-0.05 - y) / 0.4)
    out[:, 1] += y * n(0.05) * (y > 0) + n(0.03) * np.clip(y - 0.45, 0, None) / 0.5
    out[:, 1] += n(0.08) * np.clip(y + 0.25, None, 0)
    out[:, 2] *= 1 + n(0.08)
    # Chin.
    chin = around(0, 1.0, 0.25, 0.12)
    out[:, 0] += x * (n(0.12) + 0.08 * (masculine - 0.5)) * chin
    out[:, 1] += n(0.035) * chin
    out[:, 2] += n(0.05) * chin
    # Nose: width, length, depth of tip and bridge, a hump, a turned-up tip.
    nose = around(0, 0.30, 0.16, 0.14)
    out[:, 0] += x * n(0.14) * nose
    tip = around(0, 0.28, 0.09, 0.09)
    out[:, 2] += n(0.05) * tip - n(0.035) * around(0, 0.04, 0.10, 0.12)
    out[:, 1] += n(0.025) * around(0, 0.34, 0.16, 0.12) + n(0.015) * tip
    out[:, 2] += n(0.018) * around(0, 0.12, 0.06, 0.06)
    # Eyes: distance, size, opening, tilt, depth.
    size, opening, tilt, apart = 1 + n(0.06), 1 + n(0.14), n(0.05), n(0.018)
    depth = n(0.02)
    for side, cx in _BOTH_EYES:
        near = around(cx, _EYE_Y, 0.17, 0.075)
        out[:, 0] += near * ((size - 1) * (x - cx) + side * apart)
        out[:, 1] += near * ((size * opening - 1) * (y - _EYE_Y) - tilt * side * (x - cx))
        out[:, 2] += depth * near
    # Brows: height, tilt, arch, ridge.
    up, slant, arch = n(0.032) + 0.012 * (masculine - 0.5), n(0.05), n(0.02)
    ridge = n(0.02) + 0.015 * (masculine - 0.5)
    for side, cx in _BOTH_EYES:
        brow = around(cx, -0.235, 0.26, 0.07)
        out[:, 1] += brow * (up + slant * side * (x - cx) + arch * np.cos(np.pi * (x - cx) / 0.3))
        out[:, 2] -= ridge * around(cx, -0.17, 0.25, 0.05)
    # Mouth: width, height, lips' thickness, corners up or down, protrusion.
    line_y = float(y[[13, 14]].mean())
    mouth = around(0, line_y, 0.34, 0.13)
    out[:, 0] += x * n(0.09) * mouth
    out[:, 1] += n(0.025) * mouth
    out[:, 2] -= n(0.03) * mouth
    upper, lower = (float(rng.uniform(-0.40, 0.50)) for _ in range(2))
    lips = around(0, line_y, 0.30, 0.085)
    out[:, 1] += lips * (y - line_y) * np.where(y < line_y, upper, lower)
    out[:, 1] += n(0.016) * around(0, line_y, 0.5, 0.08) * (np.abs(x) / 0.28) ** 2 * (np.abs(x) < 0.45)
    # Cheeks: full or hollow.
    for _, cx in ((-1, -0.48), (1, 0.48)):
        out[:, 2] -= n(0.02) * around(cx, 0.35, 0.16, 0.14) + n(0.02) * around(cx, 0.62, 0.14, 0.16)
    waves, aside = _waves(face, rng, 0.011), _waves(face, rng, 0.0045)
    return out + (waves + waves[mirror] * (-1, 1, 1)) / np.sqrt(2) + aside


def _waves(face: NDArray[np.float64], rng: np.random.Generator, sigma: float) -> NDArray[np.float64]:
    """(468, 3): smooth displacement at random, for faces that are nobody's average."""
    centres = rng.uniform((-0.7, -0.5), (0.7, 1.0), (10, 2))
    away = np.square(face[:, None, :2] - centres[None]).sum(axis=2)
    weights = np.exp(-away / (2 * 0.22**2))
    return np.asarray(weights @ rng.normal(0, sigma, (10, 3)), np.float64)


def _lips_closed(face: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Closed lips for most, a little apart for a few."""
    upper, lower = list(lm.UPPER_LIP_INNER[1:-1]), list(lm.LOWER_LIP_INNER[1:-1])
    gap = float(rng.uniform(0.015, 0.035)) if rng.random() < 0.07 else 0.004
    taper = np.sin(np.pi * np.arange(1, len(upper) + 1) / (len(upper) + 1))
    middle = (face[upper, 1] + face[lower, 1]) / 2
    face = face.copy()
    face[upper, 1], face[lower, 1] = middle - gap * taper / 2, middle + gap * taper / 2
    return face


def _step(t: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
