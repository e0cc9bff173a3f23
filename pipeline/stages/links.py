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
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pipeline.channels import Receiver, Sender, wait
from pipeline.errors import PeerLostError
from pipeline.ring import Ring, Rings
from pipeline.stages.wiring import ends_of, kind_of, link_socket
from pipeline.stages.worker import Worker
from pipeline.streams import (
    HAND_OVERS,
    FacesPacket,
    FramePacket,
    Message,
    ResultsPacket,
    StreamBegin,
    StreamEnd,
    frames_credits,
)

Mark = StreamBegin | StreamEnd
_SLICE_SECONDS = 0.1
"""How often a wait looks up to give a heartbeat."""
_COMING_BACK_SLICE_SECONDS = 0.01
"""How often it looks whether the other end has come back."""


class Outgoing:
    """The sending end of a channel between two stages.

    `room` or `await_room`, then pass the pixels on, then `send`: between the two the channel is not renewed.
    """

    def __init__(self, worker: Worker, name: str, rings: Sequence[Ring | Rings]) -> None:
        """rings: those whose slots are passed on with messages."""
        self._worker, self._name, self._rings = worker, name, rings
        self._receiver = ends_of(name)[1]
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

    @property
    def worked_off(self) -> tuple[int, int]:
        """Messages that the receiver has and has not worked through, as of the last `room`."""
        return self._sender.worked_through, self._sender.unconfirmed

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
        self._sender = Sender(link_socket(self._worker.folder, self._name, self._life), self._name)

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


@dataclass(eq=False)
class _End:
    """The receiving end of one channel."""

    link: str
    life: int
    receiver: Receiver
    gone: bool = False
    """The sender is gone, and its next life is not yet there."""


class Incoming:
    """The receiving ends of all channels of a kind: of one sender, or of several, which take turns."""

    def __init__(
        self,
        worker: Worker,
        kind: str,
        rings: Sequence[Rings],
        work_off: Callable[[], None] = lambda: None,
        yielding: Collection[str] = (),
    ) -> None:
        """
        Args:
            rings: those whose slots come with messages.
            work_off: finishes what has been received.
            yielding: channels that have their turn when no other one has a message.
        """
        self._worker, self._kind, self._rings, self._work_off = worker, kind, rings, work_off
        self._yielding = yielding
        self._ends: list[_End] = []
        self._in_work: deque[_End] = deque()
        self._open_and_close()

    @property
    def ended(self) -> bool:
        """Whether all senders have ended, and all that they sent has arrived."""
        return all(end.receiver.ended for end in self._ends)

    def receive(self, wait: bool = True) -> Message | None:
        """The next message; None at the end and, when not to `wait`, when there is none now.

        Raises:
            PeerLostError: a sender is gone and will not come back.
        """
        while True:
            self._worker.tick()
            self._open_and_close()
            for end in sorted(self._ends, key=lambda end: end.link in self._yielding):
                if (message := self._next(end)) is not None:
                    self._ends.remove(end)
                    self._ends.append(end)
                    self._in_work.append(end)
                    return message
            if self.ended or not wait:
                return None
            self._await_something()

    def done(self) -> None:
        """The oldest message that was received and not yet done has been worked through."""
        self._in_work.popleft().receiver.done()

    def _next(self, end: _End) -> Message | None:
        if end.receiver.ended:
            if self._life(end) != end.life:  # it died on its way out, and says its end again
                self._renew(end)
            return None
        try:
            if (message := end.receiver.receive(0)) is not None:
                return message
        except PeerLostError:
            if not end.gone:
                end.gone = True
                self._work_off()
        if self._life(end) != end.life:
            if end.gone or not end.receiver.met:
                self._renew(end)
        elif end.gone:
            self._worker.expect_life(end.link, end.life)
        return None

    def _life(self, end: _End) -> int:
        return self._worker.lives.get(end.link, end.life)

    def _await_something(self) -> None:
        # One that is gone would say so again and again.
        there = [end.receiver for end in self._ends if not end.gone]
        one_comes_back = len(there) < len(self._ends)
        slice_seconds = _COMING_BACK_SLICE_SECONDS if one_comes_back else _SLICE_SECONDS
        if there:
            wait(there, slice_seconds)
        else:
            time.sleep(slice_seconds)

    def _open_and_close(self) -> None:
        """Channels that are new, and those whose sender has ended and is not there any more."""
        links = [link for link in self._worker.lives if kind_of(link) == self._kind]
        for end in [end for end in self._ends if end.link not in links]:
            end.receiver.close()
            self._ends.remove(end)
        known = {end.link for end in self._ends}
        self._ends += [self._open(link, len(links)) for link in links if link not in known]

    def _open(self, link: str, of: int) -> _End:
        credits = frames_credits(of) if self._kind == "frames" else HAND_OVERS[self._kind].credits
        life = self._worker.lives[link]
        return _End(link, life, Receiver(link_socket(self._worker.folder, link, life), link, credits))

    def _renew(self, end: _End) -> None:
        self._work_off()
        end.receiver.close()
        for ring in self._rings:
            ring.reclaim(self._worker.stage, producer=end.link if self._kind == "frames" else None)
        self._ends[self._ends.index(end)] = self._open(end.link, len(self._ends))
