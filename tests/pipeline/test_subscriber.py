"""Rows over real sockets: with keys, only those who have one hear anything."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.errors import AustreamError, PeerLostError, UsageError, WireError
from pipeline.keys import make_keys, server_keys
from pipeline.sinks.publish import PublishSink
from pipeline.subscriber import MAX_BYTES, read_row

HEADER = {"type": "header", "schema": 1, "sources": [], "engines": [], "options": {}}
RESULT = {"type": "result", "schema": 1, "stream": "a", "epoch": 0, "frame": 0, "pts_seconds": 0.0} | {
    "face": None,
    "sequence": 0,
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder, ["desk", "gone"])
    return folder


class Publishing:
    """A sink that goes on publishing its header, for whoever has joined, from a thread of its own."""

    def __init__(self, keys: Path | None) -> None:
        self.address = ""
        self._keys, self._ready, self._stop = keys, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self) -> None:
        held = None if self._keys is None else server_keys(self._keys)
        sink = PublishSink("tcp://127.0.0.1:*", HEADER, held)
        self.address = sink.address
        self._ready.set()
        while not self._stop.wait(0.02):
            sink._greet()
            sink._send("a", RESULT)
        sink.abort()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def guarded(keys: Path) -> Iterator[Publishing]:
    publishing = Publishing(keys)
    yield publishing
    publishing.close()


def test_without_keys_everybody_on_this_machine_may_listen() -> None:
    publishing = Publishing(None)
    rows = pipeline.subscribe(publishing.address, timeout_seconds=10)
    try:
        assert next(rows) == HEADER
        first, second = next(rows), next(rows)
        assert second["sequence"] == first["sequence"] + 1
    finally:
        rows.close()
        publishing.close()


def test_the_right_key_receives_rows(guarded: Publishing, keys: Path) -> None:
    rows = pipeline.subscribe(guarded.address, key=keys / "desk.key", timeout_seconds=10)
    assert [next(rows)["type"] for _ in range(3)] == ["header", "result", "result"]
    rows.close()


def test_no_key_receives_nothing(guarded: Publishing) -> None:
    assert list(pipeline.subscribe(guarded.address, timeout_seconds=1.0)) == []


def test_a_key_of_another_run_is_refused_and_receives_nothing(
    guarded: Publishing, keys: Path, tmp_path: Path
) -> None:
    make_keys(tmp_path, ["stranger"])
    # Its own server key: the handshake does not even begin.
    assert list(pipeline.subscribe(guarded.address, key=tmp_path / "stranger.key", timeout_seconds=1.0)) == []
    # With this server's key, which is public, it is told that it is not let in.
    text = (tmp_path / "stranger.key").read_text().splitlines()
    server = (keys / "desk.key").read_text().splitlines()[2]
    (tmp_path / "stranger.key").write_text("\n".join([*text[:2], server]))
    with pytest.raises(PeerLostError, match="does not let this key in"):
        list(pipeline.subscribe(guarded.address, key=tmp_path / "stranger.key", timeout_seconds=10))


def test_a_client_that_was_struck_off_is_shut_out_while_the_run_goes_on(
    guarded: Publishing, keys: Path
) -> None:
    (keys / "clients" / "gone.pub").unlink()
    with pytest.raises(PeerLostError):
        list(pipeline.subscribe(guarded.address, key=keys / "gone.key", timeout_seconds=10))


def test_what_is_said_is_not_readable_on_the_way(guarded: Publishing, keys: Path) -> None:
    """A relay between subscriber and publisher, as somebody on the network would see it."""
    import socket

    host, port = guarded.address.removeprefix("tcp://").rsplit(":", 1)
    seen = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as relay:
        relay_port = relay.getsockname()[1]

        def pump(source: socket.socket, target: socket.socket) -> None:
            try:
                while data := source.recv(65536):
                    seen.extend(data)
                    target.sendall(data)
            except OSError:
                pass

        def serve() -> None:
            near, _ = relay.accept()
            far = socket.create_connection((host, int(port)))
            threads = [threading.Thread(target=pump, args=pair) for pair in ((near, far), (far, near))]
            for thread in threads:
                thread.start()
            done.wait(20)
            near.shutdown(socket.SHUT_RDWR)
            far.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)
            near.close()
            far.close()

        done = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        rows = pipeline.subscribe(f"tcp://127.0.0.1:{relay_port}", key=keys / "desk.key", timeout_seconds=10)
        assert [next(rows)["type"] for _ in range(3)] == ["header", "result", "result"]
        rows.close()
        done.set()
        thread.join(10)
    assert len(seen) > 400
    assert b"sequence" not in seen
    assert b"header" not in seen


def test_a_subscription_too_large_is_cut_off(guarded: Publishing, keys: Path) -> None:
    context = zmq.Context()
    with context, context.socket(zmq.SUB) as big:
        from pipeline.keys import client_keys

        own = client_keys(keys / "desk.key")
        big.linger = 0
        big.curve_serverkey, big.curve_publickey, big.curve_secretkey = own.server, own.public, own.secret
        big.connect(guarded.address)
        big.setsockopt(zmq.SUBSCRIBE, b"{" * 100_000)
        assert not big.poll(500)
    rows = pipeline.subscribe(guarded.address, key=keys / "desk.key", timeout_seconds=10)
    assert next(rows)["type"] == "header"  # the others are still served
    rows.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 200_000,
        b"null",
        b'{"type": ["result"], "schema": 1}',
        b'{"type": "result", "schema": 2}',
        json.dumps(RESULT | {"frame": "0"}).encode(),
        json.dumps(RESULT | {"sequence": True}).encode(),
        b" " * (MAX_BYTES + 1),
        b'{"type": "header", "schema": 1, "sources": 1' + b"1" * 5000 + b"}",
    ],
)
def test_what_is_no_row_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        read_row(data)


def test_a_row_comes_back_as_it_was() -> None:
    assert read_row(json.dumps(RESULT).encode()) == RESULT


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(RESULT)), inner),
    ).map(lambda value: json.dumps(value).encode()),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), max_size=4),
)
def test_any_bytes_are_a_row_or_refused(data: bytes, edits: list[tuple[float, bytes]]) -> None:
    row = bytearray(json.dumps(RESULT).encode())
    for place, put in edits:
        at = int(place * len(row))
        row[at : at + len(put)] = put
    for candidate in (data, bytes(row)):
        with contextlib.suppress(WireError):
            assert read_row(candidate)["schema"] == 1


def test_addresses_that_are_none() -> None:
    for address in ("", "5556", "tcp://", "tcp://127.0.0.1", "nonsense://x"):
        with pytest.raises(UsageError, match="not an address"):
            list(pipeline.subscribe(address, timeout_seconds=0.1))


def test_no_key_shows_in_errors_or_reprs(tmp_path: Path) -> None:
    make_keys(tmp_path, ["desk"])
    secret = (tmp_path / "desk.key").read_text().split('"')[3]
    from pipeline.keys import client_keys

    assert secret not in repr(client_keys(tmp_path / "desk.key"))
    (tmp_path / "desk.key").write_text(f'secret = "{secret}"\nnot toml "{secret}')
    with pytest.raises(AustreamError) as caught:
        client_keys(tmp_path / "desk.key")
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
    os.chmod(tmp_path / "desk.key", 0o644)
    with pytest.raises(UsageError, match="others may read it"):
        client_keys(tmp_path / "desk.key")
