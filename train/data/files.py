"""Finding folders whatever their spelling, and reading label files line by line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError

K = TypeVar("K")

Column = dict[int, int]
"""Frame number → label, of one AU."""


def entries(folder: Path, pattern: str) -> list[Path]:
    """What in a folder has such a name, whatever its case, in order; [] where there is no folder.

    Raises:
        SourceError: it cannot be listed.
    """
    try:
        found = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    return sorted(p for p in found if re.fullmatch(pattern, p.name, re.IGNORECASE))


def folder_like(parent: Path, pattern: str) -> Path | None:
    """The sub-folder with such a name; the first of several."""
    return next((path for path in entries(parent, pattern) if path.is_dir()), None)


def once(paths: Iterable[Path], key: Callable[[Path], K]) -> dict[K, Path]:
    """Paths by what they are.

    Raises:
        SourceError: two are the same, e.g. the folders `F1` and `F001`.
    """
    found: dict[K, Path] = {}
    for path in paths:
        other = found.setdefault(key(path), path)
        if other != path:
            raise SourceError(f"{other.parent}: {other.name} and {path.name} are the same one; remove one")
    return found


def lacking(root: Path, **wanted: str) -> list[str]:
    """Of the sub-folders wanted (how a person writes them → pattern), those that are not there."""
    return [shown for shown, pattern in wanted.items() if folder_like(root, pattern) is None]


def lines(path: Path) -> list[str]:
    """Of a text file, without line ends.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); copy it again") from None


def whole(text: str) -> int | None:
    """`3`, ` 3.0` or `3.0000000e+00` → 3; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def read_column(path: Path, pattern: str, allowed: Sequence[int], heading: bool = False) -> Column:
    """A file with one frame and its label a line.

    Args:
        path: of the file.
        pattern: of a line; group 1 is the frame's number, group 2 its label.
        allowed: labels that may occur.
        heading: whether lines before the first label may be anything.

    Raises:
        SourceError: it cannot be read, has no label, a line that is none, or a frame twice.
    """
    column: Column = {}
    for row, line in enumerate(lines(path), start=1):
        match = re.fullmatch(pattern, line.strip())
        if match is None:
            if line.strip() and not (heading and not column):
                raise SourceError(f"{path}: line {row}: expected a frame and its label, got {line[:40]!r}")
            continue
        number, label = int(match[1]), int(match[2])
        if label not in allowed:
            raise SourceError(f"{path}: line {row}: expected a label of {list(allowed)}, got {label}")
        if number in column:
            raise SourceError(f"{path}: line {row}: frame {number} for the second time")
        column[number] = label
    if not column:
        raise SourceError(f"{path}: no label in it; expected one line per frame; copy it again")
    return column


def together(
    columns: Mapping[str, Column], aus: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns side by side.

    Returns:
        (n,) the frames of all columns, rising, and (n, A) their labels, NaN where a column has none.
    """
    numbers = np.array(sorted(set().union(*columns.values())), np.int64)
    values = np.full((len(numbers), len(aus)), np.nan, np.float32)
    for a, au in enumerate(aus):
        column = columns.get(au)
        if column:
            values[np.searchsorted(numbers, list(column)), a] = list(column.values())
    return numbers, values


def in_ranges(numbers: NDArray[np.int64], ranges: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """(n,): which numbers lie in one of the ranges, both ends included."""
    inside = np.zeros(len(numbers), bool)
    for first, last in ranges:
        inside |= (numbers >= first) & (numbers <= last)
    return inside
