"""What tells a process that hangs from one that gets no processor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pipeline.stageprocess import _wants_a_processor


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
def test_only_who_could_run_wants_a_processor(process: int, wants: bool) -> None:
    assert _wants_a_processor(process) == wants
    os.kill(process, signal.SIGSTOP)
    deadline = time.monotonic() + 20
    while _wants_a_processor(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _wants_a_processor(process)


def test_a_process_that_is_gone_wants_nothing() -> None:
    assert not _wants_a_processor(2**22 + 1)
