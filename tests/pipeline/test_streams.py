from __future__ import annotations

import itertools
import random
from collections import deque
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from engines.spec import CropSpec
from pipeline import wire
from pipeline.errors import StaleError
from pipeline.faces import Wanted
from pipeline.messages import FaceCrop, Geometry, HeadPose, Quality, Stamp
from pipeline.ring import PixelRef, Ring, RingSpec, create_rings
from pipeline.streams import (
    HAND_OVERS,
    FacesPacket,
    FramePacket,
    Message,
    crops_ring,
    frames_ring,
    without_pixels,
)


def face(n: int, with_pixels: bool = True) -> FaceCrop:
    rng = np.random.default_rng(n)
    crops = {"five_point_224": rng.integers(0, 256, (224, 224, 3), np.uint8)} if with_pixels else {}
    return FaceCrop(
        n,
        0,
        (0.0, 0.0, 1.0, 1.0),
        1.0,
        rng.normal(size=(478, 3)).astype(np.float32),
        HeadPose(0.0, 0.0, 0.0),
        Quality(1.0, 0.0, 1.0, True),
        Geometry(*[0.0] * 7),
        "none",
        1.0,
        0.0,
        crops,
        rng.integers(0, 6, (224, 224), np.uint8) if with_pixels else None,
        None,
        rng.integers(0, 256, (224, 224, 3), np.uint8) if with_pixels else None,
        rng.normal(size=(2, 468, 3)).astype(np.float32) if with_pixels else None,
    )


FRAME = FramePacket(Stamp("s", 0, 0, 0.0, 0.0, 0.0), 1, None, {})


def test_the_table_names_every_message_and_forms_a_chain() -> None:
    assert {kind for row in HAND_OVERS.values() for kind in row.messages} == set(get_args(Message))
    chain = [HAND_OVERS[name] for name in ("frames", "faces", "results")]
    assert [row.producer for row in chain] + [chain[-1].consumer] == ["capture", "face", "infer", "sink"]
    assert all(a.consumer == b.producer for a, b in itertools.pairwise(chain))
    assert [name for name, row in HAND_OVERS.items() if row.live == "drop oldest"] == ["frames"]
    assert all(row.credits >= 2 for row in HAND_OVERS.values())
    paths = [row.endpoint(Path("/run"), i) for row in HAND_OVERS.values() for i in (0, 1)]
    assert len(set(paths)) == len(paths)


def test_faces_go_over_with_all_their_pixels(tmp_path: Path) -> None:
    shapes = Wanted((CropSpec("five_point", 224),), level_map=True, neutral=True, landmarks=True).pixels()
    spec = crops_ring(shapes, max_faces=3)
    create_rings(tmp_path, [spec])
    producer, consumer = Ring(tmp_path, spec, "face"), Ring(tmp_path, spec, "infer")
    faces = [face(n) for n in range(3)]
    slot = producer.take()
    packet = FacesPacket.pack(FRAME, faces, slot)
    assert packet.lease is not None
    producer.pass_on(packet.lease, "infer")
    data = wire.encode(packet)
    assert len(data) < 3 * 8000
    arrived = wire.decode(data)
    assert isinstance(arrived, FacesPacket)
    for sent, got in zip(faces, arrived.faces(consumer.view), strict=True):
        assert np.array_equal(sent.landmarks_px, got.landmarks_px)
        assert np.array_equal(sent.crops_bgr["five_point_224"], got.crops_bgr["five_point_224"])
        assert got.level_map is not None
        assert np.array_equal(sent.level_map, got.level_map)
        assert np.array_equal(sent.neutral_bgr, got.neutral_bgr)
        assert np.array_equal(sent.landmarks, got.landmarks)
        assert list(got.crops_bgr) == list(sent.crops_bgr)
        assert sent.pose == got.pose
    assert arrived.lease is not None
    consumer.release(arrived.lease)
    with pytest.raises(StaleError):
        arrived.faces(consumer.view)
    assert producer.held() == {}


def test_frames_without_faces_or_pixels_need_no_slot() -> None:
    assert FacesPacket.pack(FRAME, [], None).lease is None
    assert FacesPacket.pack(FRAME, [face(0, with_pixels=False)], None).faces(lambda _: np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="slot"):
        FacesPacket.pack(FRAME, [face(0)], None)
    with pytest.raises(ValueError, match="expected 1 faces, got 0"):
        FacesPacket(FRAME, (without_pixels(face(0)),), ())


@pytest.mark.parametrize("to_sink", [True, False])
@pytest.mark.parametrize("waiting", [0, 3])
def test_there_is_always_a_slot_for_the_next_frame(tmp_path: Path, to_sink: bool, waiting: int) -> None:
    """The stages' protocol, one step at a time in random order: pass on, send, release, return the credit."""
    spec = frames_ring((8, 8), waiting, to_sink)
    create_rings(tmp_path, [spec])
    names = ("capture", "face", "infer", "sink")
    rings = {name: Ring(tmp_path, spec, name) for name in names}
    credits = [HAND_OVERS[name].credits for name in ("frames", "faces", "results")]
    queues: list[deque[PixelRef | None]] = [deque() for _ in credits]
    kept: deque[PixelRef] = deque()  # by capture, in live
    rng = random.Random(0)
    most = 0
    awake: list[int] = []
    for step in range(6000):
        if step % 200 == 0:  # some hang for a while, so that everything runs full
            awake = rng.sample(range(4), rng.randint(1, 4))
        stage = rng.choice(awake)
        if stage == 0:
            if len(kept) <= waiting:
                slot = rings["capture"].take()
                assert slot is not None
                kept.append(slot.put(np.zeros((8, 8, 3), np.uint8)))
                most = max(most, sum(map(len, rings["sink"].held().values())))
            if len(kept) > waiting and not credits[0]:
                if not waiting:
                    continue
                rings["capture"].release(kept.popleft())
            if credits[0]:
                credits[0] -= 1
                ref = kept.popleft()
                rings["capture"].pass_on(ref, "face")
                queues[0].append(ref)
        elif queues[stage - 1] and (stage == 3 or credits[stage]):
            held = queues[stage - 1].popleft()
            goes_on = stage < 3 and to_sink
            if held is not None and goes_on:
                rings[names[stage]].pass_on(held, names[stage + 1])
            elif held is not None:
                rings[names[stage]].release(held)
            if stage < 3:
                credits[stage] -= 1
                queues[stage].append(held if goes_on else None)
            credits[stage - 1] += 1
    assert most == spec.slots  # so none is there for nothing


def test_rings_are_sized_for_what_goes_into_them() -> None:
    assert frames_ring((1920, 1080)).slot_bytes == 1920 * 1080 * 3
    assert crops_ring([(224, 224, 3), (224, 224)], 4).slot_bytes == 4 * 224 * 224 * 4
    assert isinstance(crops_ring([], 4), RingSpec)
