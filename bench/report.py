"""What every bench shares: timing, a table, and the JSON file with machine and commit."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.whole import write_whole


def interleaved_microseconds(
    candidates: dict[str, Callable[[], object]], rounds: int, calls: int
) -> dict[str, NDArray[np.float64]]:
    """Microseconds a call of each candidate, one figure a round.

    The candidates take turns within a round, so that a busy neighbour slows all of them alike. A turn begins
    with a call that does not count: PyTorch's threads go on spinning for a while, and the same arithmetic
    took a third longer right behind it than one place further on.
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            call()
            began = time.perf_counter()
            for _ in range(calls):
                call()
            taken[name].append((time.perf_counter() - began) / calls * 1e6)
    return {name: np.array(values) for name, values in taken.items()}


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Rows with the same keys as a table on stdout, numbers to the right."""
    if not rows:
        return
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(c), *(len(row[i]) for row in cells)) for i, c in enumerate(columns)]
    numeric = [isinstance(rows[0][column], int | float) for column in columns]

    def line(values: Sequence[str]) -> str:
        padded = (
            v.rjust(w) if right else v.ljust(w) for v, w, right in zip(values, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    print(line(columns))
    print(line(["-" * width for width in widths]))
    for row in cells:
        print(line(row))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_json(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """`{"machine": …, "commit": …, "rows": […]}`.

    Raises:
        OutputError: the file cannot be written.
    """
    report = {"machine": machine(), "commit": commit(), "rows": list(rows)}
    write_whole(path, (json.dumps(report, indent=1) + "\n").encode())


def machine() -> str:
    """Processor and number of cores, in words."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name, count = (models[0].split(":", 1)[1].strip(), len(models)) if models else (name, 0)
        return f"{name}, {count} cores"
    return name


def commit() -> str:
    """The checkout's commit, with a + when files differ from it; `unknown` outside a checkout."""
    try:
        here = Path(__file__).parent
        run = {"cwd": here, "capture_output": True, "text": True, "check": True}
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], **run).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")
