from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import BLUE, GREEN, GREY, RED, shows, write_clip
from recorded_camera import SITECUSTOMIZE, RecordedCamera
from servers import Watched

from pipeline import camera as camera_module
from pipeline.camera import CameraSource
from pipeline.errors import SourceError, StalledError
from pipeline.messages import Ledger


class FakeDevice:
    """A camera that gives the pictures it was made with, then fails."""

    def __init__(self, pictures: list[object], rate: float = 30.0) -> None:
        self._pictures = list(pictures)
        self._rate = rate
        self.released = False

    def isOpened(self) -> bool:
        return bool(self._pictures)

    def read(self) -> tuple[bool, object]:
        return (True, self._pictures.pop(0)) if self._pictures else (False, None)

    def get(self, what: int) -> float:
        assert what == cv2.CAP_PROP_FPS
        return self._rate

    def release(self) -> None:
        self.released = True


def camera(*pictures: object, rate: float = 30.0) -> CameraSource:
    return CameraSource(0, "camera:0", lambda _: FakeDevice(list(pictures), rate))  # type: ignore[arg-type]


COLOUR = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_frames() -> None:
    source = camera(COLOUR, *3 * [COLOUR])
    ledger = Ledger("camera:0")
    assert (source.info.size_wh, source.info.rate_hz, source.info.live) == ((6, 4), 30.0, True)
    frames = list(islice(source.frames(ledger), 3))
    assert [f.stamp.seq for f in frames] == [0, 1, 2]
    assert frames[0].stamp.pts_seconds == 0
    assert 0 < frames[1].stamp.pts_seconds <= frames[2].stamp.pts_seconds < 1
    assert all(np.array_equal(f.image_bgr, COLOUR) for f in frames)
    assert ledger.captured == 3


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (COLOUR[:, :, 0], np.repeat(COLOUR[:, :, :1], 3, 2)),
        (COLOUR[:, :, :1], np.repeat(COLOUR[:, :, :1], 3, 2)),
        (np.dstack([COLOUR, COLOUR[:, :, 0]]), COLOUR),
        (COLOUR[:, ::-1], COLOUR[:, ::-1]),
        (COLOUR.astype(np.uint16) << 8, COLOUR),
        (COLOUR[:, :, 0].astype(np.uint16) << 8, np.repeat(COLOUR[:, :, :1], 3, 2)),
    ],
)
def test_what_drivers_give(picture: np.ndarray, expected: np.ndarray) -> None:
    frame = next(iter(camera(picture, picture).frames(Ledger("c"))))
    assert np.array_equal(frame.image_bgr, expected)
    assert frame.image_bgr.flags.c_contiguous


def test_a_new_size_is_a_new_epoch() -> None:
    small, large = np.zeros((4, 6, 3), np.uint8), np.zeros((8, 12, 3), np.uint8)
    frames = islice(camera(small, small, large, large).frames(Ledger("c"), epoch=2, first_seq=7), 3)
    assert [(f.stamp.epoch, f.stamp.seq) for f in frames] == [(2, 7), (3, 8), (3, 9)]


@pytest.mark.parametrize(
    ("said", "rate_hz"), [(60.0, 60.0), (0.0, 30.0), (-1.0, 30.0), (float("nan"), 30.0), (1e6, 30.0)]
)
def test_rates_that_drivers_make_up(said: float, rate_hz: float) -> None:
    assert camera(COLOUR, rate=said).info.rate_hz == rate_hz


def test_unplugged() -> None:
    frames = camera(COLOUR, COLOUR).frames(Ledger("c"))
    next(frames)
    with pytest.raises(SourceError, match="stopped giving pictures"):
        next(frames)


@pytest.mark.parametrize("pictures", [[], [None]])
def test_no_picture_releases_the_device(pictures: list[object]) -> None:
    device = FakeDevice(pictures)
    with pytest.raises(SourceError, match=r"^--camera 63: no "):
        CameraSource(63, "camera:63", lambda _: device)  # type: ignore[arg-type]
    assert device.released


@pytest.mark.skipif(sys.platform != "linux", reason="Linux shows cameras as files")
def test_why_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent, there = tmp_path / "video7", tmp_path / "video1"
    assert camera_module._why_not(absent).startswith("no such camera")
    there.touch()
    assert "(cameras found: 1)" in camera_module._why_not(absent)
    assert "no other program uses it" in camera_module._why_not(there)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "add yourself to the group video" in camera_module._why_not(there)


def test_a_stall_is_noticed_within_two_seconds() -> None:
    """OpenCV's reader takes whole seconds, and a failed read is the end of it (cap_v4l.cpp, tryIoctl)."""
    allowed_seconds = int(os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"])
    assert camera_module._WAITED_SECONDS < allowed_seconds < 2


@pytest.mark.parametrize(("silent_seconds", "comes"), [(0, True), (3, True), (60, False)])
def test_a_camera_may_take_its_time_to_the_first_picture(
    monkeypatch: pytest.MonkeyPatch, silent_seconds: int, comes: bool
) -> None:
    now = 0.0

    class Waking(FakeDevice):
        def read(self) -> tuple[bool, object]:
            nonlocal now
            if now < silent_seconds:
                now += 1.0
                return False, None
            return super().read()

    monkeypatch.setattr(time, "monotonic", lambda: now)
    device = Waking([COLOUR])
    if comes:
        CameraSource(0, "c", lambda _: device)  # type: ignore[arg-type]
    else:
        with pytest.raises(SourceError):
            CameraSource(0, "c", lambda _: device)  # type: ignore[arg-type]
        assert now < 7
    assert device.released is not comes


@pytest.mark.parametrize(("waited_seconds", "kind"), [(0.0, SourceError), (1.0, StalledError)])
def test_unplugged_or_silent(
    monkeypatch: pytest.MonkeyPatch, waited_seconds: float, kind: type[SourceError]
) -> None:
    now = 0.0

    class Slow(FakeDevice):
        def read(self) -> tuple[bool, object]:
            nonlocal now
            now += 0.03 if self._pictures else waited_seconds
            return super().read()

    monkeypatch.setattr(time, "monotonic", lambda: now)
    frames = CameraSource(0, "c", lambda _: Slow([COLOUR, COLOUR])).frames(Ledger("c"))  # type: ignore[arg-type]
    next(frames)
    with pytest.raises(SourceError) as caught:
        next(frames)
    assert type(caught.value) is kind


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """The folder of a recorded camera that is plugged in."""
    write_clip(tmp_path / "clip.mp4", frames=20)
    (tmp_path / "plugged").touch()
    return tmp_path


def test_pulled_out_and_put_back(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordedCamera, "folder", recorded, raising=False)
    monkeypatch.setattr(cv2, "VideoCapture", RecordedCamera)
    plug = recorded / "plugged"
    with Watched("camera:0") as feed:
        feed.until_frames(30)
        plug.unlink()
        feed.until(lambda: feed.kinds[-1] == "failed")
        plug.touch()
        feed.until(lambda: feed.kinds[-1] == "connected")
        feed.until_frames()
    assert [kind for kind in feed.kinds if kind != "failed"] == ["connected", "lost", "connected"]
    assert feed.events[1].reason == "the camera stopped giving pictures; check its cable"
    assert feed.events[2].reason.startswith("--camera 0: no ")
    stamps = [frame.stamp for frame in feed.frames]
    assert [stamp.seq for stamp in stamps] == list(range(len(stamps)))
    assert {stamp.epoch for stamp in stamps} == {0, 1}
    assert all(shows(frame.image_bgr, [RED, GREEN, BLUE, GREY], within=12) for frame in feed.frames)


def test_a_run_on_a_camera(recorded: Path) -> None:
    """The program as it is, all its processes; only OpenCV's edge is another."""
    (recorded / "sitecustomize.py").write_text(SITECUSTOMIZE.format(folder=str(recorded)))
    environment = {**os.environ, "PYTHONPATH": f"{recorded}{os.pathsep}{Path(__file__).parent}"}
    out = recorded / "rows.jsonl"
    words = ["--camera", "0", "--engine", "cednn", "--frames", "30", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "run_stream.py", *words],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["sources"][0]["source"] == "camera:0"
    assert rows[0]["sources"][0]["live"] is True
    ledger = rows[-1]
    assert (ledger["captured"], ledger["balanced"], ledger["ended"]) == (30, True, "frame limit")
    assert ledger["delivered"] == sum(row["type"] == "result" for row in rows) > 0


def test_a_real_camera() -> None:
    if not Path("/dev/video0").exists():
        pytest.skip("no /dev/video0 on this machine, and none can be made: v4l2loopback is a kernel module")
    frames = list(islice(CameraSource(0, "camera:0").frames(Ledger("camera:0")), 5))
    assert all(frame.image_bgr.std() > 0 for frame in frames)


def test_close_releases_the_device() -> None:
    device = FakeDevice([COLOUR])
    CameraSource(0, "camera:0", lambda _: device).close()  # type: ignore[arg-type]
    assert device.released


def test_a_camera_that_is_not_there_is_one_line() -> None:
    if Path("/dev/video63").exists():
        pytest.skip("there is a camera 63")
    script = (
        "import sys\nfrom pipeline.sources import open_source, resolve_sources\n"
        "try:\n    open_source(resolve_sources([], [63])[0])\n"
        "except Exception as error:\n    sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("--camera 63: no such camera")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
