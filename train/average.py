"""The mean of two trainings' weights: often steadier on faces of another kind than either, where one went on
from the other (Wortsman et al., Robust fine-tuning of zero-shot models, 2022).

Batch normalisation's statistics belong to neither mean, so they are taken anew, over batches of the first
run's training.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from pipeline.errors import OutputError, UsageError
from pipeline.progress import Progress
from train import checkpoint
from train.evaluate import load_learner
from train.fit import BEST, Run
from train.networks import Learner
from train.recipe import Recipe
from train.tables import from_table

BATCHES = 80
"""That statistics are taken over."""


def average(run: Path, other: Path, out: Path, share: float = 0.5) -> None:
    """Write a run whose best weights are the mean; `train export` makes a bundle of it.

    Args:
        run: of `train fit`; its recipe and data are the new one's.
        other: another of the same network.
        out: the new run's folder.
        share: of the other's weights, 0 to 1.

    Raises:
        UsageError: a share that is none, weights that do not fit each other, or a folder with a run in it.
        SourceError: a run or its data cannot be read.
        OutputError: the folder cannot be written.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"--share: expected 0 to 1, got {share:g}")
    if (out / BEST).exists():
        raise UsageError(f"{out}: holds a run already; give another folder")
    mine, facts = checkpoint.read(run / BEST)
    theirs, _ = checkpoint.read(other / BEST)
    if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in theirs.items()}:
        raise UsageError(f"{other}: its network is another than that of {run}; only weights of one kind mix")
    recipe = from_table(Recipe, facts["recipe"], str(run / BEST))
    learner, _spec = load_learner(run / BEST)
    mixed = {
        name: torch.lerp(t.float(), theirs[name].float(), share) if t.is_floating_point() else t
        for name, t in mine.items()
    }
    learner.network.load_state_dict(mixed)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot make it: {error.strerror}") from None
    settle(learner, recipe)
    digests = [checkpoint.digest(r / BEST) for r in (run, other)]
    facts |= {"mean_of": {"checkpoints": digests, "shares": [1 - share, share]}}
    checkpoint.write(out / BEST, learner.network.state_dict(), facts)


def settle(learner: Learner, recipe: Recipe) -> None:
    """Take batch normalisation's statistics anew; nothing else trains, nothing is left out."""
    learner.eval()
    norms = [m for m in learner.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with tempfile.TemporaryDirectory(prefix="austream-average-") as folder:
        training, _validation = Run(recipe, Path(folder)).batches(len(recipe.phase) - 1)
    progress = Progress("normalisations", BATCHES, "batches")
    with torch.inference_mode():
        for number in range(BATCHES if norms else 0):
            batch = training[number]
            learner.engine(batch.pictures, **batch.beside)
            progress.step(number + 1)
    progress.close()
    learner.eval()
