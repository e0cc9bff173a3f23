"""What the papers print, by study: one paper on one dataset. The values are in paper_tables.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import UsageError
from train.data.base import au_names
from train.tables import from_table

DATA = Path(__file__).with_suffix(".toml")
Metric = Literal["f1", "accuracy", "icc", "mae"]
By = Literal["variant", "visible", "pose"]
PERCENT = ("f1", "accuracy")
"""Metrics that papers print in percent."""


@dataclass(frozen=True, slots=True)
class Printed:
    """One column of a paper's table, in the paper's unit."""

    values: tuple[float, ...]
    """One per AU."""
    mean: float
    """As printed, whether or not it is the values' mean."""
    table: str
    """Its number."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table, or the part of it that is the paper's own."""

    number: str
    metric: Metric
    columns: Mapping[str, Any]
    """Variant or condition → a value per AU and the printed mean."""
    what: str = ""
    by: By = "variant"
    """What its columns are: variants; for one variant the visible part of the face, or the pose."""
    test_on: str = ""
    """The dataset that is tested on, where it is another than was trained on."""


@dataclass(frozen=True, slots=True)
class Study:
    """One paper on one dataset."""

    name: str
    """`PAPER-DATASET`, also of its recipe."""
    title: str
    dataset: str
    aus: tuple[int, ...]
    metrics: tuple[Metric, ...]
    variant: str
    """The one that the paper compares with others."""
    epoch: str
    """How the paper chose the epoch that it reports."""
    deviates: str = ""
    """Where our recipe knowingly does not do as the paper says; "" for nowhere."""
    table: tuple[Table, ...] = field(default=())

    @property
    def au_names(self) -> tuple[str, ...]:
        """`AU01`, …"""
        return au_names(self.aus)

    @property
    def variants(self) -> tuple[str, ...]:
        """All that have a column, in the paper's order."""
        columns = [name for t in self.table if t.by == "variant" and not t.test_on for name in t.columns]
        return tuple(dict.fromkeys(columns))

    def printed(self, metric: str, column: str, by: By = "variant", test_on: str = "") -> Printed | None:
        """What the paper prints, None where it prints nothing.

        Args:
            metric: `f1`, `accuracy`, `icc` or `mae`.
            column: a variant; by visible part or pose, that of the paper's own variant.
            by: kind of table.
            test_on: of a test across datasets, the other dataset.
        """
        for table in self.table:
            if (table.metric, table.by, table.test_on) == (metric, by, test_on) and column in table.columns:
                *values, mean = map(float, table.columns[column])
                return Printed(tuple(values), mean, table.number)
        return None


@cache
def studies() -> Mapping[str, Study]:
    """All by name."""
    read = tomllib.loads(DATA.read_text(encoding="utf-8"))
    return {name: from_table(Study, {"name": name} | table, DATA.name) for name, table in read.items()}


def find(paper: str, dataset: str) -> Study:
    """The study of a paper on a dataset.

    Raises:
        UsageError: the paper has none there, or there is no such paper.
    """
    known = studies()
    if f"{paper}-{dataset}" in known:
        return known[f"{paper}-{dataset}"]
    papers = tuple(dict.fromkeys(name.split("-")[0] for name in known))
    if paper not in papers:
        raise UsageError(f"--paper {paper}: no such paper; expected one of {', '.join(papers)}")
    there = ", ".join(study.dataset for name, study in known.items() if name.split("-")[0] == paper)
    raise UsageError(f"--dataset {dataset}: {paper} has no recipe for it; it has {there}")
