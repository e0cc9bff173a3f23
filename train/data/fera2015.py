"""FERA 2015 (Valstar et al. 2015), its BP4D part: BP4D's files, 11 AUs; subjects with odd numbers are for
training, even ones for development."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from train.data import bp4d
from train.data.base import Dataset, Subject, au_names

AUS = au_names((1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23))
KIND = replace(bp4d.KIND, aus=AUS, bad={})


def read(root: Path) -> Iterator[Subject]:
    """Subjects one by one, those with codes or pictures."""
    return bp4d.read_kind(root, KIND)


FERA2015 = Dataset(
    "fera2015", "FERA 2015", AUS, bp4d.SUBJECTS, 41, 146_847, bp4d.REST_RULE, bp4d.lacks, read, 328
)
