"""Where the head is: small rigid motions of the mesh about the neck."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pose:
    """The head against its place in the portrait.

    yaw_deg, pitch_deg, roll_deg: positive turns the face to the image's right, up, and the head
        clockwise, as in the pipeline's HeadPose
    shift_xy: translation in face units
    scale: 1 is the portrait's size
    """

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    shift_xy: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0

    def rotation(self) -> NDArray[np.float64]:
        """(3, 3) for x right, y down, z away from the camera."""
        yaw, pitch, roll = np.radians([self.yaw_deg, -self.pitch_deg, self.roll_deg])
        cy, sy, cp, sp, cr, sr = (
            np.cos(yaw),
            np.sin(yaw),
            np.cos(pitch),
            np.sin(pitch),
            np.cos(roll),
            np.sin(roll),
        )
        about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return about_z @ about_x @ about_y

    def moved(
        self, points_px: NDArray[np.float64], pivot_px: NDArray[np.float64], unit_px: float
    ) -> NDArray[np.float64]:
        """(N, 3) pixels → (N, 3), seen without perspective so that Pose() changes nothing."""
        shift = np.array([*self.shift_xy, 0.0]) * unit_px
        return pivot_px + self.scale * (points_px - pivot_px) @ self.rotation().T + shift
