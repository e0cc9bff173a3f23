"""JSON Lines: a header, a row per frame and face, a ledger per stream."""

# ruff: noqa: ARG002  (the methods of Sink take more than one kind of output needs)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.messages import AUResult, Frame, Ledger, StreamInfo
from pipeline.sinks.encode import json_line
from pipeline.sinks.files import PartFile


class JsonlSink:
    """One file for all its streams, side by side; the ledgers come last, for streams join until the end."""

    lossless = True

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self._part = PartFile(path)
        self._header = header
        self._ledgers: list[Ledger] = []
        self._begun = self._ended = False

    def open_stream(self, info: StreamInfo) -> None:
        self._begin()
        self._part.flush()

    def write(self, frame: Frame, results: Sequence[AUResult]) -> None:
        # Whole lines, flushed with every frame: a reader may follow the file.
        self._part.write("".join(json_line(result.row()) + "\n" for result in results).encode())
        self._part.flush()
        self._part.rows += 1

    def close_stream(self, ledger: Ledger) -> None:
        self._ledgers.append(ledger)
        self._part.flush()

    def finish(self) -> list[Path]:
        self._begin()
        self._end()
        return [self._part.commit()]

    def abort(self) -> None:
        self._part.abandon()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._part.write(f"{json_line(self._header)}\n".encode())

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._part.write("".join(json_line(ledger.row()) + "\n" for ledger in self._ledgers).encode())
            self._part.close()
