from __future__ import annotations

import os
import random
import subprocess
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import BLUE, GREEN, GREY, RED, busy, ffprobe_pts, need, quadrants, read, shows, write_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.messages import Ledger
from pipeline.sources import open_source, resolve_sources

UPRIGHT = (RED, GREEN, BLUE, GREY)
X265 = {"x265-params": "log-level=none"}


@pytest.mark.parametrize(
    ("name", "codec", "options", "pix_fmt", "within"),
    [
        ("b.mp4", "libx264", {"bf": "3", "b_strategy": "0"}, "yuv420p", 6),
        ("b.mov", "libx264", {"bf": "3"}, "yuv420p", 6),
        ("b.mkv", "libx264", {"bf": "2"}, "yuv420p", 6),
        ("b.ts", "libx264", {"bf": "2"}, "yuv420p", 6),
        ("hevc.mp4", "libx265", X265, "yuv420p", 6),
        ("ten.mp4", "libx265", X265, "yuv420p10le", 6),
        ("ten.mkv", "libx264", {}, "yuv420p10le", 6),
        ("444.mkv", "libx264", {"crf": "10"}, "yuv444p", 6),
        ("full.mkv", "libx264", {}, "yuvj420p", 6),
        ("rgb.mkv", "ffv1", {}, "bgr0", 0),
        ("gbr.mkv", "ffv1", {}, "gbrp10le", 1),
        ("png.mov", "png", {}, "rgba", 0),
        ("jpeg.avi", "mjpeg", {}, "yuvj420p", 6),
        ("vp9.webm", "libvpx-vp9", {"deadline": "realtime"}, "yuv420p", 8),
        (
            "vp8.webm",
            "libvpx",
            {"deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "10"},
            "yuv420p",
            8,
        ),
        ("old.avi", "mpeg4", {"b": "4000000"}, "yuv420p", 8),
        ("mpeg2.ts", "mpeg2video", {"b": "4000000"}, "yuv420p", 8),
        ("raw.avi", "rawvideo", {}, "bgr24", 0),
    ],
)
def test_formats(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], pix_fmt: str, within: int
) -> None:
    path = write_clip(tmp_path / name, codec, options=options, pix_fmt=pix_fmt)
    info, frames, ledger = read(path)
    assert info.size_wh == (64, 48)
    assert info.rate_hz == pytest.approx(25, abs=0.01)
    assert not info.live
    assert [f.stamp.seq for f in frames] == list(range(20))
    start = {".ts": frames[0].stamp.pts_seconds}.get(path.suffix, 0.0)
    assert [f.stamp.pts_seconds for f in frames] == pytest.approx([start + i / 25 for i in range(20)])
    assert all(f.image_bgr.flags.c_contiguous and shows(f.image_bgr, UPRIGHT, within) for f in frames)
    # The grey field counts up: the order of presentation, not of decoding.
    shades = [int(f.image_bgr[24, 32, 0]) for f in frames]
    assert np.abs(np.array(shades) - 10 * np.arange(20)).mean() < 7
    assert shades == sorted(shades)
    assert (ledger.captured, ledger.dropped, ledger.undecodable_packets, ledger.estimated_pts) == (
        20,
        {},
        0,
        0,
    )
    assert ledger.ended == "end of file"


@pytest.mark.parametrize("name", ["b.mp4", "b.ts", "b.mkv"])
def test_pts_equal_ffprobes(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, options={"bf": "3", "b_strategy": "0"}, frames=40)
    _, frames, _ = read(path)
    assert [f.stamp.pts_seconds for f in frames] == pytest.approx(ffprobe_pts(path), abs=1e-5)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, 5000),
    steps=st.lists(st.integers(1, 400), min_size=2, max_size=25),
    name=st.sampled_from(["v.mp4", "v.mkv", "v.webm"]),
)
def test_variable_rate_and_start_are_exact(tmp_path: Path, start: int, steps: list[int], name: str) -> None:
    pts = [start + sum(steps[:i]) for i in range(len(steps))]
    codec = "libvpx" if name.endswith("webm") else "libx264"
    path = write_clip(
        *(tmp_path / name, codec), frames=len(pts), pts=pts, time_base=Fraction(1, 1000), size_wh=(32, 32)
    )
    _, frames, ledger = read(path)
    expected = [(f.time, f.pts) for f in _decoded(path)]
    assert [f.stamp.pts_seconds for f in frames] == pytest.approx([t / 1000 for t in pts], abs=1e-9)
    assert [t for t, _ in expected] == pytest.approx([t / 1000 for t in pts], abs=1e-9)
    assert ledger.estimated_pts == 0
    assert ledger.ended == "end of file"


def _decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize(
    ("rotation", "colours", "size_wh"),
    [
        # Counter-clockwise by 90: what was at the top right comes to the top left.
        ((90, False, False), (GREEN, GREY, RED, BLUE), (48, 64)),
        ((180, False, False), (GREY, BLUE, GREEN, RED), (64, 48)),
        ((270, False, False), (BLUE, RED, GREY, GREEN), (48, 64)),
        ((-90, False, False), (BLUE, RED, GREY, GREEN), (48, 64)),
        ((0, True, False), (GREEN, RED, GREY, BLUE), (64, 48)),
        ((0, False, True), (BLUE, GREY, RED, GREEN), (64, 48)),
    ],
)
def test_rotation(
    tmp_path: Path,
    rotation: tuple[int, bool, bool],
    colours: tuple[tuple[int, int, int], ...],
    size_wh: tuple[int, int],
) -> None:
    info, frames, _ = read(write_clip(tmp_path / "phone.mp4", frames=3, rotation=rotation))
    assert info.size_wh == size_wh
    assert all(shows(f.image_bgr, colours) for f in frames)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_is_what_ffmpeg_shows(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    program = need("ffmpeg", "ffmpeg")
    path = write_clip(tmp_path / "phone.mp4", frames=1, rotation=(degrees, mirrored, False))
    shown = tmp_path / "shown.png"
    subprocess.run([program, "-v", "error", "-i", path, "-frames:v", "1", shown], check=True)
    [frame] = read(path)[1]
    [photo] = read(shown)[1]
    assert frame.image_bgr.shape == photo.image_bgr.shape
    assert np.abs(frame.image_bgr.astype(int) - photo.image_bgr).mean() < 4


def test_phone_matrix_in_the_bytes(tmp_path: Path) -> None:
    """A phone held upright writes a landscape picture and, in tkhd, 90° clockwise."""
    data = bytearray(write_clip(tmp_path / "plain.mp4", frames=2).read_bytes())
    tkhd = data.index(b"tkhd")
    at = tkhd + 4 + 40  # version, flags, times, id, duration, layer, group, volume
    one, minus_one, zero = (n.to_bytes(4, "big", signed=True) for n in (1 << 16, -(1 << 16), 0))
    width = (48 << 16).to_bytes(4, "big")  # x' = 48 − y, y' = x
    data[at : at + 32] = zero + one + zero + minus_one + zero + zero + width + zero
    path = tmp_path / "phone.mp4"
    path.write_bytes(data)
    info, frames, _ = read(path)
    assert info.size_wh == (48, 64)
    assert shows(frames[0].image_bgr, (BLUE, RED, GREY, GREEN))


@pytest.mark.parametrize("size_wh", [(33, 35), (1, 1), (2, 130), (641, 3)])
def test_odd_sizes(tmp_path: Path, size_wh: tuple[int, int]) -> None:
    info, frames, _ = read(
        write_clip(tmp_path / "odd.mkv", "ffv1", size_wh=size_wh, pix_fmt="bgr0", frames=2)
    )
    assert info.size_wh == size_wh
    width, height = size_wh
    assert np.array_equal(frames[1].image_bgr, quadrants(width, height, 10))


def test_odd_yuv(tmp_path: Path) -> None:
    info, frames, _ = read(write_clip(tmp_path / "odd.webm", "libvpx-vp9", size_wh=(33, 35), frames=2))
    assert info.size_wh == (33, 35)
    assert shows(frames[0].image_bgr, UPRIGHT, 12)


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "gray16le"])
def test_grey(tmp_path: Path, pix_fmt: str) -> None:
    path = write_clip(tmp_path / "grey.mkv", "ffv1", pix_fmt=pix_fmt, frames=3)
    _, frames, _ = read(path)
    image = frames[2].image_bgr.astype(int)
    assert np.abs(np.diff(image, axis=2)).max() == 0
    assert image[24, 32, 0] == pytest.approx(20, abs=2)
    assert image[-1, -1, 0] == pytest.approx(120, abs=2)


@pytest.mark.parametrize("size_wh", [(64, 48), (1280, 720), (720, 576)])
@pytest.mark.parametrize("tag", ["bt709", "bt601", None])
@pytest.mark.parametrize("full", [False, True])
def test_colours(tmp_path: Path, size_wh: tuple[int, int], tag: str | None, full: bool) -> None:
    """BT.709 or BT.601 as the video says; where it does not, as players have it: BT.709 for HD."""
    matrix = tag or ("bt709" if size_wh == (1280, 720) else "bt601")
    red, green, blue = (v / 255 for v in (200, 60, 90))
    kr, kb = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}[matrix]
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
    scale, chroma, black = (255, 255, 0) if full else (219, 224, 16)
    planes = [round(black + scale * y), round(128 + chroma * cb), round(128 + chroma * cr)]

    path = tmp_path / "colour.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height = size_wh
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(*size_wh, "yuv420p")
        for plane, value in zip(frame.planes, planes, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        context = stream.codec_context
        context.color_range = frame.color_range = 2 if full else 1
        context.colorspace = frame.colorspace = {"bt709": 1, "bt601": 6, None: 2}[tag]
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    [decoded] = read(path)[1]
    assert decoded.image_bgr[5, 5].astype(int) == pytest.approx([90, 60, 200], abs=3)


def test_gif(tmp_path: Path) -> None:
    _, frames, ledger = read(write_clip(tmp_path / "a.gif", "gif", pix_fmt="rgb8", frames=5))
    assert [round(f.stamp.pts_seconds, 3) for f in frames] == [0.0, 0.04, 0.08, 0.12, 0.16]
    assert ledger.balanced or ledger.captured == 5


@pytest.mark.parametrize(("name", "codec"), [("raw.h264", "libx264"), ("raw.hevc", "libx265")])
def test_raw_stream_without_pts(tmp_path: Path, name: str, codec: str) -> None:
    path = write_clip(tmp_path / name, codec, options=X265 if codec == "libx265" else {"bf": "2"})
    _, frames, ledger = read(path)
    assert [f.stamp.pts_seconds for f in frames] == pytest.approx([i / 25 for i in range(20)])
    assert ledger.estimated_pts == ledger.captured == 20


def test_h264_with_b_frames_in_avi_keeps_order(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "b.avi", "libx264", options={"bf": "2", "b_strategy": "0"}, frames=30)
    _, frames, ledger = read(path)
    steps = np.diff([f.stamp.pts_seconds for f in frames])
    assert len(frames) == 30
    assert steps == pytest.approx(np.full(29, 0.04))
    assert ledger.estimated_pts == 0


def test_edit_list(tmp_path: Path) -> None:
    """A cut without re-encoding: players start where the edit list says, and so do we."""
    program = need("ffmpeg", "ffmpeg")
    whole = write_clip(tmp_path / "whole.mp4", frames=40, gop=20)
    cut = tmp_path / "cut.mp4"
    subprocess.run([program, "-v", "error", "-ss", "1.0", "-i", whole, "-c", "copy", cut], check=True)
    _, frames, ledger = read(cut)
    assert [f.stamp.pts_seconds for f in frames] == pytest.approx(ffprobe_pts(cut), abs=1e-5)
    assert frames[0].stamp.pts_seconds >= 0
    assert ledger.undecodable_packets == 0


def test_dropped_frames_of_an_avi_do_not_end_it(tmp_path: Path) -> None:
    """Capture programs write an empty chunk for "as before"; to a decoder empty means the end."""
    path = write_clip(tmp_path / "gaps.avi", "mjpeg", pix_fmt="yuvj420p")
    data = path.read_bytes()
    at = data.index(b"00dc", data.index(b"movi") + 4)
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    end = at + 8 + size + size % 2
    # The second chunk is emptied; its bytes become padding, so that all positions stay.
    second = int.from_bytes(data[end + 4 : end + 8], "little")
    second += second % 2
    emptied = b"00dc" + bytes(4) + b"JUNK" + (second - 8).to_bytes(4, "little") + bytes(second - 8)
    path.write_bytes(data[:end] + emptied + data[end + 8 + second :])
    _, frames, ledger = read(path)
    assert len(frames) == 19
    assert [round(25 * f.stamp.pts_seconds) for f in frames] == [0, *range(2, 20)]
    assert ledger.undecodable_packets == 0


# What cannot be read


def _refused(source: str | Path) -> str:
    with pytest.raises(SourceError) as caught:
        read(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_text_called_mp4(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("Not a video. " * 100)
    assert "not a video" in _refused(path)


@pytest.mark.parametrize("name", ["notes.txt", "notes.nfo", "table.csv"])
def test_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("just words\n" * 50)
    _refused(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(min_size=1, max_size=2000), name=st.sampled_from(["x.mp4", "x.mkv", "x.avi", "x", "x.ts"])
)
def test_any_bytes(tmp_path: Path, data: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    _refused(path)


def test_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    assert "audio" in _refused(path)


@pytest.mark.parametrize(("name", "codec"), [("voice.mp3", "libmp3lame"), ("voice.mp4", "aac")])
@pytest.mark.parametrize("cover", [False, True])
def test_sound_with_a_cover(tmp_path: Path, name: str, codec: str, cover: bool) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=44100)
        pictures = []
        if cover:
            picture = output.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            image = av.VideoFrame.from_ndarray(quadrants(), format="bgr24")
            pictures = [*picture.encode(image), *picture.encode(None)]
        for i in range(20):
            sound = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
            sound.sample_rate, sound.pts = 44100, 1024 * i
            output.mux(stream.encode(sound))
            output.mux(pictures)
            pictures = []
        output.mux(stream.encode(None))
    message = _refused(path)
    assert "no video stream" in message
    assert ("cover picture" in message) == cover


def test_unknown_codec(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "new.mp4", frames=3)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz9").replace(b"avcC", b"zzzC"))
    assert "no video stream" in _refused(path)


def test_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.start_encoding()
    _refused(path)


def test_huge_dimensions_are_not_allocated(tmp_path: Path) -> None:
    """A header may claim any size; what it costs is bounded."""
    path = tmp_path / "huge.nut"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 20000, 8000, "gray"
        frame = av.VideoFrame(20000, 8000, "gray")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    _refused(path)


# Damage


def _damaged(path: Path, begin: float, end: float) -> Path:
    """The file with random bytes in the given part of it."""
    data = bytearray(path.read_bytes())
    first, last = int(begin * len(data)), int(end * len(data))
    data[first:last] = random.Random(1).randbytes(last - first)
    damaged = path.with_name("damaged" + path.suffix)
    damaged.write_bytes(data)
    return damaged


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", {}),
        ("a.ts", "libx264", "yuv420p", {}),
        ("a.mkv", "libx264", "yuv420p", {}),
        ("a.mov", "mjpeg", "yuvj420p", {}),
        ("a.avi", "mjpeg", "yuvj420p", {}),
        ("b.avi", "mpeg4", "yuv420p", {}),
        ("h.mp4", "libx265", "yuv420p", X265),
        ("m.ts", "mpeg2video", "yuv420p", {}),
        ("f.mkv", "ffv1", "yuv420p", {}),
        ("v.webm", "libvpx", "yuv420p", {"deadline": "realtime"}),
    ],
)
@pytest.mark.parametrize("begin", [0.3, 0.5])
def test_a_damaged_stretch(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, options: dict[str, str], begin: float
) -> None:
    """What is given is whole and has the right time; what is not given is in the ledger."""
    path = write_clip(
        *(tmp_path / name, codec), frames=80, gop=10, picture=busy, size_wh=(160, 120), pix_fmt=pix_fmt,
        options=options, container={"cluster_time_limit": "400"} if name.endswith(("mkv", "webm")) else {},
    )  # fmt: skip
    _, whole, _ = read(path)
    assert len(whole) == 80
    truth = {round(f.stamp.pts_seconds, 4): f.image_bgr.astype(int) for f in whole}
    _, frames, ledger = read(_damaged(path, begin, begin + 0.06))
    assert 40 <= len(frames) < 80
    assert ledger.undecodable_packets + sum(ledger.dropped.values()) > 0
    assert ledger.in_flight == len(frames)
    seqs = [f.stamp.seq for f in frames]
    pts = [f.stamp.pts_seconds for f in frames]
    assert seqs == sorted(set(seqs))
    assert seqs[-1] == ledger.captured - 1
    assert pts == sorted(set(pts))
    assert pts[-1] == whole[-1].stamp.pts_seconds
    wrong = [
        f.stamp.seq for f in frames
        if np.abs(truth[round(f.stamp.pts_seconds, 4)] - f.image_bgr).mean() > 1
    ]  # fmt: skip
    # Bytes that were overwritten near the edge of the stretch may still decode, without a word.
    assert len(wrong) <= 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["p.mp4", "p.ts", "p.mkv", "p.avi"]),
    where=st.floats(0.0, 1.0),
    share=st.floats(0.0, 0.5),
    cut=st.booleans(),
)
def test_no_damage_crashes(tmp_path: Path, name: str, where: float, share: float, cut: bool) -> None:
    """Any stretch overwritten, the file perhaps cut off behind it: frames, or one line."""
    path = tmp_path / name
    if not path.exists():
        write_clip(path, frames=25, gop=8, picture=busy, size_wh=(160, 120))
    damaged = _damaged(path, where, min(1.0, where + share))
    if cut:
        os.truncate(damaged, int(damaged.stat().st_size * max(where, 0.01)))
    try:
        _, frames, ledger = read(damaged)
    except SourceError as error:
        message = str(error)
    else:
        message = ledger.summary()
        assert ledger.in_flight == len(frames)
    assert "\n" not in message


def test_a_long_stretch_of_failures_does_not_end_the_file(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "long.mov", "mjpeg", pix_fmt="yuvj420p", frames=300, size_wh=(32, 32)
    )  # fmt: skip
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    broken = bytearray(data)
    for pos, size in packets[50:200]:
        broken[pos : pos + size] = bytes(size)
    path.write_bytes(broken)
    _, frames, ledger = read(path)
    assert [round(25 * f.stamp.pts_seconds) for f in frames] == [*range(50), *range(200, 300)]
    assert ledger.undecodable_packets == 150


# Cut off


def test_cut_mp4_with_the_index_at_the_end(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", picture=busy, size_wh=(160, 120))
    os.truncate(path, path.stat().st_size // 2)
    assert "cut short" in _refused(path)


def test_cut_mp4_with_the_index_in_front(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "a.mp4", picture=busy, size_wh=(160, 120), container={"movflags": "faststart"}
    )
    os.truncate(path, path.stat().st_size // 2)
    message = _refused(path)
    assert "truncated" in message
    assert "of 20 frames" in message


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.ts"])
def test_cut_files_without_an_index_in_front(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, frames=100, gop=10, picture=busy, size_wh=(160, 120))
    os.truncate(path, path.stat().st_size // 2)
    _, frames, ledger = read(path)
    assert 30 <= len(frames) < 70
    if name == "a.ts":  # a transport stream does not say how long it is
        assert ledger.ended == "end of file"
    else:
        assert "before its stated end" in ledger.ended


def test_cut_fragmented_mp4(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "a.mp4", frames=100, gop=10, picture=busy, size_wh=(160, 120),
        container={"movflags": "frag_keyframe+empty_moov"},
    )  # fmt: skip
    assert len(read(path)[1]) == 100
    os.truncate(path, path.stat().st_size // 2)
    assert "truncated" in _refused(path)


# Resources


def test_200_sources_leave_no_descriptor(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=3)
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    before = len(list(descriptors.iterdir()))
    for i in range(200):
        source = open_source(resolve_sources([str(path)], [])[0])
        if i % 2:
            next(iter(source.frames(Ledger("a"))))
        source.close()
    assert len(list(descriptors.iterdir())) <= before + 1


def test_size_change_is_a_new_epoch(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "a.h264", frames=5, size_wh=(64, 48), options={"bf": "0"})
    large = write_clip(tmp_path / "b.h264", frames=5, size_wh=(96, 64), options={"bf": "0"})
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    _, frames, ledger = read(both)
    assert [(f.stamp.epoch, f.image_bgr.shape[:2]) for f in frames] == 5 * [(0, (48, 64))] + 5 * [
        (1, (64, 96))
    ]
    assert ledger.captured == 10
