"""What every worker process has: the run's folder and options, lines to and from the supervisor, an end.

A worker ignores Ctrl-C, which reaches the whole terminal, and SIGTERM, which a service manager sends to all
processes of a service; the supervisor tells it what to do. When the supervisor is gone, the worker ends its
work in order if it can within `ORPHAN_SECONDS`, and at once after that.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2

from pipeline import log
from pipeline.channels import Receiver, Sender
from pipeline.config import RunConfig
from pipeline.errors import AustreamError, PeerLostError, TransportError
from pipeline.messages import StreamInfo
from pipeline.ring import Ring, Rings, attach_ring
from pipeline.stages.wiring import line_socket, stage_of
from pipeline.streams import HAND_OVERS, Beat, Control, Failure, Message, Ready

ORPHAN_SECONDS = 3.0
CONFIG_FILE, SETUP_FILE, NEUTRAL_FILE = "config.json", "setup.json", "neutral.npz"
LIVES_FILE = "lives.json"
FIRST_WORD_SECONDS = 2.0
"""So long after the first live source is there the others may still come into the header."""
BEAT_SECONDS = 0.25
"""How often a worker says that it is alive."""
_PATIENCE_SECONDS, _SINK_PATIENCE_SECONDS = 5.0, 30.0
"""A worker that says nothing for so long hangs. A sink may wait for a disk; a new one would, too."""
_BEGINNING_SECONDS = 60.0
_HEAR_EVERY_SECONDS = 0.01
_LEAVING_SECONDS = 60.0
PARENT_GONE = "the supervisor is gone"


class Worker:
    """One stage's process, seen from inside.

    Its loop calls `tick` at least every half second, idle or not: that is the heartbeat, and how the
    supervisor's word arrives. Where a step may take longer, `take_time` says so first.
    """

    def __init__(self, name: str, folder: Path, life: int = 0) -> None:
        """name: one of the `wiring`; life: how often this process was started anew."""
        self.name, self.stage, self.folder, self.life = name, stage_of(name), folder, life
        self.config = RunConfig.from_mapping(json.loads((folder / CONFIG_FILE).read_text()), "run")
        log.set_up(self.config.log_json)
        self._control = Receiver(
            line_socket(folder, "control", name, life), "control", HAND_OVERS["control"].credits
        )
        self._reports = Sender(line_socket(folder, "reports", name, life), "reports")
        self._setup: dict[str, Any] = {}
        self._wish: str | None = None
        self._started = False
        self._beat_at = self._heard_at = 0.0
        self._unsaid: deque[Message] = deque(maxlen=64)
        self.waiting = 0
        """Frames that wait here to be sent on, for the supervisor to know."""
        self.passed_on: Callable[[], int] = lambda: 0
        """Messages that the next stage has not yet worked through."""
        self.commands: deque[Control] = deque()
        """What the supervisor has asked of this stage and the stage has not yet done."""
        self.lives: dict[str, int] = {}
        """By channel between two stages: how often one of its ends was started anew."""

    def tick(self) -> None:
        """Hear the supervisor, and let it know that this stage is alive."""
        now = time.monotonic()
        if now - self._heard_at < _HEAR_EVERY_SECONDS:
            return
        self._heard_at = now
        self._hear(0.0)
        while self._unsaid and self.report(self._unsaid[0]):
            self._unsaid.popleft()
        if now - self._beat_at >= BEAT_SECONDS:
            self._beat(patience_seconds(self.stage))

    def take_time(self, seconds: float) -> None:
        """The next step may take so long."""
        self._beat(seconds)

    def report(self, message: Message) -> bool:
        """Tell the supervisor; nobody waits when it is gone or busy. Whether it was sent."""
        try:
            return self._reports.try_send(message)
        except PeerLostError:
            self._wish = self._wish or PARENT_GONE
            return True

    def report_soon(self, message: Message) -> None:
        """Tell the supervisor as soon as it listens, without waiting for it."""
        self._unsaid.append(message)

    def report_surely(self, message: Message) -> None:
        """Tell the supervisor, waiting until it listens."""
        self._reports.send(message, timeout_seconds=2)

    def ready(self, **about: Any) -> None:
        """Tell the supervisor that this stage can go on, and what it found."""
        self._reports.send(Ready(self.stage, json.dumps(about)), timeout_seconds=10)

    def fail(self, error: BaseException, text: str = "") -> None:
        """Tell the supervisor that this stage cannot go on; `text`: the traceback of what is a bug."""
        refused = isinstance(error, AustreamError) and not isinstance(error, TransportError)
        kind = "lost a neighbour" if isinstance(error, PeerLostError) else "refused" if refused else "broken"
        line = str(error) if isinstance(error, AustreamError) else f"{type(error).__name__}: {error}"
        code = error.exit_code if isinstance(error, AustreamError) else 1
        try:
            self._reports.send(Failure(self.stage, line, text, code, kind), timeout_seconds=1)  # type: ignore[arg-type]
        except AustreamError:
            log.complain(text or line)

    def wait_for_start(self) -> bool:
        """Wait until the run begins; False when it is called off."""
        while not self._started:
            self._hear(0.2)
            if self._wish is not None:
                return False
        self.take_time(_BEGINNING_SECONDS)
        self._setup = json.loads((self.folder / SETUP_FILE).read_text())
        self._read_lives()
        return True

    def wish(self) -> str | None:
        """Why the run should stop, if it should; its supervisor's being gone counts as the wish."""
        self.tick()
        return self._wish

    def await_wish(self, timeout_seconds: float) -> str | None:
        """`wish`, waiting for one."""
        deadline = time.monotonic() + timeout_seconds
        while self._wish is None and time.monotonic() < deadline:
            self._hear(0.1)
        return self._wish

    def await_life(self, link: str, life: int) -> int:
        """Wait until the supervisor has started the other end of a channel anew: the channel's new life.

        Raises:
            PeerLostError: it will not.
        """
        while self.lives[link] == life:
            self.tick()
            self.expect_life(link, life)
            time.sleep(_HEAR_EVERY_SECONDS)
        return self.lives[link]

    def expect_life(self, link: str, life: int) -> None:
        """PeerLostError if the other end of a channel has gone and will not be started anew."""
        will_not = self._wish is not None or not self.restarts
        if will_not and self.lives[link] == life:
            raise PeerLostError(f"{link}: the process at the other end is gone")

    @property
    def header(self) -> dict[str, Any]:
        return dict(self._setup["header"])

    @property
    def pixels_to_sink(self) -> bool:
        return bool(self._setup["pixels_to_sink"])

    @property
    def restarts(self) -> bool:
        """Whether processes that die are started anew: then no source waits."""
        return bool(self._setup["restarts"])

    @property
    def streams(self) -> list[str]:
        """Names of the streams that the run began with."""
        return list(self._setup["streams"])

    def ring(self, name: str) -> Ring:
        """The ring that this stage writes; nothing is held by an earlier life any more."""
        ring = attach_ring(self.folder, name, self.stage)
        if self.life:
            ring.reclaim(self.stage)
        return ring

    def rings(self, kind: str) -> Rings:
        """The rings of a kind that others write; nothing is held by an earlier life any more."""
        rings = Rings(self.folder, kind, self.stage)
        if self.life:
            rings.reclaim(self.stage)
        return rings

    def _hear(self, timeout_seconds: float) -> None:
        try:
            while isinstance(message := self._control.receive(timeout_seconds), Control):
                self._control.done()
                self._take(message)
                timeout_seconds = 0.0
        except PeerLostError:
            self._wish = self._wish or PARENT_GONE

    def _take(self, control: Control) -> None:
        if control.verb == "start":
            self._started = True
        elif control.verb == "stop":
            self._wish = self._wish or control.reason
        elif control.verb == "links":
            self._read_lives()
        else:
            self.commands.append(control)

    def _read_lives(self) -> None:
        self.lives = json.loads((self.folder / LIVES_FILE).read_text())

    def _beat(self, patience_seconds: float) -> None:
        # Where there is no room, the supervisor has beats enough that it has not yet heard.
        self.report(Beat(self.stage, patience_seconds, self.waiting, self.passed_on()))
        self._beat_at = time.monotonic()


def patience_seconds(stage: str) -> float:
    """How long a stage may say nothing before it counts as hung."""
    return _SINK_PATIENCE_SECONDS if stage == "sink" else _PATIENCE_SECONDS


def stream_info(entry: dict[str, Any]) -> StreamInfo:
    """A StreamInfo from the JSON of its fields."""
    return StreamInfo(**{**entry, "size_wh": tuple(entry["size_wh"])})


def info_entry(info: StreamInfo) -> dict[str, Any]:
    return asdict(info)


def work(name: str, folder: Path, life: int = 0) -> int:
    """A process from beginning to end; its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(
        signal.SIGTERM, lambda *_: None
    )  # not SIG_IGN, which a compiler that is started would inherit
    parent, stage = os.getppid(), stage_of(name)
    threading.Thread(target=_leave_when_orphaned, args=(parent, stage, folder), daemon=True).start()
    cv2.setNumThreads(1)  # the stages run side by side: a pool in each would only get in the others' way
    worker = Worker(name, folder, life)
    try:
        import_module(f"pipeline.stages.{stage}").run(worker)
        worker.take_time(_LEAVING_SECONDS)
    except AustreamError as error:
        worker.fail(error)
        return error.exit_code
    except Exception as error:
        worker.fail(error, traceback.format_exc())
        return 1
    finally:
        if os.getppid() != parent and stage == "sink":
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _leave_when_orphaned(parent: int, stage: str, folder: Path) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    time.sleep(ORPHAN_SECONDS)
    if stage == "sink":
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
