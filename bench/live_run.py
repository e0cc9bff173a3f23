"""`run_stream.py` on feeds, started as a user would start it and watched from outside: its rows, what it
says, its processes, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

from bench.processes import alive, descriptors, memory_mb, processes_of, run_folder
from bench.row_check import wrong_rows
from pipeline.errors import RunError
from pipeline.spares import SPARED

_ROOT = Path(__file__).parents[1]
_LOOK_SECONDS = 0.02
_END_SECONDS = 20.0
_SPARE_LOADS_SECONDS = 3.0
"""So long a spare takes to load once it is seen."""


class Seen(NamedTuple):
    """A result row, as somebody who follows the file sees it."""

    seconds: float
    """When, on the monotonic clock."""
    epoch: int
    frame: int
    file: int = 0
    """Which of the run's files it is in: a sink that is started anew begins another."""

    @property
    def place(self) -> tuple[int, int]:
        """File and epoch: what is broken begins a new one of either."""
        return self.file, self.epoch


NOWHERE = (-1, -1)
"""A place before all others."""


@dataclass(frozen=True, slots=True)
class Sample:
    """All processes of a run at one moment."""

    seconds: float
    processes: int
    descriptors: int
    memory_mb: float
    """Resident; pages that several share count for each."""
    shared_files: int
    """In the run's directory in shared memory."""


def too_much(growth: Mapping[str, float], most: Mapping[str, float], per: str = "") -> list[str]:
    """What grew beyond its bound, in words; `per`: such as ` an hour`."""
    return [
        f"{name} {grown:+.0f}{per}, at most {most[name]:+.0f}"
        for name, grown in growth.items()
        if grown > most[name]
    ]


class LiveRun:
    """A run in processes.

    Args:
        sources: what --source takes.
        out: the .jsonl file that it writes.
        words: more of the command line.
        environment: what is added to this process's own.
    """

    def __init__(
        self,
        sources: Sequence[str],
        out: Path,
        words: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.out = out
        self.rows: dict[str, list[Seen]] = defaultdict(list)
        """By stream."""
        self.said: list[tuple[float, str]] = []
        """Lines on stderr, with the time they came at."""
        command = [sys.executable, str(_ROOT / "run_stream.py")]
        for source in sources:
            command += ["--source", source]
        self.process = subprocess.Popen(
            [*command, "--out", str(out), *words],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._pids: set[int] = {self.process.pid}
        self._folder: Path | None = None
        self._over = Event()
        self._threads = [Thread(target=work, daemon=True) for work in (self._listen, self._follow)]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def pids(self) -> dict[str, int]:
        """Of the stages, and of the `supervisor`."""
        self._folder = self._folder or run_folder(self.process)
        found = dict(processes_of(self.process, "supervisor"))
        self._pids |= set(found.values())
        return found

    def await_spares(self, seconds: float) -> None:
        """Until spares of the stages that have some stand ready, or the time is over."""
        deadline = time.monotonic() + seconds
        wanted = {f"spare {name}" for name in SPARED}
        while self.running and time.monotonic() < deadline and not wanted <= self.pids().keys():
            time.sleep(10 * _LOOK_SECONDS)
        time.sleep(_SPARE_LOADS_SECONDS)

    def wait_for_rows(self, streams: Sequence[str], count: int, seconds: float) -> None:
        """Until each of the streams has given so many rows.

        Raises:
            RunError: the run ended, or the time was over.
        """
        deadline = time.monotonic() + seconds
        while any(len(self.rows[stream]) < count for stream in streams):
            if not self.running or time.monotonic() > deadline:
                last = self.said[-1][1] if self.said else "nothing"
                raise RunError(f"the run gave no results within {seconds:g} s; it last said: {last}")
            time.sleep(_LOOK_SECONDS)

    def first_row(self, stream: str, after: float, beyond: tuple[int, int]) -> Seen | None:
        """The first row seen after a moment, of a later place than the one given."""
        rows = self.rows[stream]
        since = bisect_right(rows, after, key=lambda row: row.seconds)
        return next((row for row in rows[since:] if row.place > beyond), None)

    def await_row(self, stream: str, after: float, beyond: tuple[int, int], seconds: float) -> float | None:
        """When that row was seen; None if the run ended first, or the time was over."""
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            if (row := self.first_row(stream, after, beyond)) is not None:
                return row.seconds
            time.sleep(_LOOK_SECONDS)
        return None

    def longest_gap(self, stream: str, since: float, until: float) -> float:
        """Seconds without a row of this stream, within an interval."""
        moments = [row.seconds for row in self.rows[stream] if since < row.seconds < until]
        edges = [since, *moments, until]
        return max(b - a for a, b in pairwise(edges))

    def sample(self) -> Sample:
        pids = self.pids().values()
        files = len(list(self._folder.glob("**/*"))) if self._folder else 0
        return Sample(
            time.monotonic(),
            sum(map(alive, pids)),
            sum(map(descriptors, pids)),
            sum(map(memory_mb, pids)),
            files,
        )

    def wait(self, seconds: float) -> None:
        """Until it has ended by itself.

        Raises:
            RunError: it has not, within the time.
        """
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise RunError(
                f"the run did not end within {seconds:g} s; it last said: {self.said[-1:]}"
            ) from None

    def end(self) -> bool:
        """End it as Ctrl-C does; False where it had to be killed."""
        willing = True
        self.pids()
        if self.running:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                willing = False
                for pid in self.pids().values():
                    os.kill(pid, signal.SIGKILL)
                self.process.wait()
        self._over.set()
        for thread in self._threads:
            thread.join(2.0)
        return willing

    def left(self) -> list[str]:
        """What is still there a moment after the end, in words; processes are ended."""
        deadline = time.monotonic() + 3.0
        while (self._left_pids() or self._left_folder()) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        pids, folder = self._left_pids(), self._left_folder()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return [f"{len(pids)} processes"] * bool(pids) + ["shared memory"] * folder

    def complaints(self, no_files: bool = False) -> list[str]:
        """What it is to blame for once it has ended, a few words each.

        Args:
            no_files: its files need not be whole.
        """
        found = self.left()
        if any(line.startswith("Traceback") for _, line in self.said):
            found.append("a traceback")
        ledgers, files = self.ledgers() or {}, self.files()
        whole = [file for file in files if file.suffix != ".part"]
        if not whole and not no_files:
            found.append("no whole file")
        # Files that a sink left when it died, of which every ledger tells, and the last one.
        deaths = max((ledger["restarts"].get("sink", 0) for ledger in ledgers.values()), default=0)
        if whole and (whole != files[-1:] or len(files) != deaths + 1):
            found.append(f"{len(files)} files of {deaths + 1} sinks, {len(whole)} of them whole")
        unbalanced = sum(not ledger["balanced"] for ledger in ledgers.values())
        if unbalanced:
            found.append(f"{unbalanced} ledgers do not balance")
        with ExitStack() as stack:
            opened = [stack.enter_context(file.open()) for file in files]
            found += wrong_rows(*opened, whole=bool(whole))
        return found

    def files(self) -> list[Path]:
        """What it has written, oldest first: one file, and one more for every sink that was started anew."""
        later = self.out.parent.glob(f"{self.out.stem}.[0-9][0-9][0-9][0-9]{self.out.suffix}*")
        first = (self.out.with_name(self.out.name + ".part"), self.out)
        return [file for file in (*first, *sorted(later)) if file.exists()]

    def ledgers(self) -> dict[str, dict[str, Any]] | None:
        """The ledger rows by stream; None where the last file is not whole."""
        last = self.files()[-1:]
        if not last or last[0].suffix == ".part":
            return None
        rows = [json.loads(line) for line in last[0].read_text().splitlines()]
        return {row["stream"]: row for row in rows if row["type"] == "ledger"}

    def _left_pids(self) -> list[int]:
        return [pid for pid in self._pids if pid != self.process.pid and alive(pid)]

    def _left_folder(self) -> bool:
        return self._folder is not None and self._folder.exists()

    def _listen(self) -> None:
        for line in self.process.stderr or ():
            self.said.append((time.monotonic(), line.rstrip()))

    def _follow(self) -> None:
        number = 0
        while not self._over.wait(_LOOK_SECONDS):
            files = self.files()
            if len(files) > number:
                self._read(files[number], number)
                number += 1

    def _read(self, path: Path, number: int) -> None:
        """Read a file until the run is over, or until there is another and this one has no more."""
        with path.open() as file:
            pending, leaving = "", False
            while not self._over.is_set():
                pending += file.readline()
                if pending.endswith("\n"):
                    row, pending = json.loads(pending), ""
                    if row["type"] == "result":
                        seen = Seen(time.monotonic(), row["epoch"], row["frame"], number)
                        self.rows[row["stream"]].append(seen)
                elif leaving:
                    return
                else:
                    leaving = len(self.files()) > number + 1  # then one more look: what is there now is all
                    self._over.wait(_LOOK_SECONDS)
