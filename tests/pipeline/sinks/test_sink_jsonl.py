from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sink_samples import CEDNN, HEADER, crop, frame, info, ledger, open_one, result, stamp

from pipeline.messages import HeadPose
from pipeline.sinks.encode import json_line


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def read(path: Path) -> list[dict]:
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_header_then_rows_side_by_side_then_ledgers(tmp_path: Path) -> None:
    sink = open_one(tmp_path / "x.jsonl", (CEDNN,), ("a", "b"))
    written = []
    for stream in ("a", "b"):
        sink.open_stream(info(stream))
    for i in range(3):
        for stream in ("a", "b"):
            at = stamp(i, stream)
            results = [result(at, crop(0)), result(at, crop(1))] if i != 1 else [result(at, None)]
            sink.write(frame(at), results)
            written += [r.row() for r in results]
    sink.close_stream(ledger("b", 3))
    sink.close_stream(ledger("a", 3))
    assert sink.finish() == [tmp_path / "x.jsonl"]
    assert read(tmp_path / "x.jsonl") == [HEADER, *written, ledger("b", 3).row(), ledger("a", 3).row()]


def test_a_reader_sees_whole_lines_while_the_run_goes_on(tmp_path: Path) -> None:
    sink = open_one(tmp_path / "x.jsonl")
    sink.open_stream(info())
    for i in range(4):
        sink.write(frame(stamp(i)), [result(stamp(i), crop())])
        text = (tmp_path / "x.jsonl.part").read_text()
        assert text.endswith("\n")
        assert [json.loads(line).get("frame") for line in text.splitlines()] == [None, *range(i + 1)]
    sink.abort()


def test_nan_becomes_null(tmp_path: Path) -> None:
    sink = open_one(tmp_path / "x.jsonl")
    sink.open_stream(info())
    face = crop(pose=HeadPose(float("nan"), float("inf"), 1.0), confidence=np.float32(0.5))
    sink.write(
        frame(stamp()), [result(stamp(), face, {"cednn": {"AU12": float("nan"), "AU01": np.float32(0.25)}})]
    )
    sink.close_stream(ledger())
    sink.finish()
    row = read(tmp_path / "x.jsonl")[1]
    assert row["pose_deg"] == {"yaw": None, "pitch": None, "roll": 1.0}
    assert row["aus"]["cednn"] == {"AU12": None, "AU01": 0.25}
    assert row["confidence"] == 0.5


def test_a_run_that_never_reached_its_streams_has_a_header(tmp_path: Path) -> None:
    open_one(tmp_path / "x.jsonl").finish()
    assert read(tmp_path / "x.jsonl") == [HEADER]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


def nulled(value: object) -> object:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, list):
        return [nulled(v) for v in value]
    if isinstance(value, dict):
        return {k: nulled(v) for k, v in value.items()}
    return value


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_any_row_is_one_line_of_strict_json(row: dict) -> None:
    line = json_line(row)
    assert "\n" not in line
    assert "\r" not in line
    assert json.loads(line, parse_constant=refuse) == nulled(row)
