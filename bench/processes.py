"""The processes of a run, seen from outside through /proc."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pipeline.ring import shared_memory_folder

_TICKS = os.sysconf("SC_CLK_TCK")


def processes_of(process: subprocess.Popen[str], own_name: str) -> Iterator[tuple[str, int]]:
    """Name and pid of a program and its workers; `own_name`: of the process that was started itself.

    A worker that waits to take the place of one that is at work is called `spare face`, say.
    """
    workers: dict[str, list[tuple[int, int]]] = {}
    for pid in [process.pid, *_children(process.pid)]:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue  # it has just gone
        if "pipeline.stages" in words:
            name, _, life = words[words.index("pipeline.stages") + 1 :][:3]
            workers.setdefault(name, []).append((int(life), pid))
        elif pid == process.pid:
            yield own_name, pid
    for name, lives in workers.items():
        # A spare's life is the one after that of the process at work.
        yield from zip((name, f"spare {name}"), [pid for _, pid in sorted(lives)], strict=False)


def run_folder(process: subprocess.Popen[str]) -> Path | None:
    """The directory in shared memory of a run, which its stages are told; None before they are there."""
    for pid in _children(process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "pipeline.stages" in words:
            return Path(words[words.index("pipeline.stages") + 2])
    return None


def cpu_seconds(pid: int) -> float:
    """User and system time so far; 0 once it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(stat[11]) + int(stat[12])) / _TICKS


def memory_mb(pid: int, peak: bool = False) -> float:
    """Resident memory, shared pages included, now or at its highest; 0 once it is gone."""
    name = "VmHWM" if peak else "VmRSS"
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    line = next((line for line in status.splitlines() if line.startswith(name)), f"{name}: 0 kB")
    return int(line.split()[1]) / 1024


def descriptors(pid: int) -> int:
    """Open file descriptors; 0 once it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def alive(pid: int) -> bool:
    """Whether it still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def in_shared_memory() -> set[str]:
    """Directories of runs in shared memory."""
    return {path.name for path in shared_memory_folder().glob("*austream-*")}


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
