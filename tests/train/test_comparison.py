"""Figures against plain counting; tables that admit what is missing or rendered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import SourceError
from train import tested as kept
from train.comparison import compare, mean_of_folds, pooled, score
from train.paper_tables import Printed
from train.pictures import (
    Heading,
    average_precision,
    bars,
    co_occurrence,
    conditions,
    curve,
    precision_recall,
    together,
    training,
)
from train.report import Result, markdown, plain, table_text

AUS = ("AU01", "AU12", "AU25")


def made_up(fold: str, n: int = 60, seed: int = 0) -> kept.Tested:
    rng = np.random.default_rng(seed)
    occurrence = rng.integers(0, 2, (n, 3)).astype(np.uint8)
    occurrence[rng.uniform(size=(n, 3)) < 0.1] = 9
    probability = np.clip(0.3 + 0.3 * (occurrence == 1) + rng.normal(0, 0.2, (n, 3)), 0.01, 0.99)
    return kept.Tested(
        fold=fold,
        visible="full",
        aus=AUS,
        people=("SN001",),
        thresholds=(0.4, 0.5, 0.6),
        probability=probability.astype(np.float32),
        occurrence=occurrence,
        intensity=(5 * rng.uniform(size=(n, 3))).astype(np.float32),
        pose=np.arange(n) % 3,
    )


FOLDS = {"P1": made_up("P1"), "P2": made_up("P2", 40, 1), "P3": made_up("P3", 25, 2)}


def f1_by_counting(labels: np.ndarray, called: np.ndarray) -> float:
    hits = sum(1 for label, call in zip(labels, called, strict=True) if label == 1 and call)
    return 2 * hits / (int((labels == 1).sum()) + int(called.sum()))


def test_means_are_the_authors() -> None:
    c = compare("f1", "", AUS, None, FOLDS, rounded=False)
    by_fold = []
    for fold in FOLDS.values():
        f1s = []
        for a in range(3):
            known = fold.occurrence[:, a] != 9
            f1s.append(100 * f1_by_counting(fold.occurrence[known, a], fold.probability[known, a] >= 0.5))
        by_fold.append(f1s)
    np.testing.assert_allclose([c.folds[name] for name in FOLDS], by_fold, rtol=1e-9)
    np.testing.assert_allclose(c.mean, np.mean(by_fold, axis=0), rtol=1e-9)
    assert mean_of_folds(c) == pytest.approx(np.mean(by_fold))
    rates = [
        [(f.occurrence[:, a] == 1).sum() / (f.occurrence[:, a] != 9).sum() for a in range(3)]
        for f in FOLDS.values()
    ]
    np.testing.assert_allclose(
        c.always, np.mean([200 * np.array(r) / (1 + np.array(r)) for r in rates], axis=0)
    )
    assert compare("accuracy", "", AUS, None, FOLDS, rounded=False).always is None
    everything = pooled(list(FOLDS.values()))
    assert len(everything) == 125
    known = everything.occurrence[:, 1] != 9
    whole = f1_by_counting(everything.occurrence[known, 1], everything.probability[known, 1] >= 0.5)
    assert c.pooled is not None
    assert c.pooled[1] == pytest.approx(100 * whole)
    assert c.tuned is not None
    assert not np.allclose(c.tuned, c.mean)


def test_jaa_nets_mean() -> None:
    """Three folds of 0.577556, 0.656207 and 0.671716 make its 0.635160."""
    c = compare("f1", "", AUS, None, FOLDS, rounded=False)
    folds = {name: np.full(3, v) for name, v in zip(FOLDS, (0.577556, 0.656207, 0.671716), strict=True)}
    assert mean_of_folds(replace(c, folds=folds)) == pytest.approx(0.635160, abs=1e-6)


def test_a_missing_fold_is_not_averaged_over() -> None:
    c = compare("f1", "", AUS, None, FOLDS | {"P2": None}, rounded=False)
    assert (c.mean, c.pooled, c.tuned, c.missing) == (None, None, None, ("P2",))
    text = table_text(c, synthetic=False)
    assert text.count(" missing ") == 9, "P2, the mean and the pooled figure of three AUs"
    assert "Missing: P2. No mean is given until all folds are there." in text
    assert plain(Result("t", False, {}, [], [c]))["tables"][0]["mean_of_folds"] is None


def test_intensities_are_rounded_as_iarls() -> None:
    one = replace(FOLDS["P1"], probability=np.full((60, 3), 0.29, np.float32))  # 1.45 → 1
    np.testing.assert_allclose(
        score("mae", one, 0.5, True), np.abs(one.intensity - 1).mean(axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(
        score("mae", one, 0.5, False), np.abs(one.intensity - 1.45).mean(axis=0), rtol=1e-6
    )


def test_rendered_data_says_so_everywhere() -> None:
    printed = Printed((50.0, 60.0, 70.0), 60.0, "II")
    c = compare("f1", "", AUS, printed, FOLDS, rounded=False)
    text = markdown(Result("SAT-Net (satnet) on DISFA", True, {"Seed": "0"}, ["Note."], [c, c]))
    assert text.count("SYNTHETIC") == 3, "the heading, and every table"
    assert "| AU01 |" in text
    assert "Table II" in text
    assert "50.0" in text
    assert "SYNTHETIC" not in markdown(Result("t", False, {}, [], [c]))


def test_a_printed_mean_that_is_not_one_is_told() -> None:
    c = compare("f1", "", AUS, Printed((50.0, 60.0, 70.0), 48.5, "VI"), FOLDS, rounded=False)
    assert "The paper's own values average 60.0; it prints 48.5." in table_text(c, synthetic=False)


def test_curves_by_trying_every_threshold() -> None:
    known = FOLDS["P1"].occurrence[:, 0] != 9
    p = np.round(FOLDS["P1"].probability[known, 0], 1)  # with ties
    present = FOLDS["P1"].occurrence[known, 0] == 1
    wanted, area, before = [], 0.0, 0.0
    for threshold in sorted(set(p.tolist()), reverse=True):
        called = p >= threshold
        hits = int((called & present).sum())
        recall, precision = hits / int(present.sum()), hits / int(called.sum())
        wanted.append((recall, precision))
        area, before = area + (recall - before) * precision, recall
    np.testing.assert_allclose(np.stack(curve(p, present), axis=1), wanted)
    assert average_precision(p, present) == pytest.approx(area)


def test_co_occurrence_by_counting() -> None:
    occurrence = np.array([[1, 1], [1, 0], [1, 9], [0, 1]], np.uint8)
    said = np.array([[True, False], [True, True], [False, True], [False, False]])
    labelled, called = together(occurrence, said)
    np.testing.assert_allclose(labelled, [[1, 1 / 2], [1 / 2, 1]])  # AU 2 is unknown once where AU 1 is shown
    np.testing.assert_allclose(called, [[2 / 3, 1 / 2], [1 / 2, 0]])


def test_what_was_tested_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tested.safetensors"
    assert kept.Tested.load(path, "id") is None
    FOLDS["P1"].save(path, "id")
    read = kept.Tested.load(path, "id")
    assert read is not None
    assert read.people == ("SN001",)
    assert read.thresholds == (0.4, 0.5, 0.6)
    np.testing.assert_array_equal(read.probability, FOLDS["P1"].probability)
    assert kept.Tested.load(path, "of other weights") is None
    assert len(read.of_pose(1)) == 20
    path.write_bytes(b"half")
    with pytest.raises(SourceError, match="cannot read it"):
        kept.Tested.load(path, "id")


def test_pictures_are_written(tmp_path: Path) -> None:
    heading = Heading("SAT-Net (satnet) on DISFA, clean protocol", True)
    whole = compare("f1", "", AUS, Printed((50.0, 60.0, 70.0), 60.0, "II"), FOLDS, rounded=False)
    half = compare("f1", "visible: lower", AUS, None, FOLDS | {"P2": None}, rounded=False)
    log = [{"phase": "0", "loss": "1.5", "mean_f1": "0.2"}, {"phase": "1", "loss": "1.0", "mean_f1": "nan"}]
    made = [
        bars(tmp_path / "bars.png", heading, whole),
        bars(tmp_path / "half.png", heading, half),
        precision_recall(tmp_path / "pr.png", heading, FOLDS),
        co_occurrence(tmp_path / "together.png", heading, FOLDS["P1"]),
        training(tmp_path / "training.png", heading, {"P1": log}),
        conditions(tmp_path / "visible.png", heading, [whole, half], "half black"),
    ]
    assert all(path.stat().st_size > 5000 for path in made)
    assert not list(tmp_path.glob("*.part"))
