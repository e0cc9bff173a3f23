"""What a run says of itself: a CSV with a row an epoch, and TensorBoard's curves."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError, UsageError

CSV_FILE = "log.csv"


class RunLog:
    """Rows after the step that a run goes on from are dropped: they will be written again."""

    def __init__(self, folder: Path, phase: int, step: int) -> None:
        """Opens both logs of a run's folder.

        Args:
            folder: of the run.
            phase: index of the phase that begins or goes on.
            step: of that phase, already done.

        Raises:
            UsageError: TensorBoard is not installed.
            OutputError: a log cannot be written.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "tensorboard is not installed; pip install 'austream[train]' -c constraints.txt"
            ) from None
        self._path = folder / CSV_FILE
        try:
            self._rows = [row for row in read_rows(self._path) if _before(row, phase, step)]
            self._writer: Any = SummaryWriter(str(folder / "tensorboard" / str(phase)), purge_step=step + 1)
        except OSError as error:
            raise OutputError(f"{folder}: cannot write the logs: {error.strerror}") from None

    def curve(self, name: str, value: float, step: int) -> None:
        """A point of one of TensorBoard's curves."""
        try:
            self._writer.add_scalar(name, value, step)
        except OSError as error:
            raise OutputError(f"tensorboard: cannot write: {error.strerror}") from None

    def row(self, values: Mapping[str, Any]) -> None:
        """One more row of the CSV, which is rewritten whole.

        Raises:
            OutputError: it cannot be written.
        """
        self._rows.append({key: str(value) for key, value in values.items()})
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        part = self._path.with_name(self._path.name + ".part")
        try:
            with part.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self._rows)
            part.replace(self._path)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot write it: {error.strerror}") from None

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._writer.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log, none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _before(row: Mapping[str, str], phase: int, step: int) -> bool:
    return (int(row["phase"]), int(row["step"])) <= (phase, step)
