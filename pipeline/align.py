"""Alignment, face mask and crops: from mesh points to the pictures that the networks read.

CEDNN (Chen et al., section 3.2) aligns by dlib's five points, the corners of both eyes and the base of the
nose, and masks the face with a polygon through dlib's contour and brow points. The mesh points that stand for
them: eye corners 33, 133, 362, 263; nose base 2; contour `mesh.JAW` (dlib 1–17); brows `mesh.BROW_RIGHT` and
`mesh.BROW_LEFT` (dlib 18–27).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.spec import AU_CENTERS, CropKind, CropSpec
from pipeline import mesh

ALIGNED_PX = 224
FIVE_POINTS = (
    mesh.EYE_OUTER_RIGHT,
    mesh.EYE_INNER_RIGHT,
    mesh.EYE_INNER_LEFT,
    mesh.EYE_OUTER_LEFT,
    mesh.NOSE_BASE,
)
_TEMPLATE = np.array([(0.292, 0.36), (0.432, 0.362), (0.568, 0.362), (0.708, 0.36), (0.5, 0.6)])
"""Where the five points go, as a share of the crop's side: an average frontal face whose chin and brows stay
inside, with room for a dropped jaw."""

_CONTOUR_INSET_PX = 5.0
"""At 224 px: the contour moves in, and the brows up, by as much (CEDNN, section 3.2)."""
BOX_MARGIN = 0.1
"""Added on each side of the mesh's box for the `box` crop, as a share of its longer side."""
_EYE_RIGHT = (mesh.EYE_OUTER_RIGHT, mesh.EYE_INNER_RIGHT, *mesh.LID_UPPER_RIGHT, *mesh.LID_LOWER_RIGHT)
_EYE_LEFT = (mesh.EYE_OUTER_LEFT, mesh.EYE_INNER_LEFT, *mesh.LID_UPPER_LEFT, *mesh.LID_LOWER_LEFT)
_NOSE_TIP = 4
LEVEL_EYES_SIDE = 2.8
"""Side of ARL's 200 px over the longer side of the box around eye centres, nose tip and mouth corners: what
its authors' public code aligns by."""
LEVEL_EYES_SHOWN = 0.88
"""What ARL crops of that: 176 of 200 px. At random in training, the middle here."""
CHIN_AT = 0.95
"""Where TRA-Net's alignment puts the chin, as a share of the crop's height; the paper says near the
bottom."""


def similarity(source_xy: NDArray[Any], target_xy: NDArray[Any]) -> NDArray[np.float64]:
    """The similarity (2×3: rotation, scale, shift) that takes n×2 points to n×2 points best in least squares.

    In complex numbers target ≈ a·source + b, whose least-squares solution is a covariance over a variance.
    """
    source = source_xy[:, 0] + 1j * source_xy[:, 1]
    target = target_xy[:, 0] + 1j * target_xy[:, 1]
    centered = source - source.mean()
    spread = np.vdot(centered, centered).real
    if spread == 0.0:
        raise ValueError("similarity: expected points that differ, got the same point throughout")
    a = np.vdot(centered, target - target.mean()) / spread
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def five_point_transform(points: NDArray[np.float32], size_px: int = ALIGNED_PX) -> NDArray[np.float64]:
    """The similarity (2×3) from the frame's pixels to the five-point crop of a face's 478×3 points."""
    return similarity(points[list(FIVE_POINTS), :2].astype(np.float64), _TEMPLATE * size_px)


def box_around(points: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """The box around a face's points, x0, y0, x1, y1 in their pixels: the tracker's `bbox_xyxy`."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def box_transform(bbox_xyxy: tuple[float, float, float, float], size_px: int) -> NDArray[np.float64]:
    """The scaling (2×3) from the frame's pixels to the square around a box, upright as in the frame."""
    x0, y0, x1, y1 = bbox_xyxy
    side = max(x1 - x0, y1 - y0) * (1 + 2 * BOX_MARGIN)
    scale = size_px / max(side, 1.0)
    return np.array(
        [
            [scale, 0.0, size_px / 2 - scale * (x0 + x1) / 2],
            [0.0, scale, size_px / 2 - scale * (y0 + y1) / 2],
        ]
    )


def level_eyes_transform(
    points: NDArray[np.float32], size_px: int, shown: float = LEVEL_EYES_SHOWN
) -> NDArray[np.float64]:
    """The similarity (2×3) that levels the eyes of 478×3 points: ARL's alignment, the middle of its crops."""
    eyes = [points[list(eye), :2].astype(np.float64).mean(0) for eye in (_EYE_RIGHT, _EYE_LEFT)]
    across = eyes[1] - eyes[0]
    length = max(float(np.linalg.norm(across)), 1e-6)
    turn = np.array([[across[0], across[1]], [-across[1], across[0]]]) / length
    others = points[[_NOSE_TIP, mesh.MOUTH_CORNER_RIGHT, mesh.MOUTH_CORNER_LEFT], :2]
    level = np.vstack([*eyes, others]) @ turn.T
    low, high = level.min(0), level.max(0)
    side = max(float((high - low).max()) * LEVEL_EYES_SIDE * shown, 1.0)
    scale = size_px / side
    return np.column_stack([scale * turn, size_px / 2 - scale * (low + high) / 2])


def nose_center_transform(points: NDArray[np.float32], size_px: int) -> NDArray[np.float64]:
    """The similarity (2×3) that puts the middle between nose tip and nose root of 478×3 points into the
    centre and the chin straight below it (TRA-Net, section 4.1)."""
    tip, root, chin = points[[_NOSE_TIP, mesh.NOSE_ROOT, mesh.CHIN], :2].astype(np.float64)
    target = np.array([(0.5, 0.5), (0.5, CHIN_AT)]) * size_px
    return similarity(np.array([(tip + root) / 2, chin]), target)


_BY_POINTS: dict[CropKind, Callable[[NDArray[np.float32], int], NDArray[np.float64]]] = {
    "five_point": five_point_transform,
    "level_eyes": level_eyes_transform,
    "level_eyes_whole": partial(level_eyes_transform, shown=1.0),
    "nose_center": nose_center_transform,
}


def crop_transform(
    spec: CropSpec, points: NDArray[np.float32], bbox_xyxy: tuple[float, float, float, float]
) -> NDArray[np.float64]:
    """The similarity (2×3) from the frame's pixels to any crop of a face's 478×3 points and box."""
    if spec.kind == "box":
        return box_transform(bbox_xyxy, spec.size_px)
    return _BY_POINTS[spec.kind](points, spec.size_px)


def au_centers(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The AU centres of EAC-Net's Table I, 20×2 in the points' pixels, of a face's 478×3 points.

    In pairs, for AU1, 2, 4, 6, 7, 10, 12 (14 and 15 alike), 17, 23 and 24. "Above" and "below" are the
    face's own directions, and the scale is the distance of the inner eye corners. For the "lip centre" of
    AU23 stand the middles of both lips, for that of AU24 the points between the lips, half way to the
    corners.
    """
    xy = points[:, :2].astype(np.float64)
    across = xy[mesh.EYE_INNER_LEFT] - xy[mesh.EYE_INNER_RIGHT]
    up = np.array([across[1], -across[0]])  # as long as the scale

    def mean(*indices: int) -> NDArray[np.float64]:
        found: NDArray[np.float64] = xy[list(indices)].mean(0)
        return found

    centers = [
        (xy[mesh.BROW_RIGHT[4]] + up / 2, xy[mesh.BROW_LEFT[0]] + up / 2),
        (xy[mesh.BROW_RIGHT[1]] + up / 3, xy[mesh.BROW_LEFT[3]] + up / 3),
        (xy[mesh.BROW_RIGHT[2]] - up / 3, xy[mesh.BROW_LEFT[2]] - up / 3),
        (xy[mesh.LID_LOWER_RIGHT[1]] - up, xy[mesh.LID_LOWER_LEFT[1]] - up),
        (mean(*_EYE_RIGHT), mean(*_EYE_LEFT)),
        (xy[37], xy[267]),
        (xy[mesh.MOUTH_CORNER_RIGHT], xy[mesh.MOUTH_CORNER_LEFT]),
        (xy[84] - up / 2, xy[314] - up / 2),
        (mean(0, mesh.LIP_INNER_UPPER), mean(mesh.LIP_INNER_LOWER, 17)),
        (mean(81, 178), mean(311, 402)),
    ]
    flat = np.array(centers).reshape(-1, 2)
    assert len(flat) == AU_CENTERS
    return flat


def au_centers_in_crop(
    spec: CropSpec, points: NDArray[np.float32], bbox_xyxy: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """`au_centers` as shares of a crop's side, 20×2 float32: what engines read."""
    transform = crop_transform(spec, points, bbox_xyxy)
    inside = au_centers(points) @ transform[:, :2].T + transform[:, 2]
    return (inside / spec.size_px).astype(np.float32)


def transform_points(transform: NDArray[np.float64], points: NDArray[np.float32]) -> NDArray[np.float64]:
    """n×2 positions of n×(2 or 3) points under a 2×3 transform."""
    return points[:, :2] @ transform[:, :2].T + transform[:, 2]


def face_mask(aligned_xy: NDArray[np.float64], size_px: int = ALIGNED_PX) -> NDArray[np.uint8]:
    """255 inside the face, 0 outside, from the 478×2 points in the aligned crop; size_px×size_px uint8.

    The contour moves 5 px (at 224) towards the face's middle and the brows 5 px up. Between the brows stands
    one point more, which the paper puts above the inner brow ends by the distance from there to the upper
    point of the nose: so the muscle that AU4 squeezes lies inside.
    """
    inset = _CONTOUR_INSET_PX * size_px / ALIGNED_PX
    jaw = aligned_xy[list(mesh.JAW)]
    inward = aligned_xy[mesh.NOSE_BASE] - jaw
    jaw = jaw + inward * (inset / np.maximum(np.linalg.norm(inward, axis=1, keepdims=True), 1.0))
    up = np.array([0.0, -inset])
    brow_right, brow_left = aligned_xy[list(mesh.BROW_RIGHT)] + up, aligned_xy[list(mesh.BROW_LEFT)] + up
    between = (brow_right[-1] + brow_left[0]) / 2
    rise = np.linalg.norm(between - aligned_xy[mesh.NOSE_ROOT])
    glabella = between + np.array([0.0, -rise])
    outline = np.vstack([jaw, brow_left[::-1], glabella[None], brow_right[::-1]])
    mask = np.zeros((size_px, size_px), np.uint8)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 255)
    return mask
