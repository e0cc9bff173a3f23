from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import sockets
from pipeline.channels import Receiver, Sender, wait
from pipeline.errors import PeerLostError, RunError, WireError
from pipeline.messages import Ledger, Stamp
from pipeline.ring import Ring, RingSpec, RunDirectory, create_rings
from pipeline.sockets import End
from pipeline.streams import FramePacket, Message
from pipeline.wire import MAX_BYTES, encode

SPAWN = multiprocessing.get_context("spawn")
SECONDS = 20.0
"""Nothing here takes as long unless it hangs."""


def note(n: int) -> Ledger:
    return Ledger(str(n))


@pytest.fixture
def folder() -> Iterator[Path]:
    directory = RunDirectory()
    yield directory.path
    left = sorted(p.name for p in directory.path.iterdir())
    directory.close()
    assert left == ["lock"]


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    started = []

    def begin(target: Callable[..., None], *arguments: Any) -> Any:
        process = SPAWN.Process(target=target, args=arguments, daemon=True)
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


def meet(sender: Sender, receiver: Receiver) -> None:
    """Both ends in one thread: the receiver must look before there are credits."""
    until = time.monotonic() + SECONDS
    while not sender.credits:
        assert receiver.receive(0.01) is None
        assert time.monotonic() < until


@pytest.fixture
def pair(folder: Path) -> Iterator[tuple[Sender, Receiver]]:
    sender, receiver = Sender(folder / "c", "control"), Receiver(folder / "c", "control", 2)
    meet(sender, receiver)
    yield sender, receiver
    sender.close()
    receiver.close()


def drain(receiver: Receiver) -> None:
    while receiver.receive(SECONDS) is not None:
        pass


def patiently(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _send(path: Path, count: int, end: str) -> None:
    sender = Sender(path, "control")
    for n in range(count):
        assert sender.send(note(n), SECONDS)
    if end == "finish":
        assert sender.finish(SECONDS)
    elif end == "kill":
        time.sleep(0.2)  # for libzmq's own thread to hand the last one to the kernel
        os.kill(os.getpid(), signal.SIGKILL)
    sender.close()


def test_ten_thousand_messages_in_order_never_more_than_the_credits(folder: Path, start: Any) -> None:
    receiver = Receiver(folder / "c", "control", 8)
    producer = start(_send, folder / "c", 10_000, "finish")
    arrived = processed = 0

    def get(timeout: float) -> bool:
        nonlocal arrived
        message = receiver.receive(timeout)
        if message is not None:
            assert message == note(arrived)
            arrived += 1
        return message is not None

    while not receiver.ended:
        get(SECONDS)
        if arrived in (2000, 5000, 9000):  # a slow consumer: the producer comes to a stop after eight
            while arrived - processed < 8:
                assert get(SECONDS)
            assert not get(0.15)
        assert arrived - processed <= 8
        while processed < arrived:
            processed += 1
            receiver.done()
    assert arrived == 10_000
    producer.join(SECONDS)
    assert producer.exitcode == 0  # `finish` saw that all were worked through
    receiver.close()


def test_without_a_credit_nothing_is_sent(pair: tuple[Sender, Receiver]) -> None:
    sender, receiver = pair
    assert patiently(lambda: sender.credits == 2)
    assert sender.try_send(note(0))
    assert sender.try_send(note(1))
    assert not sender.try_send(note(2))
    assert receiver.receive(SECONDS) == note(0)
    assert receiver.receive(SECONDS) == note(1)
    assert receiver.receive(0.05) is None
    assert not sender.try_send(note(2))
    receiver.done()
    assert patiently(lambda: sender.try_send(note(2)))
    assert receiver.receive(SECONDS) == note(2)


def test_before_the_consumer_is_there_nothing_is_sent_and_nothing_lost(folder: Path) -> None:
    sender = Sender(folder / "c", "control")
    assert not sender.try_send(note(0))
    with pytest.raises(PeerLostError, match="never started"):
        sender.send(note(0), 0.1)
    receiver = Receiver(folder / "c", "control", 2)
    meet(sender, receiver)
    assert sender.send(note(0), SECONDS)
    assert receiver.receive(SECONDS) == note(0)
    sender.close()
    receiver.close()


def test_the_end_is_confirmed_when_everything_is_worked_through(pair: tuple[Sender, Receiver]) -> None:
    sender, receiver = pair
    sender.send(note(0), SECONDS)
    with pytest.raises(PeerLostError):
        sender.finish(0.1)
    assert receiver.receive(SECONDS) == note(0)
    assert receiver.receive(SECONDS) is None
    assert receiver.ended
    receiver.done()
    sender.close()
    assert receiver.receive(0.05) is None  # a producer that goes after its end is not lost
    with pytest.raises(ValueError, match="2 of 1"):
        receiver.done()


def test_a_wait_ends_when_it_is_told_to(pair: tuple[Sender, Receiver]) -> None:
    sender, _ = pair
    assert sender.send(note(0), SECONDS)
    assert sender.send(note(1), SECONDS)
    until = time.monotonic() + 0.1
    assert not sender.send(note(2), stop=lambda: time.monotonic() > until)
    assert time.monotonic() < until + 1.0


def test_a_consumer_that_hangs(pair: tuple[Sender, Receiver]) -> None:
    sender, _ = pair
    sender.send(note(0), SECONDS)
    sender.send(note(1), SECONDS)
    with pytest.raises(PeerLostError, match="hangs"):
        sender.send(note(2), 0.2)


def _take_one_and_hang(path: Path, line: Connection) -> None:
    receiver = Receiver(path, "control", 2)
    line.send(receiver.receive(SECONDS) == note(0))
    time.sleep(60)


def test_a_killed_consumer_ends_a_send_that_waits_and_another_can_take_its_place(
    folder: Path, start: Any
) -> None:
    here, there = SPAWN.Pipe()
    consumer = start(_take_one_and_hang, folder / "c", there)
    sender = Sender(folder / "c", "control")
    sender.send(note(0), SECONDS)
    sender.send(note(1), SECONDS)
    assert here.poll(SECONDS)
    assert here.recv()
    killed = threading.Timer(0.3, consumer.kill)
    killed.start()
    began = time.monotonic()
    with pytest.raises(PeerLostError, match="the consumer is gone, after 2 messages"):
        sender.send(note(2))
    assert time.monotonic() - began < 3.0
    consumer.join(SECONDS)  # the kernel closes one socket after the other
    sender.close()
    sender, receiver = Sender(folder / "c", "control"), Receiver(folder / "c", "control", 2)
    meet(sender, receiver)
    sender.send(note(0), SECONDS)
    assert receiver.receive(SECONDS) == note(0)
    sender.close()
    receiver.close()


@pytest.mark.parametrize("end", ["kill", "leave"])
def test_what_a_producer_sent_before_it_died_arrives(folder: Path, start: Any, end: str) -> None:
    receiver = Receiver(folder / "c", "control", 64)
    start(_send, folder / "c", 50, end)
    assert [receiver.receive(SECONDS) for _ in range(50)] == [note(n) for n in range(50)]
    with pytest.raises(PeerLostError, match="after 50 messages"):
        receiver.receive(SECONDS)
    receiver.close()


class Liar:
    """A producer that keeps to no rules."""

    def __init__(self, path: Path) -> None:
        self.end = End(path, binds=False)
        self.say(b"H", 0, b"control")

    def say(self, kind: bytes, number: int, payload: bytes = b"") -> None:
        self.end.send(struct.pack("<cQ", kind, number) + payload)


@pytest.mark.parametrize(
    ("lies", "complaint"),
    [
        ([(b"M", 0, encode(note(0))), (b"M", 2, encode(note(2)))], "expected message or end 1, got b'M' 2"),
        ([(b"M", 0, encode(note(0))), (b"M", 0, encode(note(0)))], "expected message or end 1, got b'M' 0"),
        ([(b"M", n, encode(note(n))) for n in range(3)], "message 2 came without one of the 2 credits"),
        ([(b"M", 0, encode(note(0))), (b"E", 2)], "expected message or end 1, got b'E' 2"),
        ([(b"X", 0)], "got b'X' 0"),
        ([(b"M", 0, b"garbage")], "message: expected"),
        ([(b"H", 0, b"frames")], "somebody with b'frames'"),
    ],
)
def test_a_producer_that_keeps_to_no_rules(folder: Path, lies: list[Any], complaint: str) -> None:
    receiver, liar = Receiver(folder / "c", "control", 2), Liar(folder / "c")
    for lie in lies:
        liar.say(*lie)
    with pytest.raises(WireError) as caught:
        drain(receiver)
    assert complaint in str(caught.value)
    liar.end.close()
    receiver.close()


def test_a_message_too_short_to_be_one(folder: Path) -> None:
    receiver, liar = Receiver(folder / "c", "control", 2), Liar(folder / "c")
    liar.end.send(b"M")
    with pytest.raises(WireError, match="at least 9 bytes"):
        receiver.receive(SECONDS)
    liar.end.close()
    receiver.close()


def test_a_message_too_large_is_cut_off_before_it_takes_memory(folder: Path) -> None:
    receiver, liar = Receiver(folder / "c", "control", 2), Liar(folder / "c")
    liar.say(b"M", 0, bytes(MAX_BYTES + 1))
    with pytest.raises(PeerLostError):
        receiver.receive(SECONDS)
    liar.end.close()
    receiver.close()


def test_one_consumer_and_one_producer(pair: tuple[Sender, Receiver], folder: Path) -> None:
    sender, receiver = pair
    with pytest.raises(RunError, match="one consumer"):
        Receiver(folder / "c", "control", 2)
    sender.send(note(0), SECONDS)
    assert receiver.receive(SECONDS) == note(0)  # the look whether somebody is there is not taken for a death
    second = Sender(folder / "c", "control")
    with pytest.raises(RunError, match="a second producer"):
        receiver.receive(SECONDS)
    second.close()


def test_a_connection_that_says_nothing_is_no_peer(pair: tuple[Sender, Receiver], folder: Path) -> None:
    sender, receiver = pair
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(folder / "c"))
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 8)
    assert receiver.receive(0.2) is None
    sender.send(note(0), SECONDS)
    assert receiver.receive(SECONDS) == note(0)


def test_several_inputs_are_waited_for_at_once(folder: Path) -> None:
    names = ("a", "b", "c")
    receivers = [Receiver(folder / name, name, 2) for name in names]
    senders = [Sender(folder / name, name) for name in names]
    for sender, receiver in zip(senders, receivers, strict=True):
        meet(sender, receiver)
    assert wait(receivers, 0.05) == [False] * 3
    senders[1].try_send(note(1))
    assert wait(receivers, SECONDS) == [False, True, False]
    assert receivers[1].receive(0) == note(1)
    receivers[1].done()
    assert wait([receivers[0], senders[1]], SECONDS) == [False, True]
    assert senders[1].credits == 2
    with pytest.raises(PeerLostError):
        senders[2].finish(0)  # the receiver runs in this thread
    assert receivers[2].receive(SECONDS) is None
    senders[2].close()
    assert receivers[2].ended
    assert wait(receivers, 0.2) == [False] * 3  # one that has ended does not wake anybody
    for channel in (*senders, *receivers):
        channel.close()


def test_an_end_that_nobody_closed_stops_nothing(pair: tuple[Sender, Receiver], folder: Path) -> None:
    """Were its monitor collected first, libzmq's thread would hang, and with it every channel there is."""
    for _ in range(3):
        forgotten, peer = Receiver(folder / "f", "f", 1), Sender(folder / "f", "f")
        meet(peer, forgotten)
        del forgotten
        gc.collect()
        peer.close()
        (end,) = [end for end in sockets._open_ends if end.path.name == "f"]
        end.close()
    sender, receiver = pair
    sender.send(note(0), SECONDS)
    assert receiver.receive(SECONDS) == note(0)


def test_a_channel_belongs_to_one_thread(pair: tuple[Sender, Receiver]) -> None:
    caught: list[Exception] = []

    def use() -> None:
        try:
            pair[1].receive(0)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(caught) == 1


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="too long"):
        Sender(tmp_path / ("x" * 120), "control")


PIXELS = RingSpec("frames", 4, 64 * 64 * 3, ("capture", "face", "sink"))


def _capture(folder: Path, count: int) -> None:
    ring, sender = Ring(folder, PIXELS, "capture"), Sender(folder / "one", "one")
    for n in range(count):
        slot = ring.take()
        while slot is None:  # the ring is made too small on purpose
            slot = ring.take()
        ref = slot.put(np.full((64, 64, 3), n % 251, np.uint8))
        ring.pass_on(ref, "face")
        sender.send(FramePacket(Stamp("s", 0, n, 0.0, 0.0, 0.0), 1, ref, {}), SECONDS)
    sender.finish(SECONDS)


def _face(folder: Path) -> None:
    ring = Ring(folder, PIXELS, "face")
    receiver, sender = Receiver(folder / "one", "one", 3), Sender(folder / "two", "two")
    try:
        while (packet := receiver.receive(SECONDS)) is not None:
            assert isinstance(packet, FramePacket)
            assert packet.image is not None
            assert (ring.view(packet.image) == packet.stamp.seq % 251).all()
            ring.pass_on(packet.image, "sink")
            sender.send(packet, SECONDS)
            receiver.done()
        sender.finish(SECONDS)
    except Exception as error:
        sender.send(Ledger(repr(error)), SECONDS)
    receiver.close()


def test_pixels_and_leases_through_three_processes(folder: Path, start: Any) -> None:
    create_rings(folder, [PIXELS])
    last = Receiver(folder / "two", "two", 2)
    workers = [start(_face, folder), start(_capture, folder, 2000)]
    ring, arrived = Ring(folder, PIXELS, "sink"), 0
    message: Message | None
    while (message := last.receive(SECONDS)) is not None:
        assert isinstance(message, FramePacket), message
        assert message.image is not None
        assert message.stamp.seq == arrived
        assert (ring.view(message.image) == arrived % 251).all()
        arrived += 1
        ring.release(message.image)
        last.done()
    assert last.ended
    assert arrived == 2000
    for worker in workers:
        worker.join(SECONDS)
        assert worker.exitcode == 0
    assert ring.held() == {}
    last.close()
    (folder / "frames").unlink()
