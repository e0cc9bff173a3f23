"""Writing rendered recordings as pictures with the label lists of JAA-Net, ME-GraphAU or AU R-CNN beside
them; what the lists are like is told in their importers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.data.folds import PUBLISHED
from train.data.lists import KINDS, Kind
from train.data.mimic_layouts import Layout, Record, number_of, packed, put, spread

Lines = list[tuple[str, NDArray[np.uint8]]]
"""Pictures and their labels, 0, 1 or 9."""
_TASKS = ("T1", "T2")
_FIRST = 41


def _part(kind: Kind, subject: str) -> int:
    """1, 2 or 3: the published part that a subject belongs to."""
    parts = PUBLISHED[kind.dataset.name].values()
    return next(k for k, part in enumerate(parts, start=1) if subject in part)


def _pictures(
    kind: Kind, root: Path, folder: str, first: int, name: str, subject: str, record: Record, seconds: float
) -> Lines:
    """Render a subject and write the pictures below `root`.

    Args:
        folder: before the subject in the lists' paths; first: number of the first picture of DISFA;
        name: pattern of a picture's name.
    """
    tasks = _TASKS if kind.prefix == "BP4D" else ("",)
    made: Lines = []
    for task in tasks:
        begin = _FIRST if task else first
        shown = record(max(round(seconds / len(tasks) * kind.rate_hz), 6), kind.rate_hz)
        present = shown.present(kind.aus)
        if kind.prefix == "DISFA":
            present = (shown.levels(kind.aus) >= 2).astype(np.uint8)
        for k, (picture, row) in enumerate(zip(shown.pictures_bgr, present, strict=True)):
            path = "/".join(part for part in (folder, subject, task, name.format(begin + k)) if part)
            put(root / path, packed(picture, Path(path).suffix))
            made.append((path, row))
    return made


def _append(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _plain(lines: Lines) -> tuple[list[str], list[str]]:
    return [path for path, _ in lines], [" ".join(map(str, row)) for _, row in lines]


def jaanet_person(kind: Kind, root: Path, subject: str, record: Record, seconds: float) -> None:
    """`data/imgs`, and the path and AUoccur lists of the subject's part."""
    name = "{:04d}.jpg" if kind.prefix == "BP4D" else "{}.jpg"
    made = _pictures(kind, root / "data" / "imgs", kind.prefix, 0, name, subject, record, seconds)
    paths, rows = _plain(made)
    stem = f"{kind.prefix}_part{_part(kind, subject)}"
    _append(root / "data" / "list" / f"{stem}_path.txt", paths)
    _append(root / "data" / "list" / f"{stem}_AUoccur.txt", rows)


def megraphau_person(kind: Kind, root: Path, subject: str, record: Record, seconds: float) -> None:
    """`img`, and the lists of all three folds."""
    top = root / "data" / kind.prefix
    name = "{}.jpg" if kind.prefix == "BP4D" else "{}.png"
    paths, rows = _plain(_pictures(kind, top / "img", "", 0, name, subject, record, seconds))
    for fold in (1, 2, 3):
        which = "test" if fold == 4 - _part(kind, subject) else "train"
        _append(top / "list" / f"{kind.prefix}_{which}_img_path_fold{fold}.txt", paths)
        _append(top / "list" / f"{kind.prefix}_{which}_label_fold{fold}.txt", rows)


def aurcnn_person(kind: Kind, root: Path, subject: str, record: Record, seconds: float) -> None:
    """`idx/3_fold`; every picture with an AU comes twice in training, as where the lists were balanced."""
    of_bp4d = kind.prefix == "BP4D"
    images, folder = (root / "BP4D-training", "") if of_bp4d else (root, "Img_LeftCamera")
    made = _pictures(kind, images, folder, 1, "{:04d}.jpg" if of_bp4d else "{}.jpg", subject, record, seconds)
    lines = []
    for path, row in made:
        there = [str(number_of(au)) for au, label in zip(kind.aus, row, strict=True) if label == 1]
        unknown = [f"?{number_of(au)}" for au, label in zip(kind.aus, row, strict=True) if label == 9]
        lines.append(
            f"{path}\t{','.join((*unknown, *there) if there else (*unknown, '0'))}\t#\t{kind.prefix}"
        )
    for fold in (1, 2, 3):
        tested = fold == _part(kind, subject)
        twice = [] if tested else [line for line in lines if line.split("\t")[1] != "0"]
        which = "test" if tested else "trainval"
        _append(root / "idx" / "3_fold" / f"id_{which}_{fold}.txt", lines + twice)


_PEOPLE: Mapping[str, tuple[str, Callable[[Kind, Path, str, Record, float], None]]] = {
    "jaanet": ("JAA-Net", jaanet_person),
    "megraphau": ("ME-GraphAU", megraphau_person),
    "aurcnn": ("AU R-CNN", aurcnn_person),
}
LISTS: Mapping[str, Layout] = {
    f"{name}-{which}": Layout(
        f"{name}-{which}",
        f"{kind.prefix} by {title}'s lists",
        kind.aus,
        spread(which),
        partial(write, kind),
    )
    for name, (title, write) in _PEOPLE.items()
    for which, kind in KINDS.items()
}
