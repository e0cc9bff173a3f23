"""Small inputs for the tests of the overlay."""

from __future__ import annotations

import numpy as np

from engines.spec import CropSpec, EngineSpec
from pipeline.messages import AUResult, FaceCrop, Frame, Geometry, HeadPose, Quality, Stamp, WindowInfo

AUS = ("AU01", "AU02", "AU04", "AU06", "AU12", "AU15", "AU25")


def engine(name: str, window: int = 1, trained: str = "untrained") -> EngineSpec:
    thresholds = (0.5,) * len(AUS)
    return EngineSpec(
        name, name, {}, CropSpec("box", 224), False, window, None, AUS, thresholds, {"trained": trained}
    )


ENGINES = (engine("cednn"), engine("satnet", 16))


def face(box: tuple[float, float, float, float], number: int = 0) -> FaceCrop:
    rng = np.random.default_rng(number)
    points = np.zeros((478, 3), np.float32)
    points[:, 0] = rng.uniform(box[0], box[2], 478)
    points[:, 1] = rng.uniform(box[1], box[3], 478)
    geometry = Geometry(0.3, 0.0, 0.5, 0.0, 0.3, 0.2, 0.8)
    pose, quality = HeadPose(0, 0, 0), Quality(face_px=50, blur=0.1, symmetry=0.9, frontal=True)
    return FaceCrop(
        number, 0, box, 0.9, points, pose, quality, geometry, "automatic", 1.0, 0.0, {}, None, None
    )


def frame(width: int, height: int, seq: int = 0, stream: str = "clip.mp4") -> Frame:
    return Frame(Stamp(stream, 0, seq, seq / 25, 0.0, 0.0), np.full((height, width, 3), 128, np.uint8))


def row(
    of: Frame, crop: FaceCrop | None, names: tuple[str, ...] = ("cednn", "satnet"), state: str = "ready"
) -> AUResult:
    aus = {name: {au: 0.9 - i / 10 for i, au in enumerate(AUS)} for name in names} if crop else {}
    active = {name: tuple(au for au, p in values.items() if p >= 0.5) for name, values in aus.items()}
    return AUResult(of.stamp, 1, crop, aus, active, window=WindowInfo(state, None, None, 1))
