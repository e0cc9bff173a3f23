"""The face stage's logic: a frame goes in; its faces come out, tracked, measured, aligned and compared with
their neutrals. Knows no sockets and no engines, only which crops they want.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.spec import LANDMARKS, CropSpec, EngineSpec
from pipeline import align, exposure, mesh
from pipeline.align import ALIGNED_PX
from pipeline.diffmap import LEVELS, level_map
from pipeline.errors import SourceError
from pipeline.geometry import face_geometry, frontal_points, head_pose, head_rotation, is_frontal
from pipeline.messages import FaceCrop, Frame, LevelShares, Quality
from pipeline.neutral import Neutral, NeutralKeeper, NeutralPolicy, rest_distance
from pipeline.photo import read_photo
from pipeline.quality import blur, symmetry
from pipeline.tracking import FaceTracker, Observation, Track


@dataclass(frozen=True, slots=True, eq=False)
class _Compared:
    """A face beside its neutral, as far as engines ask for it."""

    levels: NDArray[np.uint8] | None
    shares: LevelShares | None
    gain: float
    offset: float
    neutral_bgr: NDArray[np.uint8] | None


_UNCOMPARED = _Compared(None, None, 1.0, 0.0, None)
_BANDS = {"brows": (0.0, 0.33), "eyes": (0.33, 0.45), "mouth": (0.58, 1.0)}
"""Rows of the aligned crop, as shares of its height: above the eyes, the eyes, below the nose base."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the engines of a run ask of the face stage."""

    crops: tuple[CropSpec, ...]
    level_map: bool = False
    neutral: bool = False
    landmarks: bool = False

    @classmethod
    def by(cls, specs: Sequence[EngineSpec]) -> Wanted:
        """What engines of these specs ask for together."""
        return cls(
            tuple(dict.fromkeys(spec.crop for spec in specs)),
            any(spec.level_map for spec in specs),
            any(spec.neutral for spec in specs),
            any(spec.landmarks for spec in specs),
        )

    def pixels(self) -> list[tuple[int, int, int]]:
        """Shapes of the uint8 arrays of one face."""
        shapes = [(crop.size_px, crop.size_px, 3) for crop in self.crops]
        shapes += [(ALIGNED_PX, ALIGNED_PX, 1)] * self.level_map
        shapes += [(ALIGNED_PX, ALIGNED_PX, 3)] * self.neutral
        return shapes + [(2, LANDMARKS, 3 * np.dtype(np.float32).itemsize)] * self.landmarks


class FaceStage:
    """Frames of one stream in, faces out."""

    def __init__(
        self,
        wanted: Wanted,
        policy: NeutralPolicy,
        max_faces: int,
        compensate_exposure: bool = True,
        tracker: FaceTracker | None = None,
    ) -> None:
        """tracker: one that was made beforehand, as that takes a quarter of a second."""
        self._wanted = wanted
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
        frontal = frontal_points(seen.points, rotation)
        self._seen_longest[track.face] = track.length
        state, held = self._neutrals.update(
            track.face, largest, frame.stamp.pts_seconds, seen.aligned_bgr, frontal, geometry, pose, quality
        )
        compared = _UNCOMPARED
        if self._wanted.level_map or self._wanted.neutral:
            compared = self._compare(seen.aligned_bgr, aligned_xy, held)
        landmarks = None
        if self._wanted.landmarks:
            landmarks = np.stack([frontal, np.zeros_like(frontal) if held is None else held.landmarks])
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
            exposure_gain=compared.gain,
            exposure_offset=compared.offset,
            crops_bgr={spec.name: self._cut(frame, track, spec) for spec in self._wanted.crops},
            level_map=compared.levels,
            level_shares=compared.shares,
            neutral_bgr=compared.neutral_bgr,
            landmarks=landmarks,
        )

    def _cut(self, frame: Frame, track: Track, spec: CropSpec) -> NDArray[np.uint8]:
        seen = track.seen
        if spec.kind == "five_point" and spec.size_px == ALIGNED_PX:
            return seen.aligned_bgr
        transform = align.crop_transform(spec, seen.points, seen.bbox_xyxy)
        return mesh.warp(frame.image_bgr, transform, spec.size_px)

    def _compare(
        self, aligned: NDArray[np.uint8], aligned_xy: NDArray[np.float64], held: Neutral | None
    ) -> _Compared:
        wanted = self._wanted
        if held is None:
            levels = np.zeros(aligned.shape[:2], np.uint8) if wanted.level_map else None
            return _Compared(levels, None, 1.0, 0.0, np.zeros_like(aligned) if wanted.neutral else None)
        mask = align.face_mask(aligned_xy)
        gain, offset = 1.0, 0.0
        reference = held.image_bgr
        if self._compensate:
            gain, offset = exposure.match_exposure(aligned, reference, mask)
            reference = exposure.expose(reference, gain, offset)
        levels = level_map(aligned, reference, mask)
        return _Compared(
            levels if wanted.level_map else None,
            _shares(levels, mask),
            gain,
            offset,
            reference if wanted.neutral else None,
        )


def neutral_from_photo(path: Path) -> Neutral:
    """The neutral face in a photo: that of its largest face.

    Raises:
        SourceError: the file is no picture, or shows no face.
    """
    (seen,) = largest_faces([read_photo(path)])
    if seen is None:
        raise SourceError(
            f"--neutral {path}: no face found in the photo; expected a sharp, frontal face at rest"
        )
    return neutral_of(seen)


def largest_faces(images_bgr: Iterable[NDArray[np.uint8]]) -> Iterator[Observation | None]:
    """The largest face of each photo (H×W×3); None where there is none."""
    tracker = FaceTracker(max_faces=8)
    try:
        for image in images_bgr:
            tracker.reset()
            tracks = tracker.update(image, 0.0)
            yield max(tracks, key=_face_px).seen if tracks else None
    finally:
        tracker.close()


def neutral_of(seen: Observation) -> Neutral:
    """A face that is taken for neutral, as the pipeline keeps it."""
    return Neutral(seen.aligned_bgr, "given", frontal_points(seen.points, head_rotation(seen.points)))


def distance_from_rest(seen: Observation) -> float | None:
    """`neutral.rest_distance` of a face: 0 at an average one at rest, None where it cannot be neutral."""
    rotation = head_rotation(seen.points)
    pose = head_pose(rotation)
    aligned_xy = align.transform_points(align.five_point_transform(seen.points), seen.points)
    quality = Quality(0.0, blur(seen.aligned_bgr), symmetry(seen.aligned_bgr, aligned_xy), is_frontal(pose))
    return rest_distance(face_geometry(seen.points, rotation), pose, quality)


def _face_px(track: Track) -> float:
    x0, y0, x1, y1 = track.seen.bbox_xyxy
    return float(np.sqrt((x1 - x0) * (y1 - y0)))


def _shares(levels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> LevelShares:
    def share(top: float, bottom: float) -> float:
        rows = slice(round(top * len(mask)), round(bottom * len(mask)))
        area = np.count_nonzero(mask[rows])
        return float(levels[rows].sum(dtype=np.int64)) / (LEVELS * area) if area else 0.0

    return LevelShares(face=share(0.0, 1.0), **{name: share(*rows) for name, rows in _BANDS.items()})
