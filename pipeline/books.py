"""What a process must not forget when it dies: small files in the run's directory, rewritten in place.

The capture keeps a book for every stream: the StreamEnd that it would send if the stream ended now. Its next
life goes on from there, and when there is none the sink closes the stream by it. The sink keeps books too, of
what came of every stream: its next life goes on counting from them, and when there is none the supervisor
does the ledgers by them.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import WireError
from pipeline.messages import Ledger
from pipeline.streams import StreamEnd
from pipeline.wire import decode, encode

RUNNING = ""
"""`Ledger.ended` in the book of a stream that has not ended."""
_LENGTH = struct.Struct("<I")
_SINKS_HEAD = struct.Struct("<IQQ")


class Book:
    """The capture's book of one stream."""

    def __init__(self, folder: Path, number: int) -> None:
        """number: of the stream in the run."""
        self._file = _opened(_path(folder, number))

    def write(self, end: StreamEnd) -> None:
        """One system call, which the death of the process does not cut in two."""
        os.pwrite(self._file, _record(end), 0)

    def close(self) -> None:
        """The file stays."""
        os.close(self._file)


def read_book(folder: Path, number: int) -> StreamEnd | None:
    """What was written last; None when nothing was."""
    path = _path(folder, number)
    try:
        return _end(path.read_bytes(), path)
    except FileNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What a sink knows of a stream."""

    life: int
    """How often the sink had been started anew when it wrote this."""
    earlier: int
    """Frames that its earlier lives delivered."""
    rows: int
    """Of all frames that were delivered."""
    end: StreamEnd
    """The last frame delivered, with `frames` the index of the one to come next, and the ledger of what came
    here; the whole ledger once the stream has ended."""

    def ledger(self, life: int) -> Ledger:
        """The ledger as it is for the sink's later `life`: the deaths in between are counted."""
        ledger = self.end.ledger
        if life == self.life or ledger.ended != RUNNING:
            return ledger
        deaths = ledger.restarts.get("sink", 0) + life - self.life
        return replace(ledger, restarts={**ledger.restarts, "sink": deaths})


class SinkBooks:
    """The sink's books of all its streams."""

    def __init__(self, folder: Path) -> None:
        earlier = _sinks_books(folder)
        self.before = {arrivals.end.stream: arrivals for arrivals in earlier.values()}
        """By stream: what an earlier life of the sink has written."""
        self._folder = folder
        self._files = {arrivals.end.stream: _opened(path) for path, arrivals in earlier.items()}

    def write(self, arrivals: Arrivals) -> None:
        """One system call, as for `Book`."""
        stream = arrivals.end.stream
        if stream not in self._files:
            self._files[stream] = _opened(self._folder / f"arrivals.{len(self._files)}")
        head = _SINKS_HEAD.pack(arrivals.life, arrivals.earlier, arrivals.rows)
        os.pwrite(self._files[stream], head + _record(arrivals.end), 0)


def read_arrivals(folder: Path) -> dict[str, Arrivals]:
    """What the sink has written last, by stream."""
    return {arrivals.end.stream: arrivals for arrivals in _sinks_books(folder).values()}


def _sinks_books(folder: Path) -> dict[Path, Arrivals]:
    found = {}
    for path in folder.glob("arrivals.*"):
        data = path.read_bytes()
        if (end := _end(data[_SINKS_HEAD.size :], path)) is not None:
            life, earlier, rows = _SINKS_HEAD.unpack_from(data)
            found[path] = Arrivals(life, earlier, rows, end)
    return found


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _record(end: StreamEnd) -> bytes:
    data = encode(end)
    return _LENGTH.pack(len(data)) + data


def _end(record: bytes, path: Path) -> StreamEnd | None:
    if len(record) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(record)
    message = decode(record[_LENGTH.size : _LENGTH.size + length])
    if not isinstance(message, StreamEnd):
        raise WireError(f"{path}: expected a StreamEnd, got {type(message).__name__}")
    return message


def _path(folder: Path, number: int) -> Path:
    return folder / f"book.{number}"
