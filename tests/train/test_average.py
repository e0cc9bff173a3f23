"""The mean of two runs: weights by hand, statistics by brute force, mistakes in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import OutputError, SourceError, UsageError
from train import average as averaging
from train import checkpoint
from train.__main__ import main
from train.average import average, settle
from train.evaluate import load_learner
from train.fit import BEST, Run, fit
from train.recipe import Recipe

Make = Callable[..., Recipe]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def two(small: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folders = [tmp_path_factory.mktemp("run") for _ in range(2)]
    for seed, folder in enumerate(folders):
        fit(small({"epochs": 1, "steps_per_epoch": 20}, seed=seed), folder)
    return folders[0], folders[1]


def test_weights_are_the_mean_and_it_exports(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["average", *map(str, two), str(tmp_path / "m"), "--share", "0.25"]) == 0
    assert "train export" in capsys.readouterr().out
    (first, _), (second, _), (mixed, facts) = (checkpoint.read(r / BEST) for r in (*two, tmp_path / "m"))
    for name, t in mixed.items():
        if not name.endswith(STATISTICS):
            torch.testing.assert_close(t, 0.75 * first[name] + 0.25 * second[name])
    assert facts["mean_of"]["shares"] == [0.75, 0.25]
    assert facts["mean_of"]["checkpoints"] == [checkpoint.digest(r / BEST) for r in two]
    assert main(["export", str(tmp_path / "m"), str(tmp_path / "b")]) == 0


def test_statistics_are_those_of_the_batches(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: Make
) -> None:
    """The first normalisation's, from what goes into it."""
    monkeypatch.setattr(averaging, "BATCHES", 3)
    learner, _spec = load_learner(two[0] / BEST)
    recipe = small({"epochs": 1, "steps_per_epoch": 20})
    [first, *_] = [m for m in learner.modules() if isinstance(m, nn.BatchNorm2d)]
    seen: list[torch.Tensor] = []
    handle = first.register_forward_hook(lambda _m, given, _out: seen.append(given[0].clone()))
    settle(learner, recipe)
    handle.remove()
    assert not learner.training
    training, _ = Run(recipe, tmp_path).batches(0)
    assert len(seen) == 3
    assert len(seen[0]) == training.batch_size
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in seen])
    spreads = torch.stack([x.var(dim=(0, 2, 3)) for x in seen])
    torch.testing.assert_close(first.running_mean, means.mean(0))
    torch.testing.assert_close(first.running_var, spreads.mean(0))


def test_mistakes_are_said(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--share: expected 0 to 1, got 2"):
        average(*two, tmp_path / "m", 2)
    with pytest.raises(UsageError, match="holds a run already"):
        average(*two, two[0])
    with pytest.raises(SourceError, match="expected a checkpoint"):
        average(two[0], tmp_path / "nowhere", tmp_path / "m")
    other = tmp_path / "other"
    other.mkdir()
    weights, facts = checkpoint.read(two[1] / BEST)
    checkpoint.write(other / BEST, dict(list(weights.items())[1:]), facts)
    with pytest.raises(UsageError, match="only weights of one kind mix"):
        average(two[0], other, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make it"):
        average(*two, tmp_path / "file" / "m")
