"""Where weights come from: the commit, and the samples."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from train.pool import Pool


def commit() -> str:
    """The commit of this checkout, `+` where it was changed since; `unknown` outside of one."""
    try:
        here = Path(__file__).parent
        run = {"cwd": here, "capture_output": True, "text": True, "check": True}
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain"], **run).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+" if changed else str(head)


def describe(pool: Pool) -> list[dict[str, Any]]:
    """Where the samples come from, for provenance."""
    return [
        {"source": s.source, "samples": len(s), "subjects": len(s.subjects), **dict(s.provenance)}
        for s in pool.folders
    ]
