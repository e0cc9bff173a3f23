"""Several live streams at once: each gives the rows it would give alone, and streams come and go."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from live_runs import ROOT, http_camera, live_run, rows_of, slow_copy, until
from servers import rtsp

from pipeline.ring import ring_names

FRAMES = 12


@pytest.fixture(scope="module")
def clips(real_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The real clip at 2 frames a second and at 1."""
    folder = tmp_path_factory.mktemp("clips")
    return [slow_copy(real_clip, folder / f"{name}.mkv", rate) for name, rate in (("a", 2), ("b", 1))]


def comparable(path: Path, stream: str) -> list[dict]:
    """Result rows of a stream without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if key not in ("latency_ms", "wall")}
        for row in rows_of(path)
        if row["type"] == "result" and row["stream"] == stream
    ]


def test_two_live_replays_give_the_rows_of_each_alone(clips: list[Path], tmp_path: Path) -> None:
    both = tmp_path / "both.jsonl"
    common = ["--frames", str(FRAMES), "--out", str(tmp_path / "set")]
    sources = [word for clip in clips for word in ("--source", str(clip))]
    with live_run(both, *sources, "--live", *common) as run:
        assert run.wait() == 0, run.errors
    order = [row["stream"] for row in rows_of(both) if row["type"] == "result"]
    assert order != sorted(order)  # side by side, not one after the other
    if any(ledger["dropped"] for ledger in run.ledgers().values()):
        pytest.skip(f"this machine was too busy to keep up with 3 frames/s: {run.ledgers()}")
    for clip in clips:
        alone = tmp_path / f"{clip.stem}.jsonl"
        with live_run(alone, "--source", str(clip), "--inline", "--frames", str(FRAMES)) as single:
            assert single.wait() == 0, single.errors
        assert comparable(both, clip.name) == comparable(alone, clip.name)
        assert len(comparable(alone, clip.name)) == FRAMES
        assert comparable(tmp_path / "set" / f"{clip.stem}.jsonl", clip.name) == comparable(alone, clip.name)


def ctl(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run_stream.py"), "ctl", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_streams_are_added_listed_and_removed_while_the_run_goes_on(
    clips: list[Path], tmp_path: Path
) -> None:
    out, csv = tmp_path / "r.jsonl", tmp_path / "r.csv"
    source = ["--source", str(clips[0]), "--live", "--loop", "--duration", "3600", "--out", str(csv)]
    with http_camera() as address, live_run(out, *source) as run:
        assert run.goes_on(), run.errors
        me = ("--pid", str(run.process.pid))
        added = ctl(*me, "add", address.replace("//", "//me:secret@"))
        assert (added.returncode, added.stdout) == (0, f"add: {address}\n"), added.stderr
        # Its pictures outgrow the slots of the ring that the run began with.
        assert until(lambda: run.results(address) > 15), run.errors
        listed = ctl(*me, "list").stdout.splitlines()
        assert [line.split(": ")[0] for line in listed] == ["a.mkv", address]
        assert all("connected;" in line for line in listed)
        assert ctl(*me, "neutral", "a.mkv").returncode == 0
        assert ctl(*me, "remove", address).returncode == 0
        assert until(lambda: f"{address}: ended" in ctl(*me, "list").stdout)
        # With it go its process and its pixels; nobody waits for it, whoever is started anew.
        assert until(lambda: "capture-1" not in run.workers()), run.workers()
        assert until(lambda: not ring_names(run.folder(), "frames-1")), list(run.folder().iterdir())
        os.kill(run.workers()["face"], signal.SIGKILL)
        assert until(lambda: run.said("the face stage is at work again") == 1), run.errors
        assert run.goes_on(), run.errors
        assert ctl(*me, "add", "rtsp://127.0.0.1:9/down").returncode == 0
        assert ctl(*me, "remove", "rtsp://127.0.0.1:9/down").returncode == 0
        assert until(lambda: "rtsp://127.0.0.1:9/down: ended" in ctl(*me, "list").stdout)
        for wrong, says in (
            (("remove", address), "no such stream; there are a.mkv"),
            (("add", str(clips[1])), "expected a live source"),
            (("add", "ftp://there"), "ftp:// is not read"),
        ):
            refused = ctl(*me, *wrong)
            assert refused.returncode == 2
            assert says in refused.stderr
            assert len(refused.stderr.splitlines()) == 1
        assert run.goes_on(), run.errors
        assert ctl(*me, "remove", "a.mkv").returncode == 0
        assert run.wait() == 0, run.errors  # the last stream has ended, and so does the run
    ledgers = run.ledgers()
    removed = {stream: row["ended"] for stream, row in ledgers.items()}
    assert removed == dict.fromkeys(["a.mkv", address, "rtsp://127.0.0.1:9/down"], "removed")
    assert all(row["balanced"] for row in ledgers.values())
    epochs = [row["epoch"] for row in rows_of(out) if row.get("stream") == address and "epoch" in row]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > 1
    assert "secret" not in out.read_text() + "".join(run.errors)
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == [
        "r.csv",
        f"r.{address.replace('://', '_').replace('/', '_').replace(':', '_')}.csv",
    ]


def test_a_feed_that_is_down_alone_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"rtsp://127.0.0.1:{port}/live"
    with live_run(tmp_path / "r.jsonl", "--source", address.replace("//", "//me:secret@")) as run:
        assert until(lambda: run.said(f"{address}: failed: cannot be reached") >= 2), run.errors
        assert run.process.poll() is None
        with rtsp("--port", str(port)):
            assert until(lambda: run.results() > 5), run.errors
            assert run.stop() == 130, run.errors
    (ledger,) = run.ledgers().values()
    assert (ledger["balanced"], ledger["ended"]) == (True, "interrupted")
    assert ledger["events"]["failed"] >= 2
    assert "secret" not in "".join(run.errors)


def test_a_feed_that_is_down_at_the_start_keeps_nobody_waiting(clips: list[Path], tmp_path: Path) -> None:
    down = "rtsp://127.0.0.1:9/live"
    source = ["--source", down, "--source", str(clips[0]), "--live"]
    with live_run(tmp_path / "r.jsonl", *source, "--loop", "--duration", "3600") as run:
        assert run.goes_on(), run.errors
        assert run.said(f"{down}: failed: ") >= 1
        assert run.stop() == 130, run.errors
    ledgers = run.ledgers()
    assert ledgers[down]["captured"] == 0
    assert ledgers[down]["events"]["failed"] >= 1
    assert ledgers["a.mkv"]["delivered"] > 0
    assert all(row["balanced"] for row in ledgers.values())
    header = rows_of(tmp_path / "r.jsonl")[0]
    assert [entry["size_wh"] for entry in header["sources"]] == [None, [640, 360]]
