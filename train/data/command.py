"""`python -m train data COMMAND …`"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from pipeline.errors import UsageError

COMMANDS = ("check", "prepare", "mimic")
"""Modules of this package, each with a `main`; imported when asked for, as the renderer takes seconds."""


def main(argv: Sequence[str]) -> int:
    """What follows `python -m train data`; the command's exit code.

    Raises:
        AustreamError: there is no such command, or what it raises.
    """
    if argv[:1] and argv[0] in COMMANDS:
        return int(import_module(f"train.data.{argv[0]}").main(argv[1:]))
    got = repr(argv[0]) if argv else "nothing"
    raise UsageError(f"data: expected one of {', '.join(COMMANDS)}, got {got}; e.g. train data check ROOT")
