"""Processes that wait to take the place of one that dies: for the stages that all feeds share.

What takes a stage long to begin (Python, the tracker's and the engines' models), a spare has behind it. So
only what was in the dead stage is lost; what comes meanwhile waits (`lanes`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import RunError
from pipeline.stageprocess import StageProcess
from pipeline.stages.wiring import line_socket

SPARED = ("face", "infer", "sink")
"""Not capture: a second connection to a camera may be one too many."""
CALM_SECONDS = 5.0
"""A spare is started when all have been at work for so long: it takes a processor for a second or two."""
_GIVEN_UP_SECONDS = 600.0
"""Where there could be no spare it is tried again after so long."""
_CGROUP = Path("/sys/fs/cgroup")
_SHARE_OF_MEMORY = 0.5
"""At most so much of the memory that is free may a spare take, by what the stage takes."""


class Spares:
    """One spare for each of the stages SPARED, started one after the other."""

    def __init__(self, folder: Path, log: Callable[[str], object]) -> None:
        self._folder, self._log = folder, log
        self._waiting: dict[str, StageProcess] = {}
        self._given_up: dict[str, float] = {}
        """Stages for which there was no spare, as too little memory was there or it died, and when."""
        self._calm_since: float | None = None

    def keep(self, stages: Mapping[str, StageProcess], calm: bool) -> None:
        """Called all the time; `calm`: all stages are at work, and the run goes on."""
        for name, spare in list(self._waiting.items()):
            spare.listen()
            if not spare.alive:
                self._give_up(spare, f"it died ({spare.how_it_ended()})")
                self._end(self._waiting.pop(name))
        now = time.monotonic()
        self._calm_since = (self._calm_since or now) if calm else None
        one_starts = any(not spare.ready for spare in self._waiting.values())
        if self._calm_since is None or now - self._calm_since < CALM_SECONDS or one_starts:
            return
        for name in SPARED:
            given_up = now - self._given_up.get(name, -math.inf) < _GIVEN_UP_SECONDS
            if name not in self._waiting and not given_up:
                self._start(stages[name])
                return

    def take(self, name: str) -> StageProcess | None:
        """The next life of a stage, if a spare is there; perhaps it is not yet ready."""
        self._calm_since = None
        return self._waiting.pop(name, None)

    def close(self) -> None:
        while self._waiting:
            self._end(self._waiting.popitem()[1])

    def _start(self, stage: StageProcess) -> None:
        self._calm_since = None
        takes, there = _resident_bytes(stage.process.pid), _free_bytes()
        if there is not None and takes > _SHARE_OF_MEMORY * there:
            self._give_up(stage, f"it would take {takes >> 20} MB, and {there >> 20} MB are free")
            return
        try:
            self._waiting[stage.name] = StageProcess(stage.name, self._folder, stage.life + 1)
        except RunError as error:
            self._give_up(stage, str(error))

    def _give_up(self, stage: StageProcess, why: str) -> None:
        self._given_up[stage.name] = time.monotonic()
        self._log(f"no spare for {stage.title}: {why}; should the stage die, it takes seconds to come back")

    def _end(self, spare: StageProcess) -> None:
        spare.process.kill()
        spare.process.wait()
        spare.close()
        line_socket(self._folder, "control", spare.name, spare.life).unlink(missing_ok=True)


def _resident_bytes(pid: int) -> int:
    """Memory of a process, as Linux tells; 0 elsewhere."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmRSS:") or 0


def _free_bytes() -> int | None:
    """Memory that a new process could have, in a container what it may, as Linux tells; None elsewhere."""
    found = _kilobytes(Path("/proc/meminfo"), "MemAvailable:")
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or one without a limit
        most, taken = ((_CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        left = int(most) - int(taken)
        return left if found is None else min(found, left)
    return found


def _kilobytes(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(name)), None)
    return None if found is None else int(found.split()[1]) << 10
