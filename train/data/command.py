"""`python -m train data COMMAND …`"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import UsageError
from train.data import check, mimic, prepare

COMMANDS = {"check": check.main, "mimic": mimic.main, "prepare": prepare.main}


def main(argv: Sequence[str]) -> int:
    """What follows `python -m train data`; the command's exit code.

    Raises:
        AustreamError: there is no such command, or what it raises.
    """
    if argv[:1] and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    got = repr(argv[0]) if argv else "nothing"
    raise UsageError(f"data: expected one of {', '.join(COMMANDS)}, got {got}; e.g. train data check ROOT")
