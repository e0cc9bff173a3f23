from __future__ import annotations

import json
import struct
import time
import tracemalloc
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import wire
from pipeline.errors import WireError
from pipeline.messages import (
    AUResult,
    FaceCrop,
    Geometry,
    HeadPose,
    Ledger,
    LevelShares,
    Quality,
    Stamp,
    StreamInfo,
    WindowInfo,
)
from pipeline.ring import PixelRef
from pipeline.snapshot import Histogram
from pipeline.streams import (
    Beat,
    Control,
    Event,
    FacesPacket,
    Failure,
    FramePacket,
    Message,
    Ready,
    ResultsPacket,
    Seen,
    StreamBegin,
    StreamEnd,
    Timing,
)

real = st.floats(allow_nan=False, allow_infinity=False)
count = st.integers(0, 2**53)
word = st.text(max_size=12) | st.just("a\udcffb.mp4")  # a file's name that is not UTF-8


def some(cls: type, **special: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Instances of a dataclass of floats."""
    return st.builds(cls, **{f.name: special.get(f.name, real) for f in fields(cls)})


by_name = st.dictionaries(word, real, max_size=4)
stamps = st.builds(Stamp, word, count, count, real, real, real)
landmarks = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(300, 200, (478, 3)).astype(np.float32)
)
crops = st.builds(
    FaceCrop,
    face=count,
    track_index=count,
    bbox_xyxy=st.tuples(real, real, real, real),
    confidence=real,
    landmarks_px=landmarks,
    pose=some(HeadPose),
    quality=some(Quality, frontal=st.booleans()),
    geometry=some(Geometry),
    neutral=st.sampled_from(["none", "estimating", "automatic", "given"]),
    exposure_gain=real,
    exposure_offset=real,
    crops_bgr=st.just({}),
    level_map=st.none(),
    level_shares=st.none() | some(LevelShares),
)
refs = st.builds(
    PixelRef, word, count, count, count, st.lists(st.integers(1, 9999), min_size=1, max_size=3).map(tuple)
)
frames = st.builds(FramePacket, stamps, count, st.none() | refs, by_name)
windows = st.builds(
    WindowInfo, st.sampled_from(["ready", "warming", "off_hop"]), st.none() | real, st.none() | real, count
)
results = st.builds(
    AUResult,
    stamps,
    count,
    st.none() | crops,
    st.dictionaries(word, by_name, max_size=2),
    st.dictionaries(word, st.lists(word, max_size=3).map(tuple), max_size=2),
    st.dictionaries(word, by_name, max_size=2),
    st.none() | windows,
    by_name,
)
ledgers = st.builds(
    Ledger,
    word,
    count,
    count,
    st.dictionaries(st.tuples(word, word), count, max_size=3),
    count,
    count,
    count,
    st.dictionaries(word, count, max_size=3),
    word,
    count,
    st.dictionaries(word, count, max_size=3),
    st.dictionaries(word, count, max_size=3),
)
infos = st.builds(StreamInfo, word, st.tuples(count, count), real, st.none() | count, st.booleans())
faces = st.lists(st.tuples(crops, st.dictionaries(word, refs, max_size=3)), max_size=3).flatmap(
    lambda pairs: st.builds(
        FacesPacket, frames, st.just(tuple(c for c, _ in pairs)), st.just(tuple(p for _, p in pairs))
    )
)
by_kind = {
    StreamBegin: st.builds(StreamBegin, infos),
    FramePacket: frames,
    FacesPacket: faces,
    ResultsPacket: st.builds(ResultsPacket, frames, st.lists(results, max_size=3).map(tuple), by_name),
    StreamEnd: st.builds(StreamEnd, word, st.none() | count, count, ledgers),
    Ledger: ledgers,
    Failure: st.builds(Failure, exit_code=count),
    Ready: st.builds(Ready),
    Control: st.builds(Control),
    Beat: st.builds(Beat, word, real, count, count),
    Event: st.builds(Event),
    Seen: st.builds(Seen, word, count, count),
    Timing: st.builds(
        Timing, word, st.builds(Histogram, st.lists(count, max_size=12).map(tuple), real, real), word
    ),
}
messages: st.SearchStrategy[Any] = st.one_of(*by_kind.values())
relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck))


def plain(value: Any) -> Any:
    """A message as something that == compares, types and arrays included."""
    if is_dataclass(value):
        return type(value), [plain(getattr(value, f.name)) for f in fields(value)]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return type(value), value


def stamp() -> Stamp:
    return Stamp("clip.mp4", 0, 41, 1.71, 5.0, 1.7e9)


def frame() -> FramePacket:
    return FramePacket(stamp(), 1, PixelRef("frames", 2, 9, 0, (360, 640, 3)), {"capture": 1.25})


def crop() -> FaceCrop:
    return FaceCrop(
        0,
        3,
        (1.0, 2.0, 3.0, 4.0),
        0.99,
        np.ones((478, 3), np.float32),
        HeadPose(1.0, 2.0, 3.0),
        Quality(100.0, 0.2, 0.9, True),
        Geometry(*[0.5] * 7),
        "automatic",
        1.0,
        0.0,
        {},
        None,
        LevelShares(0.1, 0.2, 0.3, 0.4),
    )


@settings(relaxed, max_examples=120)
@given(messages)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    data = wire.encode(message)
    back = wire.decode(data)
    assert plain(back) == plain(message)
    assert wire.encode(back) == data


def test_every_kind_of_message_is_tried() -> None:
    assert set(by_kind) == set(wire.KINDS)


def test_numpy_numbers_go_as_numbers() -> None:
    packet = replace(frame(), latency_ms={"face": np.float32(0.5), "infer": np.float64(1.5), "sink": 2})
    back = wire.decode(wire.encode(packet))
    assert isinstance(back, FramePacket)
    assert {k: (type(v), v) for k, v in back.latency_ms.items()} == {
        "face": (float, 0.5),
        "infer": (float, 1.5),
        "sink": (float, 2.0),
    }


@pytest.mark.parametrize(
    "message",
    [
        replace(frame(), latency_ms={"face": float("nan")}),
        replace(frame(), latency_ms={"face": float("inf")}),
        FacesPacket(frame(), (replace(crop(), level_map=np.zeros((224, 224), np.uint8)),), ({},)),
        FacesPacket(frame(), (replace(crop(), crops_bgr={"x": np.zeros((9, 9, 3), np.uint8)}),), ({},)),
        FacesPacket(frame(), (replace(crop(), landmarks_px=np.full((478, 3), np.inf, np.float32)),), ({},)),
        FacesPacket(frame(), (replace(crop(), neutral_bgr=np.zeros((224, 224, 3), np.uint8)),), ({},)),
        FacesPacket(frame(), (replace(crop(), landmarks=np.zeros((2, 468, 3), np.float32)),), ({},)),
        FacesPacket(frame(), (crop(),) * 1000, ({},) * 1000),
        Ledger("y" * (4 << 20)),
        Ledger(3),  # type: ignore[arg-type]
        Ledger("s", captured=0.5),  # type: ignore[arg-type]
        Ledger("s", captured=2**63),
        ResultsPacket(frame(), (AUResult(stamp(), 1, replace(crop(), neutral="angry"), {}, {}),)),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_sent(message: Message) -> None:
    with pytest.raises(WireError):
        wire.encode(message)


def with_json(kind: type, value: Any, landmarks: bytes = b"") -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    head = struct.pack(
        "<2sBBIII", b"AU", wire.VERSION, wire.KINDS.index(kind), wire._SCHEMA, len(text), len(landmarks)
    )
    return head + text + landmarks


def plain_frame(**changes: Any) -> list[Any]:
    values = {"seq": 0, "pts": 0.5, "slot": 1, "shape": [4, 4, 3], "latency": []} | changes
    return [
        ["s", 0, values["seq"], values["pts"], 1.0, 2.0],
        1,
        ["frames", values["slot"], 1, 0, values["shape"]],
        values["latency"],
        0,
    ]


def test_the_hand_made_frame_is_valid() -> None:
    assert isinstance(wire.decode(with_json(FramePacket, plain_frame())), FramePacket)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": -1},
        {"seq": True},
        {"seq": 1.0},
        {"seq": 2**63},
        {"seq": None},
        {"pts": 1},
        {"pts": "1.0"},
        {"pts": float("nan")},
        {"pts": float("inf")},
        {"slot": -1},
        {"shape": []},
        {"shape": [0]},
        {"shape": [1, 1, 1, 1]},
        {"shape": "444"},
        {"shape": {"0": 1}},
        {"latency": [["a", 1.0], ["a", 2.0]]},
        {"latency": [["a"]]},
        {"latency": {"a": 1.0}},
        {"latency": [[["a"], 1.0]]},
    ],
)
def test_values_that_do_not_belong(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        wire.decode(with_json(FramePacket, plain_frame(**change)))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'["stop"]',
        b'["stop","x",1]',
        b'["stop",1]',
        b'["stop",1e999]',
        b'["stop",-Infinity]',
        b'["stop",' + b"9" * 100_000 + b"]",
        b"[" * 1_000_000,
        b"[" * 1_000_000 + b"]" * 1_000_000,
        b"[" + b"[]," * 600_000 + b"[]]",
        b'{"a":' * 300_000,
    ],
    ids=lambda text: str(text[:12]),
)
def test_json_that_is_no_control_message_costs_little(text: bytes) -> None:
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(WireError):
            wire.decode(with_json(Control, text))
        assert tracemalloc.get_traced_memory()[1] < 100e6
        assert time.monotonic() - began < 5.0
    finally:
        tracemalloc.stop()


def test_headers_that_do_not_fit() -> None:
    good = wire.encode(frame())
    face = wire.encode(FacesPacket(frame(), (crop(),), ({},)))
    wrong = [
        good[:-1],
        good + b"\0",
        b"XX" + good[2:],
        good[:2] + b"\x09" + good[3:],  # another version
        good[:3] + bytes([len(wire.KINDS)]) + good[4:],
        good[:4] + b"\0\0\0\0" + good[8:],  # another schema
        face[: -wire._LANDMARKS_BYTES],
        face + bytes(wire._LANDMARKS_BYTES),
        b"\0" * (wire.MAX_BYTES + 1),
    ]
    no_points = bytearray(face[: -wire._LANDMARKS_BYTES])
    no_points[12:16] = b"\0" * 4
    two_points = bytearray(face + bytes(wire._LANDMARKS_BYTES))
    two_points[12:16] = struct.pack("<I", 2 * wire._LANDMARKS_BYTES)
    not_finite = face[:-4] + struct.pack("<f", float("nan"))
    for data in [*wrong, bytes(no_points), bytes(two_points), not_finite]:
        with pytest.raises(WireError):
            wire.decode(data)


@settings(relaxed, max_examples=300)
@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(data)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@settings(relaxed, max_examples=300)
@given(st.sampled_from(wire.KINDS), anything, st.binary(max_size=30) | st.just(bytes(wire._LANDMARKS_BYTES)))
def test_any_json_under_a_valid_header(kind: type, value: Any, landmarks: bytes) -> None:
    """Only WireError, or a message that is the same again."""
    try:
        message = wire.decode(with_json(kind, value, landmarks))
    except WireError:
        return
    assert plain(wire.decode(wire.encode(message))) == plain(message)


GOOD = [
    wire.encode(message)
    for message in (
        frame(),
        FacesPacket(frame(), (crop(),), ({"box_224": PixelRef("crops", 0, 1, 0, (224, 224, 3))},)),
        ResultsPacket(
            frame(),
            (
                AUResult(
                    stamp(),
                    1,
                    crop(),
                    {"e": {"AU01": 0.5}},
                    {"e": ("AU01",)},
                    {},
                    WindowInfo("ready", 0.0, 1.0, 1),
                ),
            ),
        ),
        StreamEnd("s", 9, 10, Ledger("s", 10, 9, {("capture", "late"): 1})),
        StreamBegin(StreamInfo("s", (640, 360), 23.976, None, True)),
    )
]


@settings(relaxed, max_examples=500)
@given(
    st.sampled_from(GOOD),
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=0, max_size=3), st.integers(0, 3)),
        max_size=4,
    ),
)
def test_mutated_messages(data: bytes, edits: list[tuple[float, bytes, int]]) -> None:
    for where, new, removed in edits:
        at = int(where * len(data))
        data = data[:at] + new + data[at + removed :]
    try:
        message = wire.decode(data)
    except WireError:
        return
    assert plain(wire.decode(wire.encode(message))) == plain(message)
