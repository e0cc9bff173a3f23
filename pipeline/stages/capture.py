"""capture: decode, stamp, hand over. A file waits for the rest of the pipeline; a live source keeps up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from pipeline.capture import captured_frames
from pipeline.channels import Sender
from pipeline.messages import Frame, Ledger, Stamp
from pipeline.pacing import Pacer
from pipeline.ring import Ring
from pipeline.sources import look_at, open_source, resolve_sources
from pipeline.stages.worker import Worker, info_entry
from pipeline.streams import HAND_OVERS, FramePacket, StreamBegin, StreamEnd

WAITING = 2
"""Frames of a live source that may wait for room; then the oldest goes."""
ENDS_THE_RUN = ("interrupted", "terminated", "window closed")


class Outlet:
    """Frames into the ring and their descriptors to the face stage."""

    def __init__(self, sender: Sender, ring: Ring, stop: Callable[[], bool]) -> None:
        self._sender, self._ring, self._stop = sender, ring, stop
        self.sent = 0
        self.last_seq: int | None = None

    @property
    def full(self) -> bool:
        """Whether the next frame would have to wait: the face stage has not yet got rid of the one before."""
        return self._sender.credits <= 0

    def try_put(self, frame: Frame, stride: int, capture_ms: float) -> bool:
        """Hand a frame over if there is a credit, and with it a free slot."""
        if self._sender.credits <= 0:
            return False
        slot = self._ring.take()
        if slot is None:
            return False
        image = slot.put(frame.image_bgr)
        self._ring.pass_on(slot, "face")
        self._sender.try_send(FramePacket(frame.stamp, stride, image, {"capture": capture_ms}))
        self.sent += 1
        self.last_seq = frame.stamp.seq
        return True

    def put(self, frame: Frame, capture_ms: float) -> bool:
        """Hand a frame over, waiting for room; False when the run is to stop instead."""
        while not self.try_put(frame, 1, capture_ms):
            if self._stop():
                return False
            self._sender.wait(0.05)
        return True


def run(worker: Worker) -> None:
    config = worker.config
    specs = resolve_sources(config.source, config.camera, config.rtsp_transport)
    first, infos = look_at(specs)
    worker.ready(infos=[info_entry(info) for info in infos])
    if not worker.wait_for_start():
        return
    sender, ring = worker.sender("frames"), worker.ring("frames")
    for spec, info in zip(specs, infos, strict=True):
        source = first if spec is specs[0] else open_source(spec)
        ledger = Ledger(info.stream)
        outlet = Outlet(sender, ring, worker.stopping)
        live = config.live if config.live is not None else info.live
        if not sender.send(StreamBegin(info), stop=worker.stopping):
            return
        while live and sender.credits < HAND_OVERS["frames"].credits and worker.wish() is None:
            sender.wait(0.05)  # until the face stage has made ready for this stream: no frame need be lost
        try:
            frames = captured_frames(source, spec, config, ledger, worker.wish)
            if live:
                _keep_up(frames, outlet, ledger, info.rate_hz, paced=not info.live)
            else:
                _wait(frames, outlet, ledger, worker)
        finally:
            worker.report(ledger)
        sender.send(StreamEnd(info.stream, outlet.last_seq, outlet.sent, ledger))
        if ledger.ended in ENDS_THE_RUN:
            break
    sender.finish()


def _wait(frames, outlet: Outlet, ledger: Ledger, worker: Worker) -> None:  # type: ignore[no-untyped-def]
    """Lossless: no credit means that the decoder waits."""
    asked = time.perf_counter()
    for frame in frames:
        if not outlet.put(frame, 1e3 * (time.perf_counter() - asked)):
            ledger.drop("capture", "stopped")
            ledger.ended = worker.wish() or ledger.ended
            frames.close()
            return
        asked = time.perf_counter()


class _Clock:
    """When the frames of a file are due that is played at its own speed, loop after loop."""

    def __init__(self, rate_hz: float) -> None:
        self._interval_seconds = 1.0 / rate_hz
        self._last: Stamp | None = None
        self._due = 0.0

    def due(self, stamp: Stamp) -> float:
        """Seconds on the monotonic clock."""
        if stamp is self._last:
            return self._due
        if self._last is None:
            self._due = time.monotonic()
        elif stamp.epoch != self._last.epoch:
            self._due += self._interval_seconds
        else:
            self._due += stamp.pts_seconds - self._last.pts_seconds
        self._last = stamp
        return self._due


def _keep_up(  # type: ignore[no-untyped-def]
    frames, outlet: Outlet, ledger: Ledger, rate_hz: float, paced: bool
) -> None:
    """Live: an even stride, then oldest first; `paced` plays a file at its own speed."""
    pacer, waiting, clock = Pacer(), deque[tuple[Frame, int]](), _Clock(rate_hz)

    def drain() -> None:
        while waiting and outlet.try_put(*waiting[0], 0.0):
            waiting.popleft()

    for frame in frames:
        while paced and (early := clock.due(frame.stamp) - time.monotonic()) > 0:
            drain()
            time.sleep(min(early, 0.005))
        drain()
        if not pacer.keep(frame.stamp.seq):
            ledger.drop("capture", "stride")
            continue
        waiting.append((frame, pacer.stride))
        drain()
        crowded_out = 0
        if len(waiting) > WAITING:
            waiting.popleft()
            ledger.drop("capture", "overload")
            crowded_out = 1
        pacer.note(frame.stamp.captured_monotonic_seconds, crowded_out, waits=bool(waiting) or outlet.full)
    deadline = time.monotonic() + 1.0
    while waiting and time.monotonic() < deadline:
        drain()
        time.sleep(0.002)
    for _ in waiting:
        ledger.drop("capture", "overload")
