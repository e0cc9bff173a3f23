"""Where feeds meet: nobody starves, the newest wins, and every frame is counted, also over a death."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.books import RUNNING
from pipeline.lanes import CATCH_UP_SECONDS, HELD_BYTES, WAITING, Lane, Waiting, next_turn
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo
from pipeline.streams import StreamEnd

PICTURE = np.zeros((2, 2, 3), np.uint8)


def frame(stream: str, seq: int, seconds: float = 0.0, epoch: int = 0) -> Frame:
    return Frame(Stamp(stream, epoch, seq, seconds, seconds, 0.0), PICTURE)


def put(lane: Lane, seq: int, seconds: float = 0.0, epoch: int = 0) -> bool:
    return lane.put(frame(lane.stream, seq, seconds, epoch), 0.0, Ledger(lane.stream, captured=seq + 1))


def live(stream: str, **options: object) -> Lane:
    lane = Lane(stream, keeps_up=True, live=True, **options)  # type: ignore[arg-type]
    lane.opened.set()
    return lane


def simulate(rates_hz: list[float], capacity_hz: float, seconds: float) -> dict[str, list[int]]:
    """What gets through of feeds of these rates when the next stage takes so many frames a second, one at a
    time; all by a clock of numbers."""
    lanes = [live(f"feed {i}") for i in range(len(rates_hz))]
    rate_of = {lane.stream: rate for lane, rate in zip(lanes, rates_hz, strict=True)}
    order, seqs = list(lanes), dict.fromkeys(rate_of, 0)
    sent: dict[str, list[int]] = {stream: [] for stream in rate_of}
    free_at, in_work = 0.0, None
    for now in np.arange(0.0, seconds, 1e-3):
        for lane in lanes:
            if now * rate_of[lane.stream] >= seqs[lane.stream]:
                put(lane, seqs[lane.stream], float(now))
                seqs[lane.stream] += 1
        if now >= free_at:
            if in_work is not None:
                in_work.confirm(0)
            in_work = next_turn(order)
            if in_work is not None:
                item = in_work.take()
                assert isinstance(item, Waiting)
                in_work.sent(item)
                sent[in_work.stream].append(item.frame.stamp.seq)
                free_at = now + 1.0 / capacity_hz
    for lane in lanes:
        ledger = lane.statement().ledger
        waiting = ledger.captured - lane.statement().frames - sum(ledger.dropped.values())
        assert 0 <= waiting <= WAITING
    return sent


def test_a_fast_feed_does_not_starve_a_slow_one() -> None:
    sent = simulate([120.0, 5.0], capacity_hz=20.0, seconds=20.0)
    assert len(sent["feed 1"]) >= 0.97 * 5 * 20  # all of the slow feed
    assert len(sent["feed 0"]) >= 0.6 * 15 * 20  # and most of what is left for the fast one


def test_feeds_alike_share_what_there_is() -> None:
    sent = simulate([30.0] * 4, capacity_hz=40.0, seconds=20.0)
    shares = [len(seqs) / (40.0 * 20.0) for seqs in sent.values()]
    assert min(shares) > 0.6 * max(shares)
    assert sum(shares) > 0.6


def test_feeds_that_fit_lose_nothing_however_their_frames_coincide() -> None:
    sent = simulate([10.0] * 4, capacity_hz=60.0, seconds=10.0)
    for seqs in sent.values():
        assert seqs == list(range(len(seqs)))
        assert len(seqs) >= 99


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_a_feed_gets_its_turn_before_any_other_gets_two(arrivals: list[str]) -> None:
    lanes = {name: Lane(name, keeps_up=False, live=True) for name in "abc"}
    for lane in lanes.values():
        for _ in range(arrivals.count(lane.stream)):
            lane.begin(StreamInfo(lane.stream, (2, 2), 25.0, None, True))  # does not wait, unlike a frame
    order = list(lanes.values())
    turns: list[str] = []
    while (lane := next_turn(order)) is not None:
        lane.take()
        turns.append(lane.stream)
    assert sorted(turns) == sorted(arrivals)
    for name in lanes:
        mine = [i for i, turn in enumerate(turns) if turn == name]
        for first, second in pairwise(mine):
            others = turns[first + 1 : second]
            assert len(others) == len(set(others))


def test_a_file_waits_until_no_live_feed_has_a_frame() -> None:
    file, feed = Lane("file", keeps_up=False, live=False), live("feed")
    put(file, 0)
    put(feed, 0)
    order = [file, feed]
    assert next_turn(order) is feed
    feed.take()
    assert next_turn(order) is file


def test_the_newest_frames_win() -> None:
    lane = live("feed")
    for seq in range(5):
        put(lane, seq, seq / 1000)
    kept = [lane.take() for _ in range(WAITING)]
    assert [item.frame.stamp.seq for item in kept if isinstance(item, Waiting)] == [3, 4]
    assert lane.statement().ledger.dropped == {("capture", "overload"): 3}


def test_frames_are_counted_that_wait_and_nothing_else() -> None:
    lane = live("feed")
    lane.begin(StreamInfo("feed", (2, 2), 25.0, None, True))
    waiting = [lane.frames_waiting]
    for seq in range(3):
        put(lane, seq, seq / 1000)
        waiting.append(lane.frames_waiting)
    for _ in range(3):
        lane.take()
        waiting.append(lane.frames_waiting)
    assert waiting == [0, 1, 2, 2, 2, 1, 0]


def test_the_begin_of_an_epoch_is_never_dropped() -> None:
    lane = live("feed")
    lane.begin(StreamInfo("feed", (2, 2), 25.0, None, True))
    for seq in range(5):
        put(lane, seq)
    assert isinstance(lane.take(), StreamInfo)


def test_lossless_waits_for_room() -> None:
    lane = Lane("file", keeps_up=False, live=False)
    done = threading.Thread(target=lambda: [put(lane, seq) for seq in range(6)], daemon=True)
    done.start()
    taken = []
    deadline = time.monotonic() + 20
    while len(taken) < 6 and time.monotonic() < deadline:
        if not lane.waits:
            time.sleep(0.001)
            continue
        assert len(lane._items) <= WAITING
        item = lane.take()
        assert isinstance(item, Waiting)
        taken.append(item.frame.stamp.seq)
    assert taken == [0, 1, 2, 3, 4, 5]


def test_what_a_thread_brings_after_the_end_is_not_counted() -> None:
    lane = live("feed")
    put(lane, 0)
    lane.close("removed")
    assert not put(lane, 1)
    assert not lane.over  # the frame that waits still goes
    lane.take()
    assert lane.over
    end = lane.statement()
    assert (end.ledger.captured, end.ledger.ended) == (1, "removed")


def test_frames_wait_for_a_stage_that_is_down_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = live("feed")
    most = HELD_BYTES // frame("feed", 0).image_bgr.nbytes
    monkeypatch.setattr("pipeline.lanes.HELD_BYTES", HELD_BYTES // most * 20)
    lane.hold("restarting")
    for seq in range(300):
        put(lane, seq, seq / 30)
    assert lane.statement().ledger.dropped == {("capture", "restarting"): 300 - 20}
    lane.hold("")
    taken = []
    for seq in range(300, 340):  # two go for one that comes
        put(lane, seq, 10.0 + seq / 30)
        taken += [lane.take().frame.stamp.seq for _ in range(2) if lane.waits]  # type: ignore[union-attr]
    # With the first that comes the oldest goes; then nothing more is lost.
    assert taken == list(range(281, 340))
    assert lane.statement().ledger.dropped == {("capture", "restarting"): 300 - 20 + 1}


def test_the_stride_is_that_of_the_last_frame_that_was_sent_once_the_stage_goes_on() -> None:
    """What was dropped before anybody knew that a stage hangs says nothing of the load."""
    lane = live("feed")
    put(lane, 0)
    item = lane.take()
    assert isinstance(item, Waiting)
    lane.opened.set()
    lane.sent(item)
    lane.confirm(1)
    for seq in range(1, 200):
        put(lane, seq, seq / 30)
    assert lane._pacer.stride > 1
    lane.hold("restarting")
    lane.hold("")
    assert lane._pacer.stride == 1


def test_what_a_new_connection_brings_at_once_leaves_the_stride_alone() -> None:
    lane, seq = live("feed"), 0
    for epoch in range(3):
        for number in range(150):  # ten frames at once, and then ten seconds of 15 a second
            put(lane, seq, 20.0 * epoch + max(0, number - 8) / 15, epoch=epoch)
            seq += 1
            while number > 8 and lane.waits:
                item = lane.take()
                assert isinstance(item, Waiting)
                assert item.stride == 1
                lane.sent(item)
                lane.confirm(0)
    assert lane.statement().ledger.dropped == {("capture", "overload"): 3 * (10 - WAITING)}


def test_what_cannot_catch_up_goes_at_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr("pipeline.lanes.time.monotonic", lambda: clock[0])
    lane = live("feed")
    lane.hold("restarting")
    for seq in range(20):
        put(lane, seq, seq / 30)
    lane.hold("")
    for seq in range(20, 125):  # one goes for one that comes
        clock[0] += 1 / 30
        put(lane, seq, seq / 30)
        lane.take()
        behind = lane.frames_waiting
        assert behind == (20 if clock[0] - 100.0 <= CATCH_UP_SECONDS else WAITING - 1), seq
    assert lane.statement().ledger.dropped == {("capture", "restarting"): 21 - WAITING}


@settings(deadline=None)
@given(st.lists(st.sampled_from(["put", "send", "take and die", "lose"]), max_size=40))
def test_the_books_balance_over_any_number_of_deaths(steps: list[str]) -> None:
    """Whatever happens, captured = sent + dropped + in this process; and a death drops what was in it."""
    books: list[StreamEnd] = []
    lane, seq, lives = live("feed", book=books.append), 0, 0
    for step in steps:
        if step == "put":
            counted = lane.counts()
            counted.captured = seq + 1
            lane.put(frame("feed", seq, epoch=lane.epoch), 0.0, counted)
            seq += 1
        elif lane.waits:
            item = lane.take()
            assert isinstance(item, Waiting)
            if step == "send":
                lane.sent(item)
            elif step == "lose":
                lane.lose("no memory")
            else:
                lives += 1
                lane = live("feed", book=books.append, before=books[-1])
    end = lane.statement()
    waiting = sum(1 for _ in iter(lambda: lane.waits and lane.take(), False))
    assert end.ledger.captured == seq == end.frames + sum(end.ledger.dropped.values()) + waiting
    assert end.ledger.ended == RUNNING
    assert lives == 0 or end.epoch >= 1


def test_every_connection_after_the_first_is_a_reconnect() -> None:
    lane = live("feed")
    for kind in ("failed", "connected", "stalled", "failed", "connected", "lost", "connected"):
        lane.happened(kind)
    ledger = lane.statement().ledger
    assert ledger.reconnects == 2
    assert ledger.events == {"failed": 2, "connected": 3, "stalled": 1, "lost": 1}


def test_a_streams_time_begins_once_whatever_dies() -> None:
    books: list[StreamEnd] = []
    first = live("feed", book=books.append)
    assert first.began_seconds is None
    earliest = time.monotonic()
    first.start()
    began = first.began_seconds
    assert began is not None
    assert earliest <= began <= time.monotonic()
    second = live("feed", before=books[-1])
    for lane in (first, second):
        lane.start()
        assert lane.began_seconds == began


def test_a_lane_that_ended_stays_ended() -> None:
    lane = live("feed")
    lane.close("removed")
    lane.end(Ledger("feed", ended="end of file"))
    lane.close("interrupted")
    assert lane.statement().ledger.ended == "removed"
    with pytest.raises(IndexError):
        lane.take()
