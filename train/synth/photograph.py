"""What the photographed donor lends to rendered people: the shape of her face, and the grain of her skin."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.donor import MESH_POINTS, find_mesh, load_donor, mesh_triangles
from train.synth.drawing import blur, hull, polygon
from train.synth.head import TEXTURE_PX, frontal, mean_head, symmetric, to_texture_px
from train.synth.raster import rasterise
from train.synth.render import Renderer

_BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))


@lru_cache(maxsize=1)
def donor_face() -> NDArray[np.float64]:
    """(468, 3) float64: the donor at rest, symmetric, in face units."""
    _, mesh = _at_rest()
    return symmetric(frontal(mesh)[:MESH_POINTS], mean_head().mirror)


@lru_cache(maxsize=1)
def donor_detail() -> NDArray[np.float32]:
    """(TEXTURE_PX, TEXTURE_PX, 3) float32 around 1: the portrait over its own tone, on bare skin."""
    picture, mesh = _at_rest()
    at = to_texture_px(mean_head().texture_xy[:MESH_POINTS])
    corners = np.concatenate([at, np.ones((len(at), 1))], axis=1)
    map_xy, _ = rasterise(
        corners, mesh[:, :2].copy(), np.ones(len(at)), mesh_triangles(), (TEXTURE_PX, TEXTURE_PX)
    )
    seen = cv2.remap(picture, map_xy, None, cv2.INTER_LINEAR).astype(np.float32)
    skin = polygon(seen.shape, hull(at[list(lm.OVAL)] * 0.94 + at[list(lm.OVAL)].mean(axis=0) * 0.06))
    for feature in (
        *_BROWS,
        lm.RIGHT_LID_UPPER + lm.RIGHT_LID_LOWER,
        lm.LEFT_LID_UPPER + lm.LEFT_LID_LOWER,
        lm.LIPS,
    ):
        area = polygon(seen.shape, hull(at[list(feature)]))
        skin = np.minimum(skin, 1 - np.asarray(cv2.dilate(area, np.ones((25, 25))), np.float32))
    skin[: int(to_texture_px(np.array([0.0, -0.17]))[1])] = 0  # her hair
    inner = np.asarray(cv2.erode(skin, np.ones((25, 25))), np.float32)
    skin = (blur(inner, 12) * skin)[..., None]
    tone = (seen * skin).sum(axis=(0, 1)) / skin.sum()
    return np.asarray(1 + skin * np.clip(seen / tone - 1, -0.5, 0.4), np.float32)


@lru_cache(maxsize=1)
def _at_rest() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    picture = Renderer(load_donor()).render({})
    return picture, find_mesh(picture)
