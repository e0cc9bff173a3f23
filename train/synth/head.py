"""The head that all rendered people share: 468 mesh points, skull and neck behind them, and where they lie in
the texture.

Units are those of the face: the distance between the outer eye corners is 1; x to the image's right, y down,
z away from the camera. The mean face is what MediaPipe's mesh network falls back on when it sees nothing.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pipeline.geometry import head_rotation
from pipeline.mesh import FaceMesh, Region
from train.synth import landmarks as lm
from train.synth.actions import ACTIONS, JOINT, both_halves
from train.synth.donor import MESH_POINTS, hole_triangles, mesh_triangles
from train.synth.skin import Skin

SKIN, RIGHT_EYE, LEFT_EYE, MOUTH = range(4)

TEXTURE_PX = 512
TEXTURE_SPAN = 2.4
"""Side of the square texture in face units."""
TEXTURE_ORIGIN = np.array([-1.2, -0.93])
"""Face-unit position of the texture's corner."""

# Skull and neck: for each ring behind the oval how far it goes out (as a factor), and its shifts in y and z,
# at the crown, at the temples and below the jaw.
_CROWN = ((1.02, -0.13, 0.14), (1.04, -0.29, 0.42), (0.98, -0.42, 0.85), (0.60, -0.42, 1.30))
_TEMPLE = ((1.01, 0.00, 0.16), (1.02, 0.00, 0.40), (1.00, 0.00, 0.75), (0.60, 0.00, 1.20))
_NECK = ((0.94, 0.02, 0.20), (0.80, 0.12, 0.45), (0.74, 0.50, 0.58), (1.05, 1.05, 0.60))
_TEXTURE_RINGS = (1.06, 1.12, 1.20, 1.28)
_UNROLL = 0.25
"""How far depth spreads the sides of the face in the texture, which would else fold there."""
_TEXTURE_CENTRE = np.array([0.0, 0.27])
_FOLLOW = (0.75, 0.35, 0.0, 0.0)
"""How far each ring follows what the oval does in an expression."""


@dataclass(frozen=True)
class Head:
    """The mean head.

    points: (V, 3) float64 face units; the first 468 are MediaPipe's, the rings follow
    texture_xy: (V, 2) float64, where each point lies in the texture, face units
    triangles: (T, 3) int64; kinds: (T,) uint8, SKIN, RIGHT_EYE, LEFT_EYE or MOUTH
    across: (V,) float64, 0 on the upper edge of an opening, 1 on its lower edge
    left: (V,) float64, how far a point belongs to the subject's left half, 0–1
    fields: {"AU01": (V, 3) displacement at full intensity, …, "AU01+AU04": what both add together}
    mirror: (468,) int64, each point's counterpart
    """

    points: NDArray[np.float64]
    texture_xy: NDArray[np.float64]
    triangles: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    across: NDArray[np.float64]
    left: NDArray[np.float64]
    fields: dict[str, NDArray[np.float64]]
    mirror: NDArray[np.int64]


@lru_cache(maxsize=1)
def mean_head() -> Head:
    face, mirror = _mean_face()
    points = with_skull(face)
    texture_xy = _in_texture(face)
    holes = hole_triangles()
    triangles = np.concatenate([mesh_triangles(), _ring_triangles(), holes])
    kinds = np.zeros(len(triangles), np.uint8)
    count = len(holes)
    mouth, lids = 2 * (len(lm.UPPER_LIP_INNER) - 2), 2 * (len(lm.RIGHT_LID_UPPER) - 2)
    kinds[-count:] = [MOUTH] * mouth + [RIGHT_EYE] * lids + [LEFT_EYE] * lids
    across = np.full(len(points), 0.5)
    across[[*lm.UPPER_LIP_INNER[1:-1], *lm.RIGHT_LID_UPPER[1:-1], *lm.LEFT_LID_UPPER[1:-1]]] = 0
    across[[*lm.LOWER_LIP_INNER[1:-1], *lm.RIGHT_LID_LOWER[1:-1], *lm.LEFT_LID_LOWER[1:-1]]] = 1
    left = 1 / (1 + np.exp(-points[:, 0] / 0.06))
    skin = Skin(face, mesh_triangles(), np.ones(len(face)))
    pulled = ACTIONS | {"+".join(pair): pulls for pair, pulls in JOINT.items()}
    fields = {name: _with_rings(skin.spread(both_halves(pulls))) for name, pulls in pulled.items()}
    return Head(points, texture_xy, triangles, kinds, across, left, fields, mirror)


def to_texture_px(texture_xy: NDArray[np.float64], size_px: int = TEXTURE_PX) -> NDArray[np.float64]:
    """(…, 2) face units in the texture → pixels of a texture of that size."""
    return (texture_xy - TEXTURE_ORIGIN) * (size_px / TEXTURE_SPAN) - 0.5


def with_skull(face: NDArray[np.float64], hair: float = 0.0) -> NDArray[np.float64]:
    """(468, 3) → (V, 3): the rings of skull and neck, the crown's pushed out by hair (face units)."""
    oval = face[list(lm.OVAL)]
    y = oval[:, 1:2]
    crown = _step((0.30 - y) / 0.75)
    neck = _step((y - 0.42) / 0.45)
    rings = []
    for k in range(len(_CROWN)):
        factor, down, back = (
            crown * _CROWN[k][i] + neck * _NECK[k][i] + (1 - crown - neck) * _TEMPLE[k][i] for i in range(3)
        )
        ring = oval * np.concatenate([factor, np.ones((len(oval), 2))], axis=1)
        round_off = 1 - 0.35 * crown * (oval[:, :1] / 0.7) ** 2  # a dome, not a box
        ring[:, 1:] += np.concatenate([down * round_off, back], axis=1)
        outward = np.concatenate([ring[:, :1], ring[:, 1:2] - 0.1, np.zeros((len(oval), 1))], axis=1)
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        rings.append(ring + hair * (0.3, 0.8, 1.0, 1.0)[k] * (1 - neck) * outward)
    return np.concatenate([face, *rings])


def frontal(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N ≥ 468, 3) pixels → face units, the head turned to look straight ahead."""
    turned = points @ head_rotation(points.astype(np.float32))
    a, b = turned[lm.RIGHT_EYE_OUTER], turned[lm.LEFT_EYE_OUTER]
    return (turned - (a + b) / 2) / np.linalg.norm(a - b)


def mirror_map(face: NDArray[np.float64]) -> NDArray[np.int64]:
    """(468,): which point lies where another one's mirror image is; every point is taken once."""
    mirrored = face * (-1, 1, 1)
    cost = np.square(face[:, None] - mirrored[None]).sum(axis=2)
    return np.asarray(linear_sum_assignment(cost)[1], np.int64)


def symmetric(face: NDArray[np.float64], mirror: NDArray[np.int64]) -> NDArray[np.float64]:
    return (face + face[mirror] * (-1, 1, 1)) / 2


def _mean_face() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    network = FaceMesh()
    try:
        grey = np.full((256, 256, 3), 127, np.uint8)
        points, _ = network(grey, Region((128.0, 128.0), 256.0, 0.0))
    finally:
        network.close()
    face = frontal(points.astype(np.float64))[:MESH_POINTS]
    mirror = mirror_map(face)
    return symmetric(face, mirror), mirror


def _in_texture(face: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = face[:, :2].copy()
    flat[:, 0] += _UNROLL * np.sign(flat[:, 0]) * np.maximum(face[:, 2], 0)
    oval = flat[list(lm.OVAL)]
    rings = [_TEXTURE_CENTRE + (oval - _TEXTURE_CENTRE) * factor for factor in _TEXTURE_RINGS]
    return np.concatenate([flat, *rings])


def _ring_triangles() -> NDArray[np.int64]:
    """Two triangles for each quadrangle between one ring and the next."""
    count = len(lm.OVAL)
    rings = [np.array(lm.OVAL), *(MESH_POINTS + k * count + np.arange(count) for k in range(len(_CROWN)))]
    triangles = []
    for inner, outer in pairwise(rings):
        for k in range(count):
            j = (k + 1) % count
            triangles += [(inner[k], inner[j], outer[k]), (inner[j], outer[j], outer[k])]
    return np.array(triangles, np.int64)


def _with_rings(field: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([field, *(share * field[list(lm.OVAL)] for share in _FOLLOW)])


def _step(t: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
