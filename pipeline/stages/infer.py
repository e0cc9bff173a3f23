"""infer: 16-frame windows and engines, several frames in work at a time."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from engines.crew import usable_cores
from engines.runtime import Engine
from engines.sliding import SlidingEngine
from pipeline.header import engine_entry
from pipeline.inference import InferStage, Pending, load_engines
from pipeline.messages import Ledger
from pipeline.stages.links import Incoming, Outgoing
from pipeline.stages.worker import Worker
from pipeline.streams import (
    IN_INFER,
    FacesPacket,
    FramePacket,
    ResultsPacket,
    StreamBegin,
    StreamEnd,
    without_pixels,
)

LOG = logging.getLogger(__name__)

MOST_LANES = 4
_LOOK_UP_SECONDS = 0.002
"""How often a wait for the engines looks whether another frame has come."""
_BEAT_WHILE_WAITING_SECONDS = 0.1
_ENGINE_PATIENCE_SECONDS = 5.0
"""An engine that is at work on a frame for longer hangs: then there are no more heartbeats."""


def run(worker: Worker) -> None:
    # One core to a lane: two threads on one picture wait for each other whenever another process has a core.
    lanes = min(usable_cores(), MOST_LANES)
    engines = load_engines(worker.config, LOG.info, lanes)
    worker.ready(engines=[engine_entry(engine) for engine in engines])
    if not worker.wait_for_start():
        return
    # As many may ask as an engine computes at a time, so that its batches fill.
    askers = max(lanes, *(engine.batch for engine in engines))
    with ThreadPoolExecutor(askers, "austream-infer") as workers:
        _Loop(worker, engines, workers).run()


class _Loop:
    """Receive, set the engines to work, send on in order; every stream has an InferStage of its own."""

    def __init__(
        self, worker: Worker, engines: Sequence[Engine | SlidingEngine], workers: ThreadPoolExecutor
    ) -> None:
        self._worker, self._engines, self._workers = worker, engines, workers
        self._pixels, self._frames = worker.rings("crops"), worker.rings("frames")
        self._in = Incoming(worker, "faces", [self._pixels, self._frames], self._finish_all)
        self._out = Outgoing(worker, "results", [self._frames])
        self._stages: dict[str, InferStage] = {}
        self._in_work: deque[tuple[FramePacket, Pending, float]] = deque()

    def run(self) -> None:
        while True:
            message = self._in.receive(wait=not self._in_work)
            if message is None and not self._in_work:
                if self._in.ended:
                    break
            elif message is None:
                _, pending, began = self._in_work[0]
                pending.wait(_LOOK_UP_SECONDS)
                if pending.done or time.perf_counter() - began > _ENGINE_PATIENCE_SECONDS:
                    self._finish_oldest()
            elif isinstance(message, FacesPacket):
                self._begin(message)
                if len(self._in_work) == IN_INFER:
                    self._finish_oldest()
            else:
                self._finish_all()
                assert isinstance(message, StreamBegin | StreamEnd)
                self._mark(message)
                self._in.done()
        self._out.finish()

    def _mark(self, message: StreamBegin | StreamEnd) -> None:
        if isinstance(message, StreamBegin):
            hop, info = self._worker.config.hop, message.info
            self._stages[info.stream] = InferStage(self._engines, info.rate_hz, hop, self._workers)
        else:
            self._stages.pop(message.stream, None)
        self._out.mark(message)

    def _begin(self, message: FacesPacket) -> None:
        packet = message.frame
        began = time.perf_counter()
        # Copies: a temporal engine keeps crops for longer than their lease.
        faces = message.faces(self._pixels.copy)
        if message.lease is not None:
            self._pixels.release(message.lease)
        stream = packet.stamp.stream
        # The sink counts: what a frame's rows say there is delivered.
        pending = self._stages[stream].begin(packet.stamp, faces, packet.stride, Ledger(stream))
        self._in_work.append((packet, pending, began))

    def _finish_all(self) -> None:
        while self._in_work:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        packet, pending, began = self._in_work.popleft()
        while not pending.done and time.perf_counter() - began < _ENGINE_PATIENCE_SECONDS:
            pending.wait(_BEAT_WHILE_WAITING_SECONDS)
            self._worker.tick()
        results = self._stages[packet.stamp.stream].finish(pending)
        latency = {**packet.latency_ms, "infer": 1e3 * (time.perf_counter() - began)}
        since_capture = 1e3 * (time.monotonic() - packet.stamp.captured_monotonic_seconds)
        latency["total"] = latency.get("capture", 0.0) + since_capture
        rows = tuple(
            replace(r, crop=without_pixels(r.crop) if r.crop else None, latency_ms=latency) for r in results
        )
        self._out.await_room()
        if packet.image is not None:
            self._frames.pass_on(packet.image, "sink")
        self._out.send(ResultsPacket(packet, rows, pending.compute_ms))
        self._in.done()
