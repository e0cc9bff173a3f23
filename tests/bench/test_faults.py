from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import main
from bench.breaking import FAULTS, STAGES
from bench.clock_step import SteppedClock
from bench.faults import _SAYS, lost_frames
from bench.feeds import RtspServer
from bench.live_run import LiveRun, Sample, Seen
from bench.soak import _NOT_AT_RANDOM, _trends, draw, seconds_of
from pipeline.errors import RunError, UsageError
from pipeline.messages import Ledger


def test_every_stage_is_killed_and_stopped() -> None:
    assert {f"{stage} {how}" for stage in STAGES for how in ("killed", "stopped")} <= set(FAULTS)
    assert set(FAULTS) >= _NOT_AT_RANDOM
    assert all(fault.may_end or not fault.no_files for fault in FAULTS.values())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("rtsp://127.0.0.1:1/live: stalled: no picture for 1.8 s", True),
        ("rtsp://127.0.0.1:1/live: changed: 640×360 became 480×270", True),
        ("the face stage died (killed by signal 9); it is started anew", True),
        ("run_stream.py: rows.jsonl: the disk is full", True),
        ("the face stage is at work again after 2.0 s", False),
        ("rtsp://127.0.0.1:1/live: connected: 640×360, 25 frames/s", False),
        ("rtsp://127.0.0.1:1/live: 100 frames", False),
    ],
)
def test_what_counts_as_noticed(line: str, says: bool) -> None:
    assert bool(_SAYS.search(line)) is says


def test_lost_frames_in_words() -> None:
    ledger = Ledger("a", captured=20, delivered=11, undecodable_packets=2)
    ledger.dropped = {("capture", "stride"): 5, ("face", "restarted"): 1}
    words = "5 capture: stride, 1 face: restarted, 2 packets, 3 unaccounted for"
    assert lost_frames(ledger.row()) == words
    assert lost_frames(Ledger("a").row()) == "none"


@given(st.integers(1, 10**6), st.sampled_from("smh"))
def test_times(number: int, unit: str) -> None:
    assert seconds_of(f"{number}{unit}") == number * {"s": 1, "m": 60, "h": 3600}[unit]


@pytest.mark.parametrize("text", ["", "30", "m", "-3m", "0s", "1d", "30 m", "1e9s"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time such as 90s"):
        seconds_of(text)


def test_a_wrong_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", "--only", "earthquake"]) == 2
    assert "no such fault; expected one of RTSP drop" in capsys.readouterr().err


def test_a_clock_that_jumps_for_one_program(tmp_path: Path) -> None:
    try:
        clock = SteppedClock(tmp_path)
    except RunError as error:
        pytest.skip(str(error))
    script = "import sys, time\nfor line in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        told = []
        for step in (0.0, 3600.0, -3600.0):
            clock.step(step)
            program.stdin.write("now\n")
            program.stdin.flush()
            told.append([float(word) for word in program.stdout.readline().split()])
    (wall, monotonic), ahead, back = told
    assert ahead[0] - wall == pytest.approx(3600, abs=60)
    assert back[0] - wall == pytest.approx(-3600, abs=60)
    assert 0 <= ahead[1] - monotonic <= back[1] - monotonic < 60


def test_a_run_that_does_not_begin(tmp_path: Path) -> None:
    run = LiveRun([str(tmp_path / "gone.mp4")], tmp_path / "rows.jsonl")
    try:
        with pytest.raises(RunError, match=r"it last said: run_stream.py: .*no such file"):
            run.wait_for_rows(["gone.mp4"], 1, 60)
    finally:
        assert run.end()
    assert run.left() == []
    assert run.ledgers() is None
    run.rows["a"] = [Seen(float(t), t // 5, t) for t in (1, 2, 3, 7, 8, 9)]
    assert run.longest_gap("a", 2.5, 8.5) == 4
    assert run.longest_gap("a", 8.5, 20.0) == 11
    assert run.first_row("a", 1.5, -1) == Seen(2.0, 0, 2)
    assert run.first_row("a", 1.5, 0) == Seen(7.0, 1, 7)
    assert run.first_row("a", 1.5, 1) is None


def test_a_server_comes_back_on_its_port() -> None:
    try:
        first = RtspServer("--rate", "5")
    except RunError as error:
        pytest.skip(str(error))
    first.close()
    with first.again() as second:
        assert second.address == first.address
        assert second.tell("stall") > 0
        second.process.kill()
        with pytest.raises(RunError, match="did not say: done go"):
            second.wait("done go")


def test_the_soaks_plot_and_trends(tmp_path: Path) -> None:
    samples = [Sample(100.0 + 36 * i, 5, 90 + i % 2, 1500.0 + 0.1 * i, 7) for i in range(101)]
    found = {row["what"]: row["found"] for row in _trends(samples)}
    assert found["memory_mb"].endswith("+10.0 an hour")
    assert "from 90 to 91" in found["descriptors"]
    draw(tmp_path / "soak.png", samples, [("RTSP drop", 1000.0, 2.0)], "two feeds")
    image = cv2.imread(str(tmp_path / "soak.png"))
    assert image is not None
    assert image.shape[0] > 400
