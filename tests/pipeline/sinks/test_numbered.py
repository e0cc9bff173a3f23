"""Files that follow one another, and what a sink that died has left of them."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sink_samples import CEDNN, HEADER, crop, frame, info, ledger, open_one, result, stamp

from pipeline.sinks import Sink, open_sinks, publish
from pipeline.sinks.base import Taken
from pipeline.sinks.numbered import go_on, next_number, numbered, readable
from pipeline.sockets import Subscriber

names = st.text("r0123456789.jsonlpartcv", max_size=20) | st.builds(
    "r.{}.jsonl{}".format, st.integers(0, 12000).map("{:04d}".format), st.sampled_from(["", ".part", ".bak"])
)


@given(st.sets(names.filter(lambda name: name not in ("", ".", "..")), max_size=8), st.booleans())
def test_the_next_file_is_never_there_and_has_the_highest_number(there: set[str], rotates: bool) -> None:
    with TemporaryDirectory() as folder:
        target = Path(folder, "r.jsonl")
        for name in there:
            Path(folder, name).touch()
        following, last = go_on(target, None if rotates else 3)
        assert following.name not in there
        assert f"{following.name}.part" not in there
        number = int(following.name.split(".")[1])
        assert number >= (1 if rotates else 2)
        for name in there:
            parts = name.removesuffix(".part").split(".")
            if len(parts) == 3 and parts[::2] == ["r", "jsonl"] and parts[1].isdecimal():
                # Five digits and more only where there are so many files.
                assert number > int(parts[1]) or not 4 <= len(parts[1]) <= 9
        assert last is None or last in there
        assert sorted(os.listdir(folder)) == sorted(there)


def at(path: Path, seconds: float) -> None:
    path.touch()
    os.utime(path, (seconds, seconds))


def test_what_was_written_last_is_gone_on_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "r.jsonl"
    at(target, 1)  # an earlier run's, whole
    at(tmp_path / "r.0005.jsonl.part", 2)  # of an earlier run that died
    at(tmp_path / "r.jsonl.part", 3)
    assert go_on(target, 7) == (tmp_path / "r.0006.jsonl", "r.jsonl.part")
    assert caplog.messages == [
        f"{tmp_path}/r.jsonl.part: left by the sink that died, with 7 frames; r.0006.jsonl goes on"
    ]
    at(tmp_path / "r.0006.jsonl.part", 4)
    assert go_on(target, 7) == (tmp_path / "r.0007.jsonl", "r.0006.jsonl.part")


def test_with_rotation_it_may_have_died_between_two_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "r.jsonl"
    caplog.set_level(logging.INFO)
    at(tmp_path / "r.jsonl.part", 9)  # of another run without --rotate
    at(tmp_path / "r.0001.jsonl.part", 1)
    at(tmp_path / "r.0002.jsonl", 2)
    assert go_on(target, None) == (tmp_path / "r.0003.jsonl", "r.0002.jsonl")
    assert caplog.messages == []
    at(tmp_path / "r.0003.jsonl.part", 3)
    assert go_on(target, None) == (tmp_path / "r.0004.jsonl", "r.0003.jsonl.part")
    assert caplog.messages == [
        f"{tmp_path}/r.0003.jsonl.part: left by the sink that died; r.0004.jsonl goes on"
    ]


def test_nothing_was_left(tmp_path: Path) -> None:
    assert next_number(tmp_path / "r.jsonl") == 1
    assert go_on(tmp_path / "r.jsonl", 0) == (numbered(tmp_path / "r.jsonl", 2), None)


def test_a_link_is_gone_on_from_where_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "r.jsonl").symlink_to(tmp_path / "disk" / "rows.jsonl")
    (tmp_path / "disk" / "rows.jsonl.part").touch()
    assert go_on(tmp_path / "r.jsonl", 0) == (tmp_path / "r.0002.jsonl", "rows.jsonl.part")


@pytest.mark.parametrize("kind", ["x.jsonl", "x.csv", "x.parquet", "x.mp4"])
def test_what_can_be_read_without_having_been_closed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.sinks.parquet.ROWS_PER_GROUP", 2)
    sink = open_one(tmp_path / kind)
    part = tmp_path / f"{kind}.part"
    text = kind in ("x.jsonl", "x.csv")
    assert readable(part) is text
    sink.open_stream(info())
    for i in range(9):
        sink.write(frame(stamp(i)), [result(stamp(i), crop())])
        assert readable(part) is text
        if text:  # what counts as delivered has left this process
            rows = [line for line in part.read_text().splitlines() if '"result"' in line or line[0].isdigit()]
            assert len(rows) == i + 1
    go_on(tmp_path / kind, 9)
    assert ("so that its 9 frames cannot be read" in caplog.text) is not text
    sink.abort()  # as after an error of the program's own, which leaves time to close it
    assert readable(part)
    assert CEDNN.name in part.read_text() if kind == "x.jsonl" else part.stat().st_size > 0


STREAMS = ("a", "b")


def two_frames(sink: Sink, stream: str, first: int) -> None:
    sink.open_stream(info(stream))
    for i in (first, first + 1):
        sink.write(frame(stamp(i, stream)), [result(stamp(i, stream), crop())])


@pytest.mark.parametrize("rotate", [None, "1h"])
def test_every_output_goes_on_beside_what_the_dead_sink_left(
    tmp_path: Path, rotate: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    outs = [f"{tmp_path}/{name}" for name in ("x.jsonl", "x.csv", "x.parquet", "x.mp4", "set/")]
    common = (None, False, HEADER, [CEDNN], STREAMS, [], rotate)
    dead = open_sinks(outs, *common)
    for sink in dead:
        for stream in STREAMS:
            two_frames(sink, stream, 0)
    left = {path: path.read_bytes() for path in tmp_path.rglob("*.part")}
    assert len(left) == 1 + 2 + 1 + 2 + 2 * 3

    # "new" joins now: the dead sinks never had it, whatever lies there from another day.
    (tmp_path / "set" / "new.jsonl.part").touch()
    after = {"a": Taken(2, 2), "b": Taken(1, 1)}
    sinks = open_sinks(outs, *common, after=after)
    for sink in sinks:
        two_frames(sink, "a", 2)
        two_frames(sink, "new", 0)
        for stream in ("a", "b", "new"):
            sink.close_stream(ledger(stream, 2))
    paths = {path for sink in sinks for path in sink.finish()}
    assert {path: path.read_bytes() for path in left} == left
    number, first = ("0002", ".0001") if rotate else ("0002", "")
    expected = [f"x.{number}.jsonl", f"x.{number}.parquet", f"x.new{first}.csv", f"x.new{first}.mp4"]
    expected += [f"x.a.{number}.csv", f"x.a.{number}.mp4"]
    expected += [f"set/a.{number}{kind}" for kind in (".jsonl", ".csv", ".parquet")]
    expected += [f"set/new{first}{kind}" for kind in (".jsonl", ".csv", ".parquet")]
    assert paths == {tmp_path / name for name in expected}
    for name in (f"x.{number}", f"set/a.{number}"):
        part = name.replace(f".{number}", first) + "{}.part"
        head = json.loads((tmp_path / f"{name}.jsonl").read_text().splitlines()[0])
        assert head == {**HEADER, "continues": Path(part.format(".jsonl")).name}
        table = pq.read_metadata(tmp_path / f"{name}.parquet").metadata
        assert json.loads(table[b"austream.header"])["continues"] == Path(part.format(".parquet")).name
    with av.open(str(tmp_path / f"x.a.{number}.mp4")) as video:
        assert [float(picture.pts * picture.time_base) for picture in video.decode(video=0)] == [0.0, 0.04]
    told = "\n".join(caplog.messages)
    assert told.count("left by the sink that died") == len(left)
    assert (f"x{first}.jsonl.part: left by the sink that died, with 3 frames; x.{number}" in told) is (
        rotate is None
    )
    assert (f"a{first}.csv.part: left by the sink that died, with 2 frames; " in told) is (rotate is None)
    for sink in dead:
        sink.abort()


def test_a_publisher_goes_on_counting() -> None:
    sent = publish.PublishSink("tcp://127.0.0.1:*", HEADER, sent={"a": 7})
    with closing(Subscriber(sent.address)) as subscriber:
        deadline = time.monotonic() + 20
        while (data := subscriber.receive(0.05)) is None and time.monotonic() < deadline:
            sent.open_stream(info("a"))
        assert json.loads(data or b"{}")["type"] == "header"
        two_frames(sent, "a", 0)
        two_frames(sent, "b", 0)
        rows = [json.loads(subscriber.receive(20) or b"{}") for _ in range(6)]
    numbers = [(row["stream"], row["sequence"]) for row in rows if row["type"] == "result"]
    assert numbers == [("a", 7), ("a", 8), ("b", 0), ("b", 1)]
    sent.abort()
