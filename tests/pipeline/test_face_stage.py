"""The face stage over a reconnect: new ids, and a person alone in view keeps the neutral."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from engines.spec import CropSpec
from pipeline.faces import FaceStage, Wanted
from pipeline.messages import FaceCrop, Frame, Stamp
from pipeline.neutral import NeutralPolicy
from train.synth.donor import load_donor
from train.synth.pose import Pose
from train.synth.render import Light, Renderer


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """A rendered face at rest, H×W×3."""
    return np.asarray(Renderer(load_donor()).render({}, Pose(), Light()))


@pytest.fixture
def stage() -> Iterator[FaceStage]:
    stage = FaceStage(Wanted((CropSpec("five_point", 224),)), NeutralPolicy("auto"), max_faces=2)
    yield stage
    stage.close()


def show(stage: FaceStage, picture: np.ndarray, epoch: int, seq: int, seconds: float) -> list[FaceCrop]:
    return stage(Frame(Stamp("feed", epoch, seq, seconds, 0.0, 0.0), np.ascontiguousarray(picture)))


def settle(stage: FaceStage, picture: np.ndarray) -> list[FaceCrop]:
    for i in range(8):
        crops = show(stage, picture, 0, i, 100.0 + 0.3 * i)
    assert all(crop.neutral == "automatic" for crop in crops)
    return crops


def test_a_sole_face_keeps_its_neutral_over_a_reconnect(stage: FaceStage, face: np.ndarray) -> None:
    (before,) = settle(stage, face)
    assert show(stage, np.zeros_like(face), 1, 8, 0.0) == []  # nobody is there at once
    (after,) = show(stage, face, 1, 9, 0.3)
    assert after.face > before.face
    assert after.neutral == "automatic"


def test_somebody_else_does_not_get_it(stage: FaceStage, face: np.ndarray, real_clip: Path) -> None:
    settle(stage, face)
    with av.open(str(real_clip)) as container:
        somebody = next(container.decode(video=0)).to_ndarray(format="bgr24")
    (other,) = show(stage, somebody, 1, 8, 0.0)
    assert other.neutral == "estimating"


def test_two_faces_do_not_keep_theirs_as_who_is_who_is_not_known(stage: FaceStage, face: np.ndarray) -> None:
    pair = np.concatenate([face, face], axis=1)
    before = settle(stage, pair)
    if len(before) != 2:
        pytest.skip(f"the detector sees {len(before)} of the two rendered faces")
    after = show(stage, pair, 1, 8, 0.0)
    assert after
    assert all(crop.neutral == "estimating" for crop in after)
