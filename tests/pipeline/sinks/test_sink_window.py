from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.sinks.window import check_display

HERE = Path(__file__).parent

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="displays are an X matter")


@linux
@pytest.mark.parametrize("display", [None, ":987"])
def test_without_a_display_the_window_is_refused(
    monkeypatch: pytest.MonkeyPatch, display: str | None
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)  # nobody listens there; Qt would end the whole process
    with pytest.raises(UsageError, match=r"--out overlay\.mp4"):
        check_display()


@pytest.fixture
def display() -> Iterator[str]:
    if shutil.which("Xvfb") is None:
        pytest.skip("needs the program Xvfb (package xvfb)")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1600x1000x24", "-nolisten", "tcp"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            yield f":{pipe.readline().strip()}"
    finally:
        server.terminate()
        server.wait(10)


# In a process of its own: the window kit holds on to the display until the process ends.
PROGRAM = """
import cv2
from sink_samples import CEDNN, crop, frame, info, ledger, result, stamp
from pipeline.sinks import stop_requested
from pipeline.sinks.window import WindowSink

sink = WindowSink([CEDNN])
for stream, size_wh in (("small", (320, 200)), ("large", (2560, 1440))):
    sink.open_stream(info(stream))
    for i in range(3):
        at = stamp(i, stream)
        sink.write(frame(at, size_wh), [result(at, crop())])
    print(stream, *cv2.getWindowImageRect(f"austream · {stream}")[2:])
assert not sink.closed and not stop_requested([sink])
sink.close_stream(ledger("small"))
real = cv2.waitKey
cv2.waitKey = lambda ms: (real(ms), ord("q"))[1]
sink.write(frame(stamp(3, "large")), [result(stamp(3, "large"), None)])
assert sink.closed and stop_requested([sink])
cv2.waitKey = real
sink.write(frame(stamp(4, "large")), [result(stamp(4, "large"), None)])
sink.finish()
sink = WindowSink([CEDNN])
sink.open_stream(info("x"))
sink.write(frame(stamp(0, "x")), [result(stamp(0, "x"), None)])
cv2.destroyAllWindows()  # as the button of the frame does
sink.write(frame(stamp(1, "x")), [result(stamp(1, "x"), None)])
assert sink.closed
"""


def test_shows_scales_down_and_ends_on_q(display: str) -> None:
    path = os.pathsep.join([str(HERE), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"DISPLAY": display, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["small 320 200", "large 1280 720"]
