"""Books survive the death of the process that keeps them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.books import RUNNING, Arrivals, Book, SinkBooks, read_arrivals, read_book
from pipeline.errors import WireError
from pipeline.messages import Ledger
from pipeline.streams import StreamEnd

ROOT = Path(__file__).parents[2]
_SINK = """
import sys
from pathlib import Path
from pipeline.books import RUNNING, Arrivals, SinkBooks
from pipeline.messages import Ledger
from pipeline.streams import StreamEnd
books = SinkBooks(Path(sys.argv[1]))
n = max([0, *(before.rows for before in books.before.values())])
while True:
    n += 1
    for stream in ("a", "b" * 99):
        dropped = {("capture", "x" * (n % 90)): n}
        ledger = Ledger(stream, n, n, dropped, ended=RUNNING)
        books.write(Arrivals(n, n, n, StreamEnd(stream, n, n, ledger, n)))
"""
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


def rows_of_all(folder: Path) -> int:
    found = read_arrivals(folder)
    return sum(arrivals.rows for arrivals in found.values()) if len(found) == 2 else 0


def test_a_sink_that_is_killed_leaves_whole_books_of_all_its_streams(tmp_path: Path) -> None:
    last = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", _SINK, str(tmp_path)], cwd=ROOT)
        deadline = time.monotonic() + 60
        while rows_of_all(tmp_path) <= last and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = read_arrivals(tmp_path)
        assert set(found) == {"a", "b" * 99}
        for stream, read in found.items():
            ledger = read.end.ledger
            assert read.life == read.earlier == read.rows == read.end.frames == ledger.delivered > 0
            assert read.end.stream == ledger.stream == stream
        assert found["a"].rows - found["b" * 99].rows in (0, 1)
        last = rows_of_all(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


texts = st.text(max_size=9)
ends = st.builds(
    lambda stream, frames, delivered, dropped, restarts, ended: StreamEnd(
        stream, frames, frames, Ledger(stream, frames, delivered, dropped, restarts=restarts, ended=ended)
    ),
    st.sampled_from(["a", "b", "rtsp://é/1"]),
    *[st.integers(0, 2**40)] * 2,
    st.dictionaries(st.tuples(texts, texts), st.integers(0, 9), max_size=4),
    st.dictionaries(st.sampled_from(["sink", "face"]), st.integers(1, 9)),
    st.sampled_from([RUNNING, "interrupted"]),
)


@given(st.lists(st.tuples(st.booleans(), ends), min_size=1, max_size=8), st.integers(0, 9))
def test_the_next_life_reads_what_was_written_last(writes: list[tuple[bool, StreamEnd]], deaths: int) -> None:
    """Streams in turn; True: by a sink that has been started anew."""
    with TemporaryDirectory() as name:
        folder, life, expected = Path(name), 0, {}
        books = SinkBooks(folder)
        for anew, end in writes:
            if anew:
                life, books = life + 1, SinkBooks(folder)
                assert books.before == expected
            expected[end.stream] = Arrivals(life, 3, 2**40, end)
            books.write(expected[end.stream])
        assert read_arrivals(folder) == expected
    for arrivals in expected.values():
        before, after = arrivals.end.ledger, arrivals.ledger(arrivals.life + deaths)
        counted = after.restarts.get("sink", 0) - before.restarts.get("sink", 0)
        assert counted == (0 if before.ended else deaths)
        assert after.restarts.get("face") == before.restarts.get("face")


def test_a_book_that_was_opened_and_not_yet_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "arrivals.0").touch()
    assert read_arrivals(tmp_path) == {}
    books = SinkBooks(tmp_path)
    arrivals = Arrivals(1, 0, 0, StreamEnd("a", None, 0, Ledger("a", ended=RUNNING)))
    books.write(arrivals)
    assert read_arrivals(tmp_path) == {"a": arrivals}


def test_what_is_no_book_is_refused(tmp_path: Path) -> None:
    (tmp_path / "book.1").write_bytes(b"\x10\0\0\0nonsense, and more of it")
    with pytest.raises(WireError):
        read_book(tmp_path, 1)
