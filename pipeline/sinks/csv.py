"""CSV with the columns of OpenFace 2, so that scripts made for it go on working.

What is not known is NaN: translations, intensities that the engine does not estimate, AUs that it lacks, rows
of a temporal engine without a value, and the pose in a frame without a face.
"""

# ruff: noqa: ARG002  (the methods of Sink take more than one kind of output needs)

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from engines.spec import EngineSpec
from pipeline.messages import AUResult, Frame, HeadPose, Ledger, StreamInfo
from pipeline.sinks.files import PartFile

INTENSITY_AUS = tuple(
    f"AU{number:02d}" for number in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
)
PRESENCE_AUS = (*INTENSITY_AUS[:-1], "AU28", "AU45")
POSE = ("pose_Tx", "pose_Ty", "pose_Tz", "pose_Rx", "pose_Ry", "pose_Rz")
COLUMNS = (
    *("frame", "face_id", "timestamp", "confidence", "success"),
    *POSE,
    *(f"{au}_r" for au in INTENSITY_AUS),
    *(f"{au}_c" for au in PRESENCE_AUS),
)

CLOSED_EYE_OPENING = 0.15
"""Below this share of its width an eye counts as closed (AU45): open eyes lie near 0.3, see `Geometry`."""

NAN = "NaN"


class CsvSink:
    """The rows of one stream and one engine."""

    lossless = True

    def __init__(self, path: Path, engine: EngineSpec) -> None:
        self._part = PartFile(path)
        self._engine = engine
        self._line = io.StringIO()
        self._writer = csv.writer(self._line, lineterminator="\n")

    def open_stream(self, info: StreamInfo) -> None:
        self._write(COLUMNS)

    def write(self, frame: Frame, results: Sequence[AUResult]) -> None:
        self._write(*(csv_row(result, self._engine) for result in results))
        # With every frame, so that what counts as delivered outlives this process.
        self._part.flush()
        self._part.rows += 1

    def close_stream(self, ledger: Ledger) -> None:
        self._part.close()

    def finish(self) -> list[Path]:
        return [self._part.commit()]

    def abort(self) -> None:
        self._part.abandon()

    def _write(self, *rows: Sequence[str]) -> None:
        self._line.seek(0)
        self._line.truncate()
        self._writer.writerows(rows)
        self._part.write(self._line.getvalue().encode())


def csv_row(result: AUResult, engine: EngineSpec) -> list[str]:
    """One row as text, in the order of COLUMNS."""
    crop = result.crop
    intensity = result.intensity.get(engine.name, {})
    return [
        str(result.stamp.seq + 1),
        str(crop.face if crop else 0),
        f"{result.stamp.pts_seconds:.6f}",
        f"{crop.confidence if crop else 0.0:.4f}",
        "1" if crop else "0",
        *(NAN,) * 3,
        *(_number(angle) for angle in (openface_rotation(crop.pose) if crop else (math.nan,) * 3)),
        *(_number(intensity.get(au, math.nan)) for au in INTENSITY_AUS),
        *(_presence(result, engine, au) for au in PRESENCE_AUS),
    ]


def openface_rotation(pose: HeadPose) -> tuple[float, float, float]:
    """(Rx, Ry, Rz) in radians with OpenFace's signs.

    OpenFace turns the head in the camera's system (x right, y down, z away from the camera) by Rx·Ry·Rz, with
    the usual rotation matrices; a head that looks into the camera faces -z. So a positive Rx looks down, a
    positive Ry turns towards the left edge of the picture (the person's right), and a positive Rz leans the
    top of the head towards the right edge. Ours: pitch up, yaw and roll towards the right edge.
    """
    return -math.radians(pose.pitch), -math.radians(pose.yaw), math.radians(pose.roll)


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else NAN


def _presence(result: AUResult, engine: EngineSpec, au: str) -> str:
    """`0`, `1` or NaN. AU45 comes from the engine's own AU45, else its AU43 (eyes closed), else the mesh."""
    if au == "AU45":
        au = next((own for own in ("AU45", "AU43") if own in engine.aus), "")
        if not au:
            closed = result.crop is not None and result.crop.geometry.eye_opening < CLOSED_EYE_OPENING
            return "1" if closed else "0"
    if au not in engine.aus:
        return NAN
    if result.crop is None:
        return "0"
    if au not in result.aus.get(engine.name, {}):
        return NAN
    return "1" if au in result.active.get(engine.name, ()) else "0"
