"""An output in several files, each closed whole before the next begins: `results.0001.jsonl`, …

Numbers go on after those that are there, so that a run never replaces what an earlier one has closed. A
frame's rows stay together. A file that is not the last says at its end, where the ledgers stand, what it
holds of every stream that goes on:

    {"type": "rotated", "schema": 1, "stream": …, "frames": 900, "first_frame": 0, "last_frame": 899,
     "next": "results.0002.jsonl"}

A ledger is of the whole run and stands in the file in which its stream ended. Every file but the first is
told which one it continues; its header says so, where it has one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.messages import SCHEMA_VERSION, AUResult, Frame, Ledger, StreamInfo
from pipeline.rotation import Rotation
from pipeline.sinks.base import Sink
from pipeline.sinks.numbered import next_number, numbered

LOG = logging.getLogger(__name__)

Make = Callable[[Path, str | None], Sink]
"""(path, name of the file that it continues) → the sink of one file."""


@dataclass(slots=True)
class _Share(Ledger):
    """What one file holds of a stream that goes on in the next; stands where a ledger would."""

    first_frame: int | None = None
    last_frame: int | None = None
    next_name: str = ""

    def note(self, seq: int) -> None:
        self.delivered += 1
        self.first_frame = seq if self.first_frame is None else self.first_frame
        self.last_frame = seq

    def row(self) -> dict[str, Any]:
        return {
            "type": "rotated",
            "schema": SCHEMA_VERSION,
            "stream": self.stream,
            "frames": self.delivered,
            "first_frame": self.first_frame,
            "last_frame": self.last_frame,
            "next": self.next_name,
        }


class RotatingSink:
    """Hands everything to the sink of one file, and goes on to the next when it is time."""

    lossless = True

    def __init__(
        self,
        target: Path,
        make: Make,
        rotation: Rotation,
        clock: Callable[[], float] = time.monotonic,
        before_closing: Callable[[], object] = lambda: None,
        continues: str | None = None,
    ) -> None:
        """`target`: the name without a number; `clock`: seconds that only rise; `before_closing`: told before
        a file is made whole on the way, which may take long; `continues`: what the first file does."""
        self._target, self._make, self._rotation, self._clock = target, make, rotation, clock
        self._before_closing = before_closing
        self._infos: dict[str, StreamInfo] = {}
        self._shares: dict[str, _Share] = {}
        self._began: float | None = None
        self._paths: list[Path] = []
        self._number = next_number(target)
        self._path = numbered(target, self._number)
        self._sink = make(self._path, continues)

    def open_stream(self, info: StreamInfo) -> None:
        self._infos[info.stream] = info
        self._shares.setdefault(info.stream, _Share(info.stream))
        self._sink.open_stream(info)

    def write(self, frame: Frame, results: Sequence[AUResult]) -> None:
        if self._due():
            self._go_on()
        self._began = self._clock() if self._began is None else self._began
        self._sink.write(frame, results)
        self._shares[frame.stamp.stream].note(frame.stamp.seq)

    def close_stream(self, ledger: Ledger) -> None:
        self._infos.pop(ledger.stream, None)
        self._sink.close_stream(ledger)

    def finish(self) -> list[Path]:
        return [*self._paths, *self._sink.finish()]

    def abort(self) -> None:
        self._sink.abort()

    def _due(self) -> bool:
        if self._began is None:
            return False
        if self._rotation.seconds is not None:
            return self._clock() - self._began >= self._rotation.seconds
        with suppress(OSError):
            size = self._path.with_name(self._path.name + ".part").stat().st_size
            return size >= (self._rotation.size_bytes or 0)
        return False

    def _go_on(self) -> None:
        self._before_closing()
        self._number += 1
        path = numbered(self._target, self._number)
        for stream in self._infos:
            self._shares[stream].next_name = path.name
            self._sink.close_stream(self._shares[stream])
        self._paths += self._sink.finish()
        LOG.info("closed %s", self._path)
        self._sink = self._make(path, self._path.name)
        self._path, self._began = path, None
        for stream, info in self._infos.items():
            self._shares[stream] = _Share(stream)
            self._sink.open_stream(info)
