"""The sink's ledgers when a stage dies: every frame that was lost is counted, whatever had come by then."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.messages import AUResult, Ledger, Stamp, StreamInfo
from pipeline.stages import sink
from pipeline.streams import Control, FramePacket, Message, ResultsPacket, StreamBegin, StreamEnd

INFO = StreamInfo("a", (2, 2), 25.0, None, True)
Step = Message | Control
"""What arrives from the infer stage, or what the supervisor says meanwhile."""


class Line:
    """A worker and its incoming channel at once, by a script."""

    folder = Path("/nowhere")

    def __init__(self, steps: list[Step]) -> None:
        self._steps = deque(steps)
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


def ledger_of(monkeypatch: pytest.MonkeyPatch, *steps: Step) -> Ledger:
    line = Line(list(steps))
    monkeypatch.setattr(sink, "Incoming", lambda *_args: line)
    (ledger,) = sink._Loop(line, []).run()  # type: ignore[arg-type]
    assert line.told == [ledger]
    return ledger


def arrives(index: int) -> ResultsPacket:
    frame = FramePacket(Stamp("a", 0, index, index / 25, 0.0, 0.0), 1, None, {}, index)
    return ResultsPacket(frame, (AUResult(frame.stamp, 1, None, {}, {}),))


def end(frames: int) -> StreamEnd:
    return StreamEnd("a", frames - 1, frames, Ledger("a", frames, ended="interrupted"))


DOWN = Control("down", "face")


@pytest.mark.parametrize("begins", [True, False], ids=["the stream begins after", "it never comes to begin"])
def test_frames_lost_before_a_streams_first_row_are_counted(
    monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    steps = [DOWN, StreamBegin(INFO), arrives(3)] if begins else [DOWN]
    ledger = ledger_of(monkeypatch, *steps, end(4))
    lost = 3 if begins else 4
    assert ledger.dropped == {("face", "restarted"): lost}
    assert (ledger.captured, ledger.delivered, ledger.in_flight) == (4, 4 - lost, 0)


def test_a_gap_without_a_death_is_a_bug_and_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledger_of(monkeypatch, StreamBegin(INFO), arrives(0), arrives(3), end(4))
    assert (ledger.dropped, ledger.in_flight) == ({}, 2)


def test_a_death_while_frames_come(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledger_of(monkeypatch, StreamBegin(INFO), arrives(0), DOWN, arrives(2), end(3))
    assert ledger.dropped == {("face", "restarted"): 1}
    assert ledger.restarts == {"face": 1}
    assert ledger.balanced
