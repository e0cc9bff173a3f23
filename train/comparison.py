"""A paper's figures beside ours: per AU, of each fold, as the mean of folds, and pooled over all frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train import metrics
from train.paper_tables import PERCENT, Printed
from train.tested import Tested

Columns = NDArray[np.float64]
THRESHOLD = 0.5
"""Of every paper's F1 and accuracy."""
EVERY_FRAME = -1.0
"""The threshold that calls an AU always."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric under one condition; (A,) arrays in the paper's unit, NaN where a number means nothing."""

    metric: str
    condition: str
    """The visible part or the pose; "" for whole faces of all poses."""
    aus: tuple[str, ...]
    printed: Printed | None
    folds: Mapping[str, Columns | None]
    """By the part that is tested; None for a fold that is not there yet."""
    mean: Columns | None
    """Over folds; None while one is missing."""
    pooled: Columns | None
    """Of the frames of all folds together; None while one is missing."""
    tuned: Columns | None
    """The mean of folds at thresholds from validation; None where there are none, or a fold is missing."""
    always: Columns | None
    """F1 of calling the AU on every frame, which an engine has to exceed; None for other metrics, or where a
    fold is missing."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Folds that are not there."""
        return tuple(name for name, column in self.folds.items() if column is None)


def compare(
    metric: str,
    condition: str,
    aus: Sequence[str],
    printed: Printed | None,
    folds: Mapping[str, Tested | None],
    rounded: bool,
) -> Comparison:
    """Score all folds.

    Args:
        metric: `f1`, `accuracy`, `icc` or `mae`.
        condition: told to the reader.
        aus: of the columns.
        printed: the paper's column.
        folds: what was tested, by fold.
        rounded: whether estimated intensities are rounded to whole ones, as iARL's are.
    """
    there = [tested for tested in folds.values() if tested is not None]
    whole = len(there) == len(folds) and bool(there)
    scored = {
        name: None if tested is None else score(metric, tested, THRESHOLD, rounded)
        for name, tested in folds.items()
    }
    tuned = None
    if whole and metric in PERCENT and all(tested.thresholds is not None for tested in there):
        tuned = mean_of([score(metric, t, np.array(t.thresholds), rounded) for t in there])
    always = None
    if whole and metric == "f1":
        always = mean_of([score(metric, t, EVERY_FRAME, rounded) for t in there])
    return Comparison(
        metric=metric,
        condition=condition,
        aus=tuple(aus),
        printed=printed,
        folds=scored,
        mean=mean_of([column for column in scored.values() if column is not None]) if whole else None,
        pooled=score(metric, pooled(there), THRESHOLD, rounded) if whole else None,
        tuned=tuned,
        always=always,
    )


def score(metric: str, tested: Tested, threshold: float | Columns, rounded: bool) -> Columns:
    """(A,) of one test, in the paper's unit."""
    estimate = 5 * tested.probability.astype(np.float64)
    if rounded:
        estimate = np.floor(estimate + 0.5)
    match metric:
        case "f1":
            return 100 * metrics.f1(tested.probability >= threshold, tested.occurrence)
        case "accuracy":
            return 100 * metrics.accuracy(tested.probability >= threshold, tested.occurrence)
        case "icc":
            return metrics.icc_3_1(estimate, tested.intensity)
        case _:
            return metrics.mae(estimate, tested.intensity)


def pooled(tests: Sequence[Tested]) -> Tested:
    """All frames as one test."""
    first = tests[0]
    return Tested(
        fold="+".join(t.fold for t in tests),
        visible=first.visible,
        aus=first.aus,
        people=tuple(person for t in tests for person in t.people),
        thresholds=None,
        probability=np.concatenate([t.probability for t in tests]),
        occurrence=np.concatenate([t.occurrence for t in tests]),
        intensity=np.concatenate([t.intensity for t in tests]),
        pose=np.concatenate([t.pose for t in tests]),
    )


def mean_of(columns: Sequence[Columns]) -> Columns:
    """(A,): mean of the folds in which an AU has a score, NaN where none has."""
    stacked = np.stack(columns)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def average(column: Columns | None) -> float:
    """Over the AUs that have a score; NaN without any."""
    return float("nan") if column is None else metrics.mean(column)


def mean_of_folds(comparison: Comparison) -> float:
    """As the papers' authors compute it: AUs averaged in each fold, then folds; NaN while one is missing."""
    if comparison.missing:
        return float("nan")
    return metrics.mean(np.array([average(column) for column in comparison.folds.values()]))
