"""What tells a process that hangs from one that gets no processor, or that has asked for time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.channels import Sender
from pipeline.stageprocess import StageProcess, _thread_states
from pipeline.stages.wiring import line_socket
from pipeline.stages.worker import patience_seconds
from pipeline.streams import Beat


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", request.param], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        time.sleep(0.1)
        yield started.pid
        started.kill()


SPINS = "import threading\nprint(flush=True)\nwhile True: pass"
SLEEPS = "import time\nprint(flush=True)\ntime.sleep(100)"
LOCKED = "import threading\nprint(flush=True)\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()"
A_THREAD_SPINS = (
    "import threading\ndef spin():\n    while True: pass\n"
    "threading.Thread(target=spin, daemon=True).start()\nprint(flush=True)\nthreading.Event().wait()"
)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("process", "wants"),
    [(SPINS, True), (A_THREAD_SPINS, True), (SLEEPS, False), (LOCKED, False)],
    indirect=["process"],
    ids=["spins", "a thread spins", "sleeps", "locked"],
)
def test_only_who_could_run_thread_states(process: int, wants: bool) -> None:
    assert ("R" in _thread_states(process)) == wants
    assert "T" not in _thread_states(process)
    os.kill(process, signal.SIGSTOP)
    deadline = time.monotonic() + 20
    while _thread_states(process) != {"T"} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _thread_states(process) == {"T"}


def test_a_process_that_is_gone_wants_nothing() -> None:
    assert not _thread_states(2**22 + 1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_process_that_was_stopped_is_not_waited_for(sleeper: StageProcess) -> None:
    sleeper.started = True
    sleeper._heard_seconds = time.monotonic() - 1.0
    assert not sleeper.hangs(soon=True)  # asleep it may yet wake up
    os.kill(sleeper.process.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 20
    while not sleeper.hangs(soon=True) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sleeper.hangs(soon=True)
    assert not sleeper.hangs()  # a run in which it cannot be started anew waits
    sleeper.kill_hung()
    assert sleeper.how_it_ended() == "it was stopped"
    assert not sleeper.alive


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StageProcess]:
    """The supervisor's side of a sink whose process sleeps."""
    popen = subprocess.Popen
    monkeypatch.setattr(
        "pipeline.stageprocess.subprocess.Popen",
        lambda *_args, **_options: popen([sys.executable, "-c", "import time; time.sleep(100)"]),
    )
    stage = StageProcess("sink", tmp_path)
    yield stage
    stage.process.kill()
    stage.process.wait()
    stage.close()


def test_a_stage_that_starts_may_say_nothing_for_longer_but_not_for_ever(sleeper: StageProcess) -> None:
    sleeper._heard_seconds -= 300
    sleeper.began_seconds -= 300
    assert not sleeper.hangs()
    sleeper.began_seconds -= 400
    assert sleeper.hangs()


def test_a_stage_is_at_length_from_when_it_asks_for_time_until_it_goes_on_or_the_time_is_over(
    sleeper: StageProcess, tmp_path: Path
) -> None:
    worker = Sender(line_socket(tmp_path, "reports", "sink", 0), "reports")
    usual = patience_seconds("sink")

    def beat(patience: float) -> None:
        sleeper._patience_seconds = -1.0  # until it is heard
        while not worker.try_send(Beat("sink", patience, 0, 0)):
            sleeper.listen()
        while sleeper._patience_seconds < 0:
            sleeper.listen()

    sleeper.started = True
    assert not sleeper.at_length
    beat(600.0)
    assert sleeper.at_length
    beat(usual)
    assert not sleeper.at_length
    beat(600.0)
    sleeper._heard_seconds -= 10_000
    assert sleeper.hangs()
    assert not sleeper.at_length
    beat(600.0)
    assert sleeper.at_length
    sleeper.process.kill()
    sleeper.process.wait()
    assert not sleeper.at_length
    worker.close()
