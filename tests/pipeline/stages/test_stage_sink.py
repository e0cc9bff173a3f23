"""The sink's ledgers when a stage dies, the sink itself too: every frame that was lost is counted, whatever
had come by then."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.books import SinkBooks, read_arrivals
from pipeline.config import RunConfig
from pipeline.messages import AUResult, Frame, Ledger, Stamp, StreamInfo
from pipeline.sinks.base import Taken
from pipeline.stages import sink
from pipeline.streams import Control, FramePacket, Message, ResultsPacket, StreamBegin, StreamEnd

INFO = StreamInfo("a", (2, 2), 25.0, None, True)
Step = Message | Control
"""What arrives from the infer stage, or what the supervisor says meanwhile."""


class Line:
    """A worker and its incoming channel at once, by a script."""

    def __init__(self, folder: Path, steps: list[Step], life: int = 0, rotate: str | None = None) -> None:
        self._steps = deque(steps)
        self.config = RunConfig(source=("rtsp://a",), out=("r.jsonl",), rotate=rotate)
        self.folder, self.life = folder, life
        self.commands: deque[Control] = deque()
        self.told: list[Message] = []

    def receive(self) -> Message | None:
        while self._steps:
            step = self._steps.popleft()
            if not isinstance(step, Control):
                return step
            self.commands.append(step)
        return None

    def rings(self, _kind: str) -> None:
        return None

    def report_soon(self, message: Message) -> None:
        self.told.append(message)

    def __getattr__(self, _name: str) -> Callable[..., Any]:
        return lambda *_args: None


class Seen:
    """A sink that remembers what it was told."""

    def __init__(self, lossless: bool = True) -> None:
        self.lossless = lossless
        self.opened: list[str] = []
        self.frames: list[int] = []
        self.ledgers: list[Ledger] = []

    def open_stream(self, info: StreamInfo) -> None:
        self.opened.append(info.stream)

    def write(self, frame: Frame, _results: Sequence[AUResult]) -> None:
        self.frames.append(frame.stamp.seq)

    def close_stream(self, ledger: Ledger) -> None:
        self.ledgers.append(ledger)


Run = Callable[..., list[Ledger]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A life of the sink from its first message to the end of the script; the ledgers."""

    def live(
        *steps: Step, life: int = 0, sinks: Sequence[Seen] = (), rotate: str | None = None
    ) -> list[Ledger]:
        line = Line(tmp_path, list(steps), life, rotate)
        monkeypatch.setattr(sink, "Incoming", lambda *_args: line)
        ledgers = sink._Loop(line, list(sinks), SinkBooks(tmp_path)).run()  # type: ignore[arg-type]
        for ledger in line.told:
            assert read_arrivals(tmp_path)[ledger.stream].end.ledger == ledger
        return ledgers

    return live


def arrives(index: int, stream: str = "a") -> ResultsPacket:
    frame = FramePacket(Stamp(stream, 0, index, index / 25, 0.0, 0.0), 1, None, {}, index)
    return ResultsPacket(frame, (AUResult(frame.stamp, 1, None, {}, {}),))


def end(frames: int, stream: str = "a") -> StreamEnd:
    return StreamEnd(stream, frames - 1, frames, Ledger(stream, frames, ended="interrupted"))


DOWN = Control("down", "face")


@pytest.mark.parametrize("begins", [True, False], ids=["the stream begins after", "it never comes to begin"])
def test_frames_lost_before_a_streams_first_row_are_counted(run: Run, begins: bool) -> None:
    steps = [DOWN, StreamBegin(INFO), arrives(3)] if begins else [DOWN]
    (ledger,) = run(*steps, end(4))
    lost = 3 if begins else 4
    assert ledger.dropped == {("face", "restarted"): lost}
    assert (ledger.captured, ledger.delivered, ledger.in_flight) == (4, 4 - lost, 0)


def test_a_gap_without_a_death_is_a_bug_and_shows(run: Run) -> None:
    (ledger,) = run(StreamBegin(INFO), arrives(0), arrives(3), end(4))
    assert (ledger.dropped, ledger.in_flight) == ({}, 2)


def test_a_death_while_frames_come(run: Run) -> None:
    (ledger,) = run(StreamBegin(INFO), arrives(0), DOWN, arrives(2), end(3))
    assert ledger.dropped == {("face", "restarted"): 1}
    assert ledger.restarts == {"face": 1}
    assert ledger.balanced


SINK_DOWN = Control("down", "sink")


def test_a_sink_goes_on_counting_where_the_one_before_it_died(run: Run, tmp_path: Path) -> None:
    assert run(StreamBegin(INFO), DOWN, arrives(0), arrives(2)) == []
    assert read_arrivals(tmp_path)["a"].end.frames == 3
    seen = Seen()
    (ledger,) = run(SINK_DOWN, StreamBegin(INFO), arrives(5), end(7), life=1, sinks=[seen])
    assert (seen.opened, seen.frames, seen.ledgers) == (["a"], [5], [ledger])
    assert ledger.dropped == {("face", "restarted"): 1, ("sink", "restarted"): 3}
    assert (ledger.delivered, ledger.restarts, ledger.balanced) == (3, {"face": 1, "sink": 1}, True)


def test_lives_that_died_before_their_first_frame_are_counted_too(run: Run, tmp_path: Path) -> None:
    assert run(StreamBegin(INFO), arrives(0)) == []
    before = read_arrivals(tmp_path)["a"]
    assert before.ledger(3).restarts == {"sink": 3}
    assert before.ledger(0) == before.end.ledger
    (ledger,) = run(StreamBegin(INFO), arrives(1), end(2), life=3)
    assert (ledger.delivered, ledger.restarts, ledger.dropped) == (2, {"sink": 3}, {})


def test_a_stream_that_ended_while_there_was_no_sink_ends_without_beginning_again(run: Run) -> None:
    assert run(StreamBegin(INFO), arrives(0)) == []
    seen = Seen()
    (ledger,) = run(end(4), life=1, sinks=[seen])
    assert (seen.opened, seen.ledgers) == ([], [ledger])
    assert ledger.dropped == {("sink", "restarted"): 3}


@pytest.mark.parametrize("rotate", [None, "1h"])
def test_a_stream_that_had_ended_is_closed_once(run: Run, rotate: str | None) -> None:
    """Its ledger goes into the file that goes on, where none can have it already."""
    other = replace(INFO, stream="b")
    (first,) = run(StreamBegin(INFO), StreamBegin(other), arrives(0), arrives(0, "b"), end(1))
    file, viewer = Seen(), Seen(lossless=False)
    steps = [StreamBegin(other), end(1), arrives(1, "b"), end(2, "b")]
    ledgers = run(*steps, life=1, sinks=[file, viewer], rotate=rotate)
    assert ledgers[0] == first
    assert [ledger.stream for ledger in ledgers] == ["a", "b"]
    assert file.ledgers == (ledgers if rotate is None else ledgers[1:])
    assert viewer.ledgers == ledgers[1:]


def test_what_the_dead_had_taken_is_known_by_stream_and_life(run: Run, tmp_path: Path) -> None:
    def taken() -> dict[str, Taken]:
        return sink._taken(SinkBooks(tmp_path))

    assert taken() == {}
    other = replace(INFO, stream="b")
    run(StreamBegin(INFO), StreamBegin(other), arrives(0), arrives(1), arrives(0, "b"), end(1, "b"))
    assert taken() == {"a": Taken(2, 2), "b": Taken(1, 1)}
    run(StreamBegin(INFO), arrives(3), life=1)
    assert taken() == {"a": Taken(1, 3), "b": Taken(0, 1)}
    run(life=4)
    assert taken() == {"a": Taken(0, 3), "b": Taken(0, 1)}


@given(st.lists(st.lists(st.sampled_from(["frame", "lost", "face"]), max_size=6), min_size=1, max_size=5))
def test_whatever_dies_the_ledger_balances(lives: list[list[str]]) -> None:
    """Frames come or are lost, in one life after the other; the face stage dies first, and at times again."""
    index = delivered = 0
    ledgers: list[Ledger] = []
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for life, happenings in enumerate(lives):
            steps: list[Step] = [DOWN, StreamBegin(INFO)]
            for what in happenings:
                steps += [arrives(index)] if what == "frame" else [DOWN] if what == "face" else []
                delivered += what == "frame"
                index += what != "face"
            if life == len(lives) - 1:
                steps.append(end(index))
            line = Line(Path(folder), steps, life)
            patch.setattr(sink, "Incoming", lambda *_args, line=line: line)
            ledgers = sink._Loop(line, [], SinkBooks(Path(folder))).run()  # type: ignore[arg-type]
    (ledger,) = ledgers
    assert ledger.delivered == delivered
    assert ledger.restarts.get("sink", 0) == len(lives) - 1
    assert ledger.balanced
    assert {reason for _, reason in ledger.dropped} <= {"restarted"}
