"""The face stage's logic: a frame goes in; its faces come out, tracked, measured, aligned and compared with
their neutrals. Knows no sockets and no engines, only which crops they want.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.spec import CropSpec
from pipeline import align, exposure, mesh
from pipeline.diffmap import LEVELS, level_map
from pipeline.errors import SourceError
from pipeline.geometry import face_geometry, head_pose, head_rotation, is_frontal
from pipeline.messages import FaceCrop, Frame, LevelShares, Quality
from pipeline.neutral import Neutral, NeutralKeeper, NeutralPolicy
from pipeline.photo import read_photo
from pipeline.quality import blur, symmetry
from pipeline.tracking import FaceTracker, Track

_BANDS = {"brows": (0.0, 0.33), "eyes": (0.33, 0.45), "mouth": (0.58, 1.0)}
"""Rows of the aligned crop, as shares of its height: above the eyes, the eyes, below the nose base."""


class FaceStage:
    """Frames of one stream in, faces out."""

    def __init__(
        self,
        crops: Sequence[CropSpec],
        wants_level_map: bool,
        policy: NeutralPolicy,
        max_faces: int,
        compensate_exposure: bool = True,
        tracker: FaceTracker | None = None,
    ) -> None:
        """tracker: one that was made beforehand, as that takes a quarter of a second."""
        self._crops = tuple(dict.fromkeys(crops))
        self._wants_level_map = wants_level_map
        self._compensate = compensate_exposure
        self._tracker = tracker or FaceTracker(max_faces)
        self._neutrals = NeutralKeeper(policy)
        self._epoch: int | None = None
        self._seen_longest: dict[int, int] = {}

    def close(self) -> None:
        self._tracker.close()

    def __call__(self, frame: Frame) -> list[FaceCrop]:
        """The faces in a frame, by id."""
        if frame.stamp.epoch != self._epoch:
            self._tracker.reset()
            self._epoch = frame.stamp.epoch
        tracks = self._tracker.update(frame.image_bgr, frame.stamp.pts_seconds)
        sizes = [_face_px(track) for track in tracks]
        return [
            self._crop(frame, track, largest=size == max(sizes), face_px=size)
            for track, size in zip(tracks, sizes, strict=True)
        ]

    def main_neutral(self) -> Neutral | None:
        """The neutral of the face that was in view longest, for --save-neutral."""
        for face in sorted(self._seen_longest, key=lambda f: -self._seen_longest[f]):
            if (held := self._neutrals.neutral_of(face)) is not None:
                return held
        return None

    def _crop(self, frame: Frame, track: Track, largest: bool, face_px: float) -> FaceCrop:
        seen = track.seen
        rotation = head_rotation(seen.points)
        pose = head_pose(rotation)
        aligned_xy = align.transform_points(align.five_point_transform(seen.points), seen.points)
        quality = Quality(
            face_px, blur(seen.aligned_bgr), symmetry(seen.aligned_bgr, aligned_xy), is_frontal(pose)
        )
        geometry = face_geometry(seen.points, rotation)
        self._seen_longest[track.face] = track.length
        state, held = self._neutrals.update(
            track.face, largest, frame.stamp.pts_seconds, seen.aligned_bgr, geometry, pose, quality
        )
        levels, shares, gain, offset = None, None, 1.0, 0.0
        if self._wants_level_map:
            levels, shares, gain, offset = self._compare(seen.aligned_bgr, aligned_xy, held)
        return FaceCrop(
            face=track.face,
            track_index=track.length - 1,
            bbox_xyxy=seen.bbox_xyxy,
            confidence=seen.presence,
            landmarks_px=seen.points,
            pose=pose,
            quality=quality,
            geometry=geometry,
            neutral=state,
            exposure_gain=gain,
            exposure_offset=offset,
            crops_bgr={spec.name: self._cut(frame, track, spec) for spec in self._crops},
            level_map=levels,
            level_shares=shares,
        )

    def _cut(self, frame: Frame, track: Track, spec: CropSpec) -> NDArray[np.uint8]:
        seen = track.seen
        if spec.kind == "five_point" and spec.size_px == align.ALIGNED_PX:
            return seen.aligned_bgr
        transform = align.crop_transform(spec, seen.points, seen.bbox_xyxy)
        return mesh.warp(frame.image_bgr, transform, spec.size_px)

    def _compare(
        self, aligned: NDArray[np.uint8], aligned_xy: NDArray[np.float64], held: Neutral | None
    ) -> tuple[NDArray[np.uint8], LevelShares | None, float, float]:
        if held is None:
            return np.zeros(aligned.shape[:2], np.uint8), None, 1.0, 0.0
        mask = align.face_mask(aligned_xy)
        gain, offset = 1.0, 0.0
        reference = held.image_bgr
        if self._compensate:
            gain, offset = exposure.match_exposure(aligned, reference, mask)
            reference = exposure.expose(reference, gain, offset)
        levels = level_map(aligned, reference, mask)
        return levels, _shares(levels, mask), gain, offset


def neutral_from_photo(path: Path) -> Neutral:
    """The neutral face in a photo: that of its largest face.

    Raises:
        SourceError: the file is no picture, or shows no face.
    """
    image = read_photo(path)
    tracker = FaceTracker(max_faces=8)
    try:
        tracks = tracker.update(image, 0.0)
    finally:
        tracker.close()
    if not tracks:
        raise SourceError(
            f"--neutral {path}: no face found in the photo; expected a sharp, frontal face at rest"
        )
    return Neutral(max(tracks, key=_face_px).seen.aligned_bgr, "given")


def _face_px(track: Track) -> float:
    x0, y0, x1, y1 = track.seen.bbox_xyxy
    return float(np.sqrt((x1 - x0) * (y1 - y0)))


def _shares(levels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> LevelShares:
    def share(top: float, bottom: float) -> float:
        rows = slice(round(top * len(mask)), round(bottom * len(mask)))
        area = np.count_nonzero(mask[rows])
        return float(levels[rows].sum(dtype=np.int64)) / (LEVELS * area) if area else 0.0

    return LevelShares(face=share(0.0, 1.0), **{name: share(*rows) for name, rows in _BANDS.items()})
