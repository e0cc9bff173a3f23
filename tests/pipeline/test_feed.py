"""What a feed does when it breaks: with invented sources and a clock that is turned by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import feed
from pipeline.errors import SourceError, StalledError
from pipeline.feed import Backoff, FeedEvent, live_frames
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo
from pipeline.sources import SourceSpec

SPEC = SourceSpec("rtsp://me:SECRET@host/live", "rtsp://host/live")


@dataclass
class Picture:
    size_wh: tuple[int, int] = (8, 6)
    pts_seconds: float | None = None
    """None: 0.04 s after the one before."""
    dropped: bool = False


@dataclass
class Connection:
    """What one try to connect gives."""

    pictures: Sequence[Picture] = ()
    end: SourceError | None = None
    refused: str | None = None
    lasts_seconds: float = 0.0
    closed: bool = field(default=False, init=False)


class World:
    """Connections one after the other, and a clock that only waits move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, connections: Sequence[Connection]) -> None:
        self.connections = connections
        self.tries = 0
        self.now = 1000.0
        self.tried_at: list[float] = []
        self.events: list[FeedEvent] = []
        self.ledger = Ledger(SPEC.stream)
        monkeypatch.setattr(feed, "open_source", self.open)

    def open(self, spec: SourceSpec, *, stop: Callable[[], bool], stall_seconds: float) -> FakeSource:
        assert spec is SPEC
        assert stall_seconds < 2.0
        connection = self.connections[self.tries]
        self.tries += 1
        self.tried_at.append(self.now)
        if connection.refused is not None:
            raise SourceError(connection.refused)
        return FakeSource(self, connection, stop)

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.1
        self.now += seconds

    def stop(self) -> bool:
        return self.tries == len(self.connections) and (
            self.connections[-1].closed or self.connections[-1].refused is not None
        )

    def run(self, **options: object) -> list[StreamInfo | Frame]:
        return list(
            live_frames(
                SPEC,
                stop=self.stop,
                on_event=self.events.append,
                clock=lambda: self.now,
                sleep=self.sleep,
                ledger=self.ledger,
                **options,  # type: ignore[arg-type]
            )
        )


class FakeSource:
    def __init__(self, world: World, connection: Connection, stop: Callable[[], bool]) -> None:
        self._world, self._connection, self._stop = world, connection, stop
        first = connection.pictures[0].size_wh if connection.pictures else (8, 6)
        self.info = StreamInfo(SPEC.stream, first, 25.0, 99, live=False)

    def frames(self, ledger: Ledger, epoch: int = 0, first_seq: int = 0) -> Iterator[Frame]:
        size, pts = None, 0.0
        for i, picture in enumerate(self._connection.pictures):
            if self._stop():
                return
            ledger.captured += 1
            pts = pts + 0.04 if picture.pts_seconds is None else picture.pts_seconds
            if picture.dropped:
                ledger.drop("capture", "after damage")
                continue
            epoch += size not in (None, picture.size_wh)
            size = picture.size_wh
            image = np.zeros((size[1], size[0], 3), np.uint8)
            yield Frame(Stamp(self.info.stream, epoch, first_seq + i, pts, 0.0, 0.0), image)
        self._world.now += self._connection.lasts_seconds
        if self._connection.end is not None:
            raise self._connection.end

    def close(self) -> None:
        self._connection.closed = True


def frames_of(items: Sequence[StreamInfo | Frame]) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


def test_an_epoch_begins_with_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(
        monkeypatch,
        [
            Connection(refused="nobody there"),
            Connection(3 * [Picture()], end=SourceError("cut")),
            Connection(2 * [Picture((16, 12))], end=StalledError("silent")),
            Connection(1 * [Picture()]),
        ],
    )
    items = world.run()
    assert [(f.stamp.epoch, f.stamp.seq) for f in frames_of(items)] == [
        *((0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (2, 5))
    ]
    infos = [item for item in items if isinstance(item, StreamInfo)]
    assert [(i.size_wh, i.live, i.frames) for i in infos] == [
        *(((8, 6), True, None), ((16, 12), True, None), ((8, 6), True, None))
    ]
    assert [(e.kind, e.epoch, e.reason) for e in world.events] == [
        ("failed", 0, "nobody there"),
        ("connected", 0, "8×6, 25 frames/s"),
        ("lost", 0, "cut"),
        ("connected", 1, "16×12, 25 frames/s"),
        ("stalled", 1, "silent"),
        ("connected", 2, "8×6, 25 frames/s"),
    ]
    assert all(bool(e.wait_seconds) == (e.kind not in ("connected", "changed")) for e in world.events)
    waits = [e.wait_seconds for e in world.events if e.wait_seconds]
    assert [b - a for a, b in pairwise(world.tried_at)] == pytest.approx(waits)
    assert all(c.closed for c in world.connections if c.refused is None)


def test_a_change_of_size_or_clock_is_an_epoch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = Picture(), Picture((16, 12))
    pictures = [small, large, large, Picture((16, 12), 90.0), Picture((16, 12), 1.0), small]
    world = World(monkeypatch, [Connection(pictures)])
    items = world.run(epoch=7)
    assert [i.size_wh if isinstance(i, StreamInfo) else i.stamp.epoch for i in items] == [
        *((8, 6), 7, (16, 12), 8, 8, (16, 12), 9, (16, 12), 10, (8, 6), 11)
    ]
    assert [(e.kind, e.reason) for e in world.events[1:]] == [
        ("changed", "8×6 became 16×12"),
        ("changed", "its clock jumped by +89.880 s"),
        ("changed", "its clock jumped by -89.000 s"),
        ("changed", "16×12 became 8×6"),
    ]


PICTURES = st.builds(
    Picture,
    st.sampled_from([(8, 6), (16, 12)]),
    st.none() | st.floats(0, 50),
    st.booleans(),
)
CONNECTIONS = st.builds(
    Connection,
    st.lists(PICTURES, max_size=6),
    st.sampled_from([None, SourceError("lost"), StalledError("stalled")]),
    st.none() | st.just("refused"),
    st.sampled_from([0.0, 30.0]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(CONNECTIONS, min_size=1, max_size=6), st.integers(0, 9), st.integers(0, 50))
def test_nothing_is_counted_twice_or_lost(connections: list[Connection], epoch: int, held: int) -> None:
    for connection in connections:
        connection.closed = False
    with pytest.MonkeyPatch.context() as patch:
        world = World(patch, connections)
        world.ledger.captured = world.ledger.delivered = held
        items = world.run(epoch=epoch)
    frames = frames_of(items)
    decoded = [p for c in connections if c.refused is None for p in c.pictures]
    numbers = [f.stamp.seq for f in frames]
    assert numbers == [held + i for i, p in enumerate(decoded) if not p.dropped]
    assert world.ledger.captured == held + len(decoded)
    assert world.ledger.in_flight == len(frames)
    # A description stands before the first frame of every epoch, and only there.
    told = [i for i, item in enumerate(items) if isinstance(item, StreamInfo)]
    firsts = [i for i, item in enumerate(items) if isinstance(item, Frame) and i - 1 in told]
    assert len(told) == len(firsts) == len({f.stamp.epoch for f in frames})
    assert [f.stamp.epoch for f in frames] == sorted(f.stamp.epoch for f in frames)
    for info, frame in ((items[i - 1], items[i]) for i in firsts):
        assert isinstance(info, StreamInfo)
        assert isinstance(frame, Frame)
        assert info.size_wh == frame.image_bgr.shape[1::-1]
    begun = {e.epoch for e in world.events if e.kind in ("connected", "changed")}
    assert {f.stamp.epoch for f in frames} <= begun
    assert len(begun) == sum(e.kind in ("connected", "changed") for e in world.events)
    for before, after in pairwise(frames):
        if before.stamp.epoch == after.stamp.epoch:
            assert before.image_bgr.shape == after.image_bgr.shape
            assert 0 <= after.stamp.pts_seconds - before.stamp.pts_seconds <= 5


@pytest.mark.parametrize(("lasts_seconds", "is_patient"), [(9.0, True), (11.0, False)])
def test_a_connection_that_lasted_ends_the_outage(
    monkeypatch: pytest.MonkeyPatch, lasts_seconds: float, is_patient: bool
) -> None:
    refused = 6 * [Connection(refused="no")]
    good = Connection([Picture()], lasts_seconds=lasts_seconds)
    world = World(monkeypatch, [*refused, good, Connection([Picture()])])
    world.run(backoff=Backoff(chance=lambda: 1.0))
    assert world.events[5].wait_seconds == 5.0
    assert world.events[7].wait_seconds == (5.0 if is_patient else 1.0)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 20)), min_size=1, max_size=80),
    st.floats(0, 1e9),
)
def test_waits(tries: list[tuple[float, float]], began: float) -> None:
    chances = iter([chance for chance, _ in tries])
    backoff = Backoff(chance=lambda: next(chances))
    now, bound = began, 0.5
    for i, (_, lasted) in enumerate(tries):
        wait = backoff.wait_seconds(now)
        most = 5.0 if now - began < 120 else 30.0
        bound = 0.5 * 2.0 ** (i + 1)
        assert 0.5 <= wait <= 30
        assert min(bound, most) / 2 <= wait <= min(bound, most)
        now += wait + lasted
    backoff.reset()
    backoff.chance = lambda: 1.0
    assert backoff.wait_seconds(now) == 1.0


def test_waits_of_many_feeds_spread() -> None:
    waits = [Backoff().wait_seconds(0.0) for _ in range(200)]
    assert 0.5 <= min(waits) < 0.6 < 0.9 < max(waits) <= 1.0


def test_a_wish_to_stop_does_not_wait_for_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    opening, stopped, closed = Event(), Event(), Event()

    class Late:
        def close(self) -> None:
            closed.set()

    def hangs(*_: object, **__: object) -> Late:
        opening.set()
        assert stopped.wait(20)
        return Late()

    monkeypatch.setattr(feed, "open_source", hangs)
    assert list(live_frames(SPEC, stop=opening.is_set)) == []
    stopped.set()
    assert closed.wait(20)


def test_a_wish_to_stop_ends_a_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 9 * [Connection(refused="no")])
    stop_at = world.now + 0.3
    items = live_frames(SPEC, stop=lambda: world.now > stop_at, clock=lambda: world.now, sleep=world.sleep)
    assert list(items) == []
    assert world.tries == 1
    assert world.now == pytest.approx(stop_at, abs=0.11)


def test_a_wish_to_stop_ends_a_connection_that_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [Connection(9 * [Picture()])])
    items = live_frames(SPEC, stop=lambda: world.ledger.captured == 4, ledger=world.ledger)
    assert len(frames_of(list(items))) == 4
    assert world.connections[0].closed


def test_closing_the_iterator_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(9 * [Picture()])
    world = World(monkeypatch, [connection])
    items = live_frames(SPEC, stop=world.stop, ledger=world.ledger)
    assert len(list(islice(items, 4))) == 4
    items.close()  # type: ignore[attr-defined]
    assert connection.closed
    assert world.ledger.captured == 3


def test_a_fault_of_the_program_is_not_taken_for_the_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(feed, "open_source", broken)
    with pytest.raises(ZeroDivisionError):
        next(iter(live_frames(SPEC, stop=lambda: False)))


def test_the_walls_clock_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [Connection(refused="no"), Connection([Picture()]), Connection([Picture()])])
    jumps = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    assert len(frames_of(world.run())) == 2
