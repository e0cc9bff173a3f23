from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
import zmq
from sink_samples import CEDNN, HEADER, crop, frame, info, ledger, result, stamp

from pipeline.sinks import open_sinks
from pipeline.sinks.publish import PublishSink


@pytest.fixture
def sink() -> Iterator[PublishSink]:
    (sink,) = open_sinks([], "tcp://127.0.0.1:*", False, HEADER, [CEDNN], ["a"], [])
    assert isinstance(sink, PublishSink)
    yield sink
    sink.abort()


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def subscribe(context: zmq.Context, address: str) -> zmq.Socket:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    socket.setsockopt_string(zmq.SUBSCRIBE, "")
    socket.connect(address)
    return socket


def wait_until_joined(sink: PublishSink, subscriber: zmq.Socket, i: int) -> tuple[list[dict], int]:
    """Frames until the first message arrives, which takes the time of a handshake."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        sink.write(frame(stamp(i, "a")), [result(stamp(i, "a"), crop())])
        i += 1
        if subscriber.poll(20):
            return [json.loads(subscriber.recv())], i
    raise AssertionError("no message within 5 s")


def test_a_late_subscriber_reads_the_header_first_and_sees_no_gap(
    sink: PublishSink, context: zmq.Context
) -> None:
    assert not sink.lossless
    sink.open_stream(info("a"))
    for i in range(5):  # nobody is there
        sink.write(frame(stamp(i, "a")), [result(stamp(i, "a"), crop())])
    early = subscribe(context, sink.address)
    messages, i = wait_until_joined(sink, early, 5)
    late = subscribe(context, sink.address)
    late_messages, i = wait_until_joined(sink, late, i)
    sink.write(frame(stamp(i, "a")), [result(stamp(i, "a"), crop(0)), result(stamp(i, "a"), crop(1))])
    sink.close_stream(ledger("a", i + 1))
    sink.finish()
    for socket, read in ((early, messages), (late, late_messages)):
        while read[-1]["type"] != "ledger":
            assert not socket.getsockopt(zmq.RCVMORE)
            read.append(json.loads(socket.recv()))
        assert read[0] == HEADER
        numbered = [m for m in read if m["type"] != "header"]
        sequence = [m["sequence"] for m in numbered]
        assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))
        assert sequence[0] >= 5
        last = numbered[-2]
        expected = result(stamp(i, "a"), crop(1)).row() | {"sequence": i + 1}
        assert last == json.loads(json.dumps(expected))
    assert sum(m["type"] == "header" for m in messages) == 2  # once more when the other one joined


def test_a_subscriber_that_does_not_read_never_holds_up_the_run(
    sink: PublishSink, context: zmq.Context
) -> None:
    sink.open_stream(info("a"))
    socket = subscribe(context, sink.address)
    _, i = wait_until_joined(sink, socket, 0)
    at = stamp(i, "a")
    row, picture, slowest = result(at, crop()), frame(at), 0.0
    for _ in range(24_000):  # more than the buffers of libzmq and of both ends of the connection hold
        before = time.perf_counter()
        sink.write(picture, [row])
        slowest = max(slowest, time.perf_counter() - before)
    assert slowest < 0.5
    sequence = []
    while socket.poll(200):
        sequence.append(json.loads(socket.recv()).get("sequence", -1))
    assert 0 < len(sequence) < 20_000  # the rest was let go, not kept in memory
    before = time.perf_counter()
    sink.close_stream(ledger("a"))
    sink.finish()
    assert time.perf_counter() - before < 3  # LINGER is bounded
