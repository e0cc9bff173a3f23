"""Which triangle each pixel shows, which way the surface looks there, and what a lamp reaches."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def cover(
    points: Floats, triangles: NDArray[np.int64], size_wh: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Which triangle is nearest at each pixel.

    points: (V, 3) pixels, smaller z nearer. Returns (H, W) int32, −1 where there is none, and (H, W, 2)
    float32, the weights of the triangle's second and third corner.
    """
    width, height = size_wh
    index = np.full((height, width), -1, np.int32)
    weights = np.empty((height, width, 2), np.float32)
    depth = np.full((height, width), np.inf, np.float32)
    _cover(points, triangles, index, weights, depth)
    return index, weights


SHADOW_PX = 192
_SHADOW_SPAN = 3.6
"""Side of the square that the lamp sees, face units."""


def seen_by_lamp(
    points: Floats, triangles: NDArray[np.int64], key_to: Floats
) -> tuple[Floats, NDArray[np.float32]]:
    """What a lamp lights first: the classic shadow map.

    points: (V, 3) face units, the head as it is turned. Returns (V, 3), where each point lies in the map
    (pixels, and distance in face units), and (SHADOW_PX, SHADOW_PX) float32, the nearest distance.
    """
    across = np.cross(np.array([0.0, 1.0, 0.02]), key_to)
    across /= np.linalg.norm(across)
    axes = np.stack([across, np.cross(key_to, across), -key_to])
    at = (points - np.array([0.0, 0.3, 0.3])) @ axes.T
    at[:, :2] = at[:, :2] * (SHADOW_PX / _SHADOW_SPAN) + SHADOW_PX / 2
    index = np.full((SHADOW_PX, SHADOW_PX), -1, np.int32)
    depth = np.full((SHADOW_PX, SHADOW_PX), np.inf, np.float32)
    _cover(at, triangles, index, np.empty((SHADOW_PX, SHADOW_PX, 2), np.float32), depth)
    return at, depth


def smooth_normals(points: Floats, triangles: NDArray[np.int64], kinds: NDArray[np.uint8]) -> Floats:
    """(V, 3) unit normals towards the camera of a head that looks straight ahead, of skin triangles only."""
    normals = np.zeros_like(points)
    _normals(points, triangles, kinds, normals)
    soft = np.zeros_like(points)
    _soften(normals, triangles, kinds, soft)
    return soft


@njit(cache=True, fastmath=True)
def _cover(points, triangles, index, weights, depth):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
        bx, by, bz = points[b, 0], points[b, 1], points[b, 2]
        cx, cy, cz = points[c, 0], points[c, 1], points[c, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        x0, x1 = max(0, int(np.ceil(min(ax, bx, cx)))), min(width - 1, int(np.floor(max(ax, bx, cx))))
        y0, y1 = max(0, int(np.ceil(min(ay, by, cy)))), min(height - 1, int(np.floor(max(ay, by, cy))))
        ux, uy = (cy - ay) / area, -(cx - ax) / area
        vx, vy = -(by - ay) / area, (bx - ax) / area
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                u = (x - ax) * ux + (y - ay) * uy
                v = (x - ax) * vx + (y - ay) * vy
                w = 1.0 - u - v
                if u < -1e-7 or v < -1e-7 or w < -1e-7:
                    continue
                z = w * az + u * bz + v * cz
                if z < depth[y, x]:
                    depth[y, x], index[y, x] = z, t
                    weights[y, x, 0], weights[y, x, 1] = u, v


@njit(cache=True)
def _normals(points, triangles, kinds, normals):  # type: ignore[no-untyped-def]
    for t in range(triangles.shape[0]):
        if kinds[t]:
            continue
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        n = np.cross(points[b] - points[a], points[c] - points[a])
        middle = (points[a] + points[b] + points[c]) / 3
        # Corners come in no fixed order: outward is away from the middle of the skull.
        outward = n[0] * middle[0] + n[1] * (middle[1] - 0.2) + n[2] * (middle[2] - 0.7)
        sign = 1.0 if outward > 0 else -1.0
        for k in range(3):
            v = triangles[t, k]
            for i in range(3):
                normals[v, i] += sign * n[i]
    for v in range(normals.shape[0]):
        length = np.sqrt((normals[v] ** 2).sum()) + 1e-9
        normals[v] /= length


@njit(cache=True)
def _soften(normals, triangles, kinds, soft):  # type: ignore[no-untyped-def]
    for t in range(triangles.shape[0]):
        if kinds[t]:
            continue
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        for i in range(3):
            mean = (normals[a, i] + normals[b, i] + normals[c, i]) / 3
            soft[a, i] += mean
            soft[b, i] += mean
            soft[c, i] += mean
    for v in range(soft.shape[0]):
        length = np.sqrt((soft[v] ** 2).sum()) + 1e-9
        soft[v] /= length
