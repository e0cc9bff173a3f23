"""`python -m bench stops --source FILE`: every way in which a run can end, and what it leaves behind.

Each run writes rows and an overlay video. A moment into it something happens; then it is looked at how long
the run took to end, with which exit code, whether its files are whole, and what is left of processes, of ipc
files and of shared memory. (The last two live in one folder of the run in shared memory.)
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av

from bench.processes import alive, in_shared_memory, processes_of
from bench.report import print_table, write_json

_ROOT = Path(__file__).parents[1]
_INTO_IT_SECONDS = 1.5
_PATIENCE_SECONDS = 10.0

WAYS: dict[str, tuple[str, signal.Signals] | None] = {
    "end of file": None,
    "Ctrl-C": ("supervisor", signal.SIGINT),
    "SIGTERM": ("supervisor", signal.SIGTERM),
    "parent killed": ("supervisor", signal.SIGKILL),
    **{f"{stage} killed": (stage, signal.SIGKILL) for stage in ("capture", "face", "infer", "sink")},
}
"""Which process gets which signal."""


def main(argv: list[str]) -> int:
    """Try every way; 1 if anything was left behind."""
    parser = argparse.ArgumentParser(prog="python -m bench stops", description=__doc__)
    parser.add_argument("--source", required=True, metavar="FILE", help="of ten seconds or more")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    rows = [_try(way, arguments.source) for way in WAYS]
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)
    return int(any(row["left_processes"] or row["left_in_memory"] for row in rows))


def _try(way: str, source: str) -> dict[str, Any]:
    before = in_shared_memory()
    with tempfile.TemporaryDirectory() as folder:
        out, video = Path(folder) / "rows.jsonl", Path(folder) / "overlay.mp4"
        words = [sys.executable, str(_ROOT / "run_stream.py"), "--source", source, "--engine", "cednn"]
        words += ["--out", str(out), "--out", str(video)]
        words += ["--frames", "48"] if way == "end of file" else []
        run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        pids = _begun(run, out)
        time.sleep(_INTO_IT_SECONDS)
        began = time.monotonic()
        if (blow := WAYS[way]) is not None:
            name, sent = blow
            os.kill(pids[name], sent)
        run.communicate()
        while (any(map(alive, pids.values())) or in_shared_memory() - before) and (
            time.monotonic() - began < _PATIENCE_SECONDS
        ):
            time.sleep(0.02)
        seconds = time.monotonic() - began
        return {
            "stopped_by": way,
            "exit": run.returncode,
            "seconds": float(seconds),
            "left_processes": sum(map(alive, pids.values())),
            "left_in_memory": len(in_shared_memory() - before),
            **_files(out, video),
        }


def _begun(run: subprocess.Popen[str], out: Path) -> dict[str, int]:
    """Waits for the first rows; the pids by name."""
    part = out.with_name(out.name + ".part")
    while run.poll() is None and not (part.exists() and part.stat().st_size) and not out.exists():
        time.sleep(0.02)
    return dict(processes_of(run, "supervisor"))


def _files(out: Path, video: Path) -> dict[str, Any]:
    if not out.exists():
        return {"rows": "only .part", "ledger": "–", "video_frames": "–"}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    ledger = rows[-1] if rows[-1]["type"] == "ledger" else None
    with av.open(str(video)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    return {
        "rows": sum(row["type"] == "result" for row in rows),
        "ledger": "none" if ledger is None else f"{ledger['ended']}",
        "video_frames": frames,
    }
