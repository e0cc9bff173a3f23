"""How far a run is, on stderr: a bar in a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

_PLAIN_EVERY_SECONDS = 5.0


class Progress:
    """Counts the steps of one job. Close it before writing anything else to stderr."""

    def __init__(
        self,
        name: str,
        total: int | None,
        unit: str = "frames",
        stream: TextIO | None = None,
        say: Callable[..., None] | None = None,
    ) -> None:
        """`say`: gets the plain lines with their numbers instead of the stream, which then has no bar."""
        self._name, self._total, self._unit = name, total, unit
        self._out, self._say = stream or sys.stderr, say
        self._done = 0
        self._began = self._told = time.monotonic()
        self._bar = (
            tqdm(total=total, desc=name, unit=f" {unit}", file=self._out, dynamic_ncols=True)
            if say is None and self._out.isatty()
            else None
        )

    def step(self, done: int) -> None:
        """So many are done by now."""
        if self._bar is not None:
            self._bar.update(done - self._done)
        self._done = done
        now = time.monotonic()
        if self._bar is None and now - self._told >= _PLAIN_EVERY_SECONDS:
            self._told = now
            self._tell(now)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _tell(self, now: float) -> None:
        if self._say is not None:
            fields: dict[str, Any] = {"name": self._name, "done": self._done, "unit": self._unit}
            rate = round(self._done / max(now - self._began, 1e-9), 3)
            self._say(self._line(now), **fields, total=self._total, per_second=rate)
            return
        self._out.write(self._line(now) + "\n")
        self._out.flush()

    def _line(self, now: float) -> str:
        rate = self._done / max(now - self._began, 1e-9)
        if not self._total:
            return f"{self._name}: {self._done} {self._unit}, {rate:.1f}/s"
        left = max(self._total - self._done, 0) / rate if rate else float("inf")
        return f"{self._name}: {self._done} of {self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left"
