"""Cameras through OpenCV."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError, StalledError
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo

cv2.setLogLevel(0)  # OpenCV's own chatter; what is wrong is said here, in one line
# Whole seconds after which OpenCV's Video4Linux reader gives up waiting for a picture; left alone, ten.
# A stall is to be noticed within two.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
_WAITED_SECONDS = 0.8
"""A read that fails after so long has waited for a picture; one that fails at once has lost the device."""
_FIRST_SECONDS = 5.0
"""A camera that has just been opened may take so long to its first picture."""


class CameraSource:
    """A camera through OpenCV; PTS is the time since its first frame. Its frames end when `stop` says so.

    Raises:
        SourceError: there is no such camera, it may not be opened, or another program uses it.
    """

    def __init__(
        self,
        number: int,
        stream: str,
        open_device: Callable[[int], cv2.VideoCapture] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ):
        self._stop = stop
        self._device = (open_device or cv2.VideoCapture)(number)
        first = self._first_picture()
        if first is None:
            self._device.release()
            raise SourceError(f"--camera {number}: {_why_not(Path(f'/dev/video{number}'))}")
        height, width = first.shape[:2]
        rate = self._device.get(cv2.CAP_PROP_FPS)
        self.info = StreamInfo(
            stream, (width, height), rate if 1.0 <= rate <= 240.0 else 30.0, None, live=True
        )

    def frames(self, ledger: Ledger, epoch: int = 0, first_seq: int = 0) -> Iterator[Frame]:
        # The picture that showed that the camera works is old by now.
        began, seq, size_wh = None, first_seq, self.info.size_wh
        while not self._stop():
            asked = time.monotonic()
            ok, image = self._device.read()
            now = time.monotonic()
            if not ok or image is None:
                lost = StalledError if now - asked > _WAITED_SECONDS else SourceError
                raise lost(f"{self.info.stream}: the camera stopped giving pictures; check its cable")
            began = now if began is None else began
            if size_wh != (image.shape[1], image.shape[0]):
                epoch, size_wh = epoch + 1, (image.shape[1], image.shape[0])
            ledger.captured += 1
            yield Frame(Stamp(self.info.stream, epoch, seq, now - began, now, time.time()), _as_bgr(image))
            seq += 1

    def close(self) -> None:
        self._device.release()

    def _first_picture(self) -> Any:
        """An array; None when none comes."""
        began = asked = time.monotonic()
        while self._device.isOpened() and asked - began < _FIRST_SECONDS and not self._stop():
            ok, image = self._device.read()
            if ok and image is not None:
                return image
            if time.monotonic() - asked < _WAITED_SECONDS:
                break
            asked = time.monotonic()
        return None


def _why_not(device: Path) -> str:
    """Why a camera gives no picture; Linux shows cameras as files."""
    others = sorted(device.parent.glob("video[0-9]*"))
    if not device.exists() and sys.platform == "linux":
        there = ", ".join(path.name.removeprefix("video") for path in others) or "none"
        return f"no such camera; check that it is plugged in (cameras found: {there})"
    if device.exists() and not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened; add yourself to the group video"
    return "no picture from this camera; check that no other program uses it, or try another number"


def _as_bgr(image: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Colour, grey, with alpha, 8 or 16 bits: as drivers give it."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[:, :, :3])
