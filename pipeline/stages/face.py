"""face: detect, track, align, compare with the neutral."""

from __future__ import annotations

import time
from dataclasses import replace

from engines.bundle import resolve
from pipeline import diffmap, neutral, profile
from pipeline.errors import OutputError
from pipeline.faces import FaceStage, Wanted
from pipeline.messages import Frame
from pipeline.neutral import NeutralPolicy
from pipeline.stages.worker import NEUTRAL_FILE, Worker
from pipeline.streams import FacesPacket, FramePacket, StreamBegin, StreamEnd
from pipeline.tracking import FaceTracker


def run(worker: Worker) -> None:
    config = worker.config
    # What takes long is made while the engines load, not when the first frame waits.
    diffmap.preload()
    tracker: FaceTracker | None = FaceTracker(config.max_faces)
    wanted = Wanted.by([resolve(name).spec for name in config.engine])
    worker.ready()
    if not worker.wait_for_start():
        return
    policy = _policy(worker)
    frames, pixels = worker.ring("frames"), worker.ring("crops")
    received, sender = worker.receiver("frames"), worker.sender("faces")
    stages: dict[str, FaceStage] = {}
    first: str | None = None
    while (message := received.receive()) is not None:
        if isinstance(message, StreamBegin):
            stream = message.info.stream
            first = first or stream
            stages[stream] = FaceStage(
                wanted, policy, config.max_faces, config.exposure_compensation, tracker
            )
            tracker = None
            sender.send(message)
        elif isinstance(message, FramePacket) and message.image is not None:
            began = time.perf_counter()
            found = stages[message.stamp.stream](Frame(message.stamp, frames.view(message.image)))
            slot = pixels.take() if found else None
            face_ms = 1e3 * (time.perf_counter() - began)
            passed = replace(message, latency_ms={**message.latency_ms, "face": face_ms})
            if not worker.pixels_to_sink:
                frames.release(message.image)
                passed = replace(passed, image=None)
            packet = FacesPacket.pack(passed, found, slot)
            if slot is not None:
                pixels.pass_on(slot, "infer")
            if passed.image is not None:
                frames.pass_on(passed.image, "infer")
            sender.send(packet)
        elif isinstance(message, StreamEnd):
            stage = stages.pop(message.stream)
            stage.close()
            if config.save_neutral and message.stream == first:
                _save_neutral(worker, stage)
            sender.send(message)
        received.done()
    sender.finish()


def _policy(worker: Worker) -> NeutralPolicy:
    given = worker.folder / NEUTRAL_FILE
    if given.exists():
        return neutral.given(profile.load_profile(given))
    parsed = neutral.parse_policy(worker.config.neutral)
    assert isinstance(parsed, NeutralPolicy)
    return parsed


def _save_neutral(worker: Worker, stage: FaceStage) -> None:
    try:
        profile.save_main_neutral(str(worker.config.save_neutral), stage.main_neutral())
    except OutputError as error:
        worker.fail(str(error))
