"""The donor: a portrait, the face mesh found in it, and a triangulation that covers the whole picture."""

from dataclasses import dataclass

import cv2
import numpy as np
from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION
from numpy.typing import NDArray
from scipy.spatial import Delaunay
from skimage.data import astronaut

from pipeline.errors import RunError
from pipeline.mesh import FaceDetector, FaceMesh, region_of
from train.synth import landmarks as lm

SIZE_WH = (640, 480)
_CROP_XYWH = (85, 0, 280, 210)  # head and shoulders of the 512 × 512 portrait
MESH_POINTS = 468  # the ten iris points behind them ride on the eyeball, not on the skin


@dataclass(frozen=True)
class Donor:
    """One face to animate.

    picture_bgr: (H, W, 3) uint8, the portrait
    points_px: (V, 3) float64, x and y in pixels, z on the same scale (smaller is nearer); the first 468 are
        MediaPipe's, the others surround the face up to the picture's border
    skin_triangles: (T, 3) int64, without the openings of eyes and mouth
    hole_triangles: (T', 3) int64, what closes these openings
    head_weight: (V,) float64, how far a point follows the head: 1 on the face, 0 on the picture's border
    """

    picture_bgr: NDArray[np.uint8]
    points_px: NDArray[np.float64]
    skin_triangles: NDArray[np.int64]
    hole_triangles: NDArray[np.int64]
    head_weight: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.points_px.ndim != 2 or self.points_px.shape[1] != 3 or len(self.points_px) < MESH_POINTS:
            raise ValueError(f"expected points of shape (468 or more, 3), got {self.points_px.shape}")
        if self.head_weight.shape != (len(self.points_px),):
            raise ValueError(f"expected {len(self.points_px)} weights, got {self.head_weight.shape}")

    @property
    def triangles(self) -> NDArray[np.int64]:
        """(T + T', 3): skin and openings, a cover of the whole picture."""
        return np.concatenate([self.skin_triangles, self.hole_triangles])

    @property
    def frame(self) -> "FaceFrame":
        return FaceFrame.of(self.points_px)


@dataclass(frozen=True)
class FaceFrame:
    """The face's own axes: origin between the eyes, unit the distance between the outer eye corners."""

    origin_px: NDArray[np.float64]
    right: NDArray[np.float64]
    down: NDArray[np.float64]
    unit_px: float

    @classmethod
    def of(cls, points_px: NDArray[np.float64]) -> "FaceFrame":
        a, b = points_px[lm.RIGHT_EYE_OUTER, :2], points_px[lm.LEFT_EYE_OUTER, :2]
        unit_px = float(np.linalg.norm(b - a))
        right = (b - a) / unit_px
        return cls((a + b) / 2, right, np.array([-right[1], right[0]]), unit_px)

    def to_face(self, points_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, ≥2) pixels → (N, 2) face units, x to the image's right, y down the face."""
        d = points_px[:, :2] - self.origin_px
        return np.stack([d @ self.right, d @ self.down], axis=1) / self.unit_px

    def to_px(self, points_face: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) face units → (N, 2) pixels."""
        return self.origin_px + self.unit_px * (
            points_face[:, :1] * self.right + points_face[:, 1:2] * self.down
        )


def load_donor() -> Donor:
    """The public-domain portrait that scikit-image carries, cropped and enlarged to SIZE_WH."""
    x, y, w, h = _CROP_XYWH
    picture_bgr = _enlarge(np.ascontiguousarray(astronaut()[y : y + h, x : x + w, ::-1]))
    return make_donor(picture_bgr, find_mesh(picture_bgr))


def find_mesh(picture_bgr: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(468, 3) float64 mesh points in pixels; RunError when the picture shows no face."""
    detector, finder = FaceDetector(), FaceMesh()
    try:
        regions = detector(picture_bgr)
        if not regions:
            raise RunError("no face in the donor's picture; expected one frontal portrait")
        points, _ = finder(picture_bgr, regions[0])
        points, _ = finder(picture_bgr, region_of(points))
    finally:
        detector.close()
        finder.close()
    return points[:MESH_POINTS].astype(np.float64)


def make_donor(picture_bgr: NDArray[np.uint8], mesh_px: NDArray[np.float64]) -> Donor:
    """Surrounds the mesh with points up to the border and triangulates the lot."""
    height, width = picture_bgr.shape[:2]
    unit = FaceFrame.of(mesh_px).unit_px
    outer = _outer_points(mesh_px, width, height, unit)
    flat = np.concatenate([mesh_px[:, :2], outer])
    is_border = (flat[:, 0] <= 0) | (flat[:, 1] <= 0) | (flat[:, 0] >= width - 1) | (flat[:, 1] >= height - 1)
    skin = np.concatenate([mesh_triangles(), _outer_triangles(flat)])
    weight = _head_weight(flat, mesh_px, unit) * ~is_border
    depth = _outer_depth(outer, mesh_px, unit)
    points = np.concatenate([flat, np.concatenate([mesh_px[:, 2], depth])[:, None]], axis=1)
    return Donor(picture_bgr, points, skin, hole_triangles(), weight)


def _enlarge(small_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Noise out before the enlargement, where its grain would swell to blobs; an unsharp mask after it."""
    clean = cv2.fastNlMeansDenoisingColored(small_bgr, None, 2, 3, 3, 13)
    large = cv2.resize(clean, SIZE_WH, interpolation=cv2.INTER_LANCZOS4)
    sharp = cv2.addWeighted(large, 1.7, cv2.GaussianBlur(large, (0, 0), 1.5), -0.7, 0)
    # No brighter than what lies around: a rim of light along the jaw would widen when the head turns.
    around = np.ones((5, 5), np.uint8)
    return np.clip(sharp, cv2.erode(large, around), cv2.dilate(large, around)).astype(np.uint8)


def _outer_points(mesh_px: NDArray[np.float64], width: int, height: int, unit: float) -> NDArray[np.float64]:
    """(N, 2): rings around the oval, then a grid, then the border."""
    oval = mesh_px[list(lm.OVAL), :2]
    centre = oval.mean(axis=0)
    rings = [centre + (oval - centre) * s for s in (1.09, 1.2)]
    step = 0.22 * unit
    grid = np.stack(np.meshgrid(*(np.linspace(0, n - 1, round(n / step) + 1) for n in (width, height))), -1)
    grid = grid.reshape(-1, 2)
    hull = cv2.convexHull((centre + (oval - centre) * 1.28).astype(np.float32))
    apart = np.array([cv2.pointPolygonTest(hull, (float(x), float(y)), False) < 0 for x, y in grid])
    ring = np.concatenate(rings)
    inside = (ring > 2).all(axis=1) & (ring[:, 0] < width - 3) & (ring[:, 1] < height - 3)
    return np.concatenate([ring[inside], grid[apart]])


def mesh_triangles() -> NDArray[np.int64]:
    """(852, 3): MediaPipe publishes the edges of its mesh; a triangle is three that close."""
    edges = {frozenset(edge) for edge in FACEMESH_TESSELATION}
    near: dict[int, set[int]] = {}
    for a, b in (tuple(edge) for edge in edges):
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    found = {tuple(sorted((a, b, c))) for a, b in (tuple(e) for e in edges) for c in near[a] & near[b]}
    # Three edges also close around a point that has no other neighbour: that is no face of the mesh.
    found -= {tuple(sorted(around)) for around in near.values() if len(around) == 3}
    return np.array(sorted(found), dtype=np.int64)


def hole_triangles() -> NDArray[np.int64]:
    """(46, 3): strips between the upper and the lower edge of each opening."""
    triangles = []
    for upper, lower in (
        (lm.UPPER_LIP_INNER, lm.LOWER_LIP_INNER),
        (lm.RIGHT_LID_UPPER, lm.RIGHT_LID_LOWER),
        (lm.LEFT_LID_UPPER, lm.LEFT_LID_LOWER),
    ):
        for k in range(len(upper) - 1):
            if k:
                triangles.append((upper[k], upper[k + 1], lower[k]))
            if k < len(upper) - 2:
                triangles.append((upper[k + 1], lower[k + 1], lower[k]))
    return np.array(triangles, dtype=np.int64)


def _outer_triangles(flat: NDArray[np.float64]) -> NDArray[np.int64]:
    """(T, 3): Delaunay of the oval and what lies around it, less what covers the face."""
    index = np.array([*lm.OVAL, *range(MESH_POINTS, len(flat))])
    triangles = index[Delaunay(flat[index]).simplices]
    oval = flat[list(lm.OVAL)].astype(np.float32)
    middle = flat[triangles].mean(axis=1)
    on_face = np.isin(triangles, lm.OVAL).all(axis=1) & np.array(
        [cv2.pointPolygonTest(oval, (float(x), float(y)), False) >= 0 for x, y in middle]
    )
    return triangles[~on_face].astype(np.int64)


def _head_weight(flat: NDArray[np.float64], mesh_px: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    """(V,): 1 on face and hair, smoothly to 0 across neck and background."""
    centre = mesh_px[list(lm.OVAL), :2].mean(axis=0) - (0, 0.25 * unit)
    distance = np.hypot(*((flat - centre) / (1.2 * unit, 1.35 * unit)).T)
    t = np.clip((distance - 1.0) / 0.75, 0, 1)
    weight = 1 - t * t * (3 - 2 * t)
    weight[:MESH_POINTS] = 1
    return weight


def _outer_depth(
    outer: NDArray[np.float64], mesh_px: NDArray[np.float64], unit: float
) -> NDArray[np.float64]:
    """(N,): the depth of the nearest points of the oval, soon going over to that of the neck."""
    oval = mesh_px[list(lm.OVAL)]
    distance = np.linalg.norm(outer[:, None] - oval[None, :, :2], axis=2)
    near = np.exp(-((distance / distance.min(axis=1, keepdims=True)) ** 2))
    depth = near @ oval[:, 2] / near.sum(axis=1)
    stay = np.exp(-distance.min(axis=1) / (0.5 * unit))
    return stay * depth + (1 - stay) * 0.5 * unit
