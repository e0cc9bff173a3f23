"""Windows of 16 frames: which frames of a face a temporal engine looks at, and when.

A window holds consecutive kept frames of one face in one epoch at an even spacing, every n-th of them, n
chosen so that the spacing comes nearest to the rate of the footage that the engine was trained on. A lost
face, an uneven gap or a new epoch ends it; it is never spliced.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import WindowInfo


def spacing(rate_hz: float, trained_rate_hz: float) -> int:
    """Every how many frames a window takes one, so that rate_hz / n comes nearest to the training rate."""
    upper = max(1, math.ceil(rate_hz / trained_rate_hz))
    return min(
        range(max(1, upper - 1), upper + 1), key=lambda n: abs(math.log(rate_hz / n / trained_rate_hz))
    )


class FaceWindow:
    """The frames of one face that an engine may still need, newest last."""

    def __init__(self, length: int, every: int, hop: int) -> None:
        self._span = (length - 1) * every + 1
        self._every = every
        self._hop = hop
        self._crops: deque[NDArray[np.uint8]] = deque(maxlen=self._span)
        self._pts: deque[float] = deque(maxlen=self._span)
        self._last: tuple[int, int] | None = None

    def push(
        self,
        crop_bgr: NDArray[np.uint8],
        epoch: int,
        seq: int,
        stride: int,
        track_index: int,
        pts_seconds: float,
    ) -> tuple[WindowInfo, NDArray[Any] | None]:
        """Take the newest crop (S×S×3 uint8): the window's state and, when one is due, the pixels (N×S×S×3).

        Outputs are counted from the start of the track: one whenever (track_index + 1) is a multiple of the
        hop and the window is full.
        """
        if self._last is not None and (epoch, seq) != (self._last[0], self._last[1] + stride):
            self._crops.clear()
            self._pts.clear()
        self._last = (epoch, seq)
        self._crops.append(crop_bgr)
        self._pts.append(pts_seconds)
        if len(self._crops) < self._span:
            return WindowInfo("warming", None, None, self._every), None
        if (track_index + 1) % self._hop:
            return WindowInfo("off_hop", None, None, self._every), None
        return WindowInfo("ready", self._pts[0], self._pts[-1], self._every), np.stack(
            list(self._crops)[:: self._every]
        )
