"""Channels: typed messages from one process to another, in order, counted, and never more than K on the way.

The consumer grants credits; the producer never sends without one, so a slow consumer slows the producer and
no queue grows anywhere.

    producer ──▶ consumer    H name        ready: here I am
                             M n message   message number n
                             E n           end: n messages were sent
    consumer ──▶ producer    G n           n messages may have been sent, all in all: the credits
                             D n           done: the end has arrived, and all n messages are worked through

A process that dies is noticed at once by the other end (PeerLostError), one that hangs by the time-out.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import PeerLostError, WireError
from pipeline.sockets import End
from pipeline.streams import Message
from pipeline.wire import MAX_BYTES, decode, encode

_HEAD = struct.Struct("<cQ")
_SLICE_SECONDS = 0.05
"""How often a wait looks up to ask whether it should stop."""


def never() -> bool:
    return False


class Sender:
    """The producer's end of a channel."""

    def __init__(self, path: Path, name: str) -> None:
        """Connects; the consumer may come later. `name`: of the hand-over, which the consumer checks."""
        self.name = name
        self._end = End(path, binds=False, largest_bytes=MAX_BYTES)
        self._sent = self._granted = self._first_grant = 0
        self._done = False
        self._end.send(_HEAD.pack(b"H", 0) + name.encode())

    @property
    def ended(self) -> bool:
        """Whether `finish` has been confirmed."""
        return self._done

    @property
    def credits(self) -> int:
        """How many messages may be sent now; 0 until the consumer is there."""
        self._listen()
        return self._granted - self._sent

    def try_send(self, message: Message) -> bool:
        """Send if there is a credit; whether it was sent."""
        if self.credits <= 0:
            return False
        self._end.send(_HEAD.pack(b"M", self._sent) + encode(message))
        self._sent += 1
        return True

    def send(
        self, message: Message, timeout_seconds: float | None = None, stop: Callable[[], bool] = never
    ) -> bool:
        """Send, waiting for a credit; False when `stop` says so first.

        Raises:
            PeerLostError: the consumer died, or gave no credit for `timeout_seconds`.
        """
        return self._wait(lambda: self.try_send(message), timeout_seconds, stop)

    def finish(self, timeout_seconds: float | None = None, stop: Callable[[], bool] = never) -> bool:
        """Tell the consumer how many messages there were, and wait until it has worked through all of them.

        Raises:
            PeerLostError: as `send`.
        """
        self._end.send(_HEAD.pack(b"E", self._sent))
        return self._wait(self._is_done, timeout_seconds, stop)

    @property
    def unconfirmed(self) -> int:
        """Messages that were sent and that the consumer has not yet worked through; call `credits` first."""
        return self._sent - self.worked_through

    @property
    def worked_through(self) -> int:
        """Messages that the consumer has worked through; call `credits` first."""
        return max(0, self._granted - self._first_grant)

    def wait(self, timeout_seconds: float, bell: int | None = None) -> None:
        """Wait until the consumer may have given a credit, or until `bell`, a descriptor, can be read."""
        End.wait([self._end], timeout_seconds, bell)

    def close(self, at_once: bool = False) -> None:
        """at_once: the consumer is known to be gone; nobody else is to get what it did not."""
        self._end.close(at_once)

    def _is_done(self) -> bool:
        self._listen()
        return self._done

    def _wait(
        self, attempt: Callable[[], bool], timeout_seconds: float | None, stop: Callable[[], bool]
    ) -> bool:
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not attempt():
            if stop():
                return False
            left = _SLICE_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise PeerLostError(
                    f"{self.name}: the consumer took none of {self._sent} messages further for "
                    f"{timeout_seconds:g} s; it hangs, or never started"
                )
            End.wait([self._end], min(left, _SLICE_SECONDS))
        return True

    def _listen(self) -> None:
        lost = self._end.lost  # asked first: what was sent before the death still counts
        while (data := self._end.receive()) is not None:
            kind, number = _parse(data, self.name)
            if kind == b"G":
                self._granted = max(self._granted, number)
                self._first_grant = self._first_grant or number
            elif kind == b"D" and number == self._sent:
                self._done = True
            else:
                raise WireError(f"{self.name}: the consumer answered {data[:20]!r} to {self._sent} messages")
        if lost and not self._done:
            raise PeerLostError(f"{self.name}: the consumer is gone, after {self._sent} messages")


class Receiver:
    """The consumer's end of a channel."""

    def __init__(self, path: Path, name: str, credits: int) -> None:
        """Binds; RunError when there is a consumer already. `credits`: messages on the way and in work."""
        self.name, self._credits = name, credits
        # Room for what stands before the message.
        self._end = End(path, binds=True, largest_bytes=MAX_BYTES + _HEAD.size)
        self._received = self._processed = 0
        self._ended = self._met = False

    @property
    def ended(self) -> bool:
        """Whether the producer has ended, and all that it sent has arrived."""
        return self._ended

    @property
    def met(self) -> bool:
        """Whether the producer has shown itself."""
        return self._met

    def receive(self, timeout_seconds: float | None = None) -> Message | None:
        """The next message; None at the end (`ended`) and when the time is up. 0 does not wait.

        Raises:
            PeerLostError: the producer died before it had ended.
            WireError: a message is missing or not valid.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self._ended:
            lost = self._end.lost
            data = self._end.receive()
            if data is not None:
                message = self._take(data)
                if message is not None:
                    return message
            elif lost:
                raise PeerLostError(f"{self.name}: the producer is gone, after {self._received} messages")
            elif deadline is not None and time.monotonic() >= deadline:
                break
            else:
                End.wait([self._end], None if deadline is None else deadline - time.monotonic())
        return None

    def done(self) -> None:
        """A message has been worked through: its credit goes back. Once for every message received."""
        self._processed += 1
        if self._processed > self._received:
            raise ValueError(f"{self.name}: done with {self._processed} of {self._received} messages")
        self._end.send(_HEAD.pack(b"G", self._processed + self._credits))
        self._confirm_end()

    def close(self) -> None:
        self._end.close()

    def _take(self, data: bytes) -> Message | None:
        kind, number = _parse(data, self.name)
        if kind == b"H":
            if data[_HEAD.size :] != self.name.encode():
                raise WireError(f"{self.name}: somebody with {data[_HEAD.size :][:40]!r} to send came here")
            self._met = True
            self._end.send(_HEAD.pack(b"G", self._credits))
            return None
        if kind not in (b"M", b"E") or number != self._received:
            raise WireError(f"{self.name}: expected message or end {self._received}, got {kind!r} {number}")
        if kind == b"E":
            self._ended = True
            self._confirm_end()
            return None
        if self._received - self._processed >= self._credits:
            raise WireError(f"{self.name}: message {number} came without one of the {self._credits} credits")
        self._received += 1
        return decode(data[_HEAD.size :])

    def _confirm_end(self) -> None:
        if self._ended and self._processed == self._received:
            self._end.send(_HEAD.pack(b"D", self._received))


def wait(channels: Sequence[Sender | Receiver], timeout_seconds: float | None) -> list[bool]:
    """Wait until something happens at one of the channels; at which ones to try `receive(0)` or `credits`."""
    # One that has ended would keep saying that its peer has gone.
    open_channels = [channel for channel in channels if not channel.ended]
    happened = End.wait([channel._end for channel in open_channels], timeout_seconds)
    ready = {id(channel) for channel, did in zip(open_channels, happened, strict=True) if did}
    return [id(channel) in ready for channel in channels]


def _parse(data: bytes, name: str) -> tuple[bytes, int]:
    if len(data) < _HEAD.size:
        raise WireError(f"{name}: expected at least {_HEAD.size} bytes, got {len(data)}")
    kind, number = _HEAD.unpack_from(data)
    return kind, number
