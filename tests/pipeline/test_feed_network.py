"""Live addresses that are not RTSP: an MJPEG camera over HTTP, MPEG-TS over UDP."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import BLUE, GREEN, GREY, RED, quadrants, shows, write_clip
from servers import Watched

RATE_HZ = 10


class MjpegCamera(http.server.BaseHTTPRequestHandler):
    """Pictures at 10 frames/s, each a part of an answer that does not end; 25 to a connection."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.end_headers()
        began = time.monotonic()
        for i in range(25):
            jpeg = cv2.imencode(".jpg", quadrants(160, 120, 10 * i))[1].tobytes()
            head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                return
            time.sleep(max(0.0, began + (i + 1) / RATE_HZ - time.monotonic()))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mjpeg() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), MjpegCamera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:SECRET@127.0.0.1:{server.server_port}/video"
        server.shutdown()


def test_mjpeg_over_http(mjpeg: str) -> None:
    with Watched(mjpeg) as feed:
        feed.until(lambda: feed.kinds[:3] == ["connected", "lost", "connected"])
        feed.until_frames(1)
    first = [frame for frame in feed.frames if frame.stamp.epoch == 0]
    assert len(first) == 25
    assert all(shows(frame.image_bgr, [RED, GREEN, BLUE, GREY], within=12) for frame in first)
    # Its pictures carry no times: those of their arrival count, not some nominal rate's.
    assert feed.ledger.estimated_pts == feed.ledger.captured
    lasted = first[-1].stamp.pts_seconds - first[0].stamp.pts_seconds
    assert 2.0 < lasted < 4.0
    assert feed.infos[0].rate_hz == pytest.approx(RATE_HZ, rel=0.5)
    assert "SECRET" not in repr((feed.events, feed.infos))


def test_a_film_over_http_is_no_feed(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=10)
    folder = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Watched(f"http://127.0.0.1:{server.server_port}/clip.mp4") as feed:
            feed.until_end()
        server.shutdown()
    (event,) = feed.events
    assert (event.kind, event.wait_seconds) == ("failed", 0.0)
    assert "it is a file with an end" in event.reason
    assert feed.frames == []


@contextmanager
def sent_over_udp(port: int) -> Iterator[None]:
    """The quadrants at 20 frames/s, for as long as the block lasts."""
    stopped = threading.Event()

    def send() -> None:
        address = f"udp://127.0.0.1:{port}?pkt_size=1316"
        with av.open(address, "w", format="mpegts", options={"flush_packets": "1"}) as output:
            stream = output.add_stream("libx264", rate=20, options={"tune": "zerolatency", "g": "10"})
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            began, i = time.monotonic(), 0
            while not stopped.wait(max(0.0, began + i / 20 - time.monotonic())):
                image: np.ndarray = quadrants(160, 120, 10 * i % 250)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
                i += 1

    thread = threading.Thread(target=send)
    thread.start()
    yield
    stopped.set()
    thread.join()


def test_mpegts_over_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Watched(f"udp://127.0.0.1:{port}") as feed:
        with sent_over_udp(port):
            feed.until_frames(20)
        feed.until(lambda: "stalled" in feed.kinds)
        with sent_over_udp(port):
            feed.until_frames(10)
    assert feed.spec.feed
    kinds = [kind for kind in feed.kinds if kind != "failed"]
    assert kinds[:3] == ["connected", "stalled", "connected"]
    assert {frame.stamp.epoch for frame in feed.frames} >= {0, 1}
    assert all(shows(frame.image_bgr, [RED, GREEN, BLUE, GREY], within=12) for frame in feed.frames)
