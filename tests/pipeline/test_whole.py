"""Files that are there as a whole or not at all."""

from pathlib import Path

import pytest

from pipeline.errors import OutputError
from pipeline.whole import whole, write_whole


def half(part: Path) -> None:
    part.write_bytes(b"half")
    raise ValueError("half")


def test_what_was_there_stays_until_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_whole(path, b"old")
    with whole(path) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(ValueError, match="half"), whole(path) as part:
        half(part)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"new")]


def test_a_file_that_cannot_be_written_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no/x: cannot write it: No such file"):
        write_whole(tmp_path / "no" / "x", b"x")
    (tmp_path / "x").mkdir()
    with pytest.raises(OutputError, match="x: cannot write it: Is a directory"):
        write_whole(tmp_path / "x", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
