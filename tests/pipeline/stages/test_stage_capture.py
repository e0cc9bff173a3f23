"""How the capture stage reads: the clock by which a file is played as if it were live, and feeds in their
threads, over deaths of the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.books import RUNNING, Book
from pipeline.config import RunConfig
from pipeline.messages import Ledger, Stamp
from pipeline.sources import SourceSpec
from pipeline.stages.capture import _Clock, _Feeds
from pipeline.streams import StreamEnd

DOWN = SourceSpec("rtsp://127.0.0.1:9/live", "down")
"""Nobody listens there."""


def until(true: Callable[[], object], seconds: float = 20.0) -> bool:
    """Wait until it is true; whether it came to be."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(true())


def feeds(folder: Path, *specs: SourceSpec, **options: object) -> _Feeds:
    """These, being read, the run started."""
    config = RunConfig(source=tuple(spec.uri for spec in specs), **options)  # type: ignore[arg-type]
    reading = _Feeds(config, folder)
    for number, spec in enumerate(specs):
        reading.plan(number, spec)
    reading.begin(live=True)
    reading.begin(live=False)
    return reading


def test_duration_ends_a_feed_that_gives_nothing(tmp_path: Path) -> None:
    (lane,) = feeds(tmp_path, DOWN, duration=0.5).lanes
    began = time.monotonic()
    assert until(lambda: lane.over)
    assert time.monotonic() - began > 0.3
    assert lane.statement().ledger.ended == "duration limit"


def test_the_time_of_a_feed_goes_on_when_its_process_has_died(tmp_path: Path) -> None:
    book, began = Book(tmp_path, 0), time.monotonic() - 3000
    book.write(StreamEnd("down", 6, 7, Ledger("down", 8, ended=RUNNING), 0, began))
    (lane,) = feeds(tmp_path, DOWN, duration=3600.0).lanes
    assert not until(lambda: lane.over, 0.3)
    lane.close("interrupted")
    book.write(StreamEnd("down", 6, 7, Ledger("down", 8, ended=RUNNING), 0, began - 3000))
    (lane,) = feeds(tmp_path, DOWN, duration=3600.0).lanes
    assert until(lambda: lane.over)
    ledger = lane.statement().ledger
    assert (ledger.captured, ledger.ended) == (8, "duration limit")


def test_frames_are_due_by_their_pts_and_loops_follow_each_other_one_interval_apart() -> None:
    clock = _Clock(rate_hz=25.0)
    script = [(0, 7.00), (0, 7.04), (0, 7.20), (1, 7.00), (1, 7.04), (2, 7.00)]
    due = [clock.due(Stamp("clip", epoch, seq, pts, 0.0, 0.0)) for seq, (epoch, pts) in enumerate(script)]
    assert [d - due[0] for d in due] == pytest.approx([0.0, 0.04, 0.20, 0.24, 0.28, 0.32])


def test_asking_again_for_a_frame_changes_nothing() -> None:
    clock = _Clock(rate_hz=25.0)
    stamps = [Stamp("clip", 0, seq, seq / 25, 0.0, 0.0) for seq in range(3)]
    first = clock.due(stamps[0])
    assert [clock.due(stamp) for stamp in (stamps[0], stamps[1], stamps[1], stamps[2])] == pytest.approx(
        [first, first + 0.04, first + 0.04, first + 0.08]
    )
