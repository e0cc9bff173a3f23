"""RTSP against a real server: GStreamer's, from Debian's packages, run by the system's Python."""

from __future__ import annotations

import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.messages import Ledger
from pipeline.sources import Source, open_source, resolve_sources

PYTHON = "/usr/bin/python3"
PACKAGES = (
    "gstreamer1.0-rtsp gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-ugly gstreamer1.0-plugins-bad gstreamer1.0-libav"
)
SERVER = """
import gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1"); server.set_service("0")
def mount(path, pipeline):
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch("( " + pipeline + " )"); factory.set_shared(True)
    server.get_mount_points().add_factory(path, factory)
colour = (
    "videotestsrc is-live=true pattern=solid-color foreground-color=0xffc83c5a"
    " ! video/x-raw,format=I420,width=160,height=120,framerate=20/1 ! "
)
x264 = "x264enc tune=zerolatency key-int-max=20 speed-preset=ultrafast"
mount("/h264", colour + x264 + " ! rtph264pay name=pay0 config-interval=1")
mount("/jpeg", colour + "jpegenc ! rtpjpegpay name=pay0")
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@pytest.fixture
def server() -> Iterator[tuple[str, Callable[[], None]]]:
    """The server's address, and what stops it."""
    try:
        process = subprocess.Popen(
            [PYTHON, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except FileNotFoundError:
        pytest.skip(f"needs {PYTHON}: apt-get install python3 {PACKAGES}")
    with process:
        assert process.stdout is not None
        select.select([process.stdout], [], [], 20)
        port = process.stdout.readline().strip() if process.poll() is None else ""
        if not port:
            process.kill()
            pytest.skip(f"needs GStreamer's RTSP server: apt-get install {PACKAGES}")
        yield f"rtsp://127.0.0.1:{port}", process.kill
        process.kill()


def _open(address: str) -> Source:
    return open_source(resolve_sources([address], [])[0])


@pytest.mark.parametrize("path", ["h264", "jpeg"])
def test_frames(server: tuple[str, Callable[[], None]], path: str) -> None:
    source = _open(f"{server[0].replace('//', '//user:pa@ss@')}/{path}")
    ledger = Ledger(source.info.stream)
    try:
        frames = list(islice(source.frames(ledger), 25))
    finally:
        source.close()
    assert source.info.stream == f"{server[0]}/{path}"
    assert (source.info.size_wh, source.info.live, source.info.frames) == ((160, 120), True, None)
    assert [f.stamp.seq for f in frames] == list(range(25))
    assert {f.stamp.epoch for f in frames} == {0}
    steps = np.diff([f.stamp.pts_seconds for f in frames])
    assert (steps > 0).all()
    assert np.median(steps) == pytest.approx(0.05, abs=0.01)
    assert source.info.rate_hz == pytest.approx(20, abs=6)
    assert 0 <= ledger.estimated_pts <= 8
    assert ledger.captured == 25
    assert np.abs(frames[-1].image_bgr[60, 80].astype(int) - (90, 60, 200)).max() <= 15


def test_the_first_frame_has_no_pts(server: tuple[str, Callable[[], None]]) -> None:
    source = _open(f"{server[0]}/h264")
    ledger = Ledger(source.info.stream)
    frames = list(islice(source.frames(ledger), 10))
    source.close()
    assert ledger.estimated_pts >= 1
    assert frames[1].stamp.pts_seconds - frames[0].stamp.pts_seconds == pytest.approx(0.05, abs=0.03)


def test_the_server_dies(server: tuple[str, Callable[[], None]]) -> None:
    address, stop = server
    source = _open(f"{address}/h264")
    frames = source.frames(Ledger("a"))
    try:
        next(frames)
        stop()
        began = time.monotonic()
        with pytest.raises(SourceError, match=f"^{address}/h264: "):
            list(frames)
        assert time.monotonic() - began < 12
    finally:
        source.close()


def test_a_wrong_path(server: tuple[str, Callable[[], None]]) -> None:
    with pytest.raises(SourceError, match="404") as caught:
        _open(f"{server[0].replace('//', '//user:SECRET@')}/nothing")
    assert "SECRET" not in str(caught.value)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SourceError, match="cannot be reached"):
        _open(f"rtsp://127.0.0.1:{port}/live")


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(SourceError, match="no answer within 5 s"):
            _open(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live")
        assert time.monotonic() - began < 7
