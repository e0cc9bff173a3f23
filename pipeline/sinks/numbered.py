"""Files of one output that follow one another: `results.0001.jsonl`, `results.0002.jsonl`, …

Numbers go on after those that are there, so that no run replaces what another has closed, and no sink what
one that died has left.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.sinks.files import named, part_of

LOG = logging.getLogger(__name__)


def numbered(target: Path, number: int) -> Path:
    return named(target, f"{number:04d}")


def next_number(target: Path, least: int = 1) -> int:
    """The number of the file to begin; OutputError when the folder cannot be read."""
    return max([least, *(number + 1 for number, _ in _files(target))])


def go_on(target: Path, frames: int | None) -> tuple[Path, str | None]:
    """Where an output goes on after a sink died; the log says what that one has left.

    Args:
        frames: that it had taken; None where the files are numbered from the first on, some perhaps closed.

    Returns:
        The next file, and the name of the last one.
    """
    rotates = frames is None
    following = numbered(target, next_number(target, 1 if rotates else 2))
    last = last_of(target, rotates)
    if last is not None and last.suffix == ".part":
        if readable(last):
            left = "" if rotates else f", with {frames} frames"
        else:
            what = "what it holds" if rotates else f"its {frames} frames"
            left = f" without an end, so that {what} cannot be read"
        LOG.warning("%s: left by the sink that died%s; %s goes on", last, left, following.name)
    return following, None if last is None else last.name


def last_of(target: Path, rotates: bool) -> Path | None:
    """What a sink that died wrote last for an output: a .part or, if it died between two files, a whole one.

    Args:
        rotates: whether its files are numbered from the first on; otherwise that is called `target`, and what
            has such a name without .part is not this run's.
    """
    found = [(number, path) for number, path in _files(target) if rotates or path.suffix == ".part"]
    first = part_of(target)
    if not rotates and first.exists():
        found.append((0, first))
    # By time: earlier runs may have left some with higher numbers.
    return max(found, key=lambda file: (_mtime(file[1]), file[0]), default=(0, None))[1]


def readable(part: Path) -> bool:
    """Whether a .part can be read as far as it goes: lines always, others only if they got their end."""
    kind = part.with_suffix("").suffix.lower()
    with suppress(OSError), part.open("rb") as file:
        if kind == ".mp4":
            return b"moov" in file.read(64)
        if kind == ".parquet":
            file.seek(-4, 2)
            return file.read() == b"PAR1" and file.tell() > 4
    return kind not in (".mp4", ".parquet")


def _files(target: Path) -> Iterator[tuple[int, Path]]:
    pattern = re.compile(re.escape(target.stem) + r"\.(\d{4,9})" + re.escape(target.suffix) + r"(\.part)?")
    try:
        paths = list(target.absolute().parent.iterdir())
    except OSError as error:
        raise OutputError(f"{target}: its folder cannot be read: {error.strerror}") from error
    for path in paths:
        if found := pattern.fullmatch(path.name):
            yield int(found[1]), path


def _mtime(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0
