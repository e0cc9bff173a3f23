"""Live runs to test against: slow clips, a camera over HTTP, and a run seen from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline.ctl import running_instances

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 180.0
"""Far more than anything takes, for machines that are busy with other things."""


def slow_copy(clip: Path, target: Path, rate_hz: int) -> Path:
    """The same pictures at so few frames a second that even a busy machine keeps up."""
    with av.open(str(clip)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        slower = Fraction(stream.average_rate or 24) / rate_hz
        for packet in given.demux(stream):
            if packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts = round(packet.pts * slower), round(packet.dts * slower)
                packet.stream = copy
                made.mux(packet)
    return target


def until(true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    """Wait until it is true; whether it came to be."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def slowed_sink(folder: Path, method: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process started from now on loads this first: a JSONL sink that takes so long for one of its
    methods, and then does it."""
    patch = f"import time\nfrom pipeline.sinks.jsonl import JsonlSink\nplain = JsonlSink.{method}\n"
    patch += f"JsonlSink.{method} = lambda *args: (time.sleep({seconds}), plain(*args))[1]\n"
    (folder / "sitecustomize.py").write_text(patch)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class LiveRun:
    """A run of the command line that goes on until it is told to stop."""

    def __init__(self, out: Path, *arguments: str) -> None:
        self.out = out
        words = [
            sys.executable,
            str(ROOT / "run_stream.py"),
            *arguments,
            "--engine",
            "cednn",
            "--out",
            str(out),
        ]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line)

    def said(self, words: str) -> int:
        """How often it said so."""
        return sum(words in line for line in list(self.errors))

    def results(self, stream: str = "") -> int:
        """Rows that were written so far."""
        text = b"".join(path.read_bytes() for path in self.files())
        return (
            text.count(b'"type":"result"')
            if not stream
            else text.count(f'"stream":"{stream}","epoch"'.encode())
        )

    def files(self) -> list[Path]:
        """What it has written so far, oldest first: one file, and one more for every death of the sink."""
        first = [self.out.with_name(self.out.name + ".part"), self.out]
        later = self.out.parent.glob(f"{self.out.stem}.[0-9][0-9][0-9][0-9]{self.out.suffix}*")
        return [path for path in (*first, *sorted(later)) if path.exists()]

    def goes_on(self, rows: int = 4) -> bool:
        """Whether more rows come."""
        wanted = self.results() + rows
        return until(lambda: self.results() >= wanted or self.process.poll() is not None) and (
            self.process.poll() is None
        )

    def folder(self) -> Path:
        """Its private directory in shared memory."""
        return running_instances()[self.process.pid].parent

    def workers(self) -> dict[str, int]:
        """Pids by name; those of spares by `spare face` and so on."""
        found: dict[str, list[tuple[int, int]]] = {}
        for entry in Path("/proc").iterdir():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (OSError, IndexError, ValueError):
                continue
            if parent == self.process.pid and b"pipeline.stages" in words:
                name, _, life = words[words.index(b"pipeline.stages") + 1 :][:3]
                found.setdefault(name.decode(), []).append((int(life), int(entry.name)))
        # A spare's life is the one after that of the process at work.
        by_life = {name: sorted(lives) for name, lives in found.items()}
        workers = {name: lives[0][1] for name, lives in by_life.items()}
        return workers | {f"spare {name}": lives[1][1] for name, lives in by_life.items() if lives[1:]}

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        self.process.wait(timeout=PATIENCE_SECONDS)
        self._reader.join(timeout=10)
        return self.process.returncode

    def ledgers(self) -> dict[str, dict]:
        return {row["stream"]: row for row in rows_of(self.files()[-1]) if row["type"] == "ledger"}


@contextmanager
def live_run(out: Path, *arguments: str) -> Iterator[LiveRun]:
    run = LiveRun(out, *arguments)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            for pid in run.workers().values():
                os.kill(pid, signal.SIGKILL)
            run.process.kill()
        run.process.wait()


@contextmanager
def http_camera(rate_hz: float = 4.0) -> Iterator[str]:
    """The address of a camera that sends JPEGs over HTTP without an end; of 128×96 pixels, and of 1024×768
    from the 12th on."""
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            number = 0
            while not done.wait(1.0 / rate_hz):
                number += 1
                scale = 1 if number < 12 else 8
                picture = np.full((96 * scale, 128 * scale, 3), 40 + number % 100, np.uint8)
                jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except OSError:
                    return

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/camera"
    finally:
        done.set()
        server.shutdown()
        server.server_close()


def killed_again_and_again(run: LiveRun, stage: str, times: int) -> None:
    """At once, also while it starts: that is a death as any other."""
    dead = None
    for _ in range(times):
        assert until(lambda d=dead: run.workers().get(stage, d) != d), run.errors
        dead = run.workers()[stage]
        os.kill(dead, signal.SIGKILL)
