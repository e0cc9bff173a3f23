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
from pipeline.channels import Receiver, Sender
from pipeline.header import engine_entry
from pipeline.inference import InferStage, Pending, load_engines
from pipeline.messages import Ledger
from pipeline.ring import Ring
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


def run(worker: Worker) -> None:
    # One core to a lane: two threads on one picture wait for each other whenever another process has a core.
    lanes = min(usable_cores(), MOST_LANES)
    engines = load_engines(worker.config, LOG.info, lanes)
    worker.ready(engines=[engine_entry(engine) for engine in engines])
    if not worker.wait_for_start():
        return
    with ThreadPoolExecutor(lanes, "austream-infer") as workers:
        _Loop(worker, engines, workers).run()


class _Loop:
    """Receive, set the engines to work, send on in order."""

    def __init__(
        self, worker: Worker, engines: Sequence[Engine | SlidingEngine], workers: ThreadPoolExecutor
    ) -> None:
        self._hop, self._engines, self._workers = worker.config.hop, engines, workers
        self._pixels: Ring = worker.ring("crops")
        self._frames: Ring = worker.ring("frames")
        self._received: Receiver = worker.receiver("faces")
        self._sender: Sender = worker.sender("results")
        self._stages: dict[str, InferStage] = {}
        self._counts: dict[str, Ledger] = {}
        self._in_work: deque[tuple[FramePacket, Pending, float]] = deque()

    def run(self) -> None:
        while True:
            message = self._received.receive(0 if self._in_work else None)
            if message is None and not self._in_work:
                break
            if message is None:
                self._in_work[0][1].wait(_LOOK_UP_SECONDS)
                if self._in_work[0][1].done:
                    self._finish_oldest()
            elif isinstance(message, FacesPacket):
                self._begin(message)
                if len(self._in_work) == IN_INFER:
                    self._finish_oldest()
            else:
                while self._in_work:
                    self._finish_oldest()
                assert isinstance(message, StreamBegin | StreamEnd)
                self._mark(message)
        self._sender.finish()

    def _mark(self, message: StreamBegin | StreamEnd) -> None:
        if isinstance(message, StreamBegin):
            stream = message.info.stream
            self._stages[stream] = InferStage(self._engines, message.info.rate_hz, self._hop, self._workers)
            self._counts[stream] = Ledger(stream)
        else:
            counted = self._counts.pop(message.stream)
            self._stages.pop(message.stream)
            message.ledger.without_face = counted.without_face
            message.ledger.skipped_inferences.update(counted.skipped_inferences)
        self._sender.send(message)
        self._received.done()

    def _begin(self, message: FacesPacket) -> None:
        packet = message.frame
        began = time.perf_counter()
        # Copies: a temporal engine keeps crops for longer than their lease.
        faces = message.faces(self._pixels.copy)
        if message.lease is not None:
            self._pixels.release(message.lease)
        stream = packet.stamp.stream
        pending = self._stages[stream].begin(packet.stamp, faces, packet.stride, self._counts[stream])
        self._in_work.append((packet, pending, began))

    def _finish_oldest(self) -> None:
        packet, pending, began = self._in_work.popleft()
        results = self._stages[packet.stamp.stream].finish(pending)
        latency = {**packet.latency_ms, "infer": 1e3 * (time.perf_counter() - began)}
        since_capture = 1e3 * (time.monotonic() - packet.stamp.captured_monotonic_seconds)
        latency["total"] = latency.get("capture", 0.0) + since_capture
        rows = tuple(
            replace(r, crop=without_pixels(r.crop) if r.crop else None, latency_ms=latency) for r in results
        )
        if packet.image is not None:
            self._frames.pass_on(packet.image, "sink")
        self._sender.send(ResultsPacket(packet, rows, pending.compute_ms))
        self._received.done()
