from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.camera import CameraSource
from pipeline.errors import SourceError
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
    with pytest.raises(SourceError, match="--camera 3: no picture"):
        CameraSource(3, "camera:3", lambda _: device)  # type: ignore[arg-type]
    assert device.released


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
    assert done.stderr.startswith("--camera 63: no picture from this camera")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
