"""Lost pictures, held against streams of which some were taken out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import av
import pytest
from clips import busy, write_clip
from hypothesis import given
from hypothesis import strategies as st

from pipeline.h264 import FrameNumbers

STREAMS = {
    "one after the other": {"preset": "ultrafast", "tune": "zerolatency"},
    "with B pictures": {"x264-params": "keyint=30:bframes=3:b-pyramid=none"},
    "predicted from B pictures": {"x264-params": "keyint=40:bframes=3:b-pyramid=normal"},
    "scaling lists": {"x264-params": "keyint=40:cqm=jvt"},
    "interlaced": {"preset": "fast", "x264-params": "interlaced=1:keyint=30"},
}


@pytest.fixture(scope="module", params=STREAMS)
def packets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    path = tmp_path_factory.mktemp("h264") / "clip.ts"
    write_clip(
        path,
        frames=100,
        size_wh=(160, 120),
        options=STREAMS[request.param],
        pix_fmt="yuv444p" if request.param == "scaling lists" else "yuv420p",
        picture=lambda i: busy(i % 60),
    )
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def first_slice(packet: bytes) -> tuple[bool, bool]:
    """Whether a picture is predicted from, and whether it begins everything anew."""
    at = packet.find(b"\0\0\1")
    while packet[at + 3] & 31 not in (1, 5):
        at = packet.find(b"\0\0\1", at + 3)
    return bool(packet[at + 3] & 0x60), packet[at + 3] & 31 == 5


def lost(packets: Sequence[bytes]) -> int:
    numbers = FrameNumbers(None)
    return sum(numbers.packets_lost_before(av.Packet(packet)) for packet in packets)


def test_a_whole_stream_has_lost_nothing(packets: list[bytes]) -> None:
    assert lost(packets) == 0


@pytest.mark.parametrize("seed", range(40))
def test_pictures_that_others_are_predicted_from(packets: list[bytes], seed: int) -> None:
    kinds = [first_slice(packet) for packet in packets]
    # Beside a picture that begins the numbers anew nobody can say how many are missing.
    inside = [i for i in range(2, 95) if not any(anew for _, anew in kinds[i : i + 4])]
    taken = set(random.Random(seed).sample(inside, 1 + seed % 3))
    kept = [packet for i, packet in enumerate(packets) if i not in taken]
    assert lost(kept) == sum(kinds[i][0] for i in taken)


def test_the_upper_part_of_a_picture(tmp_path: Path) -> None:
    options = {"x264-params": "slices=4:keyint=100:bframes=0"}
    path = write_clip(tmp_path / "clip.ts", size_wh=(160, 128), options=options)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    slices = packets[5].split(b"\0\0\1")
    assert len(slices) > 3
    packets[5] = b"\0\0\0\1" + b"\0\0\1".join(slices[-1:])
    assert lost(packets) == 1


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_any_bytes(junk: list[bytes]) -> None:
    numbers = FrameNumbers(junk[0] if junk else None)
    for data in junk:
        for start in (b"", b"\0\0\1\x67", b"\0\0\1\x65", b"\0\0\1\x41"):
            if start + data:
                assert 0 <= numbers.packets_lost_before(av.Packet(start + data)) < 1 << 16
