from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, cast

import av
import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import main
from bench.breaking import FAULTS, STAGES, Scene, _slow_down
from bench.clock_step import SteppedClock
from bench.faults import _SAYS, MOST_GROWTH, lost_frames, too_late
from bench.feeds import RtspServer
from bench.live_run import NOWHERE, LiveRun, Sample, Seen, too_much
from bench.row_check import wrong_rows
from bench.soak import _NOT_AT_RANDOM, _resizing, _trends, draw, leaks, seconds_of
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
    assert run.first_row("a", 1.5, NOWHERE) == Seen(2.0, 0, 2)
    assert run.first_row("a", 1.5, (0, 0)) == Seen(7.0, 1, 7)
    assert run.first_row("a", 1.5, (0, 1)) is None
    run.rows["a"].append(Seen(12.0, 1, 12, 1))
    assert run.first_row("a", 1.5, (0, 1)) == Seen(12.0, 1, 12, 1)  # the same epoch in another file


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


def _result(frame: int, epoch: int = 0, face: int | None = None, stream: str = "a") -> dict[str, Any]:
    return {"type": "result", "stream": stream, "epoch": epoch, "frame": frame, "face": face}


def _ledger(delivered: int, stream: str = "a") -> dict[str, Any]:
    return {"type": "ledger", "stream": stream, "delivered": delivered}


HEADER = {"type": "header"}
TWO_FACES = [_result(3, face=0), _result(3, face=1), _result(4, face=0)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([HEADER, _ledger(0)], ""),
        ([HEADER, _result(0), *TWO_FACES, _result(5, 2, face=0), _ledger(4)], ""),
        ([HEADER, _result(7), _result(1, stream="b"), _result(8), _ledger(2), _ledger(1, "b")], ""),
        ([_result(0), _ledger(1)], "headers missing"),
        ([HEADER, *TWO_FACES, _result(4, face=0), _ledger(2)], "rows out of order: 1"),
        ([HEADER, _result(2), _result(1), _ledger(2)], "rows out of order: 1"),
        ([HEADER, _result(1, epoch=1), _result(2, epoch=0), _ledger(2)], "epochs that fall: 1"),
        ([HEADER, *TWO_FACES, _ledger(3)], "3 frames delivered but 2 in rows"),
        ([HEADER, _ledger(1)], "1 frames delivered but 0 in rows"),
        ([HEADER, *TWO_FACES], "streams without a ledger: 1"),
    ],
)
def test_rows_that_cannot_be_right(rows: list[dict[str, Any]], says: str) -> None:
    found = wrong_rows(json.dumps(row) + "\n" for row in rows)
    assert bool(found) is bool(says)
    assert says in " ".join(found)


def test_the_rows_of_a_sink_that_died() -> None:
    lines = [json.dumps(row) + "\n" for row in (HEADER, *TWO_FACES)]
    assert wrong_rows([*lines, lines[-1][:20]], whole=False) == []
    assert wrong_rows([*lines, lines[-1]], whole=False) == ["rows out of order: 1"]
    assert wrong_rows([*lines, lines[-1][:20]]) == ["lines are no JSON: 1", "streams without a ledger: 1"]


def test_the_rows_of_two_sinks() -> None:
    left = [json.dumps(row) + "\n" for row in (HEADER, _result(1), _result(2))]
    cut = [*left, left[-1][:20]]

    def then(delivered: int, *rows: dict[str, Any]) -> list[str]:
        last = [json.dumps(row) + "\n" for row in (HEADER, *rows, _ledger(delivered))]
        return wrong_rows(cut, last)

    assert then(3, _result(5)) == []
    assert then(2, _result(5)) == []  # the dead one had written 2 and not yet said so
    assert then(4, _result(5)) == ["4 frames delivered but 3 in rows; streams: 1"]
    assert then(1, _result(5)) == ["1 frames delivered but 3 in rows; streams: 1"]
    assert then(3, _result(2)) != []  # a row that comes twice
    assert wrong_rows(left[1:], [json.dumps(HEADER) + "\n"]) == [
        "headers missing: 1",
        "streams without a ledger: 1",
    ]


def test_a_run_is_followed_from_file_to_file(tmp_path: Path) -> None:
    run = LiveRun([str(tmp_path / "gone.mp4")], tmp_path / "rows.jsonl")
    run.process.wait(60)
    rows = [json.dumps(_result(frame)) + "\n" for frame in range(5)]
    (tmp_path / "rows.jsonl.part").write_text("".join(rows[:2]) + rows[2][:9])
    deadline = time.monotonic() + 20
    while len(run.rows["a"]) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "rows.0002.jsonl.part").write_text("".join(rows[3:]))
    (tmp_path / "rows.0002.jsonl.part").rename(tmp_path / "rows.0002.jsonl")
    while len(run.rows["a"]) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    run.end()
    assert [(seen.frame, seen.file) for seen in run.rows["a"]] == [(0, 0), (1, 0), (3, 1), (4, 1)]
    assert [file.name for file in run.files()] == ["rows.jsonl.part", "rows.0002.jsonl"]


def test_the_rows_of_a_real_run(real_clip: Path, tmp_path: Path) -> None:
    run = LiveRun([str(real_clip)], tmp_path / "rows.jsonl", ["--frames", "12", "--engine", "cednn"])
    run.process.wait(120)
    assert run.end()
    assert run.complaints() == []
    lines = run.out.read_text().splitlines(keepends=True)
    run.out.write_text("".join(lines[:3] + lines[4:]))
    assert "frames delivered but" in " ".join(run.complaints())


def test_what_grows_is_blamed() -> None:
    small = {"processes": 0, "descriptors": 2, "shared_files": 1, "memory_mb": 17.0}
    assert too_much(small, MOST_GROWTH) == []
    assert too_much({**small, "processes": 1}, MOST_GROWTH) == ["processes +1, at most +0"]
    assert too_much({}, MOST_GROWTH) == []
    assert too_late("–") == too_late(2.9) == []
    assert too_late(3.4) == ["first result 3.4 s after the key frame"]


def test_a_soak_judges_its_second_half_whatever_restarts_do() -> None:
    def samples(files_an_hour: float, seconds: int) -> list[Sample]:
        return [
            # Every 40 s a stage starts anew, and its memory is gone for 2 s.
            Sample(t, 5 - (t % 40 < 2), 150, 900.0 - 300 * (t % 40 < 2), int(20 + files_an_hour * t / 3600))
            for t in range(seconds)
        ]

    assert leaks(samples(0, 1800)) == []
    assert leaks(samples(240, 1800)) == ["shared_files +240 an hour, at most +20"]
    assert leaks(samples(240, 90)) == []  # too short to tell
    filling = [Sample(t, 5, 150, min(900.0, 300 + t), 20) for t in range(1800)]
    assert leaks(filling) == []


def test_every_feed_is_resized_for_itself() -> None:
    """The size that a feed has already would be no change, and nothing to wait for."""

    class Server:
        def __init__(self) -> None:
            self.told: list[str] = []

        def tell(self, command: str) -> None:
            self.told.append(command)

    first, second = Server(), Server()
    scene = SimpleNamespace(victim=first)
    resize = _resizing("640x360")
    for victim in (first, second, first, second, second):
        scene.victim = victim
        resize.inject(cast(Scene, scene))
    assert first.told == ["size 480x270", "size 640x360"]
    assert second.told == ["size 480x270", "size 640x360", "size 480x270"]


def test_a_slow_stage_is_stopped_most_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.breaking._SLOW_SECONDS", 2.0)
    with subprocess.Popen(["sleep", "60"]) as process:
        run = SimpleNamespace(running=True, pids=lambda: {"sink": process.pid})
        slowing = Thread(target=_slow_down("sink"), args=(SimpleNamespace(run=run),))
        slowing.start()
        states = []
        while slowing.is_alive():
            states.append(Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0])
            time.sleep(0.01)
        at_the_end = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        process.kill()
    assert states.count("T") > len(states) / 2
    assert "S" in states
    assert at_the_end == "S"


def test_the_key_frame_of_a_new_connection_is_known() -> None:
    try:
        server = RtspServer("--rate", "20", "--gop", "20")
    except RunError as error:
        pytest.skip(str(error))
    with server, av.open(server.address, options={"rtsp_transport": "tcp"}) as feed:
        pictures = feed.decode(video=0)
        next(pictures)
        now = time.monotonic()
        first = server.last_key(0.0, now)
        assert first is not None
        assert server.last_key(now, now + 1) is None
        resized_at = server.tell("size 160x120")
        while next(pictures).width != 160:
            pass
        second = server.last_key(resized_at - 1, time.monotonic())
    assert second is not None
    assert second > first
