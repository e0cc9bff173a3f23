"""What the stages hand to each other: frozen dataclasses, checked on construction, units in their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines.spec import LANDMARKS

SCHEMA_VERSION = 1
MESH_POINTS = 478

NeutralState = Literal["none", "estimating", "automatic", "given"]
WindowState = Literal["ready", "warming", "off_hop"]


def _check_array(name: str, array: NDArray[Any], dtype: type, shape: tuple[int | None, ...]) -> None:
    matches = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not matches:
        expected = "×".join("n" if n is None else str(n) for n in shape)
        actual = "×".join(map(str, array.shape))
        raise ValueError(f"{name}: expected {np.dtype(dtype)} {expected}, got {array.dtype} {actual}")


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where and when a frame was taken."""

    stream: str
    """Name of the stream, unique in a run; a file's base name, an address without its credentials."""
    epoch: int
    """Counts up whenever continuity ends: a reconnect, a loop, a change of resolution."""
    seq: int
    """Number of the decoded frame in its stream, from 0, frames that were dropped included."""
    pts_seconds: float
    """Presentation time as the container states it (a camera: since its first frame)."""
    captured_monotonic_seconds: float
    """time.monotonic() when the decoded frame was in hand."""
    captured_wall_seconds: float
    """Unix time at the same moment."""

    def __post_init__(self) -> None:
        if self.seq < 0 or self.epoch < 0:
            raise ValueError(f"seq and epoch: expected 0 or more, got {self.seq} and {self.epoch}")
        if not np.isfinite(self.pts_seconds):
            raise ValueError(f"pts_seconds: expected a finite number, got {self.pts_seconds}")

    @property
    def wall(self) -> str:
        """The wall clock as ISO 8601 in UTC, to the millisecond."""
        moment = datetime.fromtimestamp(self.captured_wall_seconds, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """capture → face: one decoded picture, upright."""

    stamp: Stamp
    image_bgr: NDArray[np.uint8]
    """H×W×3, uint8, C-contiguous, rotated as the container says."""

    def __post_init__(self) -> None:
        _check_array("image_bgr", self.image_bgr, np.uint8, (None, None, 3))


@dataclass(frozen=True, slots=True)
class HeadPose:
    """Rotation of the head against the camera, in degrees; all 0 when it looks straight into the camera."""

    yaw: float
    """Positive when the face turns towards the right edge of the picture."""
    pitch: float
    """Positive when the face turns up."""
    roll: float
    """Positive when the top of the head leans towards the right edge of the picture."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a row can be trusted."""

    face_px: float
    """Side of the square with the area of the face's box, in pixels of the frame."""
    blur: float
    """0 sharp … 1 blurred: what a Gaussian blur leaves of the gradient energy of the 112-px aligned face."""
    symmetry: float
    """−1 … 1: how alike the halves of the face are; below about 0.5 something covers a part of it."""
    frontal: bool
    """|yaw| ≤ 20° and |pitch| ≤ 20°."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Distances on the mesh after the head pose is taken out, in units of the outer eye-corner distance."""

    eye_opening: float
    """Upper to lower lid over the width of the eye (about 0.3 open, below 0.15 closed), mean of both eyes."""
    lip_gap: float
    """Inner upper to inner lower lip, at the middle."""
    mouth_width: float
    """Mouth corner to mouth corner."""
    corner_lift: float
    """How far the mouth corners stand above the line between the lips; positive in a smile."""
    brow_raise: float
    """Mean height of the brows above the line through the eye corners."""
    brow_gap: float
    """Inner brow end to inner brow end."""
    jaw_drop: float
    """Nose base to chin."""


@dataclass(frozen=True, slots=True)
class LevelShares:
    """Mean level of the level map (0–5) divided by 5, over the mask and over three bands of it."""

    face: float
    brows: float
    eyes: float
    mouth: float


@dataclass(frozen=True, slots=True, eq=False)
class FaceCrop:
    """face → infer: one face of one frame, with everything that the engines in use need."""

    face: int
    """Id of the person in the stream, from 0; never given to somebody else."""
    track_index: int
    """Kept frames of this face since its track began, from 0."""
    bbox_xyxy: tuple[float, float, float, float]
    """Box around the mesh, in pixels of the frame; may reach beyond its edges."""
    confidence: float
    """0–1, the mesh network's own face-presence score."""
    landmarks_px: NDArray[np.float32]
    """478×3: x right, y down in pixels of the frame, z in the same scale, smaller is nearer."""
    pose: HeadPose
    quality: Quality
    geometry: Geometry
    neutral: NeutralState
    exposure_gain: float
    """What the neutral was multiplied by to match the frame's exposure (1 when compensation is off)."""
    exposure_offset: float
    """What was then added, in grey levels."""
    crops_bgr: Mapping[str, NDArray[np.uint8]]
    """By name of the crop (`five_point_224`, `box_224`): S×S×3."""
    level_map: NDArray[np.uint8] | None
    """224×224, 0–5, 0 outside the face mask; None when no engine in use asks for it."""
    level_shares: LevelShares | None
    neutral_bgr: NDArray[np.uint8] | None = None
    """224×224×3: the neutral, exposed like the frame, black where there is none; None when no engine asks."""
    landmarks: NDArray[np.float32] | None = None
    """2×468×3: the face and its neutral as `geometry.frontal_points`, zeros for no neutral; None when no
    engine asks."""

    def __post_init__(self) -> None:
        _check_array("landmarks_px", self.landmarks_px, np.float32, (MESH_POINTS, 3))
        for name, crop in self.crops_bgr.items():
            _check_array(f"crops_bgr[{name!r}]", crop, np.uint8, (None, None, 3))
        if self.level_map is not None:
            _check_array("level_map", self.level_map, np.uint8, (None, None))
        if self.neutral_bgr is not None:
            _check_array("neutral_bgr", self.neutral_bgr, np.uint8, (None, None, 3))
        if self.landmarks is not None:
            _check_array("landmarks", self.landmarks, np.float32, (2, LANDMARKS, 3))


@dataclass(frozen=True, slots=True)
class WindowInfo:
    """Which frames a temporal engine looked at for a row."""

    state: WindowState
    first_pts_seconds: float | None
    last_pts_seconds: float | None
    every: int
    """Every n-th kept frame is in the window."""

    def row(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "first_pts_seconds": self.first_pts_seconds,
            "last_pts_seconds": self.last_pts_seconds,
            "every": self.every,
        }


@dataclass(frozen=True, slots=True, eq=False)
class AUResult:
    """infer → sink: the action units of one face in one frame, or a frame without a face."""

    stamp: Stamp
    stride: int
    """Every stride-th decoded frame was kept."""
    crop: FaceCrop | None
    aus: Mapping[str, Mapping[str, float]]
    """Probability by engine and AU name (`AU01`); an engine without a value for this row is absent."""
    active: Mapping[str, tuple[str, ...]]
    """By engine: AUs whose probability reaches the bundle's threshold."""
    intensity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """0–5 by engine and AU, where an engine estimates it."""
    window: WindowInfo | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The result row of schema 1, ready for JSON."""
        row: dict[str, Any] = {
            "type": "result",
            "schema": SCHEMA_VERSION,
            "stream": self.stamp.stream,
            "epoch": self.stamp.epoch,
            "frame": self.stamp.seq,
            "stride": self.stride,
            "pts_seconds": round(self.stamp.pts_seconds, 6),
            "wall": self.stamp.wall,
            "face": None,
        }
        if self.crop is not None:
            row |= _face_fields(self.crop)
            row["aus"] = {e: {au: round(p, 6) for au, p in aus.items()} for e, aus in self.aus.items()}
            row["active"] = {engine: list(names) for engine, names in self.active.items()}
            row["intensity"] = {
                e: {au: round(v, 4) for au, v in aus.items()} for e, aus in self.intensity.items()
            }
            row["window"] = self.window.row() if self.window else None
        row["latency_ms"] = {stage: round(ms, 3) for stage, ms in self.latency_ms.items()}
        return row


def _face_fields(crop: FaceCrop) -> dict[str, Any]:
    shares = crop.level_shares
    return {
        "face": crop.face,
        "bbox_xyxy": [round(float(v), 2) for v in crop.bbox_xyxy],
        "confidence": round(crop.confidence, 4),
        "pose_deg": {
            "yaw": round(crop.pose.yaw, 2),
            "pitch": round(crop.pose.pitch, 2),
            "roll": round(crop.pose.roll, 2),
        },
        "quality": {
            "face_px": round(crop.quality.face_px, 1),
            "blur": round(crop.quality.blur, 3),
            "symmetry": round(crop.quality.symmetry, 3),
            "frontal": crop.quality.frontal,
        },
        "geometry": {name: round(getattr(crop.geometry, name), 4) for name in Geometry.__dataclass_fields__},
        "neutral": crop.neutral,
        "exposure": {"gain": round(crop.exposure_gain, 4), "offset": round(crop.exposure_offset, 2)},
        "level_share": None
        if shares is None
        else {name: round(getattr(shares, name), 5) for name in LevelShares.__dataclass_fields__},
    }


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream before its first frame."""

    stream: str
    size_wh: tuple[int, int]
    """Upright width and height in pixels."""
    rate_hz: float
    """Nominal frames a second."""
    frames: int | None
    """Expected number of frames; None for live sources and containers that do not say."""
    live: bool


@dataclass(slots=True)
class Ledger:
    """What became of every decoded frame of a stream; filled while it runs, written as its last row."""

    stream: str
    captured: int = 0
    """Decoded frames."""
    delivered: int = 0
    """Frames whose rows reached every lossless sink."""
    dropped: dict[tuple[str, str], int] = field(default_factory=dict)
    """(stage, reason) → frames."""
    without_face: int = 0
    """Delivered frames in which no face was found."""
    undecodable_packets: int = 0
    estimated_pts: int = 0
    """Frames that came without a PTS and were given one from their neighbours and the nominal rate."""
    skipped_inferences: dict[str, int] = field(default_factory=dict)
    """Rows without a value of the temporal engines, by reason (`warming`, `off_hop`)."""
    ended: str = "end of file"
    """Why the stream ended: `end of file`, `frame limit`, `duration limit`, `interrupted`, or an error."""
    reconnects: int = 0
    """How often a live source came back, each time with a new epoch."""
    events: dict[str, int] = field(default_factory=dict)
    """What befell a live source, by `feed.FeedKind`, and how often."""
    restarts: dict[str, int] = field(default_factory=dict)
    """How often a stage that the stream goes through was started anew, by stage."""

    def drop(self, stage: str, reason: str) -> None:
        self.dropped[stage, reason] = self.dropped.get((stage, reason), 0) + 1

    def count_row_states(self, windows: Sequence[WindowState], faces: int) -> None:
        """One delivered frame: the states of its rows' windows, where they have one, and its faces."""
        self.without_face += not faces
        for state in windows:
            if state != "ready":
                self.skipped_inferences[state] = self.skipped_inferences.get(state, 0) + 1

    def with_arrivals(self, arrived: Ledger) -> Ledger:
        """This ledger, of what was captured and dropped at first, and what became of the rest at the sink."""
        dropped = dict(self.dropped)
        for key, frames in arrived.dropped.items():
            dropped[key] = dropped.get(key, 0) + frames
        return replace(
            self,
            dropped=dropped,
            delivered=arrived.delivered,
            without_face=arrived.without_face,
            skipped_inferences=arrived.skipped_inferences,
            restarts=arrived.restarts,
        )

    @property
    def in_flight(self) -> int:
        return self.captured - self.delivered - sum(self.dropped.values())

    @property
    def balanced(self) -> bool:
        """Whether every decoded frame is accounted for, none in flight."""
        return self.in_flight == 0

    def summary(self) -> str:
        """The ledger in one line."""
        parts = [f"captured {self.captured} = delivered {self.delivered}"]
        parts += [f"dropped {n} ({stage}: {reason})" for (stage, reason), n in sorted(self.dropped.items())]
        parts.append(f"in flight {self.in_flight}")
        beside = [
            (self.without_face, "without a face"),
            (self.undecodable_packets, "packets that do not decode"),
            (self.estimated_pts, "estimated PTS"),
            (self.reconnects, "reconnects"),
            (sum(self.restarts.values()), "restarts"),
        ]
        notes = "".join(f"; {n} {what}" for n, what in beside if n)
        return f"{self.stream}: {' + '.join(parts)}; ended: {self.ended}{notes}"

    def row(self) -> dict[str, Any]:
        return {
            "type": "ledger",
            "schema": SCHEMA_VERSION,
            "stream": self.stream,
            "captured": self.captured,
            "delivered": self.delivered,
            "dropped": [{"stage": s, "reason": r, "frames": n} for (s, r), n in sorted(self.dropped.items())],
            "in_flight": self.in_flight,
            "balanced": self.balanced,
            "without_face": self.without_face,
            "undecodable_packets": self.undecodable_packets,
            "estimated_pts": self.estimated_pts,
            "skipped_inferences": dict(self.skipped_inferences),
            "ended": self.ended,
            "reconnects": self.reconnects,
            "events": dict(self.events),
            "restarts": dict(self.restarts),
        }
