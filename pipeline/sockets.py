"""ZeroMQ sockets; the only module that imports zmq."""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import re
import socket
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from pipeline.errors import OutputError, PeerLostError, RunError, UsageError
from pipeline.listening import check_reach, ip_address

if TYPE_CHECKING:
    from pipeline.keys import ClientKeys, ServerKeys

HIGH_WATER_MARK = 1000
"""Messages that wait for a subscriber before it misses some; libzmq and the kernel hold somewhat more."""
_MOST_SOCKETS = 8192
"""In a process; libzmq's own limit would do for 170 workers."""
LINGER_MS = 1000
"""How long the last messages may take to leave at the end."""
_LARGEST_SUBSCRIPTION_BYTES = 1024
"""All that a subscriber ever sends is what it subscribes to."""
_IPC_LONGEST = 100
"""Bytes; sun_path holds 108 on Linux, 104 elsewhere."""


def check_address(address: str, has_keys: bool = False) -> str:
    """An address to publish on, checked, in the form that libzmq wants.

    `tcp://127.0.0.1:5556`, `tcp://localhost:5556`, `tcp://[::1]:5556`, `tcp://127.0.0.1:*` (any free port) or
    `ipc:///path`; with keys also `tcp://0.0.0.0:5556` and the like.

    Raises:
        UsageError: it is none of these, or reaches beyond this machine without keys.
    """
    expected = "expected tcp://127.0.0.1:PORT or ipc:///PATH"
    if tcp := re.fullmatch(r"tcp://(\[[^\]]+\]|[^:/\s]+):(\d{1,5}|\*)", address):
        port = tcp[2]
        host = ip_address("--publish", address, tcp[1].strip("[]"))
        check_reach("--publish", address, host, has_keys)
        if port != "*" and not 1 <= int(port) <= 65535:
            raise UsageError(f"--publish {address}: port {port} does not exist; expected 1 to 65535")
        return f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        _check_ipc(address)
        return address
    raise UsageError(f"--publish {address}: not an address; {expected}")


def _check_ipc(address: str) -> None:
    path = Path(address.removeprefix("ipc://"))
    if len(str(path).encode()) > _IPC_LONGEST:
        raise UsageError(f"--publish {address}: the path is too long; expected at most {_IPC_LONGEST} bytes")
    if not path.parent.is_dir():
        raise UsageError(f"--publish {address}: the folder {path.parent} does not exist; make it first")
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        # libzmq would remove it without asking.
        raise UsageError(f"--publish {address}: {path} is there and not a socket; choose another path")


def _taken(address: str) -> bool:
    """Whether somebody listens on an ipc address: libzmq would let a second binder steal it in silence."""
    if not address.startswith("ipc://"):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(address.removeprefix("ipc://"))
        except OSError:
            return False
    return True


class Publisher:
    """A PUB socket that says when somebody joins. One thread only.

    `send` never blocks: a subscriber that does not keep up misses messages, others do not. How many it missed
    only the subscriber can tell, by the sequence numbers; libzmq does not say.
    """

    def __init__(self, address: str, keys: ServerKeys | None = None) -> None:
        """Binds; UsageError when the address needs keys, OutputError when it is in use.

        With keys, whoever comes over tcp must have one of those that `keys` lets in; what is said is
        encrypted (CURVE). Over ipc the file system says who may come.
        """
        bound = check_address(address, keys is not None)
        self._ipc: Path | None = None
        self._context = zmq.Context()
        # MANUAL: a subscription counts from `joined` on, so that what is sent next is the first that arrives.
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.XPUB_MANUAL, 1)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.IPV6, int("[" in bound))
        self._socket.setsockopt(zmq.MAXMSGSIZE, _LARGEST_SUBSCRIPTION_BYTES)
        self._guard: ThreadAuthenticator | None = None
        if keys is not None and bound.startswith("tcp://"):
            self._guard = _guard(self._context, self._socket, keys)
        try:
            if _taken(bound):
                raise zmq.ZMQError(zmq.EADDRINUSE)
            self._socket.bind(bound)
        except zmq.ZMQError as error:
            self.close(linger_ms=0)
            in_use = error.errno == zmq.EADDRINUSE
            what = "is in use by another program" if in_use else f"cannot be opened: {error}"
            raise OutputError(f"--publish {address}: {what}; choose another address") from error
        self._ipc = Path(bound.removeprefix("ipc://")) if bound.startswith("ipc://") else None
        self.address = str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        """The address as bound, with the real port."""

    def send(self, message: str) -> None:
        """Sends one message, in one part, to everybody who is there and keeps up."""
        with contextlib.suppress(zmq.Again):
            self._socket.send(message.encode(), zmq.NOBLOCK)

    def joined(self) -> bool:
        """Lets in who has subscribed since the last call; whether there was anybody."""
        anybody = False
        while True:
            try:
                notice = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return anybody
            subscribes, topic = notice[:1] == b"\x01", notice[1:]
            self._socket.setsockopt(zmq.SUBSCRIBE if subscribes else zmq.UNSUBSCRIBE, topic)
            anybody |= subscribes

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Gives the last messages `linger_ms` to leave, then lets go of the address."""
        if self._socket.closed:
            return
        self._socket.close(linger=linger_ms)
        if self._guard is not None:
            self._guard.stop()
        self._context.term()
        if self._ipc is not None:
            self._ipc.unlink(missing_ok=True)


class Subscriber:
    """A SUB socket: all messages of one publisher, in order, from when it is let in. One thread only."""

    def __init__(self, address: str, keys: ClientKeys | None = None, largest_bytes: int = -1) -> None:
        """Connects; the publisher may come later. UsageError when it is no address.

        Args:
            address: as --publish has it.
            keys: for a publisher that asks for one.
            largest_bytes: a publisher that sends a larger message is cut off.
        """
        self.address = address
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, largest_bytes)
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        if keys is not None:
            self._socket.curve_serverkey = keys.server
            self._socket.curve_publickey, self._socket.curve_secretkey = keys.public, keys.secret
        self._events = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise UsageError(f"{address}: not an address to subscribe to ({error})") from error

    def receive(self, timeout_seconds: float | None = None) -> bytes | None:
        """The next message; None when the time is up.

        Raises:
            PeerLostError: the publisher does not let this key in.
        """
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._events, zmq.POLLIN)
        ready = dict(poller.poll(None if timeout_seconds is None else math.ceil(timeout_seconds * 1e3)))
        if self._socket in ready:
            return self._socket.recv()
        if self._events in ready:
            raise PeerLostError(f"{self.address}: it does not let this key in; ask for one (NAME.key)")
        return None

    def close(self) -> None:
        if self._socket.closed:
            return
        self._socket.disable_monitor()
        self._events.close(linger=0)
        self._socket.close(linger=0)
        self._context.term()


def key_pair() -> tuple[bytes, bytes]:
    """A new CURVE key pair, (public, secret), 40 characters each."""
    public, secret = zmq.curve_keypair()
    return public, secret


class _Clients:
    """Asked by the guard about everybody who comes."""

    def __init__(self, keys: ServerKeys) -> None:
        self._keys = keys

    def callback(self, _domain: str, key: bytes) -> bool:
        with contextlib.suppress(UsageError):  # a damaged file lets nobody in
            return self._keys.lets_in(key)
        return False


def _guard(
    context: zmq.Context[zmq.Socket[bytes]], listening: zmq.Socket[bytes], keys: ServerKeys
) -> ThreadAuthenticator:
    """Let only the clients of `keys` come to a socket that is about to listen; stop it after the socket."""
    guard = ThreadAuthenticator(context)
    guard.start()
    guard.configure_curve_callback("*", credentials_provider=_Clients(keys))
    listening.curve_server = True
    listening.curve_publickey, listening.curve_secretkey = keys.public, keys.secret
    return guard


_open_ends: set[End] = set()
"""Every end that has not been closed, so that none is collected as garbage: libzmq's own thread would wait
for ever to report an event of a socket whose monitor went first."""


@functools.cache
def _context() -> zmq.Context[zmq.Socket[bytes]]:
    """One for all ends of a process; at its exit, what they sent last has LINGER_MS to leave."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _MOST_SOCKETS)

    def close() -> None:
        for end in tuple(_open_ends):
            end.close()
        context.destroy(linger=LINGER_MS)

    atexit.register(close)
    return context


class End:
    """One end of a line between two processes: whole messages of bytes, in order, over ipc. One thread only.

    One end binds (ROUTER), the other connects (DEALER), in whichever order they come. Nothing here bounds how
    much is queued: `channels` does, with credits, and so the high-water marks, which libzmq does not keep to
    for small messages, are off. A peer that dies is noticed at once, as the kernel closes its connection; one
    that hangs is not.
    """

    def __init__(self, path: Path, binds: bool, largest_bytes: int = -1) -> None:
        """RunError when another end is bound there, or the path is too long for a socket.

        Args:
            path: of the socket; its folder protects it.
            binds: whether this end makes it.
            largest_bytes: a peer that sends a larger message is cut off.
        """
        self.path = path
        self._binds, self._peer, self._lost, self._failed_handshakes = binds, b"", False, 0
        self._thread = threading.get_ident()
        if len(str(path).encode()) > _IPC_LONGEST:
            raise RunError(f"{path}: too long for a socket; expected at most {_IPC_LONGEST} bytes")
        if binds and _taken(f"ipc://{path}"):
            raise RunError(f"{path}: in use by another process; every channel has one consumer")
        try:
            self._socket = _context().socket(zmq.ROUTER if binds else zmq.DEALER)
        except zmq.ZMQError as error:
            raise RunError(f"{path}: no room for another socket: {error}") from error
        for option in (zmq.SNDHWM, zmq.RCVHWM):
            self._socket.setsockopt(option, 0)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, largest_bytes)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
        # A connection that says nothing, `_taken` for one, ends in a failed handshake and then a disconnect.
        self._events = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        _open_ends.add(self)
        try:
            if binds:
                self._socket.bind(f"ipc://{path}")
            else:
                self._socket.connect(f"ipc://{path}")
        except zmq.ZMQError as error:
            self._binds = False  # no file of its own
            self.close()
            raise RunError(f"{path}: cannot be opened: {error}") from error

    def send(self, message: bytes | memoryview) -> None:
        """Hands a message over without waiting; the end that binds must have received one before."""
        self._check_thread()
        if self._binds:
            # A peer that is gone takes nothing; `receive` says that it is gone.
            self._socket.send(self._peer, zmq.SNDMORE)
        self._socket.send(message)

    def receive(self) -> bytes | None:
        """The next message, or None when none is there; never waits."""
        self._check_thread()
        try:
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        if self._binds:
            self._peer = self._peer or parts[0]
            if parts[0] != self._peer:
                raise RunError(f"{self.path}: a second producer sends there; every channel has one")
        return parts[-1]

    @property
    def lost(self) -> bool:
        """Whether a peer that was there has gone; what it sent before can still be received."""
        while self._events.poll(0):
            event = recv_monitor_message(self._events)["event"]
            if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._failed_handshakes += 1
            elif self._failed_handshakes:
                self._failed_handshakes -= 1
            else:
                self._lost = True
        return self._lost

    def close(self, at_once: bool = False) -> None:
        """Lets go of the socket, and of its file where this end made it; what was sent has LINGER_MS, unless
        the peer is known to be gone: `at_once`."""
        if self._socket.closed:
            return
        _open_ends.discard(self)
        self._socket.disable_monitor()
        self._socket.close(linger=0 if self._lost or at_once else LINGER_MS)
        if self._binds:
            self.path.unlink(missing_ok=True)

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(f"{self.path}: used from another thread than the one that made it")

    @staticmethod
    def wait(ends: Sequence[End], timeout_seconds: float | None, bell: int | None = None) -> list[bool]:
        """Waits until something happens at one of the ends or the time is up; at which ones something did.

        bell: a file descriptor that ends the wait, too, when it can be read from.
        """
        poller = zmq.Poller()
        if bell is not None:
            poller.register(bell, zmq.POLLIN)
        for end in ends:
            poller.register(end._socket, zmq.POLLIN)
            if not end._lost:
                poller.register(end._events, zmq.POLLIN)
        timeout_ms = None if timeout_seconds is None else max(0, math.ceil(timeout_seconds * 1e3))
        happened = dict(poller.poll(timeout_ms))
        return [end._socket in happened or end._events in happened for end in ends]
