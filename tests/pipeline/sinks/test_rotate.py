"""Rotated files: each whole by itself, and together what one file would have held."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sink_samples import CEDNN, HEADER, SATNET, crop, frame, info, ledger, open_one, result, stamp

from pipeline.errors import UsageError
from pipeline.rotation import Rotation, parse_rotation
from pipeline.sinks import Sink, open_sinks
from pipeline.sinks.jsonl import JsonlSink
from pipeline.sinks.rotate import RotatingSink

ENGINES = (CEDNN, SATNET)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def open_rotating(out: Path | str, rotate: str, streams: tuple[str, ...] = ("a", "b")) -> Sink:
    (sink,) = open_sinks([str(out)], None, False, HEADER, ENGINES, streams, [], rotate=rotate)
    return sink


def feed(sink: Sink, frames: int, streams: tuple[str, ...] = ("a", "b"), each: object = None) -> list[Path]:
    """Streams side by side, every third frame with two faces, every fourth without one."""
    for stream in streams:
        sink.open_stream(info(stream))
    for i in range(frames):
        for stream in streams:
            at = stamp(i, stream)
            faces = [None] if i % 4 == 3 else [crop(f) for f in range(1 + (i % 3 == 0))]
            sink.write(frame(at), [result(at, face) for face in faces])
        if callable(each):
            each(i)
    for stream in streams:
        sink.close_stream(ledger(stream, frames))
    return sink.finish()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def headers(paths: list[Path]) -> list[dict]:
    """Of files that follow one another: all but the first say what they continue."""
    return [HEADER, *({**HEADER, "continues": path.name} for path in paths[:-1])]


def by_type(read: list[dict], kind: str) -> list[dict]:
    return [row for row in read if row["type"] == kind]


def test_jsonl_files_are_whole_and_together_hold_every_row(tmp_path: Path) -> None:
    (plain,) = feed(open_one(tmp_path / "plain.jsonl", ENGINES, ("a", "b")), 40)
    paths = feed(open_rotating(tmp_path / "r.jsonl", "20kB"), 40)
    assert len(paths) > 2
    assert [p.name for p in paths] == [f"r.{i + 1:04d}.jsonl" for i in range(len(paths))]
    assert sorted(tmp_path.iterdir()) == sorted([plain, *paths])  # no .part, nothing else
    read = [rows(path) for path in paths]
    assert [one[0] for one in read] == headers(paths)
    whole = rows(plain)
    assert [row for one in read for row in by_type(one, "result")] == by_type(whole, "result")
    assert by_type(read[-1], "ledger") == by_type(whole, "ledger")
    for i, one in enumerate(read):
        results = by_type(one, "result")
        closing = [row for row in one if row["type"] not in ("header", "result")]
        assert one == [one[0], *results, *closing]
        if i == len(read) - 1:
            break
        assert paths[i].stat().st_size < 20_000 + 6_000  # one pair of frames and the closing rows more
        for row in closing:
            frames = sorted({r["frame"] for r in results if r["stream"] == row["stream"]})
            assert (row["type"], row["next"]) == ("rotated", paths[i + 1].name)
            assert (row["frames"], row["first_frame"], row["last_frame"]) == (
                len(frames),
                frames[0],
                frames[-1],
            )
    held = sum(row["frames"] for one in read for row in by_type(one, "rotated") if row["stream"] == "a")
    assert held + len({r["frame"] for r in read[-1] if r.get("stream") == "a" and "frame" in r}) == 40


def test_csv_files_together_hold_every_row(tmp_path: Path) -> None:
    plain = feed(open_one(tmp_path / "plain.csv", ENGINES, ("a",)), 1200, ("a",))
    paths = feed(open_rotating(tmp_path / "r.csv", "64kB", ("a",)), 1200, ("a",))
    for engine, whole in zip(ENGINES, plain, strict=True):
        own = [path for path in paths if engine.name in path.name]
        assert len(own) > 1
        read = []
        for path in own:
            with path.open(newline="") as file:
                read.append(list(csv.reader(file)))
        with whole.open(newline="") as file:
            columns, *expected = list(csv.reader(file))
        assert all(one[0] == columns for one in read)
        assert [row for one in read for row in one[1:]] == expected


def test_parquet_files_together_hold_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.parquet.ROWS_PER_GROUP", 50)
    (plain,) = feed(open_one(tmp_path / "plain.parquet", ENGINES, ("a", "b")), 150)
    paths = feed(open_rotating(tmp_path / "r.parquet", "8kB"), 150)
    assert len(paths) > 1
    tables = [pq.read_table(path) for path in paths]
    assert [row for table in tables for row in table.to_pylist()] == pq.read_table(plain).to_pylist()
    for path, header in zip(paths, headers(paths), strict=True):
        metadata = pq.read_metadata(path).metadata
        assert json.loads(metadata[b"austream.header"]) == header
        last = path == paths[-1]
        closing = json.loads(metadata[b"austream.ledgers"])
        assert [row["type"] for row in closing] == ["ledger" if last else "rotated"] * 2


def test_videos_play_from_their_own_beginning_and_together_have_every_picture(tmp_path: Path) -> None:
    clock = Clock()
    sink = open_rotating(tmp_path / "o.mp4", "1s", ("a",))
    rotating = sink._sinks["a"][0]  # type: ignore[attr-defined]
    rotating._clock = clock

    def tick(_: int) -> None:
        clock.now += 0.125

    paths = feed(sink, 35, ("a",), tick)
    counts = []
    for path in paths:
        told = subprocess.run(
            [
                *("ffprobe", "-v", "error", "-count_frames", "-of", "json"),
                *("-show_entries", "stream=nb_read_frames,start_time", str(path)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stderr == ""
        (stream,) = json.loads(told.stdout)["streams"]
        assert float(stream["start_time"]) == 0.0
        counts.append(int(stream["nb_read_frames"]))
    assert counts == [8, 8, 8, 8, 3]


def test_time_goes_by_the_clock_since_a_files_first_frame(tmp_path: Path) -> None:
    clock = Clock()
    sink = RotatingSink(
        tmp_path / "r.jsonl",
        lambda path, _: JsonlSink(path, HEADER),
        Rotation(seconds=60),
        clock,
    )
    sink.open_stream(info("a"))
    clock.now = 500.0  # a camera that took long to answer
    for i, now in enumerate((500.0, 559.9, 560.0, 700.0, 700.1)):
        clock.now = now
        sink.write(frame(stamp(i, "a")), [result(stamp(i, "a"), crop())])
    # What has been closed has its name while the run goes on; what is written has not.
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "r.0001.jsonl",
        "r.0002.jsonl",
        "r.0003.jsonl.part",
    ]
    sink.close_stream(ledger("a", 5))
    paths = sink.finish()
    assert [[r["frame"] for r in by_type(rows(p), "result")] for p in paths] == [[0, 1], [2], [3, 4]]


def test_it_says_so_before_a_file_is_made_whole_on_the_way(tmp_path: Path) -> None:
    finished: list[list[str]] = []  # what had its name by then

    def closing() -> None:
        finished.append(sorted(path.name for path in tmp_path.glob("*.jsonl")))

    (sink,) = open_sinks(
        [str(tmp_path / "r.jsonl")], None, False, HEADER, ENGINES, ["a"], [], "8kB", before_closing=closing
    )
    paths = feed(sink, 30, ("a",))
    assert len(paths) > 2
    assert finished == [[path.name for path in paths[:i]] for i in range(len(paths) - 1)]


def test_numbers_go_on_after_an_earlier_runs(tmp_path: Path) -> None:
    (tmp_path / "r.0007.jsonl").write_text("earlier")
    (tmp_path / "r.0009.jsonl.part").write_text("of a run that died")
    (tmp_path / "other.0050.jsonl").write_text("")
    paths = feed(open_rotating(tmp_path / "r.jsonl", "1h"), 3)
    assert [p.name for p in paths] == ["r.0010.jsonl"]
    assert (tmp_path / "r.0007.jsonl").read_text() == "earlier"


def test_a_stream_that_ends_early_has_its_ledger_where_it_ended(tmp_path: Path) -> None:
    clock = Clock()
    sink = RotatingSink(
        tmp_path / "r.jsonl",
        lambda path, _: JsonlSink(path, HEADER),
        Rotation(seconds=10),
        clock,
    )
    for stream in ("a", "b"):
        sink.open_stream(info(stream))
        sink.write(frame(stamp(0, stream)), [result(stamp(0, stream), None)])
    sink.close_stream(ledger("a", 1))
    clock.now = 10.0
    sink.write(frame(stamp(1, "b")), [result(stamp(1, "b"), None)])
    sink.close_stream(ledger("b", 2))
    first, second = (rows(path) for path in sink.finish())
    assert [(r["type"], r["stream"]) for r in first[-2:]] == [("ledger", "a"), ("rotated", "b")]
    assert [(r["type"], r["stream"]) for r in second[1:]] == [("result", "b"), ("ledger", "b")]


def test_a_failed_run_leaves_what_was_closed(tmp_path: Path) -> None:
    sink = open_rotating(tmp_path / "r.jsonl", "1kB", ("a",))
    sink.open_stream(info("a"))
    for i in range(8):
        sink.write(frame(stamp(i, "a")), [result(stamp(i, "a"), crop())])
    sink.abort()
    *closed, last = sorted(tmp_path.iterdir())
    assert last.name == f"r.{len(closed) + 1:04d}.jsonl.part"
    assert len(closed) > 1
    for path in closed:
        assert [row["type"] for row in rows(path)][-1] == "rotated"


@pytest.mark.parametrize(
    ("text", "rotation"),
    [
        ("30s", Rotation(seconds=30)),
        ("30m", Rotation(seconds=1800)),
        ("1.5h", Rotation(seconds=5400)),
        ("2d", Rotation(seconds=172_800)),
        ("500MB", Rotation(size_bytes=500_000_000)),
        ("1gb", Rotation(size_bytes=1_000_000_000)),
    ],
)
def test_times_and_sizes(text: str, rotation: Rotation) -> None:
    assert parse_rotation(text) == rotation


@pytest.mark.parametrize(
    "text", ["", "0h", "h", "1", "1 h", "-1h", "1w", "1e3s", "nanh", "1hh", "1GBs", "1h\n"]
)
def test_what_is_neither(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time such as"):
        parse_rotation(text)
