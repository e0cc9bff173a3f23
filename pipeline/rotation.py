"""--rotate: when an output goes on in a new file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


@dataclass(frozen=True, slots=True)
class Rotation:
    """One of the two is set."""

    seconds: float | None = None
    """After so long, by the clock, since the file's first frame."""
    size_bytes: int | None = None
    """Once the file is as large as that; what a library still holds in memory does not count yet."""


def parse_rotation(text: str) -> Rotation:
    """`30s`, `30m`, `1h`, `2d`, or `500MB`, `1GB` (10⁹ bytes).

    Raises:
        UsageError: it is neither.
    """
    parts = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([a-z]{1,2})", text.lower())
    amount, unit = (float(parts[1]), parts[2]) if parts else (0.0, "")
    if amount > 0 and unit in _SECONDS:
        return Rotation(seconds=amount * _SECONDS[unit])
    if amount > 0 and unit in _BYTES:
        return Rotation(size_bytes=round(amount * _BYTES[unit]))
    raise UsageError(
        f"--rotate {text}: expected a time such as 30m, 1h or 1d, or a size such as 500MB or 1GB"
    )
