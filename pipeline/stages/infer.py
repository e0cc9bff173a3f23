"""infer: 16-frame windows and engines."""

from __future__ import annotations

import time
from dataclasses import replace

from engines.runtime import log_to_stderr
from pipeline.header import engine_entry
from pipeline.inference import InferStage, load_engines
from pipeline.messages import Ledger
from pipeline.stages.worker import Worker
from pipeline.streams import FacesPacket, ResultsPacket, StreamBegin, StreamEnd, without_pixels


def run(worker: Worker) -> None:
    config = worker.config
    engines = load_engines(config, log_to_stderr)
    worker.ready(engines=[engine_entry(engine) for engine in engines])
    if not worker.wait_for_start():
        return
    pixels, frames = worker.ring("crops"), worker.ring("frames")
    received, sender = worker.receiver("faces"), worker.sender("results")
    stages: dict[str, InferStage] = {}
    counts: dict[str, Ledger] = {}
    while (message := received.receive()) is not None:
        if isinstance(message, StreamBegin):
            stream = message.info.stream
            stages[stream] = InferStage(engines, message.info.rate_hz, config.hop)
            counts[stream] = Ledger(stream)
            sender.send(message)
        elif isinstance(message, FacesPacket):
            packet = message.frame
            began = time.perf_counter()
            # Copies: a temporal engine keeps crops for longer than their lease.
            faces = message.faces(pixels.copy)
            if message.lease is not None:
                pixels.release(message.lease)
            results = stages[packet.stamp.stream](
                packet.stamp, faces, packet.stride, counts[packet.stamp.stream]
            )
            latency = {**packet.latency_ms, "infer": 1e3 * (time.perf_counter() - began)}
            since_capture = 1e3 * (time.monotonic() - packet.stamp.captured_monotonic_seconds)
            latency["total"] = latency.get("capture", 0.0) + since_capture
            rows = tuple(
                replace(r, crop=without_pixels(r.crop) if r.crop else None, latency_ms=latency)
                for r in results
            )
            if packet.image is not None:
                frames.pass_on(packet.image, "sink")
            sender.send(ResultsPacket(packet, rows))
        elif isinstance(message, StreamEnd):
            counted = counts.pop(message.stream)
            stages.pop(message.stream)
            message.ledger.without_face = counted.without_face
            message.ledger.skipped_inferences.update(counted.skipped_inferences)
            sender.send(message)
        received.done()
    sender.finish()
