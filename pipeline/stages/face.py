"""face: detect, track, align, compare with the neutral."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from engines.bundle import resolve
from pipeline import diffmap, neutral, profile
from pipeline.errors import OutputError
from pipeline.faces import FaceStage, Wanted
from pipeline.messages import Frame
from pipeline.neutral import NeutralPolicy
from pipeline.sources import captures_of, read_streams
from pipeline.stages.links import Incoming, Outgoing
from pipeline.stages.wiring import capture_name, frames_link
from pipeline.stages.worker import NEUTRAL_FILE, Worker
from pipeline.streams import FacesPacket, FramePacket, StreamBegin, StreamEnd
from pipeline.tracking import FaceTracker

_TRACKER_SECONDS = 30.0
"""Patience that a new tracker, which takes a quarter of a second, asks for on a busy machine."""


def run(worker: Worker) -> None:
    config = worker.config
    # What takes long is made while the engines load, not when the first frame waits.
    diffmap.preload()
    tracker = FaceTracker(config.max_faces)
    wanted = Wanted.by([resolve(name).spec for name in config.engine])
    worker.ready()
    if worker.wait_for_start():
        _Loop(worker, wanted, tracker).run()


class _Loop:
    """Receive a frame, find its faces, send them on; every stream has a FaceStage of its own."""

    def __init__(self, worker: Worker, wanted: Wanted, tracker: FaceTracker) -> None:
        self._worker, self._wanted, self._policy = worker, wanted, _policy(worker)
        self._spare_tracker: FaceTracker | None = tracker
        self._ids = _Ids(worker.folder)
        self._frames, self._pixels = worker.rings("frames"), worker.ring("crops.0")
        self._in = Incoming(worker, "frames", [self._frames], yielding=_waiting_links(worker))
        self._out = Outgoing(worker, "faces", [self._frames, self._pixels])
        self._stages: dict[str, FaceStage] = {}

    def run(self) -> None:
        while (message := self._in.receive()) is not None:
            self._obey()
            if isinstance(message, StreamBegin):
                self._begin(message)
            elif isinstance(message, FramePacket):
                self._find(message)
            elif isinstance(message, StreamEnd):
                self._end(message)
            self._in.done()
        self._out.finish()

    def _begin(self, message: StreamBegin) -> None:
        stream, config = message.info.stream, self._worker.config
        if stream not in self._stages:
            self._worker.take_time(_TRACKER_SECONDS)
            tracker, self._spare_tracker = self._spare_tracker or FaceTracker(config.max_faces), None
            tracker.count_from(self._ids.given(stream))
            self._stages[stream] = FaceStage(
                self._wanted, self._policy, config.max_faces, config.exposure_compensation, tracker
            )
        self._out.mark(message)

    def _find(self, message: FramePacket) -> None:
        assert message.image is not None
        began = time.perf_counter()
        stream = message.stamp.stream
        stage = self._stages[stream]
        found = stage(Frame(message.stamp, self._frames.view(message.image)))
        self._ids.give(stream, stage.next_face)
        face_ms = 1e3 * (time.perf_counter() - began)
        self._out.await_room()
        stamp = replace(message.stamp, epoch=message.stamp.epoch + self._out.life)
        passed = replace(message, stamp=stamp, latency_ms={**message.latency_ms, "face": face_ms})
        if self._worker.pixels_to_sink:
            self._frames.pass_on(message.image, "infer")
        else:
            self._frames.release(message.image)
            passed = replace(passed, image=None)
        slot = self._pixels.take() if found else None
        packet = FacesPacket.pack(passed, found, slot)
        if slot is not None:
            self._pixels.pass_on(slot, "infer")
        self._out.send(packet)

    def _end(self, message: StreamEnd) -> None:
        stage = self._stages.pop(message.stream, None)
        if stage is not None:
            stage.close()
            if self._worker.config.save_neutral and message.stream == self._worker.streams[0]:
                self._save_neutral(stage)
        self._out.mark(message)
        self._out.await_room()  # on its way before capture hears that it has come this far

    def _obey(self) -> None:
        while self._worker.commands:
            command = self._worker.commands.popleft()
            if command.verb == "neutral" and command.stream in self._stages:
                self._stages[command.stream].take_neutral_now()

    def _save_neutral(self, stage: FaceStage) -> None:
        try:
            profile.save_main_neutral(str(self._worker.config.save_neutral), stage.main_neutral())
        except OutputError as error:
            self._worker.fail(error)


def _waiting_links(worker: Worker) -> set[str]:
    """The channel of sources that wait for their turn, as files do; feeds cannot."""
    if worker.restarts:
        return set()
    specs = read_streams(worker.folder)
    captures = zip(specs, captures_of(specs), strict=True)
    return {frames_link(capture_name(number)) for spec, number in captures if not spec.feed}


class _Ids:
    """How many ids each stream has given, for the next life of this process to go on counting."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "faces.json"
        self._given: dict[str, int] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def given(self, stream: str) -> int:
        return self._given.get(stream, 0)

    def give(self, stream: str, ids: int) -> None:
        if self._given.get(stream, 0) < ids:
            self._given[stream] = ids
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self._given))
            part.replace(self._path)


def _policy(worker: Worker) -> NeutralPolicy:
    given = worker.folder / NEUTRAL_FILE
    if given.exists():
        return neutral.given(profile.load_profile(given))
    parsed = neutral.parse_policy(worker.config.neutral)
    assert isinstance(parsed, NeutralPolicy)
    return parsed
