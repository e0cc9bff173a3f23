"""Keeping up with a live source: which frames are kept, so that latency stays flat and windows evenly spaced.

Under overload every k-th frame is kept (`stride` k). k follows what the rest of the pipeline takes: it rises
when kept frames found no room, or had to wait for it, which says that all queues are full and every result
late; it falls, one step at a time, after a quiet while. A step down that brings the trouble back is taken
back at once and makes the next try wait longer, so that k changes rarely.
"""

from __future__ import annotations

import math

MAX_STRIDE = 60
_LOOK_SECONDS = 1.0
_HICCUP_LOST, _HICCUP_LATE = 0.25, 0.6
"""Shares of a second's kept frames that may find no room, or wait for it, once; a second such second is no
hiccup."""
_PAUSE = 6
"""Kept frames that are left out after a step up, so that full queues empty at once: windows begin anew there
anyway."""
_TRIAL_SECONDS, _TRIAL_LATE = 10.0, 3
"""So long after a step down so many late frames within a second take it back."""
_QUIET_SECONDS = (5.0, 60.0)
"""First and longest wait before the stride is tried one lower."""


_STALL_SECONDS, _STALL_TIMES = 0.25, 4.0
"""The next stage stands still when it has taken nothing for so long, and for so many times its usual."""
_FORGETS = 0.95
"""What of the longest wait so far still counts as usual after one more frame."""


class Stall:
    """Tells a next stage that stands still, as when it hangs, from one that is slow."""

    def __init__(self) -> None:
        self._done = 0
        self._since: float | None = None
        self._usual_seconds = 0.0

    def look(self, seconds: float, done: int, pending: int) -> bool:
        """Whether it stands still now.

        Args:
            seconds: on any clock.
            done: messages that it has worked through so far; fewer than before when it is another one.
            pending: messages that it has and has not worked through.
        """
        since = seconds if self._since is None else self._since
        most = max(_STALL_SECONDS, _STALL_TIMES * self._usual_seconds)
        if done != self._done or pending == 0:
            if done > self._done:
                waited = min(seconds - since, most)
                self._usual_seconds = max(waited, _FORGETS * self._usual_seconds)
            self._done, self._since = done, seconds
            return False
        self._since = since
        return seconds - since > most


class Pacer:
    """The stride of one live stream. Times are those of the frames' capture, so a replay decides alike."""

    def __init__(self) -> None:
        self.stride = 1
        self._pause = 0
        self._began: float | None = None
        self._kept = self._crowded_out = self._waited = 0
        self._quiet_since = 0.0
        self._troubled = False
        self._patience = _QUIET_SECONDS[0]
        self._lowered_at = -math.inf
        self._raised_at = -math.inf

    def keep(self, seq: int) -> bool:
        """Whether a frame is kept at the present stride."""
        if seq % self.stride:
            return False
        paused = self._pause > 0
        self._pause -= paused
        return not paused

    def note(self, seconds: float, crowded_out: int, waits: bool) -> None:
        """A kept frame, how many kept frames were dropped for want of room since the last one, and whether
        the queues behind this one are full."""
        if self._began is None:
            self._began = self._quiet_since = seconds
        self._kept += 1
        self._crowded_out += crowded_out
        self._waited += waits
        on_trial = self._raised_at < self._lowered_at and seconds - self._lowered_at < _TRIAL_SECONDS
        if on_trial and self._waited >= _TRIAL_LATE:
            self._raise(seconds, 0.0)
            self._look_anew(seconds)
        if seconds - self._began < _LOOK_SECONDS:
            return
        lost, late = self._crowded_out / self._kept, self._waited / self._kept
        trouble = lost > 0 or late > _HICCUP_LATE / 2
        if lost > _HICCUP_LOST or late > _HICCUP_LATE or (trouble and self._troubled):
            self._raise(seconds, lost)
        elif self.stride > 1 and seconds - self._quiet_since >= self._patience:
            if self._lowered_at >= self._raised_at:
                self._patience = _QUIET_SECONDS[0]  # the last step down went well: the load has gone
            self.stride -= 1
            self._lowered_at = self._quiet_since = seconds
        self._troubled = trouble
        self._look_anew(seconds)

    def look_anew(self, stride: int) -> None:
        """What was noted since this stride was right says nothing of the load."""
        self.stride, self._pause = stride, 0
        self._began, self._troubled = None, False
        self._kept = self._crowded_out = self._waited = 0

    def _look_anew(self, seconds: float) -> None:
        self._began = seconds
        self._kept = self._crowded_out = self._waited = 0

    def _raise(self, seconds: float, lost: float) -> None:
        if seconds - self._lowered_at < 2 * self._patience:
            self._patience = min(2 * self._patience, _QUIET_SECONDS[1])
        # Of s frames a stride only 1 − lost got through: that many more must be left out.
        wanted = math.ceil(self.stride / max(1.0 - lost, 0.05) - 0.1)
        self.stride = min(max(self.stride + 1, wanted), MAX_STRIDE)
        self._quiet_since = self._raised_at = seconds
        self._pause = _PAUSE
