"""One worker process as the supervisor sees it: the lines to it, and what it has said."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from pipeline.channels import Receiver, Sender
from pipeline.errors import PeerLostError, RunError
from pipeline.messages import Ledger
from pipeline.snapshot import Histogram
from pipeline.stages.wiring import line_socket, stage_of
from pipeline.stages.worker import patience_seconds
from pipeline.streams import HAND_OVERS, Beat, Control, Event, Failure, Ready, Seen, Timing

_ROOT = Path(__file__).parents[1]

START_SECONDS = 600.0
"""Compiling an engine for the first time takes a while, rendering the demo clip too."""
_SILENT_SECONDS, STOPPED_SECONDS = 0.45, 0.6
"""Who is silent for longer than between two heartbeats is looked at. One that somebody has stopped (SIGSTOP),
and not let go on for so long, says nothing by itself any more: it is not waited for."""
_STARVED = 6
"""How many times as long a process may be silent that wants a processor."""


class StageError(RunError):
    """A stage died or failed; its traceback, if it had one, is in `traceback`."""

    def __init__(self, message: str, traceback: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.traceback = traceback
        self.exit_code = exit_code


class StageProcess:
    """A worker, from its start to its end. `life`: how often its stage was started anew before."""

    def __init__(self, name: str, folder: Path, life: int = 0) -> None:
        """name: one of the `wiring`."""
        self.name, self.stage, self.life = name, stage_of(name), life
        self._reports = Receiver(
            line_socket(folder, "reports", name, life), "reports", HAND_OVERS["reports"].credits
        )
        self._control = Sender(line_socket(folder, "control", name, life), "control")
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        )
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.stages", name, str(folder), str(life)],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:
            self.close()
            raise RunError(f"{self.title} cannot be started: {error}; the system is out of room") from error
        self.began_seconds = time.monotonic()
        self.started = False
        """Told to start: from then on it must give heartbeats."""
        self.hung = ""
        """How it hung, when it was killed for that."""
        self.ready: list[dict[str, Any]] = []
        self.failure: Failure | None = None
        self.ledgers: dict[str, Ledger] = {}
        self.events: list[Event] = []
        self.seen: dict[str, Seen] = {}
        self.timings: dict[tuple[str, str], Histogram] = {}
        """By stage and engine, "" for the stage as a whole."""
        self.waiting = self.passed_on = 0
        """As it said in its last heartbeat."""
        self.wish: str | None = None
        self._untold: deque[Control] = deque()
        self._heard_seconds = time.monotonic()
        self._stopped_since: float | None = None
        self._patience_seconds = patience_seconds(self.stage)

    @property
    def title(self) -> str:
        """As it is called in the log."""
        return f"the {self.name} stage"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def comes_back(self) -> bool:
        """Whether it is being started anew, or is one without which nothing goes; not so the capture of a
        feed that has never been there, which may take its time."""
        return not self.started and (self.life > 0 or self.stage != "capture")

    @property
    def failed(self) -> bool:
        """Whether it is dead and had not come to its end."""
        return not self.alive and self.process.returncode != 0

    def hangs(self, soon: bool = False) -> bool:
        """Whether it has said nothing for too long; call `listen` first.

        While it starts it may say nothing for START_SECONDS. At work, one that wants a processor and gets
        none is given more time: a machine too busy is no reason to do the work again. One that spins is found
        so, too, only later.

        Args:
            soon: one that was stopped is not waited for, as it can be started anew. Only when this is asked
                again and again.
        """
        if not self.started:
            return self.alive and time.monotonic() - self.began_seconds > START_SECONDS
        now = time.monotonic()
        silent_seconds = now - self._heard_seconds
        if silent_seconds <= _SILENT_SECONDS or not self.alive:
            self._stopped_since = None
            return False
        states = _thread_states(self.process.pid)
        self._stopped_since = (self._stopped_since or now) if "T" in states else None
        if soon and self._stopped_since is not None and now - self._stopped_since > STOPPED_SECONDS:
            return True
        if silent_seconds <= self._patience_seconds:
            return False
        return silent_seconds > _STARVED * self._patience_seconds or "R" not in states

    def kill_hung(self) -> None:
        """SIGTERM would not even be heard by one that was stopped."""
        self.hung = self._no_word() if self._stopped_since is None else "it was stopped"
        self.process.kill()
        self.process.wait()

    def _no_word(self) -> str:
        seconds = self._patience_seconds if self.started else START_SECONDS
        return f"it hung: no word for {seconds:g} s"

    def forgive(self) -> None:
        """Its silence so far counts for nothing: nobody listened."""
        self._heard_seconds, self._stopped_since = time.monotonic(), None

    @property
    def at_length(self) -> bool:
        """Whether it has asked for longer than usual, and that time is not over; call `listen` first."""
        return self.alive and self._patience_seconds > patience_seconds(self.stage) and not self.hangs()

    def listen(self) -> None:
        """Take in what the worker has reported, and send what it could not yet take."""
        self._speak()
        # A process that is gone is no error here; poll() tells.
        with contextlib.suppress(PeerLostError):
            while (message := self._reports.receive(0)) is not None:
                if isinstance(message, Ready):
                    self.ready.append(json.loads(message.about))
                elif isinstance(message, Beat):
                    self._heard_seconds, self._patience_seconds = time.monotonic(), message.patience_seconds
                    self.waiting, self.passed_on = message.waiting, message.passed_on
                elif isinstance(message, Failure):
                    self.failure = self.failure or message
                elif isinstance(message, Ledger):
                    self.ledgers[message.stream] = message
                elif isinstance(message, Event):
                    self.events.append(message)
                elif isinstance(message, Seen):
                    self.seen[message.stream] = message
                elif isinstance(message, Timing):
                    self.timings[message.stage, message.engine] = message.latency
                elif isinstance(message, Control):
                    self.wish = message.reason
                self._reports.done()

    def tell(self, verb: str, reason: str = "", stream: str = "") -> None:
        """Send word, now or as soon as the worker takes it."""
        if verb == "start":
            self.started, self._heard_seconds = True, time.monotonic()
        self._untold.append(Control(verb, reason, stream))  # type: ignore[arg-type]
        self._speak()

    def _speak(self) -> None:
        with contextlib.suppress(PeerLostError):
            while self._untold and self._control.try_send(self._untold[0]):
                self._untold.popleft()

    def error(self) -> StageError:
        """What to tell the user about its end."""
        failure = self.failure
        if failure is None:
            return StageError(f"{self.title} died ({self.how_it_ended()}); {self.files}")
        if failure.traceback:
            return StageError(f"{self.title} failed: {failure.error}", failure.traceback)
        return StageError(failure.error, exit_code=failure.exit_code)

    @property
    def files(self) -> str:
        """What its end leaves of the files, when it ends the run."""
        if self.name == "sink":
            return "the files that it had open stay .part"
        return "the files were closed as far as they went"

    def how_it_ended(self) -> str:
        code = self.process.returncode
        if self.hung:
            return self.hung
        if self.failure is not None:
            return self.failure.error
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """The process has gone: a next one on the same sockets is to hear nothing that was meant for it."""
        self._reports.close()
        self._control.close(at_once=True)


def _thread_states(pid: int) -> set[str]:
    """States of the threads of a process, as Linux tells: R could run now, T was stopped; elsewhere none."""
    states = set()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.add(stat.read_text().rsplit(")", 1)[1].split()[0])
    return states
