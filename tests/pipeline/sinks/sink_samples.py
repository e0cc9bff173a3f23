"""Small inputs for the tests of the sinks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines.spec import CropSpec, EngineSpec
from pipeline.messages import (
    AUResult,
    FaceCrop,
    Frame,
    Geometry,
    HeadPose,
    Ledger,
    LevelShares,
    Quality,
    Stamp,
    StreamInfo,
    WindowInfo,
)
from pipeline.sinks import Sink, open_sinks

HEADER = {"type": "header", "schema": 1, "engines": [{"name": "cednn", "trained": "untrained"}]}


def engine(
    name: str = "cednn", aus: tuple[str, ...] = ("AU01", "AU06", "AU12", "AU28"), window: int = 1
) -> EngineSpec:
    return EngineSpec(
        name=name,
        network=name,
        variant={},
        crop=CropSpec("five_point", 224),
        level_map=False,
        window=window,
        rate_hz=25.0 if window > 1 else None,
        aus=aus,
        thresholds=(0.5,) * len(aus),
        provenance={"trained": "untrained"},
    )


CEDNN = engine()
SATNET = engine("satnet", ("AU04", "AU12"), window=16)


def stamp(seq: int = 0, stream: str = "clip.mp4", pts: float | None = None, epoch: int = 0) -> Stamp:
    return Stamp(stream, epoch, seq, seq / 25 if pts is None else pts, 100.0 + seq, 1_700_000_000.25 + seq)


def frame(at: Stamp, size_wh: tuple[int, int] = (128, 96)) -> Frame:
    return Frame(at, np.full((size_wh[1], size_wh[0], 3), 90, np.uint8))


def crop(face: int = 0, **changes: Any) -> FaceCrop:
    landmarks = np.random.default_rng(face).uniform(20, 60, (478, 3)).astype(np.float32)
    fields: dict[str, Any] = {
        "face": face,
        "track_index": 3,
        "bbox_xyxy": (20.0, 20.0, 60.0, 60.0),
        "confidence": 0.98,
        "landmarks_px": landmarks,
        "pose": HeadPose(yaw=10.0, pitch=-20.0, roll=5.0),
        "quality": Quality(face_px=40.0, blur=0.2, symmetry=0.9, frontal=True),
        "geometry": Geometry(0.3, 0.02, 0.5, 0.01, 0.3, 0.25, 0.8),
        "neutral": "automatic",
        "exposure_gain": 1.02,
        "exposure_offset": -1.5,
        "crops_bgr": {},
        "level_map": None,
        "level_shares": LevelShares(0.1, 0.2, 0.05, 0.15),
    }
    return FaceCrop(**fields | changes)


def result(
    at: Stamp,
    face: FaceCrop | None,
    aus: Mapping[str, Mapping[str, float]] | None = None,
    window: WindowInfo | None = None,
    intensity: Mapping[str, Mapping[str, float]] | None = None,
) -> AUResult:
    if aus is None:
        aus = {"cednn": {"AU01": 0.1, "AU06": 0.6, "AU12": 0.9, "AU28": 0.2}} if face else {}
    active = {name: tuple(au for au, p in values.items() if p >= 0.5) for name, values in aus.items()}
    return AUResult(
        at, 1, face, aus, active, intensity or {}, window, {"capture": 1.0, "infer": 5.25, "total": 9.5}
    )


def open_one(
    out: Path | str, engines: tuple[EngineSpec, ...] = (CEDNN,), streams: tuple[str, ...] = ("clip.mp4",)
) -> Sink:
    (sink,) = open_sinks([str(out)], None, False, HEADER, engines, streams, [])
    return sink


def info(stream: str = "clip.mp4", rate_hz: float = 25.0, live: bool = False) -> StreamInfo:
    return StreamInfo(stream, (128, 96), rate_hz, None, live)


def ledger(stream: str = "clip.mp4", frames: int = 0) -> Ledger:
    return Ledger(stream, captured=frames, delivered=frames)
