"""Scores per AU, unknown labels left out.

Every function takes columns of one AU each and gives one number per AU; NaN where the number means nothing:

    f1          no frame shows the AU                       accuracy    no label is known
    auc         only one of the two classes occurs          mae         no intensity is known
    icc_3_1     fewer than two known, or nothing varies
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from train.shards import UNKNOWN

Columns = NDArray[np.float64]


def _per_au(score: Callable[..., float], *columns: NDArray[np.generic], known: NDArray[np.bool_]) -> Columns:
    """`score` of every AU's known rows."""
    aus = range(known.shape[1])
    return np.array([score(*(c[known[:, a], a] for c in columns)) for a in aus], np.float64)


def f1(predicted: NDArray[np.bool_], occurrence: NDArray[np.uint8]) -> Columns:
    """F1-frame, 2·TP / (2·TP + FP + FN).

    Args:
        predicted: (n, A), whether the AU is called active.
        occurrence: (n, A), 0, 1 or 9 for unknown.

    Returns:
        (A,), 0–1; NaN for an AU that is never present.
    """

    def score(p: NDArray[np.bool_], t: NDArray[np.bool_]) -> float:
        return 2 * float((p & t).sum()) / float(p.sum() + t.sum()) if t.any() else np.nan

    return _per_au(score, predicted, occurrence == 1, known=occurrence != UNKNOWN)


def accuracy(predicted: NDArray[np.bool_], occurrence: NDArray[np.uint8]) -> Columns:
    """Share of the known labels that are met; (n, A) and (n, A) → (A,), NaN where none is known."""

    def score(p: NDArray[np.bool_], t: NDArray[np.bool_]) -> float:
        return float((p == t).mean()) if t.size else np.nan

    return _per_au(score, predicted, occurrence == 1, known=occurrence != UNKNOWN)


def auc(probability: NDArray[np.floating], occurrence: NDArray[np.uint8]) -> Columns:
    """Area under the ROC curve: how often a frame with the AU scores above one without, ties half.

    Args:
        probability: (n, A).
        occurrence: (n, A), 0, 1 or 9 for unknown.

    Returns:
        (A,), 0–1; NaN where the AU is always or never present.
    """

    def score(p: NDArray[np.floating], t: NDArray[np.bool_]) -> float:
        present, absent = int(t.sum()), int((~t).sum())
        if not present or not absent:
            return np.nan
        rank_sum = float(rankdata(p)[t].sum())  # Mann–Whitney's U
        return (rank_sum - present * (present + 1) / 2) / (present * absent)

    return _per_au(score, probability, occurrence == 1, known=occurrence != UNKNOWN)


def icc_3_1(estimate: NDArray[np.floating], intensity: NDArray[np.floating]) -> Columns:
    """Consistency of two raters, (BMS − EMS) / (BMS + EMS): Shrout & Fleiss 1979, ICC(3,1), k = 2.

    Args:
        estimate: (n, A), 0–5.
        intensity: (n, A), 0–5, NaN for unknown.

    Returns:
        (A,), −1 to 1; NaN with fewer than two known frames, or where neither rater varies.
    """

    def score(e: NDArray[np.floating], i: NDArray[np.floating]) -> float:
        return icc_of_raters(np.stack((e, i), axis=1)) if e.size > 1 else np.nan

    return _per_au(score, estimate, intensity, known=~np.isnan(intensity))


def icc_of_raters(ratings: NDArray[np.floating]) -> float:
    """ICC(3,1) of any number of raters: (targets, k) → −1/(k−1) to 1; NaN where nothing varies."""
    n, k = ratings.shape
    x = ratings.astype(np.float64)
    grand = x.mean()
    between = k * ((x.mean(axis=1) - grand) ** 2).sum()
    raters = n * ((x.mean(axis=0) - grand) ** 2).sum()
    error = ((x - grand) ** 2).sum() - between - raters
    bms, ems = between / (n - 1), max(error, 0.0) / ((n - 1) * (k - 1))
    denominator = bms + (k - 1) * ems
    return float((bms - ems) / denominator) if denominator > 1e-12 else float("nan")


def mae(estimate: NDArray[np.floating], intensity: NDArray[np.floating]) -> Columns:
    """Mean absolute error of the intensity, (n, A) and (n, A) → (A,); NaN where none is known."""

    def score(e: NDArray[np.floating], i: NDArray[np.floating]) -> float:
        return float(np.abs(e.astype(np.float64) - i).mean()) if e.size else np.nan

    return _per_au(score, estimate, intensity, known=~np.isnan(intensity))


def all_metrics(
    probability: NDArray[np.floating],
    thresholds: NDArray[np.floating],
    occurrence: NDArray[np.uint8],
    intensity: NDArray[np.floating],
) -> Mapping[str, Columns]:
    """Every score by name, (A,) each.

    An engine that detects gives no intensity: `5 × probability` stands in for it in `icc` and `mae`.
    """
    predicted = probability >= thresholds
    estimate = 5 * probability
    return {
        "f1": f1(predicted, occurrence),
        "accuracy": accuracy(predicted, occurrence),
        "auc": auc(probability, occurrence),
        "icc": icc_3_1(estimate, intensity),
        "mae": mae(estimate, intensity),
    }


def mean(scores: Columns) -> float:
    """Over the AUs that have a score; NaN where none has."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")
