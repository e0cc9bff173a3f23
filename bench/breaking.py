"""Every fault of `python -m bench faults`: how it is brought about, and how it is mended."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.clock_step import SteppedClock
from bench.feeds import RtspServer
from bench.live_run import LiveRun
from pipeline.errors import RunError
from pipeline.stages.wiring import capture_name

STAGES = ("capture", "face", "infer", "sink")
_DISK_KB = 512
_ROOM_BYTES = 4096
_SUBSCRIBER = """
import sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.SUBSCRIBE, b"")
socket.setsockopt(zmq.RCVHWM, 1)
socket.connect(sys.argv[1])
while True:
    socket.recv_multipart()
"""


class NotRunError(RunError):
    """This machine does not allow the fault; the message says why."""


@dataclass
class Scene:
    """What a fault may reach."""

    folder: Path
    servers: list[RtspServer]
    stack: ExitStack
    """Closes what `prepare` has opened."""
    words: list[str] = field(default_factory=list)
    """Of the run's command line."""
    environment: dict[str, str] = field(default_factory=dict)
    out: Path = field(init=False)
    run: LiveRun = field(init=False)
    chosen: int = 0
    """Which server is broken."""
    clock: SteppedClock | None = None
    subscriber: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.out = self.folder / "rows.jsonl"

    @property
    def victim(self) -> RtspServer:
        return self.servers[self.chosen]


Step = Callable[[Scene], object]


def _nothing(_: Scene) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """One thing that breaks."""

    inject: Step
    heal: Step = _nothing
    heal_after_seconds: float = 0.0
    prepare: Step = _nothing
    """Before the run starts."""
    new_epoch: bool = True
    """Whether results count as recovered only in a new epoch of the feed, or in a new file of the run."""
    may_end: bool = False
    """Whether ending, cleanly, is right."""
    no_files: bool = False
    """Whether there can be no whole file at the end."""


def _told(command: str) -> Step:
    return lambda scene: scene.victim.tell(command)


def _kill_server(scene: Scene) -> None:
    scene.victim.process.kill()
    scene.victim.process.wait()


def _restart_server(scene: Scene) -> None:
    scene.servers[scene.chosen] = scene.stack.enter_context(scene.victim.again())


def _signalled(stage: str, number: signal.Signals) -> Step:
    """Of the captures, to that of the feed that is broken."""

    def send(scene: Scene) -> None:
        name = capture_name(scene.chosen) if stage == "capture" else stage
        pid = scene.run.pids().get(name)
        if pid is not None:
            os.kill(pid, number)

    return send


def _slow_down(stage: str) -> Step:
    """Let a stage run for a tenth of the time."""

    def slow(scene: Scene) -> None:
        until = time.monotonic() + _SLOW_SECONDS
        while scene.run.running and time.monotonic() < until:
            for number, seconds in ((signal.SIGSTOP, 0.36), (signal.SIGCONT, 0.04)):
                with contextlib.suppress(ProcessLookupError):
                    _signalled(stage, number)(scene)
                time.sleep(seconds)

    return slow


def _prepare_subscriber(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    scene.words += ["--publish", address]
    scene.subscriber = subprocess.Popen([sys.executable, "-c", _SUBSCRIBER, address])
    scene.stack.callback(scene.subscriber.kill)


def _signal_subscriber(number: signal.Signals) -> Step:
    def send(scene: Scene) -> None:
        assert scene.subscriber is not None
        os.kill(scene.subscriber.pid, number)

    return send


def _prepare_disk(scene: Scene) -> None:
    disk = scene.folder / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={_DISK_KB}k", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        raise NotRunError("no disk of its own can be mounted here; `file too large` stands in for it")
    scene.stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], capture_output=True, check=False)
    scene.out = disk / "rows.jsonl"


def _fill_disk(scene: Scene) -> None:
    with contextlib.suppress(OSError), (scene.out.parent / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(_ROOM_BYTES))


def _forbid_growth(scene: Scene) -> None:
    """No process of the run may write a file beyond what the rows have reached."""
    size = scene.out.with_name(scene.out.name + ".part").stat().st_size + _ROOM_BYTES
    pid = scene.run.pids().get("sink")
    if pid is not None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))


def _prepare_clock(scene: Scene) -> None:
    try:
        scene.clock = SteppedClock(scene.folder)
    except RunError as error:
        raise NotRunError(str(error)) from None
    scene.environment.update(scene.clock.environment)


def _step_clock(seconds: float) -> Step:
    def step(scene: Scene) -> None:
        assert scene.clock is not None
        scene.clock.step(seconds)

    return step


_STALL_SECONDS, _BAD_SECONDS, _DOWN_SECONDS, _SLOW_SECONDS = 4.0, 4.0, 5.0, 8.0
FAULTS: dict[str, Fault] = {
    "RTSP drop": Fault(_told("drop")),
    "RTSP stall": Fault(_told("stall"), _told("go"), _STALL_SECONDS),
    "server gone": Fault(_kill_server, _restart_server, _DOWN_SECONDS),
    "resize": Fault(_told("size 480x270")),
    "corrupt packets": Fault(_told("corrupt 0.002"), _told("corrupt 0"), _BAD_SECONDS, new_epoch=False),
    "lost packets": Fault(_told("lose 0.05"), _told("lose 0"), _BAD_SECONDS, new_epoch=False),
    **{
        f"{stage} {how}": Fault(_signalled(stage, number))
        for how, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP))
        for stage in STAGES
    },
    "slow sink": Fault(_slow_down("sink"), new_epoch=False),
    "slow subscriber": Fault(
        # It loses rows of its own, by ZeroMQ's leave; nobody waits for it.
        _signal_subscriber(signal.SIGSTOP),
        _signal_subscriber(signal.SIGCONT),
        _BAD_SECONDS,
        _prepare_subscriber,
        new_epoch=False,
    ),
    "full disk": Fault(_fill_disk, prepare=_prepare_disk, new_epoch=True, may_end=True, no_files=True),
    "file too large": Fault(_forbid_growth, may_end=True, no_files=True),
    "clock an hour ahead": Fault(_step_clock(3600.0), prepare=_prepare_clock, new_epoch=False),
    "clock an hour back": Fault(_step_clock(-3600.0), prepare=_prepare_clock, new_epoch=False),
}
"""By name, in the order they are tried in."""
