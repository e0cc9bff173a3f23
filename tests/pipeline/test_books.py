"""Books survive the death of the process that keeps them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.books import Book, read_book
from pipeline.errors import WireError
from pipeline.messages import Ledger
from pipeline.streams import StreamEnd

ROOT = Path(__file__).parents[2]
_WRITER = """
import sys
from pathlib import Path
from pipeline.books import Book
from pipeline.messages import Ledger
from pipeline.streams import StreamEnd
book = Book(Path(sys.argv[1]), 3)
n = 0
while True:
    n += 1
    book.write(StreamEnd("s" * (1 + n % 50), n, n, Ledger("s", n, 0, {("capture", "x" * (n % 90)): n}), n))
"""


def test_what_was_written_last_is_read(tmp_path: Path) -> None:
    assert read_book(tmp_path, 0) is None
    book = Book(tmp_path, 0)
    assert read_book(tmp_path, 0) is None
    long = StreamEnd("s", 8, 9, Ledger("s", 9, ended="a long reason " * 20), 2)
    short = StreamEnd("s", 9, 10, Ledger("s", 10, ended=""), 2)
    for end in (long, short):
        book.write(end)
        assert read_book(tmp_path, 0) == end
    book.close()
    assert (tmp_path / "book.0").stat().st_mode & 0o077 == 0


def test_a_writer_that_is_killed_leaves_a_whole_book(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], cwd=ROOT)
        deadline = time.monotonic() + 60
        while read_book(tmp_path, 3) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        end = read_book(tmp_path, 3)
        assert end is not None
        assert end.frames == end.ledger.captured == end.epoch == end.last_seq
        (tmp_path / "book.3").unlink()


def test_what_is_no_book_is_refused(tmp_path: Path) -> None:
    (tmp_path / "book.1").write_bytes(b"\x10\0\0\0nonsense, and more of it")
    with pytest.raises(WireError):
        read_book(tmp_path, 1)
