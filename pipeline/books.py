"""What a process must not forget when it dies: small files in the run's directory, rewritten in place.

The capture keeps a book for every stream: the StreamEnd that it would send if the stream ended now. Its next
life goes on from there, and when there is none the sink closes the stream by it.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from pipeline.errors import WireError
from pipeline.streams import StreamEnd
from pipeline.wire import decode, encode

RUNNING = ""
"""`Ledger.ended` in the book of a stream that has not ended."""
_LENGTH = struct.Struct("<I")


class Book:
    """The book of one stream."""

    def __init__(self, folder: Path, number: int) -> None:
        """number: of the stream in the run."""
        self._file = os.open(_path(folder, number), os.O_RDWR | os.O_CREAT, 0o600)

    def write(self, end: StreamEnd) -> None:
        """One system call, which the death of the process does not cut in two."""
        data = encode(end)
        os.pwrite(self._file, _LENGTH.pack(len(data)) + data, 0)

    def close(self) -> None:
        """The file stays."""
        os.close(self._file)


def read_book(folder: Path, number: int) -> StreamEnd | None:
    """What was written last; None when nothing was."""
    try:
        data = _path(folder, number).read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(data)
    message = decode(data[_LENGTH.size : _LENGTH.size + length])
    if not isinstance(message, StreamEnd):
        raise WireError(f"{_path(folder, number)}: expected a StreamEnd, got {type(message).__name__}")
    return message


def _path(folder: Path, number: int) -> Path:
    return folder / f"book.{number}"
