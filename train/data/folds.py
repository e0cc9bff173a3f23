"""Subject-exclusive folds. A fold is named by the part that it tests (public code numbers them differently:
fold k tests Pk in DRML's and AU-Nets' lists, ME-GraphAU's fold 1 tests P3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import UsageError
from train.data import bp4d

Parts = Mapping[str, tuple[str, ...]]
"""Name of a part → its subjects."""


def _sn(*numbers: int) -> tuple[str, ...]:
    return tuple(f"SN{number:03d}" for number in numbers)


def _bp4d(women: Sequence[int], men: Sequence[int]) -> tuple[str, ...]:
    return (*(f"F{number:03d}" for number in women), *(f"M{number:03d}" for number in men))


PUBLISHED: Mapping[str, Parts] = {
    # Zhao et al. 2016 (DRML); the same in AU-Nets, JAA-Net and ME-GraphAU
    "bp4d": {
        "P1": _bp4d((1, 2, 8, 9, 10, 16, 18, 23), (1, 4, 7, 8, 12, 14)),
        "P2": _bp4d((3, 5, 11, 13, 20, 22), (2, 5, 10, 11, 13, 16, 17, 18)),
        "P3": _bp4d((4, 6, 7, 12, 14, 15, 17, 19, 21), (3, 6, 9, 15)),
    },
    # JAA-Net, ME-GraphAU, LibreFace
    "disfa": {
        "P1": _sn(1, 2, 9, 10, 16, 26, 27, 30, 32),
        "P2": _sn(6, 11, 12, 13, 18, 21, 24, 28, 31),
        "P3": _sn(3, 4, 5, 7, 8, 17, 23, 25, 29),
    },
    # CEDNN, Table 1
    "disfaplus": {"P1": _sn(27, 10, 7), "P2": _sn(13, 25, 3), "P3": _sn(9, 1, 4)},
    "fera2015": {
        "training": tuple(s for s in bp4d.SUBJECTS if int(s[1:]) % 2),
        "development": tuple(s for s in bp4d.SUBJECTS if int(s[1:]) % 2 == 0),
    },
}


@dataclass(frozen=True)
class Fold:
    """Who is trained on and who is tested."""

    name: str
    """Of the part that is tested."""
    train: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        check_parts({"its training part": self.train, "its test part": self.test}, f"fold {self.name}")


def check_parts(parts: Parts, where: str) -> None:
    """No subject may be in two parts.

    Raises:
        UsageError: one is, or a part is empty.
    """
    owner: dict[str, str] = {}
    for part, subjects in parts.items():
        if not subjects:
            raise UsageError(f"{where}: {part} has no subject; expected at least one")
        for subject in subjects:
            if subject in owner:
                raise UsageError(
                    f"{where}: {subject} is in {owner[subject]} and in {part}; a subject belongs to one part"
                )
            owner[subject] = part


def drawn_parts(subjects: Sequence[str], count: int, seed: int) -> Parts:
    """P1, P2, … of nearly equal size, drawn by a seed: for datasets whose papers publish no list.

    Raises:
        UsageError: fewer subjects than parts.
    """
    people = sorted(set(subjects))
    if len(people) < count:
        raise UsageError(f"{len(people)} subjects do not make {count} parts; expected at least {count}")
    order = np.random.default_rng(seed).permutation(len(people))
    return {f"P{k + 1}": tuple(sorted(people[i] for i in order[k::count])) for k in range(count)}


def parts_of(dataset: str, subjects: Sequence[str], seed: int = 0) -> Parts:
    """The parts of a dataset: as published, or three drawn by `seed` (CK+, BP4D+).

    Args:
        dataset: its name, e.g. `disfa`.
        subjects: those that are there.
        seed: of drawn parts.

    Raises:
        UsageError: a published subject is not there, one that is there was not published, or there are too
            few to draw from.
    """
    dataset = dataset.rpartition("-")[2]  # lists of BP4D (`jaanet-bp4d`) have BP4D's parts
    if dataset == "fera2017":
        tell = {"training": "TR_", "validation": "VA_"}
        parts: Parts = {
            part: tuple(sorted(s for s in set(subjects) if s.startswith(prefix)))
            for part, prefix in tell.items()
        }
    elif dataset in PUBLISHED:
        parts = PUBLISHED[dataset]
        published, there = {s for part in parts.values() for s in part}, set(subjects)
        for which, names in (
            ("missing, so the folds would not be the published ones", published - there),
            ("in no published part", there - published),
        ):
            if names:
                raise UsageError(f"{dataset}: {', '.join(sorted(names))}: {which}")
    else:
        parts = drawn_parts(subjects, 3, seed)
    check_parts(parts, dataset)
    return parts


def folds(dataset: str, subjects: Sequence[str], seed: int = 0) -> tuple[Fold, ...]:
    """Each part tested once, on training with all others; of FERA's two parts only the second is tested.

    Raises:
        UsageError: see `parts_of`.
    """
    parts = parts_of(dataset, subjects, seed)
    tested = list(parts)[1:] if dataset.startswith("fera") else list(parts)
    return tuple(
        Fold(name, tuple(s for other in parts if other != name for s in parts[other]), parts[name])
        for name in tested
    )


def present_folds(dataset: str, subjects: Sequence[str], seed: int = 0) -> tuple[Fold, ...]:
    """Folds of those published subjects that are there: a look at half a dataset, not a paper's table.

    Raises:
        UsageError: somebody is in no published part, or fewer than two parts have anybody.
    """
    dataset = dataset.rpartition("-")[2]
    if dataset not in PUBLISHED:
        return folds(dataset, subjects, seed)
    there = set(subjects)
    if unknown := there - {s for part in PUBLISHED[dataset].values() for s in part}:
        raise UsageError(f"{dataset}: {', '.join(sorted(unknown))}: in no published part")
    parts = {name: tuple(s for s in part if s in there) for name, part in PUBLISHED[dataset].items()}
    parts = {name: part for name, part in parts.items() if part}
    tested = [name for name in parts if not dataset.startswith("fera") or name != "training"]
    if len(parts) < 2 or not tested:
        raise UsageError(
            f"{dataset}: {', '.join(sorted(there))}: all in one part; no fold can be made of them"
        )
    return tuple(
        Fold(name, tuple(s for other in parts if other != name for s in parts[other]), parts[name])
        for name in tested
    )
