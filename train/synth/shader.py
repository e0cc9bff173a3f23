"""What colour skin, eyes and mouth have at each pixel of a rendered head."""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Lamps:
    """Light on a scene; directions point to where it comes from (x right, y down, z away), unit length.

    sky_bgr, ground_bgr: (3,) light from all above and from all below
    key_to, key_bgr, fill_to, fill_bgr: (3,) two lamps
    wrap: 0 for a hard lamp, 1 for a soft one
    shadow: (5,) what keeps the key lamp off a part of the face: x, y and offset of its edge over the texture
        (shares of its side), sharpness, depth 0–1
    """

    sky_bgr: Floats
    ground_bgr: Floats
    key_to: Floats
    key_bgr: Floats
    fill_to: Floats
    fill_bgr: Floats
    wrap: float
    shadow: Floats


@dataclass(frozen=True)
class Eyes:
    """Both eyeballs in the picture, the right one first.

    centre_px: (2, 2); radius_px: of the ball
    gaze: (2, 3) unit directions of sight, towards the camera is negative z
    iris_bgr, sclera_bgr: (3,) 0–1; iris, pupil: radii over the ball's
    """

    centre_px: Floats
    radius_px: float
    gaze: Floats
    iris_bgr: Floats
    sclera_bgr: Floats
    iris: float
    pupil: float


@dataclass(frozen=True)
class Mouth:
    """What lies behind the lips.

    to_face: (2, 3) pixels → face units around the middle of the closed mouth, at the depth of the teeth
    upper_edge, lower_edge: y of the teeth's edges, face units; the lower one moves with the jaw
    gap: of the lips, face units
    tooth_bgr, gum_bgr, tongue_bgr: (3,) 0–1
    crowded: 0 even teeth … 1 dark gaps between them
    """

    to_face: Floats
    upper_edge: float
    lower_edge: float
    gap: float
    tooth_bgr: Floats
    gum_bgr: Floats
    tongue_bgr: Floats
    crowded: float


def shade(
    out: NDArray[np.uint8],
    index: NDArray[np.int32],
    weights: NDArray[np.float32],
    triangles: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    attributes: NDArray[np.float32],
    albedo: NDArray[np.float32],
    relief: NDArray[np.float32],
    shadow_map: NDArray[np.float32],
    turn: Floats,
    depth_of_relief: float,
    gloss: float,
    lamps: Lamps,
    eyes: Eyes,
    mouth: Mouth,
    gain: float,
    offset: float,
) -> None:
    """Colours every covered pixel of out (H, W, 3 uint8 BGR), in place.

    attributes: (V, 9) float32: texture x and y as shares of its side, normal, across, place in shadow_map
    shadow_map: (SHADOW_PX, SHADOW_PX) float32, from surface.seen_by_lamp
    albedo: (S, S, 3) float32, gamma 2; relief: (R, R, 3) from relief.slopes
    turn: (3, 3), the head's rotation; gain acts on light, offset on the picture's grey levels
    """
    _shade(
        out,
        index,
        weights,
        triangles,
        kinds,
        attributes,
        albedo,
        relief,
        shadow_map,
        turn,
        depth_of_relief,
        gloss,
        np.stack(
            [lamps.sky_bgr, lamps.ground_bgr, lamps.key_to, lamps.key_bgr, lamps.fill_to, lamps.fill_bgr]
        ),
        lamps.wrap,
        lamps.shadow,
        eyes.centre_px,
        eyes.radius_px,
        eyes.gaze,
        np.stack([eyes.iris_bgr, eyes.sclera_bgr]),
        np.array([eyes.iris, eyes.pupil]),
        mouth.to_face,
        np.array([mouth.upper_edge, mouth.lower_edge, mouth.gap, mouth.crowded]),
        np.stack([mouth.tooth_bgr, mouth.gum_bgr, mouth.tongue_bgr]),
        gain,
        offset,
    )


@njit(cache=True, fastmath=True)
def _light_on(nx, ny, nz, cavity, lit, lamps, wrap, light):  # type: ignore[no-untyped-def]
    up = 0.5 - 0.5 * ny
    key = nx * lamps[2, 0] + ny * lamps[2, 1] + nz * lamps[2, 2]
    key = lit * max((key + wrap) / (1.0 + wrap), 0.0)
    # Red light wanders in skin: it reaches farther around an edge than blue.
    key_red = nx * lamps[2, 0] + ny * lamps[2, 1] + nz * lamps[2, 2]
    key_red = lit * max((key_red + wrap + 0.12) / (1.12 + wrap), 0.0)
    fill = max((nx * lamps[4, 0] + ny * lamps[4, 1] + nz * lamps[4, 2] + 0.5) / 1.5, 0.0)
    for k in range(3):
        around = (lamps[1, k] + up * (lamps[0, k] - lamps[1, k])) * cavity
        reached = key + 0.5 * k * (key_red - key)
        light[k] = around + reached * lamps[3, k] + fill * lamps[5, k]


@njit(cache=True, fastmath=True)
def _hidden(shadow_map, x, y, distance):  # type: ignore[no-untyped-def]
    """Share of a small square around a place in the map that something nearer to the lamp covers."""
    size = shadow_map.shape[0]
    ix, iy = int(x), int(y)
    if ix < 2 or iy < 2 or ix > size - 4 or iy > size - 4:
        return 0.0
    fx, fy = x - ix, y - iy
    total = 0.0
    for dy in range(-1, 3):
        wy = (1 - fy) if dy == -1 else fy if dy == 2 else 1.0
        for dx in range(-1, 3):
            wx = (1 - fx) if dx == -1 else fx if dx == 2 else 1.0
            if shadow_map[iy + dy, ix + dx] < distance:
                total += wx * wy
    return total / 9.0


@njit(cache=True, fastmath=True)
def _tooth(x, widths):  # type: ignore[no-untyped-def]
    """Position across the tooth at x ≥ 0: −1 … 1; 2 beyond the last."""
    start = 0.0
    for width in widths:
        if x < start + width:
            return 2 * (x - start) / width - 1
        start += width
    return 2.0


@njit(cache=True, fastmath=True)
def _shade(  # type: ignore[no-untyped-def]
    out,
    index,
    weights,
    triangles,
    kinds,
    attributes,
    albedo,
    relief,
    shadow_map,
    turn,
    depth_of_relief,
    gloss,
    lamps,
    wrap,
    cast,
    eye_centre,
    eye_radius,
    gaze,
    eye_bgr,
    eye_size,
    to_face,
    mouth,
    mouth_bgr,
    gain,
    offset,
):
    height, width = index.shape
    size, relief_size = albedo.shape[0], relief.shape[0]
    light = np.empty(3)
    colour = np.empty(3)
    sample = np.empty(3)
    slope = np.empty(3)
    upper_teeth = np.array([0.088, 0.068, 0.074, 0.060, 0.050])
    lower_teeth = np.array([0.056, 0.060, 0.066, 0.062, 0.056])
    hx, hy, hz = lamps[2, 0], lamps[2, 1], lamps[2, 2] - 1.0
    norm = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-6
    hx, hy, hz = hx / norm, hy / norm, hz / norm
    key_strength = (lamps[3, 0] + lamps[3, 1] + lamps[3, 2]) / 3
    for y in range(height):
        for x in range(width):
            t = index[y, x]
            if t < 0:
                continue
            u, v = weights[y, x, 0], weights[y, x, 1]
            w = 1.0 - u - v
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            kind = kinds[t]
            if kind == 0:
                tx = w * attributes[a, 0] + u * attributes[b, 0] + v * attributes[c, 0]
                ty = w * attributes[a, 1] + u * attributes[b, 1] + v * attributes[c, 1]
                nx = w * attributes[a, 2] + u * attributes[b, 2] + v * attributes[c, 2]
                ny = w * attributes[a, 3] + u * attributes[b, 3] + v * attributes[c, 3]
                nz = w * attributes[a, 4] + u * attributes[b, 4] + v * attributes[c, 4]
                # Relief, bilinear.
                fx = min(max(tx * relief_size - 0.5, 0.0), relief_size - 1.001)
                fy = min(max(ty * relief_size - 0.5, 0.0), relief_size - 1.001)
                ix, iy = int(fx), int(fy)
                fx, fy = fx - ix, fy - iy
                for k in range(3):
                    top = relief[iy, ix, k] * (1 - fx) + relief[iy, ix + 1, k] * fx
                    low = relief[iy + 1, ix, k] * (1 - fx) + relief[iy + 1, ix + 1, k] * fx
                    slope[k] = top + fy * (low - top)
                sx, sy = depth_of_relief * slope[1], depth_of_relief * slope[2]
                nx -= sx * turn[0, 0] + sy * turn[0, 1]
                ny -= sx * turn[1, 0] + sy * turn[1, 1]
                nz -= sx * turn[2, 0] + sy * turn[2, 1]
                norm = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-9)
                nx, ny, nz = nx * norm, ny * norm, nz * norm
                hollow = slope[0]
                cavity = np.exp(0.8 * hollow)
                lit = 1.0
                if cast[4] > 0:
                    lit -= cast[4] / (1.0 + np.exp(-cast[3] * (cast[0] * tx + cast[1] * ty - cast[2])))
                if lit > 0:
                    lx = w * attributes[a, 6] + u * attributes[b, 6] + v * attributes[c, 6]
                    ly = w * attributes[a, 7] + u * attributes[b, 7] + v * attributes[c, 7]
                    far = w * attributes[a, 8] + u * attributes[b, 8] + v * attributes[c, 8] - 0.035
                    lit *= 1.0 - 0.8 * _hidden(shadow_map, lx, ly, far)
                _light_on(nx, ny, nz, cavity, lit, lamps, wrap, light)
                # Albedo, bilinear.
                fx = min(max(tx * size - 0.5, 0.0), size - 1.001)
                fy = min(max(ty * size - 0.5, 0.0), size - 1.001)
                ix, iy = int(fx), int(fy)
                fx, fy = fx - ix, fy - iy
                for k in range(3):
                    top = albedo[iy, ix, k] * (1 - fx) + albedo[iy, ix + 1, k] * fx
                    low = albedo[iy + 1, ix, k] * (1 - fx) + albedo[iy + 1, ix + 1, k] * fx
                    sample[k] = top + fy * (low - top)
                shine = max(nx * hx + ny * hy + nz * hz, 0.0)
                shine *= shine
                shine *= shine
                shine *= shine
                shine = gloss * (0.6 * shine + 1.2 * shine * shine * shine) * key_strength
                for k in range(3):
                    # Light that a furrow swallows comes out red.
                    warm = 1.0 + (0.10 - 0.05 * k) * (2.0 * min(hollow, 0.0))
                    deep = np.exp(min(hollow, 0.0) * 0.25)
                    colour[k] = sample[k] * sample[k] * light[k] * warm * deep + 0.12 * shine
            elif kind < 3:
                e = kind - 1
                dx = (x - eye_centre[e, 0]) / eye_radius
                dy = (y - eye_centre[e, 1]) / eye_radius
                dz = -np.sqrt(max(1.0 - dx * dx - dy * dy, 0.02))
                norm = 1.0 / np.sqrt(dx * dx + dy * dy + dz * dz)
                dx, dy, dz = dx * norm, dy * norm, dz * norm
                across = w * attributes[a, 5] + u * attributes[b, 5] + v * attributes[c, 5]
                shadow = 0.30 + 0.64 * min(across / 0.42, 1.0)
                _light_on(dx, dy, dz, 0.9, 1.0, lamps, wrap, light)
                along = dx * gaze[e, 0] + dy * gaze[e, 1] + dz * gaze[e, 2]
                away = np.sqrt(max(1.0 - along * along, 0.0)) if along > 0 else 1.0
                edge = min(max((eye_size[0] - away) * eye_radius * 0.8 + 0.5, 0.0), 1.0)
                hole = min(max((eye_size[1] - away) * eye_radius * 0.8 + 0.5, 0.0), 1.0)
                ring = away / eye_size[0]
                angle = np.arctan2(dy - gaze[e, 1], dx - gaze[e, 0])
                fibres = 1.0 + 0.22 * np.sin(23 * angle) * np.sin(7 * angle + 1.7) - 0.55 * ring**6
                veins = 1.0 - 0.20 * min(abs(dx) * abs(dx) * 2.0, 1.0)
                for k in range(3):
                    white = eye_bgr[1, k] * (veins if k < 2 else 0.5 + 0.5 * veins)
                    tone = white + edge * (eye_bgr[0, k] * fibres - white)
                    tone += hole * (0.015 - tone)
                    colour[k] = tone * tone * light[k] * shadow
                # A lamp mirrored in the cornea.
                glint = dx * hx + dy * hy + dz * hz
                if glint > 0.988:
                    mirrored = min((glint - 0.988) / 0.004, 1.0) * min(key_strength, 1.2) * shadow
                    for k in range(3):
                        colour[k] += 0.7 * mirrored
            else:
                fx = to_face[0, 0] * x + to_face[0, 1] * y + to_face[0, 2]
                fy = to_face[1, 0] * x + to_face[1, 1] * y + to_face[1, 2]
                across = w * attributes[a, 5] + u * attributes[b, 5] + v * attributes[c, 5]
                _light_on(0.0, 0.0, -1.0, 0.8, 1.0, lamps, wrap, light)
                side = abs(fx)
                arch = max(1.0 - (side / 0.30) ** 2, 0.0)
                upper_t, lower_t = _tooth(side, upper_teeth), _tooth(side, lower_teeth)
                upper_edge = mouth[0] - 0.10 * side * side - 0.010 * upper_t**4
                lower_edge = mouth[1] + 0.10 * side * side + 0.008 * lower_t**4
                from_upper, from_lower = across * mouth[2], (1 - across) * mouth[2]
                shadow = min(0.22 + from_upper / 0.09, 1.0) * min(0.45 + from_lower / 0.05, 1.0)
                pick = -1
                tooth = 0.0
                if upper_t < 1.5 and fy < upper_edge:
                    pick = 1 if fy < upper_edge - 0.125 else 0
                    tooth = upper_t
                elif lower_t < 1.5 and fy > lower_edge:
                    pick = 1 if fy > lower_edge + 0.10 else 0
                    tooth = lower_t
                    shadow *= 0.8
                if pick >= 0:
                    between = 1.0 - (0.10 + 0.30 * mouth[3]) * tooth**8
                    for k in range(3):
                        tone = mouth_bgr[pick, k] * between
                        colour[k] = 0.85 * tone * tone * light[k] * shadow * (0.15 + 0.85 * arch)
                else:
                    tongue = min(max((fy - 0.55 * mouth[1]) / 0.05, 0.0), 1.0) * arch
                    depth = 0.10 + 0.35 * tongue
                    for k in range(3):
                        tone = mouth_bgr[2, k] * depth
                        colour[k] = tone * tone * light[k] * (0.3 + 0.7 * shadow)
            for k in range(3):
                value = 255.0 * np.sqrt(max(colour[k], 0.0) * gain) + offset
                out[y, x, k] = np.uint8(min(max(value + 0.5, 0.0), 255.0))
