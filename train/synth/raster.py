"""The two loops over pixels: a mesh drawn backwards into a map, and brightness laid on a picture."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


def rasterise(
    points: NDArray[np.float64],
    source_px: NDArray[np.float64],
    shade: NDArray[np.float64],
    triangles: NDArray[np.int64],
    size_wh: tuple[int, int],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draws a mesh as the map that cv2.remap wants; of triangles that overlap the nearest wins.

    points: (V, 3) float64, corners in the rendered picture, smaller z nearer
    source_px: (V, 2) float64, the same corners in the portrait
    shade: (V,) float64, brightness at the corners
    Returns (H, W, 2) float32 source pixels and (H, W) float32 brightness; a pixel under no triangle maps to
    itself.
    """
    width, height = size_wh
    map_xy = np.empty((height, width, 2), np.float32)
    shading = np.empty((height, width), np.float32)
    depth = np.empty((height, width), np.float32)
    _rasterise(points, source_px, shade, triangles, map_xy, shading, depth)
    return map_xy, shading


@njit(cache=True, fastmath=True)
def _rasterise(points, source, shade, triangles, map_xy, shading, depth):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for y in range(height):
        for x in range(width):
            map_xy[y, x, 0], map_xy[y, x, 1] = x, y
            shading[y, x], depth[y, x] = 1.0, np.inf
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
        # Barycentric weights are affine in the pixel: u = u0 + x·ux + y·uy, for b and c; a has the rest.
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
                    depth[y, x] = z
                    map_xy[y, x, 0] = w * source[a, 0] + u * source[b, 0] + v * source[c, 0]
                    map_xy[y, x, 1] = w * source[a, 1] + u * source[b, 1] + v * source[c, 1]
                    shading[y, x] = w * shade[a] + u * shade[b] + v * shade[c]


def light_up(
    picture: NDArray[np.uint8],
    shading: NDArray[np.float32],
    creases: NDArray[np.float32],
    gain: float,
    offset: float,
) -> None:
    """picture (H, W, 3) ← picture · shading · creases · gain + offset, in place; creases come out warm."""
    _light(picture, shading, creases, gain, offset)


@njit(cache=True)
def _light(picture, shading, creases, gain, offset):  # type: ignore[no-untyped-def]
    """picture · shading · creases · gain + offset, in place."""
    for y in range(picture.shape[0]):
        for x in range(picture.shape[1]):
            for k in range(3):
                # Light that skin swallows comes out red: furrows are warm, not grey.
                factor = (1 + (1.25 - 0.25 * k) * (creases[y, x] - 1)) * shading[y, x] * gain
                picture[y, x, k] = np.uint8(min(max(picture[y, x, k] * factor + offset + 0.5, 0.0), 255.0))
