from __future__ import annotations

import errno
import json
from datetime import datetime
from pathlib import Path

import pytest
from sink_samples import CEDNN, HEADER, SATNET, crop, frame, info, ledger, open_one, result, stamp

from pipeline.errors import OutputError
from pipeline.messages import WindowInfo

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow cannot be imported", exc_type=ImportError)


def test_the_table_holds_what_the_rows_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.parquet.ROWS_PER_GROUP", 4)
    sink = open_one(tmp_path / "x.parquet", (CEDNN, SATNET), ("a", "b"))
    rows = []
    for stream in ("a", "b"):
        sink.open_stream(info(stream))
        for i in range(5):
            at = stamp(i, stream)
            ready = {"cednn": {"AU12": 0.9, "AU01": 0.125}, "satnet": {"AU04": 0.5, "AU12": 0.25}}
            warming = {"cednn": {"AU12": 0.5}}
            results = {
                0: [result(at, None)],
                1: [result(at, crop(0), warming, WindowInfo("warming", None, None, 2))],
            }.get(
                i,
                [
                    result(at, crop(face), ready, WindowInfo("ready", 0.1, 0.7, 2), {"satnet": {"AU12": 2.5}})
                    for face in (0, 1)
                ],
            )
            sink.write(frame(at), results)
            rows += [r.row() for r in results]
        sink.close_stream(ledger(stream, 5))
    assert sink.finish() == [tmp_path / "x.parquet"]

    file = pq.ParquetFile(tmp_path / "x.parquet")
    assert file.num_row_groups > 2
    metadata = file.schema_arrow.metadata
    assert json.loads(metadata[b"austream.header"]) == HEADER
    ledgers = file.metadata.metadata[b"austream.ledgers"]
    assert json.loads(ledgers) == [ledger("a", 5).row(), ledger("b", 5).row()]

    table = file.read().to_pylist()
    assert len(table) == len(rows)
    close = lambda value: pytest.approx(value, abs=1e-4)  # noqa: E731
    for got, row in zip(table, rows, strict=True):
        for name in ("stream", "epoch", "frame", "stride", "face"):
            assert got[name] == row[name]
        assert got["pts_seconds"] == close(row["pts_seconds"])
        assert got["wall"] == datetime.fromisoformat(row["wall"])
        assert got["latency_infer_ms"] == close(row["latency_ms"]["infer"])
        assert got["latency_face_ms"] is None
        if row["face"] is None:
            assert (
                got["x1"]
                is got["cednn.AU12"]
                is got["cednn.active"]
                is got["neutral"]
                is got["window_state"]
                is None
            )
            continue
        assert [got[name] for name in ("x1", "y1", "x2", "y2")] == [close(v) for v in row["bbox_xyxy"]]
        assert {name: got[name] for name in ("yaw", "pitch", "roll")} == close(row["pose_deg"])
        assert {name: got[name] for name in row["geometry"]} == close(row["geometry"])
        assert {name: got[f"level_share_{name}"] for name in row["level_share"]} == close(row["level_share"])
        assert {name: got[name] for name in row["quality"]} == close(row["quality"])
        assert got["neutral"] == row["neutral"]
        assert got["exposure_gain"] == close(row["exposure"]["gain"])
        assert {name: got[f"window_{name}"] for name in row["window"]} == row["window"]
        for engine in (CEDNN, SATNET):
            values = row["aus"].get(engine.name, {})
            for au in engine.aus:
                assert got[f"{engine.name}.{au}"] == (close(values[au]) if au in values else None)
            assert got[f"{engine.name}.active"] == row["active"].get(engine.name)
            assert dict(got[f"{engine.name}.intensity"] or {}) == row["intensity"].get(engine.name, {})


def test_a_run_without_frames_gives_an_empty_table(tmp_path: Path) -> None:
    sink = open_one(tmp_path / "x.parquet")
    sink.open_stream(info())
    sink.close_stream(ledger())
    sink.finish()
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 0


def test_what_came_before_a_failure_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.parquet.ROWS_PER_GROUP", 2)
    sink = open_one(tmp_path / "x.parquet")
    sink.open_stream(info())
    for i in range(5):  # the last one waits in memory
        sink.write(frame(stamp(i)), [result(stamp(i), crop(0))])
    sink.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet.part"]
    assert pq.read_table(tmp_path / "x.parquet.part")["frame"].to_pylist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("tried", [False, True], ids=["another output failed", "this one failed"])
def test_a_file_without_its_end_is_not_left_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tried: bool
) -> None:
    sink = open_one(tmp_path / "x.parquet")
    sink.open_stream(info())
    sink.write(frame(stamp()), [result(stamp(), crop(0))])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    if tried:
        with pytest.raises(OutputError, match="the disk is full"):
            sink.finish()
    sink.abort()
    assert list(tmp_path.iterdir()) == []
    assert "x.parquet.part: removed: the end of its 1 frames could not be written" in caplog.text
