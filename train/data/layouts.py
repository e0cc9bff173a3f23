"""All datasets, and telling by a folder's layout which one it holds."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import SourceError, UsageError
from train.data.aurcnn import AURCNN
from train.data.base import Dataset
from train.data.bp4d import BP4D, BP4DPLUS
from train.data.ckplus import CKPLUS
from train.data.disfa import DISFA
from train.data.disfaplus import DISFAPLUS
from train.data.fera2015 import FERA2015
from train.data.fera2017 import FERA2017
from train.data.jaanet import JAANET
from train.data.lists import KINDS
from train.data.megraphau import MEGRAPHAU

DATASETS = {d.name: d for d in (BP4D, BP4DPLUS, DISFA, DISFAPLUS, CKPLUS, FERA2015, FERA2017)}
SAME_FILES = {"fera2015": "bp4d"}
"""Datasets that cannot be told from another by their files, and have to be named."""
LISTS = {f"{made.name}-{kind}": (made, kind) for made in (JAANET, MEGRAPHAU, AURCNN) for kind in KINDS}
"""Label lists of public code, which have to be named: `jaanet-bp4d`, …"""


def named(name: str, images: Path | None = None) -> Dataset:
    """A dataset, or a program's lists of one, by its name.

    Args:
        name: of `DATASETS` or `LISTS`.
        images: the image root of lists; None for where that program has it.

    Raises:
        UsageError: there is none of that name, or it needs no image root.
    """
    if name in LISTS:
        importer, kind = LISTS[name]
        return importer.dataset(kind, images)
    if name not in DATASETS:
        known = ", ".join((*DATASETS, *LISTS))
        raise UsageError(f"--dataset {name}: no such dataset; expected one of {known}")
    if images is not None:
        raise UsageError(f"--images: {name} has its own pictures; expected with lists: {', '.join(LISTS)}")
    return DATASETS[name]


def recognise(root: Path, name: str | None = None, images: Path | None = None) -> Dataset:
    """Which dataset a folder holds.

    Args:
        root: the dataset's top folder.
        name: the one that it must be; None to find out.
        images: the image root of lists, which must be named.

    Raises:
        SourceError: no folder, or none of the layouts; says what each lacked.
        UsageError: no dataset has that name, or several layouts are there.
    """
    if images is not None and name is None:
        raise UsageError(f"--images: say whose lists they are with --dataset, one of {', '.join(LISTS)}")
    tried = [named(name, images)] if name else [d for d in DATASETS.values() if d.name not in SAME_FILES]
    if not root.is_dir():
        why = "is a file" if root.exists() else "does not exist"
        raise SourceError(f"{root}: {why}; expected the dataset's top folder")
    lacked = {dataset: dataset.lacks(root) for dataset in tried}
    found = [dataset for dataset, lacking in lacked.items() if not lacking]
    if len(found) > 1:
        names = ", ".join(dataset.name for dataset in found)
        raise UsageError(f"{root}: holds several datasets ({names}); say which with --dataset")
    if found:
        return found[0]
    tries = "; ".join(f"{d.title} lacks {', '.join(lacking)}" for d, lacking in lacked.items())
    hint = _elsewhere(root, tried)
    what = f"not {tried[0].title}" if name else "no dataset recognised"
    raise SourceError(f"{root}: {what}: {tries}{hint}")


def _elsewhere(root: Path, tried: list[Dataset]) -> str:
    """Whether the folder above or one below is the right one; FERA 2017's files may lie anywhere below."""
    tried = [dataset for dataset in tried if dataset.name != "fera2017"]
    try:
        near = [root.resolve().parent, *sorted(path for path in root.iterdir() if path.is_dir())]
    except OSError:
        return ""
    for folder in near:
        for dataset in tried:
            if not dataset.lacks(folder):
                return f". {folder} looks like {dataset.title}: give that folder"
    return ""
