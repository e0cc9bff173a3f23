"""Messages check themselves, rows are plain JSON, and the ledger adds up."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.messages import (
    AUResult,
    FaceCrop,
    Frame,
    Geometry,
    HeadPose,
    Ledger,
    Quality,
    Stamp,
    WindowInfo,
)

STAMP = Stamp("clip.mp4", 0, 41, 1.7105, 12.5, 1_700_000_000.25)


def a_face(**changes: object) -> FaceCrop:
    face = FaceCrop(
        face=2,
        track_index=9,
        bbox_xyxy=(1.0, 2.0, 30.5, 40.25),
        confidence=0.98,
        landmarks_px=np.zeros((478, 3), np.float32),
        pose=HeadPose(1.234, -5.678, 0.0),
        quality=Quality(33.3, 0.25, 0.9, True),
        geometry=Geometry(0.3, 0.01, 0.55, 0.0, 0.27, 0.32, 0.75),
        neutral="automatic",
        exposure_gain=1.02,
        exposure_offset=-3.0,
        crops_bgr={},
        level_map=None,
        level_shares=None,
    )
    return replace(face, **changes)  # type: ignore[arg-type]


def test_a_row_is_the_documented_json() -> None:
    window = WindowInfo("ready", 1.0, 1.7, 1)
    result = AUResult(STAMP, 1, a_face(), {"cednn": {"AU01": 0.03}}, {"cednn": ()}, window=window)
    row = json.loads(json.dumps(result.row(), allow_nan=False))
    assert (row["type"], row["schema"], row["stream"], row["frame"]) == ("result", 1, "clip.mp4", 41)
    assert row["wall"] == "2023-11-14T22:13:20.250Z"
    assert row["pose_deg"] == {"yaw": 1.23, "pitch": -5.68, "roll": 0.0}
    assert row["bbox_xyxy"] == [1.0, 2.0, 30.5, 40.25]
    assert row["aus"] == {"cednn": {"AU01": 0.03}}
    assert row["window"] == {"state": "ready", "first_pts_seconds": 1.0, "last_pts_seconds": 1.7, "every": 1}


def test_a_row_without_a_face_says_so_and_nothing_of_a_face() -> None:
    row = AUResult(STAMP, 1, None, {}, {}).row()
    assert row["face"] is None
    assert not {"bbox_xyxy", "aus", "neutral"} & set(row)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Frame(STAMP, np.zeros((4, 5), np.uint8)), r"image_bgr: expected uint8 n×n×3, got uint8 4×5"),
        (lambda: Frame(STAMP, np.zeros((4, 5, 3))), "got float64 4×5×3"),
        (
            lambda: a_face(landmarks_px=np.zeros((468, 3), np.float32)),
            "expected float32 478×3, got float32 468×3",
        ),
        (lambda: a_face(crops_bgr={"box_224": np.zeros((224, 224), np.uint8)}), r"crops_bgr\['box_224'\]"),
        (lambda: a_face(level_map=np.zeros((3, 3, 1), np.uint8)), "level_map"),
        (lambda: replace(STAMP, seq=-1), "seq and epoch"),
        (lambda: replace(STAMP, pts_seconds=float("nan")), "pts_seconds"),
    ],
)
def test_what_does_not_fit_is_refused_with_expected_and_actual(make, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


@given(st.lists(st.sampled_from(["deliver", "corrupt", "late", "wait"]), max_size=200))
def test_the_ledger_adds_up_whatever_happens(events: list[str]) -> None:
    ledger = Ledger("clip.mp4")
    for event in events:
        ledger.captured += 1
        if event == "deliver":
            ledger.delivered += 1
        elif event != "wait":
            ledger.drop("capture", event)
    row = ledger.row()
    dropped = sum(entry["frames"] for entry in row["dropped"])
    assert row["captured"] == row["delivered"] + dropped + row["in_flight"]
    assert row["in_flight"] == events.count("wait")
    assert row["balanced"] == (events.count("wait") == 0)
