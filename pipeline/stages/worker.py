"""What every worker process has: the run's folder and options, lines to and from the supervisor, an end.

A worker ignores Ctrl-C, which reaches the whole terminal; the supervisor tells it what to do. When the
supervisor is gone, the worker ends its work in order if it can within `ORPHAN_SECONDS`, and at once after
that.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2

from pipeline import log
from pipeline.channels import Receiver, Sender
from pipeline.config import RunConfig
from pipeline.errors import AustreamError, PeerLostError
from pipeline.messages import StreamInfo
from pipeline.ring import Ring, RingSpec
from pipeline.streams import HAND_OVERS, Control, Failure, Message, Ready

STAGES = ("capture", "face", "infer", "sink")
ORPHAN_SECONDS = 3.0
CONFIG_FILE, SETUP_FILE, NEUTRAL_FILE = "config.json", "setup.json", "neutral.npz"
PARENT_GONE = "the supervisor is gone"


class Worker:
    """One stage's process, seen from inside."""

    def __init__(self, stage: str, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self.config = RunConfig.from_mapping(json.loads((folder / CONFIG_FILE).read_text()), "run")
        log.set_up(self.config.log_json)
        index = STAGES.index(stage)
        control = HAND_OVERS["control"]
        self._control = Receiver(control.endpoint(folder, index), "control", control.credits)
        self._reports = Sender(HAND_OVERS["reports"].endpoint(folder, index), "reports")
        self._setup: dict[str, Any] = {}
        self.last_control: Control | None = None

    def report(self, message: Message) -> None:
        """Tell the supervisor; nobody waits when it is gone or busy."""
        try:
            self._reports.try_send(message)
        except PeerLostError:
            self.last_control = self.last_control or Control("stop", PARENT_GONE, None)

    def report_surely(self, message: Message) -> None:
        """Tell the supervisor, waiting until it listens."""
        self._reports.send(message, timeout_seconds=2)

    def ready(self, **about: Any) -> None:
        """Tell the supervisor that this stage can go on, and what it found."""
        self._reports.send(Ready(self.stage, json.dumps(about)), timeout_seconds=10)

    def fail(self, error: str, text: str = "", exit_code: int = 1) -> None:
        """Tell the supervisor that this stage cannot go on."""
        try:
            self._reports.send(Failure(self.stage, error, text, exit_code), timeout_seconds=1)
        except AustreamError:
            log.complain(text or error)

    def wait_for_start(self) -> bool:
        """Wait until the run begins; False when it is called off."""
        while True:
            control = self.control(timeout_seconds=0.2)
            if control is not None and control.verb == "start":
                self.last_control = None
                self._setup = json.loads((self.folder / SETUP_FILE).read_text())
                return True
            if control is not None:
                return False

    def control(self, timeout_seconds: float = 0.0) -> Control | None:
        """The latest word of the supervisor; its being gone counts as the wish to stop."""
        try:
            message = self._control.receive(timeout_seconds)
        except PeerLostError:
            self.last_control = self.last_control or Control("stop", PARENT_GONE, None)
            return self.last_control
        if isinstance(message, Control):
            self._control.done()
            self.last_control = message
        return self.last_control

    def wish(self) -> str | None:
        """Why the run should stop, if it should."""
        control = self.control()
        return control.reason if control is not None and control.verb == "stop" else None

    @property
    def stopping(self) -> Callable[[], bool]:
        return lambda: self.wish() is not None

    @property
    def header(self) -> dict[str, Any]:
        return dict(self._setup["header"])

    @property
    def pixels_to_sink(self) -> bool:
        return bool(self._setup["pixels_to_sink"])

    @property
    def infos(self) -> list[StreamInfo]:
        return [stream_info(entry) for entry in self._setup["infos"]]

    def ring(self, name: str) -> Ring:
        entry = self._setup["rings"][f"{name}.0"]
        return Ring(self.folder, RingSpec(**{**entry, "holders": tuple(entry["holders"])}), self.stage)

    def receiver(self, name: str) -> Receiver:
        row = HAND_OVERS[name]
        return Receiver(row.endpoint(self.folder), name, row.credits)

    def sender(self, name: str) -> Sender:
        return Sender(HAND_OVERS[name].endpoint(self.folder), name)


def stream_info(entry: dict[str, Any]) -> StreamInfo:
    """A StreamInfo from the JSON of its fields."""
    return StreamInfo(**{**entry, "size_wh": tuple(entry["size_wh"])})


def info_entry(info: StreamInfo) -> dict[str, Any]:
    return asdict(info)


def work(stage: str, folder: Path) -> int:
    """The process of one stage from beginning to end; its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    threading.Thread(target=_leave_when_orphaned, args=(parent, stage, folder), daemon=True).start()
    cv2.setNumThreads(1)  # the stages run side by side: a pool in each would only get in the others' way
    worker = Worker(stage, folder)
    try:
        import_module(f"pipeline.stages.{stage}").run(worker)
    except PeerLostError as error:
        # A neighbour died first; the supervisor knows, and what the user needs is that one's traceback.
        worker.fail(str(error))
        return 1
    except AustreamError as error:
        worker.fail(str(error), exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:
        worker.fail(f"{type(error).__name__}: {error}", traceback.format_exc())
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
