"""What a run says of itself: a CSV with a row an epoch, and TensorBoard's curves."""

from __future__ import annotations

import csv
import time
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
        self._path = folder / CSV_FILE
        try:
            self._rows = [row for row in read_rows(self._path) if _before(row, phase, step)]
            self._curves = _Curves(folder / "tensorboard" / str(phase), step + 1)
        except OSError as error:
            raise OutputError(f"{folder}: cannot write the logs: {error.strerror}") from None

    def curve(self, name: str, value: float, step: int) -> None:
        """A point of one of TensorBoard's curves.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self._curves.point(name, value, step)
        except OSError as error:
            raise OutputError(f"{self._curves.path}: cannot write it: {error.strerror}") from None

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
        """Close TensorBoard's file."""
        self._curves.close()


class _Curves:
    """One of TensorBoard's event files, written at once in the caller's thread: a full disk is the caller's
    error. (PyTorch's writer has a thread of its own, which ends in a traceback.)"""

    def __init__(self, folder: Path, purge_step: int) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise UsageError(
                "tensorboard is not installed; pip install 'austream[train]' -c constraints.txt"
            ) from None
        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"events.out.tfevents.{time.time_ns()}"
        self._file = self.path.open("wb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def point(self, name: str, value: float, step: int) -> None:
        self._write(step=step, summary=self._summary(value=[{"tag": name, "simple_value": value}]))

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log, none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _before(row: Mapping[str, str], phase: int, step: int) -> bool:
    return (int(row["phase"]), int(row["step"])) <= (phase, step)
