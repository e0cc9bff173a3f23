"""Rendered pictures on their way through the streaming code: what a network would be given for them live."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.spec import CropSpec
from pipeline import align, exposure, mesh
from pipeline.diffmap import level_map
from pipeline.geometry import head_pose, head_rotation
from pipeline.tracking import FaceTracker, Observation


@dataclass(frozen=True, eq=False)
class Neutral:
    """A neutral face as the pipeline would keep it: (224, 224, 3) uint8 BGR, and its (478, 3) points."""

    image_bgr: NDArray[np.uint8]
    points: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the streaming code makes of one frame; arrays as in a sample folder (train.samples)."""

    crops: dict[str, NDArray[np.uint8]]
    level_map: NDArray[np.uint8]
    points: NDArray[np.float32]
    pose_deg: tuple[float, float, float]
    exposure: tuple[float, float]


class Watcher:
    """The streaming code of one process, without its engines and without a neutral of its own."""

    def __init__(self, crops: Sequence[CropSpec]) -> None:
        self._crops = tuple(crops)
        self._tracker = FaceTracker(max_faces=1)

    def close(self) -> None:
        self._tracker.close()

    def forget(self) -> None:
        """The next picture is the first of another stream."""
        self._tracker.reset()

    def find(self, picture_bgr: NDArray[np.uint8], pts_seconds: float = 0.0) -> Observation | None:
        """The face in the next picture of a stream, None where the tracker finds none."""
        tracks = self._tracker.update(picture_bgr, pts_seconds)
        return tracks[0].seen if tracks else None

    def neutral(self, pictures_bgr: Sequence[NDArray[np.uint8]]) -> Neutral | None:
        """The pixel-wise median of a person's faces at rest, as pipeline.neutral keeps it."""
        self.forget()
        found = [self.find(picture, 0.2 * k) for k, picture in enumerate(pictures_bgr)]
        seen = [one for one in found if one is not None]
        if not seen:
            return None
        image = np.median([one.aligned_bgr for one in seen], axis=0).astype(np.uint8)
        return Neutral(image, seen[0].points)

    def look(self, picture_bgr: NDArray[np.uint8], observation: Observation, neutral: Neutral | None) -> Seen:
        """Crops, level map and measures of one frame, as pipeline.faces makes them."""
        points = observation.points
        levels, matched = np.zeros((align.ALIGNED_PX,) * 2, np.uint8), (1.0, 0.0)
        if neutral is not None:
            aligned_xy = align.transform_points(align.five_point_transform(points), points)
            mask = align.face_mask(aligned_xy)
            matched = exposure.match_exposure(observation.aligned_bgr, neutral.image_bgr, mask)
            levels = level_map(observation.aligned_bgr, exposure.expose(neutral.image_bgr, *matched), mask)
        pose = head_pose(head_rotation(points))
        crops = {spec.name: _cut(picture_bgr, observation, spec) for spec in self._crops}
        return Seen(crops, levels, points, (pose.yaw, pose.pitch, pose.roll), matched)


def _cut(picture_bgr: NDArray[np.uint8], seen: Observation, spec: CropSpec) -> NDArray[np.uint8]:
    if spec.kind == "five_point" and spec.size_px == align.ALIGNED_PX:
        return seen.aligned_bgr
    return mesh.warp(picture_bgr, align.crop_transform(spec, seen.points, seen.bbox_xyxy), spec.size_px)
