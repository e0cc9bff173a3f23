"""What is refused before a run, and what is left on disk after one that ends well or badly."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sink_samples import CEDNN, HEADER, SATNET, crop, frame, info, ledger, open_one, result, stamp

from pipeline.errors import OutputError, UsageError
from pipeline.messages import Frame
from pipeline.sinks import open_sinks
from pipeline.sinks.files import file_names, safe_name

try:
    import pyarrow  # noqa: F401

    HAS_PYARROW = True
except ImportError:
    HAS_PYARROW = False

KINDS = [
    "x.jsonl",
    "x.csv",
    pytest.param("x.parquet", marks=pytest.mark.skipif(not HAS_PYARROW, reason="pyarrow cannot be imported")),
    "x.mp4",
]


def check(outs: list[str], streams: tuple[str, ...] = ("a.mp4",), sources: tuple[Path, ...] = ()) -> None:
    for sink in open_sinks(outs, None, False, HEADER, [CEDNN, SATNET], streams, sources):
        sink.abort()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.xml", r"\.jsonl, \.csv, \.parquet, \.mp4 or a folder"),
        ("-", "not a file"),
        ("", "not a file"),
        ("missing/x.csv", "does not exist"),
        ("missing/folder/", "does not exist"),
        ("dir.csv", "is a folder"),
        ("plain", "not a folder"),
        ("pipe.jsonl", "not a regular file"),
    ],
)
def test_wrong_outputs_are_usage_errors_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.csv").mkdir()
    (tmp_path / "plain").touch()
    os.mkfifo(tmp_path / "pipe.jsonl")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UsageError, match=message) as caught:
        check(["good.jsonl", out])
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_one_path_for_two_outputs(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(UsageError, match="already"):
        check([f"{tmp_path}/x.jsonl", f"{tmp_path}/sub/../x.jsonl"])
    # a set of files in a folder, and one of them once more
    with pytest.raises(UsageError, match="already"):
        check([f"{tmp_path}/sub/", f"{tmp_path}/sub/a.jsonl"], streams=("a.mp4",))
    assert os.listdir(tmp_path) == ["sub"]


def test_a_source_is_never_overwritten(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"footage")
    (tmp_path / "link.mp4").symlink_to(clip)
    for out in ("clip.mp4", "link.mp4"):
        with pytest.raises(UsageError, match="one of the sources"):
            check([str(tmp_path / out)], sources=(clip,))
    # also where only the derived name is the source's
    with pytest.raises(UsageError, match="one of the sources"):
        check([f"{tmp_path}/o.mp4"], streams=("a", "b"), sources=(tmp_path / "o.a.mp4",))
    assert clip.read_bytes() == b"footage"


def test_a_folder_that_may_not_be_written_is_an_output_error() -> None:
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc, where not even root may make files")
    for out in ("/proc/x.jsonl", "/proc/x.mp4", "/proc/x/"):
        with pytest.raises(OutputError, match="/proc/x"):
            check([out])


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_appears_at_the_end_and_an_earlier_file_survives_a_failed_run(
    tmp_path: Path, kind: str
) -> None:
    target = tmp_path / kind
    target.write_bytes(b"earlier")
    for ends_well in (False, True):
        sink = open_one(target)
        sink.open_stream(info())
        for i in range(3):
            sink.write(frame(stamp(i)), [result(stamp(i), crop())])
        sink.close_stream(ledger(frames=3))
        assert target.read_bytes() == b"earlier"
        if ends_well:
            assert sink.finish() == [target]
            assert target.read_bytes() != b"earlier"
            sink.abort()  # another sink failed afterwards: this file is whole and stays
        else:
            sink.abort()
            assert target.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == [kind]


@pytest.mark.parametrize("kind", ["x.jsonl", "x.csv", "x.mp4"])
def test_an_aborted_run_keeps_what_it_has_and_says_so(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink = open_one(tmp_path / kind)
    sink.open_stream(info())
    sink.write(frame(stamp()), [result(stamp(), crop())])
    sink.abort()
    sink.abort()
    assert os.listdir(tmp_path) == [f"{kind}.part"]
    assert (tmp_path / f"{kind}.part").stat().st_size > 0
    assert len(caplog.messages) == 1
    assert f"{kind}.part" in caplog.text


@pytest.mark.parametrize("kind", [*KINDS, pytest.param("x/", marks=KINDS[2].marks)])
def test_a_run_aborted_before_its_first_row_leaves_nothing(tmp_path: Path, kind: str) -> None:
    sink = open_one(f"{tmp_path}/{kind}")
    sink.open_stream(info())
    sink.abort()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "austream-test", str(disk)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_one_clear_line(small_disk: Path, kind: str) -> None:
    target = small_disk / kind
    target.write_bytes(b"earlier")
    sink = open_one(target)
    sink.open_stream(info())

    def run() -> None:
        rng = np.random.default_rng(0)  # noise, for whatever compresses well never fills a disk
        for i in range(3000):
            at = stamp(i)
            values = dict(zip(CEDNN.aus, map(float, rng.random(4)), strict=True))
            face = crop(bbox_xyxy=tuple(map(float, rng.uniform(0, 90, 4))))
            picture = rng.integers(0, 255, (96, 128, 3), np.uint8)
            sink.write(Frame(at, picture), [result(at, face, {"cednn": values})])
        sink.close_stream(ledger())
        sink.finish()

    with pytest.raises(OutputError, match="the disk is full") as caught:
        run()
    sink.abort()
    assert str(target) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert target.read_bytes() == b"earlier"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_fails_only_when_the_buffer_is_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.csv.part").symlink_to("/dev/full")
    sink = open_one(tmp_path / "x.csv")
    sink.open_stream(info())  # the columns: they wait
    with pytest.raises(OutputError, match="the disk is full"):
        sink.write(frame(stamp()), [result(stamp(), crop())])
    sink.abort()
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.skipif(not HAS_PYARROW, reason="pyarrow cannot be imported")
def test_a_folder_gets_one_set_per_stream_and_no_pixels(tmp_path: Path) -> None:
    streams = ("day/one.mp4", "two.mp4", "never.mp4")
    sink = open_one(f"{tmp_path}/results", (CEDNN, SATNET), streams)
    for stream in streams[:2]:
        sink.open_stream(info(stream))
        sink.write(frame(stamp(stream=stream)), [result(stamp(stream=stream), crop())])
        sink.close_stream(ledger(stream, 1))
    paths = sink.finish()
    expected = [
        f"{name}{end}"
        for name in ("day_one", "two")
        for end in (".cednn.csv", ".jsonl", ".parquet", ".satnet.csv")
    ]
    assert sorted(os.listdir(tmp_path / "results")) == expected
    assert sorted(path.name for path in paths) == expected


@pytest.mark.skipif(HAS_PYARROW, reason="pyarrow can be imported")
def test_without_pyarrow_parquet_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pyarrow"):
        check([f"{tmp_path}/x.parquet"])
    with pytest.raises(UsageError, match="pyarrow"):
        check([f"{tmp_path}/results/"])
    assert os.listdir(tmp_path) == []


def test_a_missing_parquet_library_takes_the_other_outputs_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pipeline.sinks.parquet", None)
    with pytest.raises(UsageError, match=r"pyarrow.*constraints\.txt"):
        check([f"{tmp_path}/x.jsonl", f"{tmp_path}/results/"])
    assert os.listdir(tmp_path) == []


def test_refused_addresses_leave_no_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="add --keys DIR"):
        open_sinks([f"{tmp_path}/x.jsonl"], "tcp://0.0.0.0:5556", False, HEADER, [CEDNN], ["a"], [])
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OutputError, match="in use"):
            open_sinks([f"{tmp_path}/x.jsonl"], f"tcp://127.0.0.1:{port}", False, HEADER, [CEDNN], ["a"], [])
    assert os.listdir(tmp_path) == []


@given(st.lists(st.text(max_size=150), unique=True, max_size=12))
def test_any_stream_names_give_distinct_valid_file_names(streams: list[str]) -> None:
    names = file_names(streams)
    assert list(names) == streams
    assert len({name.casefold() for name in names.values()}) == len(streams)
    for name in names.values():
        assert name
        assert Path(name).name == name
        assert not set(name) & set('/\\:*?"<>|\0\n')
        assert len(name.encode()) <= 120


def test_file_names_drop_a_files_ending_where_that_is_clear() -> None:
    assert file_names(["clip.mp4", "cam 0", "rtsp://h:554/s"]) == {
        "clip.mp4": "clip",
        "cam 0": "cam_0",
        "rtsp://h:554/s": "rtsp_h_554_s",
    }
    assert list(file_names(["clip.mp4", "clip.avi"]).values()) == ["clip.mp4", "clip.avi"]
    assert safe_name("NUL") == "_NUL"
    assert safe_name("..") == "stream"
