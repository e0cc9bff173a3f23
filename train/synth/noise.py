"""Fractal noise from a pool that is made once: random cuts of it are cheap."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

_POOL_PX = 1024


@lru_cache(maxsize=1)
def _pools() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    white = rng.normal(0, 1, (_POOL_PX, _POOL_PX)).astype(np.float32)

    def band(sigma_px: float, stretch: float = 1.0) -> NDArray[np.float32]:
        soft = cv2.GaussianBlur(white, (0, 0), sigmaX=sigma_px, sigmaY=sigma_px * stretch)
        return np.asarray(soft / soft.std(), np.float32)

    cloud = band(3) + 1.6 * band(8) + 2.4 * band(20) + 3.0 * band(45)
    pores = white + 1.2 * band(0.8) + 0.8 * band(1.6)
    blotches = band(2.2) + band(5) + band(10)
    hairs = band(0.7, 12.0)
    pools = {"cloud": cloud, "pores": pores, "blotches": blotches, "hairs": hairs}
    return {name: np.asarray(pool / pool.std(), np.float32) for name, pool in pools.items()}


def noise(kind: str, size_px: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(size_px, size_px) float32 of unit variance; kind: cloud, pores, blotches or hairs (which run down)."""
    y, x = rng.integers(0, _POOL_PX - size_px + 1, 2)
    cut = _pools()[kind][y : y + size_px, x : x + size_px]
    return np.ascontiguousarray(cut[:, ::-1] if rng.random() < 0.5 else cut)
