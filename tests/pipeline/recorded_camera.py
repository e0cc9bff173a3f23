"""A camera at OpenCV's edge whose pictures come from a file: in the place of `cv2.VideoCapture`.

A loopback video device needs a kernel module, which a test cannot load. What it plays and whether it is
plugged in stands in files, so that a test can pull the cable of another process's camera.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2

_OpenFile = cv2.VideoCapture
RATE_HZ = 30.0


class RecordedCamera:
    """Plays `clip.*` of a folder again and again, at 30 frames/s, while `plugged` is there."""

    folder: Path

    def __init__(self, number: int) -> None:
        assert isinstance(number, int)
        clip = next(self.folder.glob("clip.*"))
        self._film = _OpenFile(str(clip)) if self._plugged else None
        self._due = time.monotonic()

    @property
    def _plugged(self) -> bool:
        return (self.folder / "plugged").exists()

    def isOpened(self) -> bool:
        return self._film is not None

    def read(self) -> tuple[bool, Any]:
        if self._film is None or not self._plugged:
            return False, None
        self._due = max(self._due + 1 / RATE_HZ, time.monotonic() - 1 / RATE_HZ)
        time.sleep(max(0.0, self._due - time.monotonic()))
        there, image = self._film.read()
        if not there:
            self._film.set(cv2.CAP_PROP_POS_FRAMES, 0)
            there, image = self._film.read()
        return there, image

    def get(self, what: int) -> float:
        assert what == cv2.CAP_PROP_FPS
        return RATE_HZ

    def release(self) -> None:
        self._film = None


SITECUSTOMIZE = """
import cv2
from pathlib import Path
from recorded_camera import RecordedCamera
RecordedCamera.folder = Path({folder!r})
cv2.VideoCapture = RecordedCamera
"""
"""Python runs a module of this name before any program: there every process gets the camera."""
