"""What label lists of public code have in common: a line names a picture by its path below an image root, and
says which AUs it shows. The lists know no intensities; frames that they leave out are not there.

Pictures may be the datasets' own or such as those programs cut out: the streaming code finds the faces in
them again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.errors import SourceError
from train.data import bp4d, disfa
from train.data.base import (
    REST_RULE,
    Dataset,
    Labels,
    Problems,
    Recording,
    Subject,
    au_names,
    finish,
    neutral_at_rest,
)
from train.data.files import entries, lines, whole
from train.data.media import pictures_in
from train.shards import UNKNOWN

PICTURE = re.compile(
    r"(?P<folder>(?:[^/]+/)*?(?P<subject>[FM]\d{3}|SN\d{3})(?:/(?P<task>T\d))?)/(?P<number>\d+)\.(?:jpe?g|png|bmp)",
    re.IGNORECASE,
)
Row = tuple[int, ...]
"""0, 1 or 9 for each AU."""
Rows = dict[str, Row]
"""Path of a picture → its labels."""


@dataclass(frozen=True)
class Kind:
    """Which dataset's pictures a list names."""

    prefix: str
    """In the names of the list files: BP4D, DISFA."""
    dataset: Dataset
    aus: tuple[str, ...]
    """Of the lists, in the order of their columns."""
    rate_hz: float


KINDS = {
    "bp4d": Kind("BP4D", bp4d.BP4D, bp4d.AUS, bp4d.RATE_HZ),
    "disfa": Kind("DISFA", disfa.DISFA, au_names((1, 2, 4, 6, 9, 12, 25, 26)), disfa.RATE_HZ),
}


@dataclass(frozen=True)
class Importer:
    """One program's lists."""

    name: str
    title: str
    find: Callable[[Path, Kind], Path | None]
    """The folder of the list files below a root."""
    wanted: str
    """Names of its list files, for messages; `X` stands for BP4D or DISFA."""
    images: tuple[str, ...]
    """Where that program keeps the pictures, from the lists' folder; `X` as before."""
    rows: Callable[[Path, Kind], Rows]
    """All lines of all list files."""
    frames: Mapping[str, int]
    """Pictures that the published lists name, by kind, where that is known."""
    note: str = ""
    """What is odd about its DISFA labels."""

    def dataset(self, kind_name: str, images: Path | None = None) -> Dataset:
        """Its lists of one dataset as a dataset, `jaanet-bp4d` for example.

        Args:
            kind_name: of `KINDS`.
            images: the image root; None for where the program itself has it.
        """
        kind = KINDS[kind_name]
        return replace(
            kind.dataset,
            name=f"{self.name}-{kind_name}",
            title=f"{kind.prefix} by {self.title}'s lists",
            aus=kind.aus,
            frames=self.frames.get(kind_name),
            recordings=None,
            neutral_rule=REST_RULE,
            lacks=partial(self._lacks, kind),
            read=partial(self._read, kind, images),
        )

    def _lacks(self, kind: Kind, root: Path) -> list[str]:
        return [] if self.find(root, kind) else [self.wanted.replace("X", kind.prefix)]

    def _read(self, kind: Kind, images: Path | None, root: Path) -> Iterator[Subject]:
        folder = self.find(root, kind)
        if folder is None:
            return
        tried = [folder / path.replace("X", kind.prefix) for path in self.images]
        place = images or next((path for path in tried if path.is_dir()), None)
        if place is None or not place.is_dir():
            where = " and ".join(str(path) for path in ([images] if images else tried))
            raise SourceError(f"{where}: no folder of pictures; give the lists' image root with --images")
        note = self.note if kind.prefix == "DISFA" else ""
        yield from subjects(self.rows(folder, kind), place, kind, note)


def subjects(rows: Rows, images: Path, kind: Kind, note: str = "") -> Iterator[Subject]:
    """Group pictures by subject and task, or camera.

    Args:
        rows: labels of pictures.
        images: what their paths are below.
        kind: whose pictures they are.
        note: an odd thing to be said once.

    Raises:
        SourceError: a path is not that of a subject's picture.
    """
    found: dict[tuple[str, str, str], dict[int, Row]] = {}
    for path, row in rows.items():
        match = PICTURE.fullmatch(path)
        if match is None or ".." in path.split("/"):
            raise SourceError(
                f"{path[:80]}: in a list; expected a picture like F001/T1/2440.jpg or SN001/0.png"
            )
        camera = "right" if "right" in path.lower() else "left"
        key = (
            match["subject"].upper(),
            (match["task"] or camera),
            match["folder"],
        )
        numbered = found.setdefault(key, {})
        number = int(match["number"])
        if numbered.setdefault(number, row) != row:
            raise SourceError(f"{path}: in the lists twice, with different labels; get the lists again")
    for name in sorted({subject for subject, _, _ in found}):
        keys = sorted(key for key in found if key[0] == name)
        recordings = [
            _recording(key, found[key], images, kind, note if k == 0 else "") for k, key in enumerate(keys)
        ]
        yield Subject(name, neutral_at_rest(recordings))


def _recording(
    key: tuple[str, str, str], rows: dict[int, Row], images: Path, kind: Kind, note: str
) -> Recording:
    subject, name, folder = key
    problems = Problems(f"{subject}/{name}")
    if note:
        problems.odd(note)
    numbers = np.array(sorted(rows), np.int64)
    occurrence = np.array([rows[int(number)] for number in numbers], np.uint8)
    labels = Labels(
        kind.aus,
        numbers,
        numbers,
        occurrence,
        np.full(occurrence.shape, np.nan, np.float32),
        np.zeros(len(numbers), bool),
    )
    return finish(subject, name, pictures_in(images / folder), labels, kind.rate_hz, problems)


def list_lines(path: Path) -> list[str]:
    """Lines of a list that are not empty.

    Raises:
        SourceError: it cannot be read, is empty, or is a pointer of Git LFS.
    """
    found = [line.strip() for line in lines(path) if line.strip()]
    if not found:
        raise SourceError(f"{path}: empty; get it again")
    if found[0].startswith("version https://git-lfs"):
        raise SourceError(f"{path}: a pointer of Git LFS, not the list; fetch it with git lfs pull")
    return found


def paired(paths: Path, labels: Path, kind: Kind) -> Rows:
    """A list of paths and a list of labels, line by line.

    Raises:
        SourceError: they differ in length, or a line is no label of the kind's AUs.
    """
    names, rows = list_lines(paths), list_lines(labels)
    if len(names) != len(rows):
        raise SourceError(f"{labels}: {len(rows)} lines for the {len(names)} pictures of {paths.name}")
    found: Rows = {}
    for number, (name, line) in enumerate(zip(names, rows, strict=True), start=1):
        values = [whole(cell) for cell in re.split(r"[\s,]+", line)]
        if len(values) != len(kind.aus) or any(value not in (0, 1, UNKNOWN) for value in values):
            raise SourceError(
                f"{labels}: line {number}: expected {len(kind.aus)} labels of 0, 1 or {UNKNOWN}, "
                f"got {line[:40]!r}"
            )
        merge(found, name.replace("\\", "/"), tuple(int(value or 0) for value in values), paths)
    return found


def merge(rows: Rows, path: str, row: Row, where: Path) -> None:
    """Add a line.

    Raises:
        SourceError: the picture is there with other labels.
    """
    if rows.setdefault(path, row) != row:
        raise SourceError(f"{where}: {path} for the second time, with other labels; get the lists again")


def check_apart(parts: Mapping[str, Rows]) -> None:
    """No subject may be in two lists that are tested apart.

    Raises:
        SourceError: one is.
    """
    owner: dict[str, str] = {}
    for part, rows in parts.items():
        for path in rows:
            match = PICTURE.fullmatch(path)
            if match is None:
                continue  # said by `subjects`
            other = owner.setdefault(match["subject"].upper(), part)
            if other != part:
                raise SourceError(
                    f"{match['subject']} is in {other} and in {part}; a subject belongs to one of them: "
                    "these lists would test on who was trained on"
                )


def first_with(root: Path, places: Sequence[str], pattern: str, kind: Kind) -> Path | None:
    """The first of some folders below a root that holds a file of such a name."""
    for place in places:
        folder = root / place.replace("X", kind.prefix)
        if entries(folder, pattern.replace("X", kind.prefix)):
            return folder
    return None


def union(parts: Mapping[str, Rows], folder: Path) -> Rows:
    """Lines of several lists together.

    Raises:
        SourceError: they contradict each other.
    """
    found: Rows = {}
    for rows in parts.values():
        for path, row in rows.items():
            merge(found, path, row, folder)
    return found
