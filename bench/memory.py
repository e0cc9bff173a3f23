"""`python -m bench memory --source FILE --loops 10 --plot PNG`: is memory flat over loops of a clip?"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import memory_mb, processes_of
from bench.report import print_table, write_json
from pipeline.errors import RunError, UsageError
from pipeline.sources import look_at, resolve_sources

_ROOT = Path(__file__).parents[1]
_SAMPLE_SECONDS = 0.5


def main(argv: list[str]) -> int:
    """Run, print resident memory by process and loop, and draw it with --plot."""
    parser = argparse.ArgumentParser(prog="python -m bench memory", description=__doc__)
    parser.add_argument("--source", required=True, metavar="FILE")
    parser.add_argument("--loops", type=int, default=10)
    parser.add_argument("--engine", default="cednn,satnet")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    if arguments.loops < 2:
        raise UsageError(f"--loops: expected 2 or more, got {arguments.loops}")
    samples = _watched(arguments)
    end = max(series[-1][0] for series in samples.values())
    # The first loop fills what fills up: windows, galleries, allocators.
    rows = [_row(name, np.array(series), end / arguments.loops) for name, series in samples.items()]
    print_table(rows)
    if arguments.plot:
        _draw(arguments.plot, samples, f"{arguments.engine}, {arguments.loops} loops of a clip")
    if arguments.json:
        write_json(arguments.json, rows)
    return 0


def _watched(arguments: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Name of a process → (seconds, resident MB)."""
    opened, infos = look_at(resolve_sources([arguments.source], ()))
    opened.close()
    if infos[0].frames is None:
        raise UsageError(f"--source {arguments.source}: its container does not say how many frames it has")
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, str(_ROOT / "run_stream.py"), "--source", arguments.source, "--loop"]
        words += ["--engine", arguments.engine, "--frames", str(arguments.loops * infos[0].frames)]
        words += ["--out", str(Path(folder) / "rows.jsonl")]
        samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
        began = time.monotonic()
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, text=True)
        while process.poll() is None:
            now = time.monotonic() - began
            for name, pid in processes_of(process, "supervisor"):
                if used := memory_mb(pid):
                    samples[name].append((now, used))
            time.sleep(_SAMPLE_SECONDS)
        if process.returncode:
            raise RunError(f"run_stream.py failed (exit {process.returncode}); run: {' '.join(words)}")
    return samples


def _row(name: str, series: np.ndarray, loop_seconds: float) -> dict[str, Any]:
    seconds, used = series.T
    later = seconds > loop_seconds
    slope, _ = np.polyfit(seconds[later] / loop_seconds, used[later], 1)
    return {
        "process": name,
        "after_first_loop_mb": float(used[later][0]),
        "at_the_end_mb": float(np.median(used[-5:])),
        "mb_per_loop": float(slope),
    }


def _draw(path: Path, samples: dict[str, list[tuple[float, float]]], title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 5))
    for name, series in samples.items():
        axes.plot(*np.array(series).T, label=name)
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident memory, shared pages included (MB)")
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
