"""The overlay in a window; q or Esc ends the run, and so does closing it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2

from engines.spec import EngineSpec
from pipeline.errors import UsageError
from pipeline.messages import AUResult, Frame, Ledger, StreamInfo
from pipeline.overlay import Overlay
from pipeline.sinks.rate import RateMeter

LARGEST_WH = (1280, 900)
"""Larger pictures are scaled down, to fit common screens."""

_QUIT_KEYS = (ord("q"), ord("Q"), 27)
_PROBE = "import cv2; cv2.namedWindow('austream'); cv2.waitKey(1); cv2.destroyAllWindows()"


class WindowSink:
    """One window per stream. It belongs to the main thread, as the systems' window kits demand."""

    lossless = False

    def __init__(self, engines: Sequence[EngineSpec]) -> None:
        """UsageError when there is no display."""
        check_display()
        self._overlay = Overlay(engines)
        self._rates: dict[str, RateMeter] = {}
        self._shown: set[str] = set()
        self.closed = False
        """True once somebody asked for the end of the run."""

    def open_stream(self, info: StreamInfo) -> None:
        self._rates[info.stream] = RateMeter()

    def write(self, frame: Frame, results: Sequence[AUResult]) -> None:
        if self.closed:
            return
        stream = frame.stamp.stream
        title = f"austream · {stream}"
        if title in self._shown and not _visible(title):
            self._close()
            return
        height, width = frame.image_bgr.shape[:2]
        scale = min(1.0, LARGEST_WH[0] / width, LARGEST_WH[1] / height)
        picture = self._overlay.draw(frame, results, self._rates[stream].tick(), scale)
        if title not in self._shown:
            cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
            self._shown.add(title)
        cv2.imshow(title, picture)
        if cv2.waitKey(1) & 0xFF in _QUIT_KEYS:
            self._close()

    def close_stream(self, ledger: Ledger) -> None:
        title = f"austream · {ledger.stream}"
        if title in self._shown and not self.closed:
            self._shown.discard(title)
            with suppress(cv2.error):
                cv2.destroyWindow(title)

    def finish(self) -> list[Path]:
        self._destroy()
        return []

    def abort(self) -> None:
        self._destroy()

    def _close(self) -> None:
        self.closed = True
        self._destroy()

    def _destroy(self) -> None:
        if self._shown:
            self._shown.clear()
            with suppress(cv2.error):
                cv2.destroyAllWindows()


def _visible(title: str) -> bool:
    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # the last window is gone
        return False


def check_display() -> None:
    """UsageError when no window can be opened.

    Tried in a process of its own: where the display does not answer, the window kit ends the whole process.
    """
    advice = "run it on a desktop, or write the overlay to a file with --out overlay.mp4"
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        raise UsageError(f"--window: there is no display (DISPLAY is not set); {advice}")
    try:
        probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        raise UsageError(f"--window: the display does not answer; {advice}") from None
    if probe.returncode != 0:
        where = f"display {os.environ['DISPLAY']}" if os.environ.get("DISPLAY") else "display"
        raise UsageError(f"--window: the {where} cannot be used; {advice}")
