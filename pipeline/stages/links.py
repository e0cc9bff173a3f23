"""The channels between stages, outliving the process at the other end.

A stage that was started anew is reached over new sockets: the channel's next life. What was on its way over
the old ones is lost, and seen to be by the frames' index. The pixels that went with it are free again: on a
renewed channel

- the sender takes back what the receiver held, which is dead, and tells it anew which streams are open;
- the receiver works through what has arrived, and then lets go of all that it still holds: no message for it
  is on its way any more.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence

from pipeline.channels import Receiver, Sender
from pipeline.errors import PeerLostError
from pipeline.ring import Ring, Rings
from pipeline.stages.worker import LINKS, Worker
from pipeline.streams import (
    HAND_OVERS,
    FacesPacket,
    FramePacket,
    Message,
    ResultsPacket,
    StreamBegin,
    StreamEnd,
)

Mark = StreamBegin | StreamEnd
_SLICE_SECONDS = 0.1
"""How often a wait looks up to give a heartbeat."""


class Outgoing:
    """The sending end of a channel between two stages.

    `room` or `await_room`, then pass the pixels on, then `send`: between the two the channel is not renewed.
    """

    def __init__(self, worker: Worker, name: str, rings: Sequence[Ring | Rings]) -> None:
        """rings: those whose slots are passed on with messages."""
        self._worker, self._name, self._rings = worker, name, rings
        self._receiver = LINKS[name][1]
        self._marks: dict[str, Mark] = {}
        self._untold: deque[Mark] = deque()
        self._unconfirmed: deque[str] = deque()
        self._open()
        worker.passed_on = self._passed_on

    @property
    def life(self) -> int:
        """How often the channel was renewed; packets that go over a renewed one belong to a new epoch."""
        return self._life

    def room(self) -> bool:
        """Whether a message can be sent now. Sends marks that wait, and renews the channel when it must.

        Raises:
            PeerLostError: the receiver is gone and will not come back.
        """
        while True:
            try:
                while self._untold and self._sender.credits > 0:
                    self._hand_over(self._untold[0])
                    self._untold.popleft()
                if self._sender.credits > 0:
                    return True
                if self._worker.lives[self._name] == self._life:
                    return False
            except PeerLostError:
                pass
            self._renew()

    def await_room(self) -> None:
        """Wait until a message can be sent; PeerLostError as for `room`."""
        while not self.room():
            self._worker.tick()
            self._sender.wait(_SLICE_SECONDS)

    def send(self, message: FramePacket | FacesPacket | ResultsPacket) -> None:
        """Send a message for which there was room a moment ago; with its receiver it may be lost."""
        with contextlib.suppress(PeerLostError):
            self._hand_over(message)

    def mark(self, mark: Mark) -> None:
        """Send the begin or end of a stream, before any message that is sent later. It is never lost."""
        self._marks[_stream(mark)] = mark
        self._untold.append(mark)

    def pending(self, stream: str) -> int:
        """Messages of a stream that the receiver has not yet worked through, as of the last `room`."""
        while len(self._unconfirmed) > self._sender.unconfirmed:
            self._unconfirmed.popleft()
        return self._unconfirmed.count(stream) + sum(_stream(mark) == stream for mark in self._untold)

    def wait(self, timeout_seconds: float, bell: int | None = None) -> None:
        """Wait until something happens at the channel, or until `bell`, a descriptor, can be read."""
        self._sender.wait(timeout_seconds, bell)

    def finish(self) -> None:
        """Tell the receiver that this was all, and wait until it has worked through it."""
        while True:
            while self._untold:
                self.await_room()
            with contextlib.suppress(PeerLostError):
                if self._sender.finish(stop=self._renewed):
                    return
            self._renew()

    def _passed_on(self) -> int:
        """Messages that the receiver has not yet worked through; with its death none is left."""
        try:
            _ = self._sender.credits
        except PeerLostError:
            return 0
        return self._sender.unconfirmed

    def _renewed(self) -> bool:
        self._worker.tick()
        return self._worker.lives[self._name] != self._life

    def _hand_over(self, message: Mark | FramePacket | FacesPacket | ResultsPacket) -> None:
        self._sender.try_send(message)
        self._unconfirmed.append(_stream(message))

    def _open(self) -> None:
        self._life = self._worker.lives[self._name]
        path = HAND_OVERS[self._name].endpoint(self._worker.folder, self._life)
        self._sender = Sender(path, self._name)

    def _renew(self) -> None:
        self._worker.await_life(self._name, self._life)
        self._sender.close()
        for ring in self._rings:
            ring.reclaim(self._receiver)
        self._unconfirmed.clear()
        self._untold = deque(self._marks.values())
        self._open()


def _stream(message: Mark | FramePacket | FacesPacket | ResultsPacket) -> str:
    match message:
        case StreamBegin():
            return message.info.stream
        case StreamEnd():
            return message.stream
        case FramePacket():
            return message.stamp.stream
    return message.frame.stamp.stream


class Incoming:
    """The receiving end of a channel between two stages."""

    def __init__(
        self,
        worker: Worker,
        name: str,
        rings: Sequence[Ring | Rings],
        work_off: Callable[[], None] = lambda: None,
    ) -> None:
        """rings: those whose slots come with messages; `work_off`: finish what has been received."""
        self._worker, self._name, self._rings, self._work_off = worker, name, rings, work_off
        self._open()

    @property
    def ended(self) -> bool:
        """Whether the sender has ended, and all that it sent has arrived."""
        return self._receiver.ended

    def receive(self, wait: bool = True) -> Message | None:
        """The next message; None at the end and, when not to `wait`, when there is none now.

        Raises:
            PeerLostError: the sender is gone and will not come back.
        """
        while not self._receiver.ended:
            self._worker.tick()
            try:
                message = self._receiver.receive(_SLICE_SECONDS if wait else 0)
                if message is not None:
                    return message
                if self._worker.lives[self._name] == self._life or self._receiver.met:
                    if not wait:
                        return None
                    continue
            except PeerLostError:
                pass
            self._renew()
        return None

    def done(self) -> None:
        """A message has been worked through, once for every one received."""
        self._receiver.done()

    def _open(self) -> None:
        row = HAND_OVERS[self._name]
        self._life = self._worker.lives[self._name]
        path = row.endpoint(self._worker.folder, self._life)
        self._receiver = Receiver(path, self._name, row.credits)

    def _renew(self) -> None:
        self._work_off()
        self._worker.await_life(self._name, self._life)
        self._receiver.close()
        for ring in self._rings:
            ring.reclaim(self._worker.stage)
        self._open()
