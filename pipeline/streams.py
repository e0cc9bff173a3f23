"""Every hand-over between processes, in one table: what, by whom, to whom, and what when it is full.

    capture ──▶ face ──▶ infer ──▶ sink        supervisor ──▶ every worker (control)
       frames ╌╌╌▶╌╌╌╌╌╌╌▶╌╌╌╌╌╌╌╌▶            every worker ──▶ supervisor (reports)
                 crops ╌╌▶

The messages here are what travels: the dataclasses of `messages` with references to pixels (`PixelRef`) where
those have arrays. The pixels lie in rings: `frames.N`, `crops.N`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import AUResult, FaceCrop, Ledger, Stamp, StreamInfo
from pipeline.ring import PixelRef, RingSpec, Slot, packed_bytes
from pipeline.snapshot import Histogram

LEVEL_MAP, NEUTRAL, LANDMARKS = "level_map", "neutral", "landmarks"
_BESIDE = (LEVEL_MAP, NEUTRAL, LANDMARKS)
"""What these are called among the pixels of a face; no crop has such a name."""

View = Callable[[PixelRef], NDArray[np.uint8]]
"""`Ring.view` or `Ring.copy`."""


@dataclass(frozen=True, slots=True)
class StreamBegin:
    """Before the first frame of a stream, through all stages; again when a live source comes back otherwise
    than it was, and for the open streams after a restart: what was held for the stream begins anew."""

    info: StreamInfo


@dataclass(frozen=True, slots=True)
class FramePacket:
    """capture → face: one frame; further on, what the later stages need to know of it."""

    stamp: Stamp
    stride: int
    """Every stride-th decoded frame is kept."""
    image: PixelRef | None
    """H×W×3 in a ring `frames.N`; None once nobody needs it any more."""
    latency_ms: Mapping[str, float]
    """What each stage so far took."""
    index: int = 0
    """Frames of this stream that capture sent before this one: a gap tells how many were lost on the way."""


@dataclass(frozen=True, slots=True)
class FacesPacket:
    """face → infer: the faces of one frame."""

    frame: FramePacket
    crops: tuple[FaceCrop, ...]
    """Without their pixels."""
    pixels: tuple[Mapping[str, PixelRef], ...]
    """For every face, by name of the crop, `level_map`, `neutral` and `landmarks` (their bytes), in a ring
    `crops.N`; all in one slot."""

    def __post_init__(self) -> None:
        if len(self.crops) != len(self.pixels):
            raise ValueError(f"pixels: expected {len(self.crops)} faces, got {len(self.pixels)}")

    @classmethod
    def pack(cls, frame: FramePacket, crops: Sequence[FaceCrop], slot: Slot | None) -> FacesPacket:
        """Copy the pixels of the faces into a slot; None will do when there are none."""
        pixels = []
        for crop in crops:
            arrays = dict(crop.crops_bgr)
            if crop.level_map is not None:
                arrays[LEVEL_MAP] = crop.level_map
            if crop.neutral_bgr is not None:
                arrays[NEUTRAL] = crop.neutral_bgr
            if crop.landmarks is not None:
                arrays[LANDMARKS] = crop.landmarks.view(np.uint8)
            if arrays and slot is None:
                raise ValueError("slot: expected one for faces with pixels, got None")
            pixels.append({name: slot.put(array) for name, array in arrays.items() if slot is not None})
        return cls(frame, tuple(map(without_pixels, crops)), tuple(pixels))

    def faces(self, view: View) -> list[FaceCrop]:
        """The faces with their pixels; StaleError when these are gone."""
        return [
            replace(
                crop,
                crops_bgr={name: view(ref) for name, ref in refs.items() if name not in _BESIDE},
                level_map=view(refs[LEVEL_MAP]) if LEVEL_MAP in refs else None,
                neutral_bgr=view(refs[NEUTRAL]) if NEUTRAL in refs else None,
                landmarks=view(refs[LANDMARKS]).view(np.float32) if LANDMARKS in refs else None,
            )
            for crop, refs in zip(self.crops, self.pixels, strict=True)
        ]

    @property
    def lease(self) -> PixelRef | None:
        """Any reference into the slot of the crops, to release it by."""
        return next((ref for refs in self.pixels for ref in refs.values()), None)


def without_pixels(crop: FaceCrop) -> FaceCrop:
    """The face as it goes on the wire; what results carry to the sinks."""
    return replace(crop, crops_bgr={}, level_map=None, neutral_bgr=None, landmarks=None)


@dataclass(frozen=True, slots=True)
class ResultsPacket:
    """infer → sink: the rows of one frame, one for every face or one without a face."""

    frame: FramePacket
    results: tuple[AUResult, ...]
    compute_ms: Mapping[str, float] = field(default_factory=dict)
    """By name of the engine: what it computed for all faces of the frame."""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """After the last frame of a stream, through all stages; every stage checks it against what arrived."""

    stream: str
    last_seq: int | None
    """`Stamp.seq` of the last frame that was sent; None when there was none."""
    frames: int
    """Frames that were sent."""
    ledger: Ledger
    """As far as the stages so far could fill it in."""
    epoch: int = 0
    """Of the last frame."""
    began_seconds: float | None = None
    """On the monotonic clock: from when on --duration counts; None before the run has started."""


@dataclass(frozen=True, slots=True)
class Failure:
    """worker → supervisor: this stage cannot go on."""

    stage: str
    error: str
    """One line."""
    traceback: str
    """Empty for what the user can put right; otherwise Python's text."""
    exit_code: int
    kind: Literal["refused", "broken", "lost a neighbour"] = "broken"
    """`refused`: what the user can put right, and a restart cannot; `broken`: an error of the program's own,
    which another frame may not bring; `lost a neighbour`: another stage's end was the cause."""


@dataclass(frozen=True, slots=True)
class Beat:
    """worker → supervisor, from the stage's own loop: alive."""

    stage: str
    patience_seconds: float
    """It hangs when it says nothing for so long."""
    waiting: int
    """Frames that wait here to be sent on."""
    passed_on: int
    """Messages that the next stage has not yet worked through: they wait there or are in work."""


@dataclass(frozen=True, slots=True)
class Event:
    """worker → supervisor: something that befell a live source."""

    stream: str
    kind: str
    text: str
    """One line for the log, without credentials."""


@dataclass(frozen=True, slots=True)
class Seen:
    """sink → supervisor: the last frame of a stream that was delivered."""

    stream: str
    epoch: int
    faces: int


@dataclass(frozen=True, slots=True)
class Timing:
    """sink → supervisor: what a stage has taken so far."""

    stage: str
    latency: Histogram
    engine: str = ""
    """When it is the time of one engine in that stage."""


@dataclass(frozen=True, slots=True)
class Ready:
    """worker → supervisor: this stage can go on."""

    stage: str
    about: str
    """What it found, as JSON."""


@dataclass(frozen=True, slots=True)
class Control:
    """supervisor → worker."""

    verb: Literal["start", "stop", "down", "links", "up", "remove", "neutral"]
    """`start`: the setup is written; `stop`: end the streams as if they had ended; `down`: the stage named in
    `reason` is gone and will be started anew, for `stream` if there is one, otherwise for all; `links`: there
    are other channels or lives of channels; `up`: it is back; `remove`: end `stream`; `neutral`: its people
    look neutral now."""
    reason: str
    stream: str = ""


Message = (
    StreamBegin
    | FramePacket
    | FacesPacket
    | ResultsPacket
    | StreamEnd
    | Ledger
    | Failure
    | Ready
    | Control
    | Beat
    | Event
    | Seen
    | Timing
)
"""Whatever goes through a channel. A bare Ledger reports progress."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """One row of the table."""

    name: str
    messages: tuple[type, ...]
    producer: str
    consumer: str
    credits: int
    """Messages on the way or in work at the consumer, of which one is waiting."""
    file: Literal["wait"]
    """With no credit left: the producer waits. Every stage does so in turn, up to the decoder."""
    live: Literal["wait", "drop oldest"]
    """`drop oldest`: the producer goes on, and of what it keeps in waiting the oldest is dropped and counted.
    Only before tracking; further on a gap would tear windows apart."""

    def endpoint(self, folder: Path, which: str | int = 0) -> Path:
        """Its socket in the run's directory; which: of several, by process or by life."""
        return folder / f"{self.name}.{which}.socket"


IN_INFER = 3
"""Frames in work at the infer stage: more than it has lanes on two cores, so that none is idle while a window
goes on by a step."""
_MARKS = (StreamBegin, StreamEnd)
HAND_OVERS = {
    row.name: row
    for row in (
        HandOver("frames", (FramePacket, *_MARKS), "capture", "face", 2, "wait", "drop oldest"),
        HandOver("faces", (FacesPacket, *_MARKS), "face", "infer", IN_INFER + 1, "wait", "wait"),
        HandOver("results", (ResultsPacket, *_MARKS), "infer", "sink", 4, "wait", "wait"),
        HandOver("control", (Control,), "supervisor", "worker", 16, "wait", "wait"),
        HandOver(
            "reports",
            (Ledger, Failure, Ready, Control, Beat, Event, Seen, Timing),
            *("worker", "supervisor", 64, "wait", "wait"),
        ),
    )
}


def frames_credits(captures: int) -> int:
    """Credits of each capture process. One alone has two, so that a frame is there when the face stage is
    done with the last; of several there is always one whose frame waits, and a second would only grow old."""
    return HAND_OVERS["frames"].credits if captures == 1 else 1


def frames_ring(
    size_wh: tuple[int, int],
    waiting: int = 0,
    to_sink: bool = True,
    index: int = 0,
    link: str = "frames",
    captures: int = 1,
) -> RingSpec:
    """A ring of the pictures of one capture process.

    One slot is being written, `waiting` wait at the capture (live), and the rest are on the way or in work,
    which the credits bound, as every stage sends on before it returns its credit. So `take` always finds a
    free slot where there is one capture process. Several share what is in work behind the face stage: each
    has slots for its part of it and for one frame more, and waits on the rare occasion that these are taken.

    Args:
        size_wh: width and height of the largest frame.
        waiting: frames that capture may keep in waiting.
        to_sink: whether a sink wants the pictures; otherwise the face stage releases them.
        index: which ring of this capture process.
        link: its channel to the face stage.
        captures: capture processes of the run.
    """
    behind = HAND_OVERS["faces"].credits + HAND_OVERS["results"].credits if to_sink else 0
    part = behind if captures == 1 else min(behind, -(-behind // captures) + 1)
    slots = 1 + waiting + frames_credits(captures) + part
    holders = ("capture", "face", "infer", "sink")
    return RingSpec(f"{link}.{index}", slots, packed_bytes([(size_wh[1], size_wh[0], 3)]), holders)


def crops_ring(shapes: Sequence[Sequence[int]], max_faces: int, index: int = 0) -> RingSpec:
    """The ring of what is cut out of the pictures; shapes: of all arrays of one face."""
    slots = 1 + HAND_OVERS["faces"].credits
    return RingSpec(f"crops.{index}", slots, max(1, packed_bytes([*shapes] * max_faces)), ("face", "infer"))
