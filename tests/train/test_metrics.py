"""Metrics against brute force, and against published figures."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from train import metrics

ROWS = st.integers(0, 30)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities in coarse steps, so that ties occur, and labels of which some are unknown; 3 AUs."""
    n = draw(ROWS)
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    odds = draw(st.sampled_from([(0.5, 0.4, 0.1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.9, 0.05, 0.05)]))
    return rng.integers(0, 6, (n, 3)) / 5, rng.choice(np.array([0, 1, 9], np.uint8), (n, 3), p=odds)


def same(got: float, wanted: float) -> bool:
    return (math.isnan(got) and math.isnan(wanted)) or math.isclose(got, wanted, abs_tol=1e-9)


@settings(max_examples=80, deadline=None)
@given(labelled(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_f1_and_accuracy_count_frame_by_frame(data: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    probability, occurrence = data
    predicted = probability >= threshold
    for a in range(3):
        tp = fp = fn = tn = 0
        for p, t in zip(predicted[:, a], occurrence[:, a], strict=True):
            if t == 9:
                continue
            tp, fp, fn, tn = (
                tp + (p and t == 1),
                fp + (p and t == 0),
                fn + (not p and t == 1),
                tn + (not p and t == 0),
            )
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / (tp + fn) if tp + fn else math.nan
        wanted = (
            0.0
            if tp == 0 and tp + fn
            else 2 * precision * recall / (precision + recall)
            if tp + fn
            else math.nan
        )
        assert same(metrics.f1(predicted, occurrence)[a], wanted)
        total = tp + fp + fn + tn
        assert same(metrics.accuracy(predicted, occurrence)[a], (tp + tn) / total if total else math.nan)


@settings(max_examples=80, deadline=None)
@given(labelled())
def test_auc_counts_pairs(data: tuple[np.ndarray, np.ndarray]) -> None:
    probability, occurrence = data
    for a in range(3):
        with_au = probability[occurrence[:, a] == 1, a]
        without = probability[occurrence[:, a] == 0, a]
        pairs = [1.0 if p > q else 0.5 if p == q else 0.0 for p, q in product(with_au, without)]
        assert same(metrics.auc(probability, occurrence)[a], sum(pairs) / len(pairs) if pairs else math.nan)


def test_auc_is_scipys_mann_whitney() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(size=(500, 1))
    occurrence = (rng.uniform(size=(500, 1)) < probability).astype(np.uint8)
    p, t = probability[:, 0], occurrence[:, 0] == 1
    u = mannwhitneyu(p[t], p[~t]).statistic
    assert metrics.auc(probability, occurrence)[0] == pytest.approx(u / t.sum() / (~t).sum(), abs=1e-12)


SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)
"""Table 2 of Shrout & Fleiss 1979: six targets, four judges. Table 4 gives ICC(3,1) = .71."""


def test_icc_of_the_published_example() -> None:
    assert metrics.icc_of_raters(SHROUT_FLEISS) == pytest.approx(0.7148, abs=5e-5)  # .71 as printed
    # Table 3's mean squares: between targets 11.24, residual 1.02.
    assert metrics.icc_of_raters(SHROUT_FLEISS) == pytest.approx(
        (11.24 - 1.02) / (11.24 + 3 * 1.02), abs=2e-3
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 25), st.integers(0, 999))
def test_icc_by_analysis_of_variance_with_loops(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, (n, 1)).astype(np.float32)
    estimate = truth + rng.normal(0, 1, (n, 1)).astype(np.float32)
    pairs = [(float(e), float(t)) for e, t in zip(estimate[:, 0], truth[:, 0], strict=True)]
    grand = sum(e + t for e, t in pairs) / (2 * n)
    rater = [sum(p[r] for p in pairs) / n for r in (0, 1)]
    bms = sum(2 * ((e + t) / 2 - grand) ** 2 for e, t in pairs) / (n - 1)
    ems = sum((p[r] - sum(p) / 2 - rater[r] + grand) ** 2 for p in pairs for r in (0, 1)) / (n - 1)
    assert metrics.icc_3_1(estimate, truth)[0] == pytest.approx((bms - ems) / (bms + ems), abs=1e-5)


def test_icc_asks_for_consistency_not_agreement() -> None:
    truth = np.array([[0], [1], [2], [5]], np.float32)
    assert metrics.icc_3_1(truth + 1, truth)[0] == pytest.approx(1)  # a constant offset is forgiven
    assert metrics.icc_3_1(5 - truth, truth)[0] == pytest.approx(-1)
    assert np.isnan(metrics.icc_3_1(np.ones((4, 1)), np.zeros((4, 1)))[0])
    assert np.isnan(metrics.icc_3_1(truth[:1], truth[:1])[0])


def test_mae_leaves_unknown_out() -> None:
    intensity = np.array([[0, np.nan], [5, np.nan], [np.nan, np.nan]], np.float32)
    estimate = np.array([[1, 1], [3, 1], [9, 1]], np.float32)
    assert metrics.mae(estimate, intensity)[0] == pytest.approx(1.5)
    assert np.isnan(metrics.mae(estimate, intensity)[1])


def test_mean_leaves_out_what_means_nothing() -> None:
    assert metrics.mean(np.array([0.5, np.nan, 1.0])) == 0.75
    assert math.isnan(metrics.mean(np.array([np.nan])))


def test_all_metrics_uses_each_aus_own_threshold() -> None:
    probability = np.full((2, 2), 0.4)
    occurrence = np.ones((2, 2), np.uint8)
    got = metrics.all_metrics(probability, np.array([0.3, 0.5]), occurrence, np.full((2, 2), 2.0))
    assert list(got["f1"]) == [1, 0]
    assert list(got["mae"]) == [0, 0]
