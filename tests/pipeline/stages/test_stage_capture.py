"""How the capture stage reads: the clock by which a file is played as if it were live, and feeds in their
threads, over deaths of the process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pipeline.books import RUNNING, Book, read_book
from pipeline.capture import LiveCount
from pipeline.config import RunConfig
from pipeline.errors import SourceError
from pipeline.feed import FeedEvent
from pipeline.lanes import Lane
from pipeline.messages import Ledger, Stamp, StreamInfo
from pipeline.pacing import Stall
from pipeline.sources import SourceSpec, write_streams
from pipeline.stages import capture
from pipeline.stages.capture import _Clock, _Feeds, _Stop
from pipeline.stages.links import Outgoing
from pipeline.stages.worker import Worker
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
    reading.plan(dict(enumerate(specs)), beside_feeds=any(spec.feed for spec in specs))
    reading.begin(live=False)
    return reading


WEB = [SourceSpec(f"http://127.0.0.1:9/{name}", name) for name in "ab"]
"""Nor there."""


def lanes_of(reading: _Feeds) -> list[tuple[str, bool]]:
    found = [(lane.stream, lane.live) for lane in reading.lanes]
    for lane in reading.lanes:
        lane.close("over")
    return found


def test_a_web_camera_that_is_down_is_tried_again_beside_a_live_source(tmp_path: Path) -> None:
    reading = feeds(tmp_path, WEB[0], DOWN, WEB[1])
    assert until(lambda: all(lane.statement().ledger.events.get("failed") for lane in reading.lanes))
    assert lanes_of(reading) == [("a", True), ("down", True), ("b", True)]


def test_whether_another_web_camera_is_live_shows_when_it_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def open_one(spec: SourceSpec) -> SimpleNamespace:
        opened.append(spec.stream)
        if spec.stream == "a":
            raise SourceError("a: cannot be reached")
        info = StreamInfo(spec.stream, (2, 2), 25.0, None, live)
        return SimpleNamespace(info=info, close=lambda: None)

    monkeypatch.setattr(capture, "open_source", open_one)
    live = True
    assert lanes_of(feeds(tmp_path, *WEB)) == [("a", True), ("b", True)]
    assert sorted(opened) == ["a", "b"]
    live = False
    (tmp_path / "files").mkdir()
    with pytest.raises(SourceError, match="a: cannot be reached"):
        feeds(tmp_path / "files", *WEB)


def test_a_web_camera_that_is_down_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be reached"):
        feeds(tmp_path, WEB[0])


def test_what_is_known_to_be_live_is_not_opened_first(tmp_path: Path) -> None:
    """Because `ctl add` said so, or an earlier life of the process has seen it."""
    assert lanes_of(feeds(tmp_path, replace(WEB[0], live=True))) == [("a", True)]
    (tmp_path / "again").mkdir()
    seen = Ledger("a", 3, ended=RUNNING, events={"connected": 1, "lost": 1})
    Book(tmp_path / "again", 0).write(StreamEnd("a", 2, 3, seen))
    assert lanes_of(feeds(tmp_path / "again", WEB[0])) == [("a", True)]


def test_events_before_the_first_frame_are_in_the_book(tmp_path: Path) -> None:
    (lane,) = feeds(tmp_path, DOWN).lanes
    assert until(lambda: (book := read_book(tmp_path, 0)) is not None and "failed" in book.ledger.events)
    lane.close("over")


def test_damage_is_counted_while_no_picture_comes_and_said_once_when_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(capture, "time", SimpleNamespace(monotonic=lambda: now))
    lane, told = Lane("a", keeps_up=True, live=True), Ledger("a")
    events: list[FeedEvent] = []
    count = LiveCount(told, lane.counts(), lambda: True)
    stop = _Stop(lane, count, lambda seconds: seconds >= 1100, events.append)

    def goes_on(seconds: float, damaged: int) -> tuple[int, int]:
        """Packets come and the feed asks; then the lane's captured and dropped frames."""
        nonlocal now
        for _ in range(damaged):
            told.captured += 1
            told.drop("capture", "after damage")
        now += seconds
        assert not stop()
        ledger = lane.statement().ledger
        return ledger.captured, sum(ledger.dropped.values())

    assert goes_on(1, 0) == (0, 0)
    assert events == []
    assert goes_on(1, 3) == (3, 3)
    assert goes_on(5, 4) == (7, 7)
    assert [(event.kind, event.stream) for event in events] == [("damaged", "a")]
    assert goes_on(11, 0) == (7, 7)
    assert goes_on(1, 1) == (8, 8)
    assert [event.kind for event in events] == ["damaged"] * 2
    told.captured += 1
    told.drop("capture", "after damage")
    now += 1
    other = threading.Thread(target=stop)  # the one that opens a source asks, too, and counts nothing
    other.start()
    other.join()
    assert lane.statement().ledger.captured == 8
    now = 1100.0
    assert stop()


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


def test_a_stream_that_ends_at_any_moment_has_its_end_said(tmp_path: Path) -> None:
    class Ending(Lane):
        """Its feed's thread ends it between two looks at it."""

        looks = 0

        @property
        def over(self) -> bool:
            self.looks += 1
            if self.looks == 2:
                self.close("duration limit")
            return super().over

    write_streams(tmp_path, [DOWN])
    said: list[object] = []
    out = SimpleNamespace(
        worked_off=(0, 0),
        room=lambda: False,
        pending=lambda _: 0,
        mark=said.append,
        wait=lambda *_: None,
        finish=lambda: None,
    )
    loop = object.__new__(capture._Loop)
    loop._lanes, loop._out, loop._handed, loop._reported_at = [Ending("a", True, True)], out, Counter(), 0.0  # type: ignore[assignment]
    loop._stall, loop._down, loop._held = Stall(), False, ""
    loop._worker = cast(Worker, SimpleNamespace(wish=lambda: None, commands=[], report=lambda _: True))
    loop._feeds = cast(
        _Feeds, SimpleNamespace(broken=None, refused=None, events=[], bell=None, hush=lambda: None)
    )
    loop.run()
    (end,) = said
    assert isinstance(end, StreamEnd)
    assert end.ledger.ended == "duration limit"


@pytest.mark.parametrize(
    ("handed", "pending", "made_ready"),
    [
        (0, 0, False),  # not begun yet
        (1, 1, False),
        (1, 0, True),  # its beginning is worked through, and nothing else was there
        (2, 1, False),  # a first frame may take long
        (3, 1, True),  # always one on its way, as with many feeds: it is made ready all the same
        (9, 3, True),
    ],
)
def test_a_lane_knows_when_the_face_stage_is_made_ready(handed: int, pending: int, made_ready: bool) -> None:
    """Until then what finds no room is no overload, and the stride stays."""
    loop = object.__new__(capture._Loop)
    loop._out = cast(Outgoing, SimpleNamespace(pending=lambda _: pending))
    loop._handed = Counter({"a": handed} if handed else {})
    lane = Lane("a", True, True)
    assert not loop._see_to(lane)
    assert lane.opened.is_set() == made_ready
