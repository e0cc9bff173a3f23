"""Cameras through OpenCV."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo


class CameraSource:
    """A camera through OpenCV; PTS is the time since its first frame."""

    def __init__(
        self, number: int, stream: str, open_device: Callable[[int], cv2.VideoCapture] = cv2.VideoCapture
    ):
        level = cv2.setLogLevel(0)  # what is wrong is said below, in one line
        self._device = open_device(number)
        ok, first = self._device.read() if self._device.isOpened() else (False, None)
        cv2.setLogLevel(level)
        if not ok or first is None:
            self._device.release()
            raise SourceError(
                f"--camera {number}: no picture from this camera; check that it is plugged in and no other "
                "program uses it, or try another number"
            )
        self._first = first
        height, width = first.shape[:2]
        rate = self._device.get(cv2.CAP_PROP_FPS)
        self.info = StreamInfo(
            stream, (width, height), rate if 1.0 <= rate <= 240.0 else 30.0, None, live=True
        )

    def frames(self, ledger: Ledger, epoch: int = 0, first_seq: int = 0) -> Iterator[Frame]:
        began = time.monotonic()
        seq, image = first_seq, self._first
        while True:
            now = time.monotonic()
            ledger.captured += 1
            yield Frame(Stamp(self.info.stream, epoch, seq, now - began, now, time.time()), _as_bgr(image))
            seq += 1
            ok, image = self._device.read()
            if not ok or image is None:
                raise SourceError(f"{self.info.stream}: the camera stopped giving pictures; check its cable")

    def close(self) -> None:
        self._device.release()


def _as_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[:, :, :3])
