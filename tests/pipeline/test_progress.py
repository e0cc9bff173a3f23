"""Progress: plain lines every few seconds into a file, a bar in a terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from pipeline import progress
from pipeline.progress import Progress


def test_plain_lines_are_few_and_say_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    steps = Progress("clip.mp4", 200, stream=out)
    for done in range(1, 101):
        now = 100.0 + done / 8
        steps.step(done)
    steps.close()
    assert out.getvalue().splitlines() == [
        "clip.mp4: 40 of 200 frames, 8.0/s, 20 s left",
        "clip.mp4: 80 of 200 frames, 8.0/s, 15 s left",
    ]


def test_without_a_known_end_there_is_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    steps = Progress("camera", None, stream=out)
    now = 6.0
    steps.step(60)
    assert out.getvalue() == "camera: 60 frames, 10.0/s\n"


def test_a_terminal_gets_a_bar() -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        steps = Progress("clip.mp4", 10, stream=terminal)
        steps.step(10)
        steps.close()
        shown = ""
        while "10/10" not in shown:  # the terminal hands over what was written in pieces
            shown += os.read(master, 10_000).decode()
    os.close(master)
    assert "clip.mp4: 100%" in shown
