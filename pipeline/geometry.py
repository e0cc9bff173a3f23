"""Head pose and face geometry from the 478 points of the mesh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.spec import LANDMARKS
from pipeline import mesh
from pipeline.messages import Geometry, HeadPose

FRONTAL_DEG = 20.0

# Points that no expression moves, on a face that looks straight ahead: x to the right of the picture, y down,
# z away from the camera, in units of the outer eye-corner distance, origin between the inner eye corners.
# Found by symmetrising the mesh of scikit-image's public-domain portrait; level (pitch 0) is where forehead
# point 10 and the chin of a closed mouth stand one above the other.
_RIGID = {
    33: (-0.500, -0.022, 0.061),
    263: (0.500, -0.022, 0.061),
    133: (-0.190, 0.000, 0.000),
    362: (0.190, 0.000, 0.000),
    127: (-0.762, 0.094, 0.589),
    356: (0.762, 0.094, 0.589),
    234: (-0.756, 0.255, 0.634),
    454: (0.756, 0.255, 0.634),
    21: (-0.720, -0.230, 0.350),
    251: (0.720, -0.230, 0.350),
    54: (-0.661, -0.367, 0.224),
    284: (0.661, -0.367, 0.224),
    103: (-0.559, -0.483, 0.095),
    332: (0.559, -0.483, 0.095),
    67: (-0.395, -0.564, -0.023),
    297: (0.395, -0.564, -0.023),
    10: (0.0, -0.613, -0.111),
    151: (0.0, -0.449, -0.153),
    168: (0.0, -0.097, -0.184),
    6: (0.0, -0.017, -0.239),
    197: (0.0, 0.058, -0.300),
    195: (0.0, 0.124, -0.365),
    5: (0.0, 0.197, -0.433),
    4: (0.0, 0.292, -0.467),
    2: (0.0, 0.444, -0.272),
}
_RIGID_INDEX = np.array(list(_RIGID))
_RIGID_XYZ = np.array(list(_RIGID.values()))
_RIGID_CENTERED = _RIGID_XYZ - _RIGID_XYZ.mean(0)


def head_rotation(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The rotation (3×3) that turns a face looking straight ahead into this one (478×3 points, pixels).

    Kabsch's solution over the rigid points; the mesh's depth has the scale of its width, so no camera is
    needed.
    """
    observed = points[_RIGID_INDEX].astype(np.float64)
    covariance = (observed - observed.mean(0)).T @ _RIGID_CENTERED
    u, _, vt = np.linalg.svd(covariance)
    u[:, 2] *= np.linalg.det(u @ vt)  # a rotation, never a reflection
    return u @ vt


def head_pose(rotation: NDArray[np.float64]) -> HeadPose:
    """Yaw, pitch and roll of R = Rz(roll) · Ry(−yaw) · Rx(−pitch); see HeadPose for the signs."""
    return HeadPose(
        yaw=float(np.degrees(np.arcsin(np.clip(rotation[2, 0], -1.0, 1.0)))),
        pitch=float(-np.degrees(np.arctan2(rotation[2, 1], rotation[2, 2]))),
        roll=float(np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))),
    )


def is_frontal(pose: HeadPose) -> bool:
    return abs(pose.yaw) <= FRONTAL_DEG and abs(pose.pitch) <= FRONTAL_DEG


def frontal_points(points: NDArray[np.float32], rotation: NDArray[np.float64]) -> NDArray[np.float32]:
    """The face as seen from straight ahead, (468, 3) float32, irises left out.

    Units of the outer eye-corner distance, x right, y down; origin and scale by the points that no expression
    moves, so that what a brow or a lip does shows where it happens.

    Args:
        points: 478×3, pixels.
        rotation: `head_rotation`'s.
    """
    rigid = points[_RIGID_INDEX].astype(np.float64)
    center = rigid.mean(0)
    scale = np.sqrt(np.square(rigid - center).sum() / np.square(_RIGID_CENTERED).sum())
    turned = (points[:LANDMARKS].astype(np.float64) - center) @ rotation
    return (turned / scale + _RIGID_XYZ.mean(0)).astype(np.float32)


def face_geometry(points: NDArray[np.float32], rotation: NDArray[np.float64]) -> Geometry:
    """Distances on the face (478×3 points, pixels) as seen from straight ahead."""
    frontal = points.astype(np.float64) @ rotation
    frontal /= np.linalg.norm(frontal[mesh.EYE_OUTER_LEFT] - frontal[mesh.EYE_OUTER_RIGHT])

    def mean_y(*indices: int) -> float:
        return float(frontal[list(indices), 1].mean())

    def eye(upper: tuple[int, ...], lower: tuple[int, ...], outer: int, inner: int) -> float:
        gap = frontal[list(lower), 1] - frontal[list(upper), 1]
        return float(gap.mean() / np.linalg.norm(frontal[outer] - frontal[inner]))

    eyes_y = mean_y(mesh.EYE_OUTER_RIGHT, mesh.EYE_INNER_RIGHT, mesh.EYE_INNER_LEFT, mesh.EYE_OUTER_LEFT)
    lips_y = mean_y(mesh.LIP_INNER_UPPER, mesh.LIP_INNER_LOWER)
    return Geometry(
        eye_opening=(
            eye(mesh.LID_UPPER_RIGHT, mesh.LID_LOWER_RIGHT, mesh.EYE_OUTER_RIGHT, mesh.EYE_INNER_RIGHT)
            + eye(mesh.LID_UPPER_LEFT, mesh.LID_LOWER_LEFT, mesh.EYE_OUTER_LEFT, mesh.EYE_INNER_LEFT)
        )
        / 2,
        lip_gap=float(np.linalg.norm(frontal[mesh.LIP_INNER_LOWER] - frontal[mesh.LIP_INNER_UPPER])),
        mouth_width=float(np.linalg.norm(frontal[mesh.MOUTH_CORNER_LEFT] - frontal[mesh.MOUTH_CORNER_RIGHT])),
        corner_lift=lips_y - mean_y(mesh.MOUTH_CORNER_RIGHT, mesh.MOUTH_CORNER_LEFT),
        brow_raise=eyes_y - mean_y(*mesh.BROW_RIGHT, *mesh.BROW_LEFT),
        brow_gap=float(np.linalg.norm(frontal[mesh.BROW_LEFT[0]] - frontal[mesh.BROW_RIGHT[-1]])),
        jaw_drop=float(np.linalg.norm(frontal[mesh.CHIN] - frontal[mesh.NOSE_BASE])),
    )
