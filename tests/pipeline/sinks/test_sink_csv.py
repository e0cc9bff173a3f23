from __future__ import annotations

import csv
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from sink_samples import CEDNN, SATNET, crop, engine, frame, info, ledger, open_one, result, stamp

from pipeline.messages import Geometry, HeadPose, WindowInfo
from pipeline.sinks.csv import csv_row, openface_rotation

# Written out from OpenFace 2's own output, not made from the code's tables.
OPENFACE = (
    "frame,face_id,timestamp,confidence,success,pose_Tx,pose_Ty,pose_Tz,pose_Rx,pose_Ry,pose_Rz,"
    "AU01_r,AU02_r,AU04_r,AU05_r,AU06_r,AU07_r,AU09_r,AU10_r,AU12_r,AU14_r,AU15_r,AU17_r,AU20_r,AU23_r,AU25_r,"
    "AU26_r,AU45_r,AU01_c,AU02_c,AU04_c,AU05_c,AU06_c,AU07_c,AU09_c,AU10_c,AU12_c,AU14_c,AU15_c,AU17_c,AU20_c,"
    "AU23_c,AU25_c,AU26_c,AU28_c,AU45_c"
)
SHUT = Geometry(0.1, 0.02, 0.5, 0.01, 0.3, 0.25, 0.8)


def as_dict(row: list[str]) -> dict[str, str]:
    return dict(zip(OPENFACE.split(","), row, strict=True))


def test_columns_are_openfaces(tmp_path: Path) -> None:
    sink = open_one(tmp_path / "x.csv")
    sink.open_stream(info())
    sink.write(frame(stamp(0)), [result(stamp(0), None)])
    sink.write(
        frame(stamp(41, pts=1.71)),
        [result(stamp(41, pts=1.71), crop(0)), result(stamp(41, pts=1.71), crop(1))],
    )
    sink.close_stream(ledger())
    assert sink.finish() == [tmp_path / "x.csv"]
    data = (tmp_path / "x.csv").read_bytes()
    assert data.split(b"\n")[0].decode() == OPENFACE
    assert data.endswith(b"\n")
    assert b"\r" not in data
    assert b" " not in data
    none, first, second = csv.DictReader(data.decode().splitlines())
    assert (none["frame"], none["success"], none["face_id"], float(none["confidence"])) == (
        "1",
        "0",
        "0",
        0.0,
    )
    assert (first["frame"], first["success"], first["face_id"]) == ("42", "1", "0")
    assert (second["frame"], second["face_id"]) == ("42", "1")
    assert float(first["timestamp"]) == pytest.approx(1.71)
    assert float(first["confidence"]) == pytest.approx(0.98)
    assert all(math.isnan(float(first[f"pose_T{axis}"])) for axis in "xyz")


def test_presence_by_the_bundles_thresholds() -> None:
    row = as_dict(csv_row(result(stamp(), crop()), CEDNN))
    assert [row[f"{au}_c"] for au in ("AU01", "AU06", "AU12", "AU28", "AU45")] == ["0", "1", "1", "0", "0"]
    assert row["AU02_c"] == row["AU26_c"] == "NaN"  # CEDNN here does not know them
    assert all(math.isnan(float(value)) for name, value in row.items() if name.endswith("_r"))


def test_frames_without_a_face_have_zeros_for_what_the_engine_knows() -> None:
    row = as_dict(csv_row(result(stamp(), None), CEDNN))
    assert [row[f"{au}_c"] for au in ("AU01", "AU06", "AU12", "AU28", "AU45")] == ["0"] * 5
    assert row["AU02_c"] == row["pose_Rx"] == "NaN"


@pytest.mark.parametrize("state", ["warming", "off_hop"])
def test_rows_between_the_outputs_of_a_temporal_engine_are_unknown_not_zero(state: str) -> None:
    window = WindowInfo(state, None, None, 1)
    row = as_dict(csv_row(result(stamp(), crop(geometry=SHUT), {"cednn": {"AU12": 0.9}}, window), SATNET))
    assert row["AU04_c"] == row["AU12_c"] == "NaN"
    assert row["AU45_c"] == "1"  # from the mesh, which every row has


def test_intensity_where_an_engine_estimates_it() -> None:
    row = as_dict(csv_row(result(stamp(), crop(), intensity={"cednn": {"AU12": 3.25}}), CEDNN))
    assert float(row["AU12_r"]) == 3.25
    assert row["AU01_r"] == "NaN"


def test_a_blink_comes_from_the_engine_before_the_mesh() -> None:
    both = engine("own", ("AU43", "AU45"))
    shut_says_mesh = crop(geometry=SHUT)
    row = as_dict(csv_row(result(stamp(), shut_says_mesh, {"own": {"AU43": 0.9, "AU45": 0.1}}), both))
    assert row["AU45_c"] == "0"
    only_43 = engine("own", ("AU43",))
    assert as_dict(csv_row(result(stamp(), crop(), {"own": {"AU43": 0.9}}), only_43))["AU45_c"] == "1"
    assert as_dict(csv_row(result(stamp(), shut_says_mesh), CEDNN))["AU45_c"] == "1"


@pytest.mark.parametrize(
    ("pose", "point", "axis", "sign"),
    [
        (HeadPose(30, 0, 0), (0, 0, -1), 0, +1),  # yaw +: the nose moves to the right edge (+x)
        (HeadPose(0, 30, 0), (0, 0, -1), 1, -1),  # pitch +: the nose moves up (-y)
        (HeadPose(0, 0, 30), (0, -1, 0), 0, +1),  # roll +: the top of the head moves to the right edge (+x)
    ],
)
def test_pose_signs_by_openfaces_rotation_matrices(
    pose: HeadPose, point: tuple[int, int, int], axis: int, sign: int
) -> None:
    """OpenFace: R = Rx·Ry·Rz in the camera's system; built here with OpenCV from what stands in the row."""
    angles = openface_rotation(pose)
    x, y, z = (cv2.Rodrigues(np.eye(3)[i] * angle)[0] for i, angle in enumerate(angles))
    moved = x @ y @ z @ np.array(point, float)
    assert sign * moved[axis] == pytest.approx(0.5)
    assert max(map(abs, angles)) == pytest.approx(math.pi / 6)


def test_one_file_per_engine_and_stream(tmp_path: Path) -> None:
    sink = open_one(tmp_path / "faces.csv", (CEDNN, SATNET), ("a.mp4", "b c"))
    for stream in ("a.mp4", "b c"):
        sink.open_stream(info(stream))
        sink.write(frame(stamp(stream=stream)), [result(stamp(stream=stream), crop())])
        sink.close_stream(ledger(stream))
    assert sorted(path.name for path in sink.finish()) == [
        "faces.a.cednn.csv",
        "faces.a.satnet.csv",
        "faces.b_c.cednn.csv",
        "faces.b_c.satnet.csv",
    ]
    assert open_one(tmp_path / "one.csv", (CEDNN, SATNET)).finish() == []
    rows = list(csv.DictReader((tmp_path / "faces.a.satnet.csv").open()))
    assert len(rows) == 1
    assert rows[0]["AU01_c"] == "NaN"
