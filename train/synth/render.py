"""From a donor, action units, a pose and a light to a picture.

The mesh is drawn backwards: each triangle says for its pixels where in the portrait they come from, one remap
fetches them, and the openings of eyes and mouth are laid over the skin with soft edges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from train.synth.creases import Creases
from train.synth.donor import MESH_POINTS, Donor
from train.synth.drawing import blur, fetch, line, polygon, to_uint8
from train.synth.expressions import Expressions
from train.synth.neutral import at_rest
from train.synth.openings import OPENINGS, SEAM_BGR, inside, lids_unrolled, lips_without_teeth, outline
from train.synth.pose import Pose
from train.synth.raster import light_up, rasterise
from train.synth.skin import Skin

_AMBIENT, _DIFFUSE = 0.72, 0.40


@dataclass(frozen=True)
class Light:
    """The light and the camera's answer to it.

    gain, offset: pixel = gain · scene + offset, offset in grey levels
    toward_xyz: where the light comes from; x right, y down, z away from the camera
    """

    gain: float = 1.0
    offset: float = 0.0
    toward_xyz: tuple[float, float, float] = (-0.25, -0.35, -0.9)


class Renderer:
    """Animates one donor. Everything that does not change from frame to frame is made here, once."""

    def __init__(self, donor: Donor) -> None:
        self.donor = donor
        skin = Skin(donor.frame.to_face(donor.points_px), donor.skin_triangles, donor.head_weight)
        self.rest = at_rest(donor, skin)
        self.expressions = Expressions(donor, self.rest, skin)
        self._creases = Creases(donor)
        self._inside = inside(donor)
        self._skin = lips_without_teeth(donor, self.rest.picture_bgr)
        # Skins that an action unit brings with it: the portrait's own smile, and lids unrolled.
        self._skins = {
            "AU12": lips_without_teeth(donor, donor.picture_bgr),
            "AU43": lids_unrolled(donor, self._skin),
        }
        self._source_px = np.ascontiguousarray(donor.points_px[:, :2])
        self._normals = _soft_normals(donor)

    @cached_property
    def pivot_px(self) -> NDArray[np.float64]:
        """(3,): where the neck turns, below and behind the face."""
        frame = self.donor.frame
        x, y = frame.to_px(np.array([[0.0, 1.35]]))[0]
        return np.array([x, y, 0.55 * frame.unit_px])

    def points_px(self, intensities: Mapping[str, float], pose: Pose) -> NDArray[np.float64]:
        """(V, 3) float64: the mesh in the rendered picture; its border stays in place."""
        points = np.concatenate(
            [self.expressions.points_px(intensities), self.donor.points_px[:, 2:]], axis=1
        )
        moved = pose.moved(points, self.pivot_px, self.donor.frame.unit_px)
        return points + self.donor.head_weight[:, None] * (moved - points)

    def render(
        self, intensities: Mapping[str, float], pose: Pose | None = None, light: Light | None = None
    ) -> NDArray[np.uint8]:
        """{"AU01": 0.5, …} → (H, W, 3) uint8 BGR, without sensor noise."""
        pose, light = pose or Pose(), light or Light()
        points = self.points_px(intensities, pose)
        height, width = self.donor.picture_bgr.shape[:2]
        shade = self._shade(pose, light)
        map_xy, shading = rasterise(points, self._source_px, shade, self.donor.triangles, (width, height))
        creases = np.asarray(fetch(self._creases.shade(intensities), map_xy, cv2.INTER_LINEAR), np.float32)
        skin = np.asarray(fetch(self._skin_of(intensities), map_xy, cv2.INTER_CUBIC), np.uint8)
        light_up(skin, shading, creases, light.gain, light.offset)
        for name in OPENINGS:
            self._look_inside(skin, name, points, pose, light)
        return skin

    def _skin_of(self, intensities: Mapping[str, float]) -> NDArray[np.uint8]:
        skin = self._skin
        for name, changed in self._skins.items():
            if intensity := min(intensities.get(name, 0.0), 1.0):
                mixed = cv2.addWeighted(skin, 1 - intensity, changed, intensity, 0)
                skin = np.asarray(mixed, np.uint8)
        return skin

    def _shade(self, pose: Pose, light: Light) -> NDArray[np.float64]:
        """(V,): brightness against the portrait's, as the head turns and the light moves."""
        now = _lambert(self._normals @ pose.rotation().T, light.toward_xyz)
        change = now / _lambert(self._normals, Light().toward_xyz) - 1
        return np.asarray(1.0 + self.donor.head_weight * change, np.float64)

    def _look_inside(
        self, picture: NDArray[np.uint8], name: str, points: NDArray[np.float64], pose: Pose, light: Light
    ) -> None:
        """Lays what is behind an opening over the skin; draws the lips' line while it is shut."""
        unit_px = self.donor.frame.unit_px
        edge = outline(points, name)
        corner = np.maximum(np.floor(edge.min(axis=0)).astype(int) - 6, 0)
        far = np.minimum(np.ceil(edge.max(axis=0)).astype(int) + 7, picture.shape[1::-1])
        place = picture[corner[1] : far[1], corner[0] : far[0]]
        upper, lower = (points[list(indices), :2] - corner for indices in OPENINGS[name])
        visible = float(np.clip(((lower - upper)[:, 1].max() / unit_px - 0.012) / 0.02, 0, 1))
        if name == "mouth" and visible < 1:
            # Closed lips are a pixel apart; their line is drawn, since a map of whole pixels would fray it.
            seam = blur(line(place.shape, (upper + lower) / 2, 1), 0.7)
            _lay_over(place, light.gain * SEAM_BGR + light.offset, (1 - visible) * seam)
        if not visible:
            return
        mask = polygon(place.shape, edge - corner)
        behind = light.gain * self._skull_view(name, pose, corner, place.shape)
        if name == "mouth":  # the lips shade what lies behind them
            behind *= 0.5 + 0.5 * blur(mask, 0.013 * unit_px)[..., None]
        _lay_over(place, behind + light.offset, visible * blur(mask, 0.8))

    def _skull_view(
        self, name: str, pose: Pose, corner_xy: NDArray[np.int64], shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        """(h, w, 3) float32: a patch of what is inside the head, at the depth of the opening."""
        upper, lower = OPENINGS[name]
        depth = float(self.donor.points_px[[*upper, *lower], 2].mean())
        corners = np.array([[0.0, 0.0, depth], [100.0, 0.0, depth], [0.0, 100.0, depth]])
        moved = pose.moved(corners, self.pivot_px, self.donor.frame.unit_px)[:, :2] - corner_xy
        affine = cv2.getAffineTransform(moved.astype(np.float32), corners[:, :2].astype(np.float32))
        patch = cv2.warpAffine(
            self._inside,
            affine,
            (shape[1], shape[0]),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(patch, np.float32)


def _lay_over(place: NDArray[np.uint8], colour: NDArray[np.float32], alpha: NDArray[np.float32]) -> None:
    """place ← colour where alpha (h, w) is 1, in place."""
    clipped = np.clip(colour, 0, 255)
    place[:] = to_uint8(place + alpha[..., None] * (clipped - place))


def _soft_normals(donor: Donor, flatten: float = 0.6, rounds: int = 3) -> NDArray[np.float64]:
    """(V, 3) unit normals towards the camera: of a flattened face, evened out, and straight ahead around it.

    The mesh is so steep at its rim, and so coarse, that its true normals would show as facets.
    """
    corners = donor.skin_triangles.ravel()
    points = donor.points_px * (1, 1, flatten)
    a, b, c = (points[donor.skin_triangles[:, k]] for k in range(3))
    faces = np.cross(b - a, c - a)
    faces *= np.where(faces[:, 2:] > 0, -1.0, 1.0)
    around = len(donor.points_px) - MESH_POINTS

    def gathered(per_face: NDArray[np.float64]) -> NDArray[np.float64]:
        columns = (np.bincount(corners, np.repeat(column, 3), len(points)) for column in per_face.T)
        total = np.stack(list(columns), axis=1)
        total[MESH_POINTS:] = np.tile((0.0, 0.0, -1.0), (around, 1))
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)

    normals = gathered(faces)
    for _ in range(rounds):
        normals = gathered(normals[donor.skin_triangles].mean(axis=1))
    return normals


def _lambert(normals: NDArray[np.float64], toward_xyz: tuple[float, float, float]) -> NDArray[np.float64]:
    toward = np.array(toward_xyz) / np.linalg.norm(toward_xyz)
    return np.asarray(_AMBIENT + _DIFFUSE * np.maximum(normals @ toward, 0), np.float64)
