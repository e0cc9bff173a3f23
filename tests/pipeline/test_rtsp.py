"""RTSP against a real server: GStreamer's, from Debian's packages, run by the system's Python."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from servers import Watched, rtsp

from bench.feeds import RtspServer
from pipeline.errors import SourceError
from pipeline.messages import Ledger
from pipeline.sources import Source, open_source, resolve_sources

BGR = (90, 60, 200)
SHADES = np.random.default_rng(5).permutation(np.arange(40, 216, 4))
"""Of pictures of one shade each: no picture can pass for the next."""


@pytest.fixture
def server() -> Iterator[RtspServer]:
    with rtsp() as running:
        yield running


def _open(address: str, rtsp_transport: str = "tcp") -> Source:
    return open_source(resolve_sources([address], [], rtsp_transport)[0])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("codec", "transport"),
    [("h264", "tcp"), ("h264", "udp"), ("h265", "tcp"), ("h265", "udp"), ("mjpeg", "tcp")],
)
def test_frames(tmp_path: Path, codec: str, transport: str) -> None:
    cv2.imwrite(str(tmp_path / "00000.jpg"), np.full((120, 160, 3), BGR, np.uint8))
    options = "--pictures", str(tmp_path), "--size", "160x120", "--codec", codec, "--user", "user:pa@ss"
    with rtsp(*options) as server:
        source = _open(server.address.replace("//", "//user:pa@ss@"), transport)
        ledger = Ledger(source.info.stream)
        try:
            frames = list(islice(source.frames(ledger), 25))
        finally:
            source.close()
    assert source.info.stream == server.address
    assert (source.info.size_wh, source.info.live, source.info.frames) == ((160, 120), True, None)
    assert [f.stamp.seq for f in frames] == list(range(25))
    assert {f.stamp.epoch for f in frames} == {0}
    steps = np.diff([f.stamp.pts_seconds for f in frames])
    assert (steps > 0).all()
    assert np.median(steps) == pytest.approx(0.05, abs=0.01)
    assert source.info.rate_hz == pytest.approx(20, abs=6)
    assert 0 <= ledger.estimated_pts <= 8
    assert (ledger.captured, ledger.dropped) == (25, {})
    assert np.abs(frames[-1].image_bgr[60, 80].astype(int) - BGR).max() <= 15


def test_the_first_frame_has_no_pts(server: RtspServer) -> None:
    source = _open(server.address)
    ledger = Ledger(source.info.stream)
    frames = list(islice(source.frames(ledger), 10))
    source.close()
    assert ledger.estimated_pts >= 1
    assert frames[1].stamp.pts_seconds - frames[0].stamp.pts_seconds == pytest.approx(0.05, abs=0.03)


def test_the_server_dies(server: RtspServer) -> None:
    source = _open(server.address)
    frames = source.frames(Ledger("a"))
    try:
        next(frames)
        server.close()
        began = time.monotonic()
        with pytest.raises(SourceError, match=f"^{server.address}: "):
            list(frames)
        assert time.monotonic() - began < 12
    finally:
        source.close()


def test_a_wrong_path(server: RtspServer) -> None:
    with pytest.raises(SourceError, match="404") as caught:
        _open(server.address.replace("//", "//user:SECRET@") + "/nothing")
    assert "SECRET" not in str(caught.value)


def test_nobody_listens() -> None:
    with pytest.raises(SourceError, match="cannot be reached"):
        _open(f"rtsp://127.0.0.1:{_free_port()}/live")


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(SourceError, match="no answer within 5 s"):
            _open(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live")
        assert time.monotonic() - began < 7


# A feed that goes on.


def test_dropped_and_back_with_another_codec(server: RtspServer) -> None:
    with Watched(server.address) as feed:
        feed.until_frames()
        server.tell("codec h265")
        dropped_at = server.tell("drop")
        feed.until(lambda: feed.kinds == ["connected", "lost", "connected"])
        feed.until_frames()
        assert feed.event_at[1] - dropped_at < 3
    assert [info.size_wh for info in feed.infos] == [(320, 240)] * 2
    assert feed.events[1].wait_seconds <= 1.0
    assert feed.events[1].reason.startswith("the server closed the connection")
    stamps = [f.stamp for f in feed.frames]
    assert [s.seq for s in stamps] == list(range(len(stamps)))
    assert {s.epoch for s in stamps} == {0, 1}
    assert feed.ledger.captured == len(stamps)


def test_stalled_while_the_connection_stays(server: RtspServer) -> None:
    with Watched(server.address) as feed:
        feed.until_frames()
        server.tell("stall")
        feed.until(lambda: "stalled" in feed.kinds)
        assert 1.5 < feed.event_at[1] - feed.frame_at[-1] < 4  # 2 s on a machine that is not loaded
        server.tell("go")
        feed.until_frames()
        assert feed.frames[-1].stamp.epoch == 1


def test_a_server_that_hangs(server: RtspServer) -> None:
    with Watched(server.address) as feed:
        feed.until_frames()
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            feed.until(lambda: feed.kinds == ["connected", "stalled"])
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        feed.until_frames()


def test_another_size_within_a_connection(server: RtspServer) -> None:
    with Watched(server.address) as feed:
        feed.until_frames()
        server.tell("size 160x120")
        feed.until(lambda: len(feed.infos) == 2)
        feed.until_frames()
    assert feed.kinds == ["connected", "changed"]
    assert feed.events[1].reason == "320×240 became 160×120"
    assert feed.infos[1].size_wh == (160, 120)
    assert {(f.stamp.epoch, f.image_bgr.shape[1]) for f in feed.frames} == {(0, 320), (1, 160)}


def test_down_at_the_start_and_on_its_way_back() -> None:
    port = _free_port()
    with Watched(f"rtsp://me:SECRET@127.0.0.1:{port}/live") as feed:
        feed.until(lambda: feed.kinds)
        with rtsp("--port", str(port)) as server:
            feed.until_frames()
            server.tell("refuse")
            server.tell("drop")
            feed.until(lambda: "404" in feed.events[-1].reason)
            server.tell("accept")
            feed.until(lambda: feed.kinds[-1] == "connected")
    assert "SECRET" not in repr(feed.events)
    assert "SECRET" not in repr(feed.infos)


def test_a_password() -> None:
    with rtsp("--user", "me:right") as server:
        address = server.address.replace("//", "//me:{}@")
        with Watched(address.format("SECRET")) as feed:
            feed.until(lambda: feed.kinds)
        assert feed.kinds[0] == "failed"
        assert "401" in feed.events[0].reason
        assert "SECRET" not in repr(feed.events)
        with Watched(address.format("right")) as feed:
            feed.until_frames(1)


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_pictures_predicted_from_lost_ones_are_not_shown(tmp_path: Path, codec: str) -> None:
    """Every picture has one shade, which its time tells; what is predicted from a lost one has another."""
    for i, shade in enumerate(SHADES):
        cv2.imwrite(str(tmp_path / f"{i:05d}.jpg"), np.full((120, 160, 3), shade, np.uint8))
    options = "--pictures", str(tmp_path), "--size", "160x120", "--codec", codec, "--gop", "15"
    with rtsp(*options) as server, Watched(server.address, rtsp_transport="udp") as feed:
        feed.until_frames(16)
        server.tell("lose 0.06")
        feed.until(lambda: feed.ledger.captured + feed.ledger.undecodable_packets > 90)
    shades = [float(f.image_bgr.mean()) for f in feed.frames]
    steps = [round(20 * f.stamp.pts_seconds) for f in feed.frames]
    shift = next(
        i
        for i in range(len(SHADES))
        if all(abs(SHADES[(i + steps[k]) % len(SHADES)] - shades[k]) < 4 for k in range(5, 15))
    )
    wrong = [
        (feed.frames[k].stamp.seq, shades[k])
        for k in range(len(steps))
        if abs(SHADES[(shift + steps[k]) % len(SHADES)] - shades[k]) > 4
    ]
    assert feed.kinds == ["connected"]
    assert wrong == []
    assert len(shades) < feed.ledger.captured + feed.ledger.undecodable_packets
    assert feed.ledger.in_flight == len(shades)


def test_damaged_bytes(server: RtspServer) -> None:
    with Watched(server.address) as feed:
        feed.until_frames()
        server.tell("corrupt 0.01")
        feed.until(lambda: feed.ledger.undecodable_packets or feed.ledger.dropped)
        server.tell("corrupt 0")
        feed.until_frames(20)
    assert feed.kinds == ["connected"]
    assert feed.ledger.in_flight == len(feed.frames)


def test_a_run_shows_and_writes_no_password(tmp_path: Path) -> None:
    with rtsp("--user", "SECRETUSER:SECRETWORD") as server:
        address = server.address.replace("//", "//SECRETUSER:SECRETWORD@")
        outs = [word for suffix in ("jsonl", "csv", "parquet") for word in ("--out", f"rows.{suffix}")]
        words = ["--source", address, "--engine", "cednn", "--frames", "20", *outs]
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parents[2] / "run_stream.py"), *words],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert server.address.encode() in written
    assert b"SECRET" not in written + done.stdout + done.stderr
