"""The receiving ends of several senders: turns, ends, lives; over real sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from pipeline.channels import Sender
from pipeline.errors import PeerLostError
from pipeline.messages import Ledger
from pipeline.ring import Rings
from pipeline.stages.links import Incoming
from pipeline.stages.wiring import link_socket
from pipeline.stages.worker import Worker
from pipeline.streams import Message, StreamEnd


class _Rings:
    """Notes what was taken back."""

    def __init__(self) -> None:
        self.reclaimed: list[tuple[str, str | None]] = []

    def reclaim(self, holder: str, producer: str | None = None) -> None:
        self.reclaimed.append((holder, producer))


class _Face:
    """The face stage's worker, whose supervisor is the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stage = folder, "face"
        self.lives = {"frames": 0, "frames-1": 0, "frames-2": 0, "faces": 0}
        self.hopeless = False

    def tick(self) -> None:
        pass

    def expect_life(self, link: str, life: int) -> None:
        if self.hopeless and self.lives[link] == life:
            raise PeerLostError(link)


@pytest.fixture
def face(tmp_path: Path) -> _Face:
    return _Face(tmp_path)


@pytest.fixture
def rings() -> _Rings:
    return _Rings()


@pytest.fixture
def incoming(face: _Face, rings: _Rings) -> Iterator[Incoming]:
    made = Incoming(cast(Worker, face), "frames", [cast(Rings, rings)])
    yield made
    for end in made._ends:
        end.receiver.close()


def message(stream: str, number: int) -> StreamEnd:
    return StreamEnd(stream, number, number, Ledger(stream, number))


def got(incoming: Incoming) -> Message | None:
    """The next message, given some time."""
    deadline = time.monotonic() + 10
    while (found := incoming.receive(wait=False)) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    return found


def sender(face: _Face, link: str) -> Sender:
    return Sender(link_socket(face.folder, link, face.lives[link]), link)


def feed(incoming: Incoming, made: Sender, stream: str, number: int) -> None:
    """Send, and see to it that it has come near; nothing of another sender is taken."""
    deadline = time.monotonic() + 10
    while not made.try_send(message(stream, number)):
        for end in incoming._ends:
            end.receiver.receive(0) if not end.receiver.met else None
        assert time.monotonic() < deadline
    time.sleep(0.02)


def test_senders_take_turns_however_fast_one_is(face: _Face, incoming: Incoming) -> None:
    fast, slow = sender(face, "frames"), sender(face, "frames-1")
    order = []
    for number in range(6):
        feed(incoming, fast, "fast", 2 * number)
        if number % 2 == 0:
            feed(incoming, slow, "slow", number)
        for _ in range(2 if number % 2 == 0 else 1):
            found = got(incoming)
            assert isinstance(found, StreamEnd)
            order.append(found.stream)
            incoming.done()
    assert order.count("slow") == 3
    assert all(order[i : i + 4].count("slow") for i in range(len(order) - 3))
    fast.close()
    slow.close()


def test_one_that_yields_has_its_turn_when_no_other_has_a_message(face: _Face) -> None:
    incoming = Incoming(cast(Worker, face), "frames", [], yielding={"frames"})
    files, camera = sender(face, "frames"), sender(face, "frames-1")
    order = []
    for number in range(5):
        if number == 0:
            feed(incoming, files, "files", number)
        feed(incoming, camera, "camera", number)
        found = got(incoming)
        assert isinstance(found, StreamEnd)
        order.append(found.stream)
        incoming.done()
    last = got(incoming)
    assert isinstance(last, StreamEnd)
    assert [*order, last.stream] == ["camera"] * 5 + ["files"]
    for end in incoming._ends:
        end.receiver.close()
    files.close()
    camera.close()


def test_the_death_of_one_sender_takes_back_its_slots_alone(
    face: _Face, incoming: Incoming, rings: _Rings
) -> None:
    one, other = sender(face, "frames-1"), sender(face, "frames-2")
    feed(incoming, one, "one", 1)
    feed(incoming, other, "other", 1)
    one.close()
    for _ in range(2):  # what was sent before the death still counts
        assert isinstance(got(incoming), StreamEnd)
        incoming.done()
    assert rings.reclaimed == []
    face.lives["frames-1"] += 1
    deadline = time.monotonic() + 10
    while not rings.reclaimed and time.monotonic() < deadline:
        assert incoming.receive(wait=False) is None
    assert rings.reclaimed == [("face", "frames-1")]
    again = sender(face, "frames-1")
    feed(incoming, again, "one", 2)
    found = got(incoming)
    assert isinstance(found, StreamEnd)
    assert (found.stream, found.frames) == ("one", 2)
    incoming.done()
    again.close()
    other.close()


def test_one_that_is_gone_for_good_is_an_error(face: _Face, incoming: Incoming) -> None:
    one = sender(face, "frames-1")
    feed(incoming, one, "one", 1)
    got(incoming)
    incoming.done()
    one.close()
    face.hopeless = True
    with pytest.raises(PeerLostError, match="frames-1"):
        incoming.receive()


def finish(incoming: Incoming, made: Sender) -> None:
    deadline = time.monotonic() + 10
    while not made.finish(
        timeout_seconds=None, stop=lambda: incoming.receive(wait=False) is not None or True
    ):
        assert time.monotonic() < deadline
    made.close()


def test_it_ends_with_the_last_sender_and_forgets_those_that_have_gone(
    face: _Face, incoming: Incoming
) -> None:
    senders = {link: sender(face, link) for link in ("frames", "frames-1", "frames-2")}
    finish(incoming, senders.pop("frames-1"))
    assert not incoming.ended
    del face.lives["frames-1"]  # as the supervisor does once its process has ended
    assert incoming.receive(wait=False) is None
    assert {end.link for end in incoming._ends} == {"frames", "frames-2"}
    face.lives["frames-3"] = 0  # a feed that is added
    assert incoming.receive(wait=False) is None
    senders["frames-3"] = sender(face, "frames-3")
    for made in senders.values():
        assert not incoming.ended
        finish(incoming, made)
    assert incoming.receive() is None
    assert incoming.ended


def test_one_that_dies_on_its_way_out_says_its_end_again(face: _Face, incoming: Incoming) -> None:
    for link in ("frames", "frames-2"):
        finish(incoming, sender(face, link))
    made = sender(face, "frames-1")
    made._end.send(b"E" + bytes(8))
    deadline = time.monotonic() + 10
    while not incoming.ended and time.monotonic() < deadline:
        incoming.receive(wait=False)
    assert incoming.ended
    made.close()  # it had not heard that this was heard
    face.lives["frames-1"] += 1
    incoming.receive(wait=False)
    assert not incoming.ended
    finish(incoming, sender(face, "frames-1"))
    assert incoming.receive() is None
