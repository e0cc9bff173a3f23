"""Keeping up with a live source: which frames are kept, so that latency stays flat and windows evenly spaced.

Under overload every k-th frame is kept (`stride` k). k follows what the rest of the pipeline takes: it rises
when kept frames found no room, and falls, one step at a time, after a quiet while. A step down that brings
the trouble back makes the next try wait longer, so that k changes rarely.
"""

from __future__ import annotations

import math

MAX_STRIDE = 60
_LOOK_SECONDS = 1.0
_HICCUP = 0.25
"""Share of a second's kept frames that may find no room, once; a second such second is no hiccup."""
_QUIET_SECONDS = (5.0, 60.0)
"""First and longest wait before the stride is tried one lower."""


class Pacer:
    """The stride of one live stream. Times are those of the frames' capture, so a replay decides alike."""

    def __init__(self) -> None:
        self.stride = 1
        self._began: float | None = None
        self._kept = self._crowded_out = 0
        self._quiet_since = 0.0
        self._troubled = False
        self._patience = _QUIET_SECONDS[0]
        self._lowered_at = -math.inf
        self._raised_at = 0.0

    def keep(self, seq: int) -> bool:
        """Whether a frame is kept at the present stride."""
        return seq % self.stride == 0

    def note(self, seconds: float, crowded_out: int) -> None:
        """A kept frame, and how many kept frames were dropped for want of room since the last one."""
        if self._began is None:
            self._began = self._quiet_since = seconds
        self._kept += 1
        self._crowded_out += crowded_out
        if seconds - self._began < _LOOK_SECONDS:
            return
        lost = self._crowded_out / self._kept
        if lost > _HICCUP or (lost > 0 and self._troubled):
            self._raise(seconds, lost)
        elif self.stride > 1 and seconds - self._quiet_since >= self._patience:
            if self._lowered_at >= self._raised_at:
                self._patience = _QUIET_SECONDS[0]  # the last step down went well: the load has gone
            self.stride -= 1
            self._lowered_at = self._quiet_since = seconds
        self._troubled = lost > 0
        self._began, self._kept, self._crowded_out = seconds, 0, 0

    def _raise(self, seconds: float, lost: float) -> None:
        if seconds - self._lowered_at < 2 * self._patience:
            self._patience = min(2 * self._patience, _QUIET_SECONDS[1])
        # Of s frames a stride only 1 − lost got through: that many more must be left out.
        wanted = math.ceil(self.stride / max(1.0 - lost, 0.05) - 0.1)
        self.stride = min(max(self.stride + 1, wanted), MAX_STRIDE)
        self._quiet_since = self._raised_at = seconds
