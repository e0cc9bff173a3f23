"""A live feed within a run: counted from the run's start on, with its limits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.capture import LiveCount, live_captured
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo

INFO = StreamInfo("feed", (2, 2), 10.0, None, True)
PICTURE = np.zeros((2, 2, 3), np.uint8)


def feed(told: Ledger, numbers: int, damaged: tuple[int, ...] = (), per_epoch: int = 10**9) -> Iterator:
    """As `live_frames` gives them, 10 a second; numbers of damaged frames are counted and left out."""
    for number in range(numbers):
        if number % per_epoch == 0:
            yield INFO
        told.captured += 1
        if number in damaged:
            told.undecodable_packets += 1
            told.drop("capture", "corrupt")
            continue
        yield Frame(Stamp("feed", number // per_epoch, number, number / 10, number / 10, 0.0), PICTURE)


def test_what_comes_before_the_run_starts_does_not_count() -> None:
    told, ledger, calls = Ledger("feed"), Ledger("feed"), 0

    def started() -> bool:
        nonlocal calls
        calls += 1
        return calls > 4

    count = LiveCount(told, ledger, started)
    items = list(live_captured(feed(told, 12, damaged=(1, 7, 8)), count))
    frames = [item for item in items if isinstance(item, Frame)]
    # 0, 2, 3 and 4 came too early; the run begins with 5.
    assert [frame.stamp.pts_seconds for frame in frames] == [0.5, 0.6, 0.9, 1.0, 1.1]
    assert [frame.stamp.seq for frame in frames] == [0, 1, 4, 5, 6]
    assert (ledger.captured, ledger.dropped) == (7, {("capture", "corrupt"): 2})
    assert ledger.undecodable_packets == 2
    assert items[0] is INFO


def test_a_ledger_goes_on_from_an_earlier_life() -> None:
    told = Ledger("feed")
    ledger = Ledger("feed", captured=100, dropped={("capture", "corrupt"): 3, ("capture", "stride"): 40})
    frames = [
        item
        for item in live_captured(feed(told, 5, damaged=(2,)), LiveCount(told, ledger, lambda: True))
        if isinstance(item, Frame)
    ]
    assert [frame.stamp.seq for frame in frames] == [100, 101, 103, 104]
    assert ledger.captured == 105
    assert ledger.dropped == {("capture", "corrupt"): 4, ("capture", "stride"): 40}


def test_damage_counts_while_it_lasts_and_at_the_end() -> None:
    told, ledger, noted = Ledger("feed"), Ledger("feed"), []
    count = LiveCount(told, ledger, lambda: True)

    def asking() -> Iterator:
        """Before every picture the feed asks whether it is to end."""
        for number in range(9):
            assert count.update()
            noted.append((ledger.captured, sum(ledger.dropped.values())))
            told.captured += 1
            if number in (0, 3, 4, 5, 7, 8):
                told.drop("capture", "corrupt")
            else:
                yield Frame(Stamp("feed", 0, number, number / 10, number / 10, 0.0), PICTURE)

    frames = [item for item in live_captured(asking(), count) if isinstance(item, Frame)]
    assert [frame.stamp.seq for frame in frames] == [1, 2, 6]
    assert noted == [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (5, 3), (6, 4), (7, 4), (8, 5)]
    assert (ledger.captured, ledger.dropped) == (9, {("capture", "corrupt"): 6})


@pytest.mark.parametrize(
    ("limits", "frames", "dropped", "ended"),
    [
        ({"most_frames": 6}, 6, 0, "frame limit"),
        ({"out_of_time": lambda now: now >= 0.75}, 8, 1, "duration limit"),
        ({}, 30, 0, "the feed ended"),
    ],
)
def test_limits_hold_over_epochs(limits: dict, frames: int, dropped: int, ended: str) -> None:
    told, ledger = Ledger("feed"), Ledger("feed")
    count = LiveCount(told, ledger, lambda: True)
    items = list(live_captured(feed(told, 30, per_epoch=4), count, **limits))
    given = [item for item in items if isinstance(item, Frame)]
    assert len(given) == frames
    assert ledger.captured == frames + dropped
    assert sum(ledger.dropped.values()) == dropped
    assert ledger.ended == ended
    assert [frame.stamp.epoch for frame in given] == [i // 4 for i in range(frames)]
