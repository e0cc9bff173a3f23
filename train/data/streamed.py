"""One recording through the streaming code: frame by frame into the face stage, its neutral given, as
`run_stream.py --neutral PHOTO` would see a video of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.spec import CropSpec
from pipeline.faces import FaceStage, Wanted, distance_from_rest, largest_faces, neutral_of
from pipeline.messages import FaceCrop, Frame, Stamp
from pipeline.neutral import NeutralPolicy, given
from pipeline.tracking import Observation
from pipeline.video import DEFAULT_RATE_HZ
from train.data.base import Place, Recording
from train.data.cache import BAD, NO_FACE, SAMPLE, TRACKS, UNREADABLE, FrameIndex
from train.data.media import Media

CHUNK = 256
"""Samples of a shard, some 100 MB: what is held in memory at once."""
Arrays = dict[str, NDArray[Any]]
"""Those of a shard."""


@dataclass(frozen=True)
class Options:
    """How frames become samples."""

    crops: tuple[CropSpec, ...]
    exposure_compensation: bool
    keep_bad: bool
    """Make samples of the frames that JAA-Net's lists leave out, too."""


@dataclass(frozen=True, eq=False)
class Job:
    """One recording to be streamed."""

    number: int
    """Among the dataset's recordings."""
    subject: int
    """Number among the dataset's subjects."""
    recording: Recording
    neutral_media: Media | None
    """Where the recording's neutral frame is; None without one."""
    file: str
    """Stem of its files."""

    @property
    def span(self) -> range:
        """Frames that are streamed: from the first label, or a neutral frame before it, to the last label."""
        labels, neutral = self.recording.labels, self.recording.neutral
        first = int(labels.frame[0])
        if neutral is not None and neutral.recording == self.recording.name:
            first = min(first, neutral.frame)
        return range(first, int(labels.frame[-1]) + 1)


def find_neutral(media: Media, place: Place) -> tuple[Observation, int] | None:
    """The subject's neutral face and the frame that it is of.

    Where the place leaves a choice, the frame nearest to rest by the geometry that the streaming code goes
    by; without one near rest, the place's own, or where no face is found in it, the one nearest in time.

    Raises:
        SourceError: the frames cannot be read.
    """
    numbers = place.choice or (place.frame,)
    pictures = dict(media.frames(numbers))
    seen = zip(pictures, largest_faces(pictures.values()), strict=True)
    found = {number: face for number, face in seen if face is not None}
    if not found:
        return None
    rests = {number: distance_from_rest(face) for number, face in found.items()}
    near = {number: rest for number, rest in rests.items() if rest is not None}
    best = min(near, key=lambda n: near[n]) if near else min(found, key=lambda n: abs(n - place.frame))
    return found[best], best


@dataclass(eq=False)
class Stream:
    """Streams one recording. Iterate over its chunks, then ask for `index`."""

    job: Job
    options: Options
    neutral_frame: int | None = None
    """Known after the first chunk was asked for."""
    _status: dict[int, int] = field(default_factory=dict)

    def chunks(self, advance: Callable[[], object]) -> Iterator[Arrays]:
        """Samples as they come, `CHUNK` at a time; `advance` is told of every frame.

        Raises:
            SourceError: a frame cannot be read.
        """
        recording, options = self.job.recording, self.options
        neutral, policy = None, NeutralPolicy("none")
        if recording.neutral is not None and self.job.neutral_media is not None:
            chosen = find_neutral(self.job.neutral_media, recording.neutral)
            if chosen is not None:
                neutral, self.neutral_frame = chosen
                policy = given(neutral_of(neutral), everybody=True)
        rows = {int(frame): row for row, frame in enumerate(recording.labels.frame)}
        batch = _Batch(self.job, neutral)
        stage = FaceStage(
            Wanted(options.crops, level_map=True),
            policy,
            1,
            compensate_exposure=options.exposure_compensation,
        )
        try:
            for frame in self._frames():
                faces = stage(frame)
                advance()
                row = rows.get(frame.stamp.seq)
                if row is None:
                    continue
                if recording.labels.bad[row] and not options.keep_bad:
                    self._status[frame.stamp.seq] = BAD
                elif not faces:
                    self._status[frame.stamp.seq] = NO_FACE
                else:
                    self._status[frame.stamp.seq] = SAMPLE
                    batch.add(faces[0], frame.stamp, row)
                    if len(batch) == CHUNK:
                        yield batch.take()
            if len(batch):
                yield batch.take()
        finally:
            stage.close()

    def index(self) -> FrameIndex:
        """What became of every labelled frame, after the last chunk."""
        labels = self.job.recording.labels
        status = [self._status.get(int(frame), UNREADABLE) for frame in labels.frame]
        return FrameIndex(
            labels.frame, labels.number, np.array(status, np.uint8), labels.occurrence, labels.intensity
        )

    def _frames(self) -> Iterator[Frame]:
        """Frames with the PTS that their number and the recording's rate give."""
        span, recording = self.job.span, self.job.recording
        rate_hz = recording.rate_hz or DEFAULT_RATE_HZ
        name = f"{recording.subject}/{recording.name}"
        for number, image_bgr in recording.media.frames(span):
            yield Frame(Stamp(name, 0, number, (number - span.start) / rate_hz, 0.0, 0.0), image_bgr)


class _Batch:
    """Samples of a shard as they come in."""

    def __init__(self, job: Job, neutral: Observation | None) -> None:
        self._job, self._neutral = job, neutral
        self._columns: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self._columns.get("frame", ()))

    def add(self, face: FaceCrop, stamp: Stamp, row: int) -> None:
        labels = self._job.recording.labels
        sample = {
            **face.crops_bgr,
            "level_map": face.level_map,
            "points": face.landmarks_px,
            "pose_deg": (face.pose.yaw, face.pose.pitch, face.pose.roll),
            "exposure": (face.exposure_gain, face.exposure_offset),
            "neutral": -1 if self._neutral is None else 0,
            "intensity": labels.intensity[row],
            "occurrence": labels.occurrence[row],
            "subject": self._job.subject,
            "sequence": self._job.number * TRACKS + min(face.face, TRACKS - 1),
            "frame": stamp.seq,
            "pts_seconds": stamp.pts_seconds,
        }
        for name, value in sample.items():
            self._columns.setdefault(name, []).append(value)

    def take(self) -> Arrays:
        """All that came in since the last time."""
        types: dict[str, type[np.generic]] = dict.fromkeys(
            ("neutral", "subject", "sequence", "frame"), np.int32
        )
        types |= dict.fromkeys(("points", "pose_deg", "exposure", "intensity"), np.float32)
        arrays = {name: np.array(column, types.get(name)) for name, column in self._columns.items()}
        held = [] if self._neutral is None else [self._neutral]
        faces, points = [one.aligned_bgr for one in held], [one.points for one in held]
        arrays["neutrals"] = np.array(faces, np.uint8).reshape(-1, 224, 224, 3)
        arrays["neutral_points"] = np.array(points, np.float32).reshape(-1, 478, 3)
        self._columns = {}
        return arrays
