"""ZeroMQ sockets; the only module that imports zmq."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import stat
from pathlib import Path

import zmq

from pipeline.errors import OutputError, UsageError

HIGH_WATER_MARK = 1000
"""Messages that wait for a subscriber before it misses some; libzmq and the kernel hold somewhat more."""
LINGER_MS = 1000
"""How long the last messages may take to leave at the end."""
_IPC_LONGEST = 100
"""Bytes; sun_path holds 108 on Linux, 104 elsewhere."""


def check_address(address: str) -> str:
    """An address to publish on, checked, in the form that libzmq wants; UsageError when it is not local.

    `tcp://127.0.0.1:5556`, `tcp://localhost:5556`, `tcp://[::1]:5556`, `tcp://127.0.0.1:*` (any free port) or
    `ipc:///path`.
    """
    expected = "expected tcp://127.0.0.1:PORT or ipc:///PATH"
    if tcp := re.fullmatch(r"tcp://(\[[^\]]+\]|[^:/\s]+):(\d{1,5}|\*)", address):
        host, port = tcp[1].strip("[]"), tcp[2]
        host = "127.0.0.1" if host == "localhost" else host
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise UsageError(
                f"--publish {address}: {host} is not a loopback address; {expected}, and forward the port "
                "(ssh -L) to reach it from elsewhere"
            )
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

    def __init__(self, address: str) -> None:
        """Binds; UsageError when the address is not local, OutputError when it is in use."""
        bound = check_address(address)
        self._ipc: Path | None = None
        self._context = zmq.Context()
        # MANUAL: a subscription counts from `joined` on, so that what is sent next is the first that arrives.
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.XPUB_MANUAL, 1)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.IPV6, int("[" in bound))
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
        self._context.term()
        if self._ipc is not None:
            self._ipc.unlink(missing_ok=True)
