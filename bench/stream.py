"""`python -m bench stream --source FILE`: the whole pipeline beside the naive program, in one run.

Frames a second from the first frame in to the last row out, latency by stage, CPU and peak memory by process,
start-up from a warm cache. The two take turns, so that a busy neighbour slows both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import cpu_seconds, memory_mb, processes_of
from bench.report import print_table, write_json
from engines import backends, int8
from engines.bundle import resolve
from pipeline.errors import RunError

ENGINES = ("cednn", "cednn,satnet")
NAIVE_KNOWS = {"cednn", "satnet"}
"""Beside other engines the naive program is left out."""
_ROOT = Path(__file__).parents[1]
_SAMPLE_SECONDS = 0.05


@dataclass
class Process:
    """What was seen of one process."""

    cpu_seconds: float = 0.0
    peak_mb: float = 0.0


@dataclass
class Measured:
    """One run of a program."""

    frames: int
    seconds: float
    processes: dict[str, Process] = field(default_factory=dict)
    latency_ms: dict[str, np.ndarray] = field(default_factory=dict)
    first_result_seconds: float | None = None

    @property
    def fps(self) -> float:
        return self.frames / self.seconds


def main(argv: list[str]) -> int:
    """Measure, print the tables, and write them with --json."""
    parser = argparse.ArgumentParser(prog="python -m bench stream", description=__doc__)
    parser.add_argument("--source", required=True, metavar="FILE")
    parser.add_argument("--frames", type=int, default=1_000_000, help="of each run (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hop", type=int, default=4)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--engines",
        action="append",
        metavar="NAME[,NAME]",
        help=f"of one run; repeatable (default: {' and '.join(ENGINES)})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    runs = arguments.engines or ENGINES
    for engines in runs:
        check(engines, arguments.precision)
    rows: list[dict[str, Any]] = []
    for engines in runs:
        common = (arguments.source, engines, arguments.hop, arguments.frames)
        ours = [_ours(*common, arguments.precision, inline=False)]  # warms the cache; counts for nothing
        naive: list[Measured] = []
        inline: list[Measured] = []
        ours.clear()
        for _ in range(arguments.rounds):
            if set(engines.split(",")) <= NAIVE_KNOWS:
                naive.append(_naive(*common))
            ours.append(_ours(*common, arguments.precision, inline=False))
            inline.append(_ours(*common, arguments.precision, inline=True))
        rows += _rows(engines, arguments, naive, inline, ours)
        _details(engines, ours)
    print()
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)
    return 0


def check(engines: str, precision: str) -> None:
    """Whether runs can be had, before any is measured.

    Raises:
        UsageError: no such engine, or a precision that nothing here has.
        EngineError: no INT8 form of an engine.
    """
    backends.choose("auto", precision)
    for bundle in map(resolve, engines.split(",")):
        if precision == "int8":
            int8.load(bundle)


def _rows(
    engines: str,
    arguments: argparse.Namespace,
    naive: list[Measured],
    inline: list[Measured],
    ours: list[Measured],
) -> list[dict[str, Any]]:
    base = np.array([run.fps for run in naive])
    return [
        {
            "engines": engines,
            "program": name,
            "precision": arguments.precision if name != "naive" else "fp32",
            "hop": arguments.hop,
            "fps": float(np.median([run.fps for run in runs])),
            "faster_than_naive": float(np.median([run.fps for run in runs] / base)) if naive else None,
            "peak_mb": round(max(sum(p.peak_mb for p in run.processes.values()) for run in runs)),
            "first_result_s": float(np.median([run.first_result_seconds or np.nan for run in runs])),
        }
        for name, runs in (("naive", naive), ("austream --inline", inline), ("austream", ours))
        if runs
    ]


def _details(engines: str, ours: list[Measured]) -> None:
    """Latency by stage, and CPU and memory by process, of all rounds together."""
    print(f"\n{engines}: latency in ms by stage")
    stages = [s for s in ("capture", "face", "infer", "total") if s in ours[0].latency_ms]
    table = []
    for stage in stages:
        values = np.concatenate([run.latency_ms[stage] for run in ours])
        p50, p95, p99 = np.percentile(values, (50, 95, 99))
        table.append({"stage": stage, "p50": float(p50), "p95": float(p95), "p99": float(p99)})
    print_table(table)
    print(f"\n{engines}: by process")
    print_table(
        [
            {
                "process": name,
                "cpu_share_of_a_core": float(
                    np.median([r.processes[name].cpu_seconds / r.seconds for r in ours])
                ),
                "peak_mb": round(max(r.processes[name].peak_mb for r in ours)),
            }
            for name in ours[0].processes
        ]
    )


def _naive(source: str, engines: str, hop: int, frames: int) -> Measured:
    words = [sys.executable, "-m", "bench.naive", source, engines, str(hop), str(frames)]
    began = time.time()
    process = subprocess.Popen(words, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seen = _watch(process, "naive")
    out, _ = process.communicate()
    if process.returncode:
        raise RunError(f"the naive program failed (exit {process.returncode}); run: {' '.join(words)}")
    told = json.loads(out.splitlines()[-1])
    return Measured(
        told["frames"], told["seconds"], seen, first_result_seconds=time.time() - began - told["seconds"]
    )


def _ours(source: str, engines: str, hop: int, frames: int, precision: str, inline: bool) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        words = [sys.executable, str(_ROOT / "run_stream.py"), "--source", source, "--engine", engines]
        words += ["--hop", str(hop), "--frames", str(frames), "--precision", precision, "--max-faces", "1"]
        words += ["--out", str(out), *(["--inline"] if inline else [])]
        began = time.time()
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        seen = _watch(process, "one process" if inline else "supervisor")
        _, err = process.communicate()
        if process.returncode:
            raise RunError(f"run_stream.py failed: {err.strip().splitlines()[-1]}")
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    results = [row for row in rows if row["type"] == "result"]
    captured = np.array([datetime.fromisoformat(row["wall"]).timestamp() for row in results])
    latency = {
        stage: np.array([row["latency_ms"][stage] for row in results]) for stage in results[0]["latency_ms"]
    }
    out_at = captured + (latency["total"] - latency["capture"]) / 1e3
    in_at = captured[0] - latency["capture"][0] / 1e3
    # The first frames wait for imports and caches; a run of hours does not.
    return Measured(
        len(results),
        float(out_at.max() - in_at),
        seen,
        latency,
        first_result_seconds=float(out_at[0] - began),
    )


def _watch(process: subprocess.Popen[str], own_name: str) -> dict[str, Process]:
    """CPU seconds and peak memory of a program and its stages, until it ends."""
    seen: dict[str, Process] = {}
    while process.poll() is None:
        for name, pid in processes_of(process, own_name):
            entry = seen.setdefault(name, Process())
            entry.cpu_seconds = max(entry.cpu_seconds, cpu_seconds(pid))
            entry.peak_mb = max(entry.peak_mb, memory_mb(pid, peak=True))
        time.sleep(_SAMPLE_SECONDS)
    return seen
