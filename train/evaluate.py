"""An engine against labelled samples: the scores of each AU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engines.__main__ import table
from engines.runtime import load_engine
from engines.spec import EngineSpec
from pipeline.errors import UsageError
from pipeline.progress import Progress
from train import checkpoint, metrics
from train.batches import Batches, items_of
from train.fit import BEST
from train.networks import Learner
from train.pool import Pool
from train.predict import probabilities
from train.recipe import PhaseTable, Recipe
from train.tables import from_table
from train.thresholds import calm, calm_alarms

HOP = 4
"""Frames from one judged window to the next."""

Probabilities = Callable[[Batches], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one AU; NaN where a score means nothing (see train.metrics)."""

    au: str
    present: int
    """Frames that show it."""
    threshold: float
    f1: float
    accuracy: float
    auc: float
    icc: float
    mae: float
    calm_alarms: float
    """Share of the frames that show no AU on which it is called."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of all AUs."""

    name: str
    trained: str
    source: str
    frames: int
    calm_frames: int
    scores: tuple[Scores, ...]

    def mean(self, name: str) -> float:
        """Over the AUs that have this score."""
        return metrics.mean(np.array([getattr(s, name) for s in self.scores], np.float64))

    def text(self) -> str:
        """A table with a last row of means."""
        columns = ("f1", "accuracy", "auc", "icc", "mae", "calm_alarms")
        rows = [
            (s.au, s.present, f"{s.threshold:.2f}", *(_figure(getattr(s, c)) for c in columns))
            for s in self.scores
        ]
        rows.append(("mean", "–", "–", *(_figure(self.mean(c)) for c in columns)))
        header = ("AU", "present", "threshold", "F1", "accuracy", "AUC", "ICC(3,1)", "MAE", "calm alarms")
        return (
            f"{self.name} ({self.trained}) on {self.frames} {self.source} frames, {self.calm_frames} of them "
            f"calm\n{table(header, rows)}\nICC and MAE take 5 × probability for the intensity."
        )

    def plain(self) -> dict[str, Any]:
        """For JSON; NaN as null."""
        found = asdict(self)
        found["scores"] = [{k: None if v != v else v for k, v in s.items()} for s in found["scores"]]
        names = ("f1", "accuracy", "auc", "icc", "mae", "calm_alarms")
        found["mean"] = {n: None if (v := self.mean(n)) != v else v for n in names}
        return found


def _figure(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"


def score(
    spec: EngineSpec,
    pool: Pool,
    rows: NDArray[np.int64],
    found: NDArray[np.float32],
    thresholds: Sequence[float],
) -> Evaluation:
    """Scores of probabilities (k, A) for rows (k,) of a pool."""
    occurrence, intensity = pool.occurrence[rows], pool.intensity[rows]
    limits = np.asarray(thresholds)
    columns = metrics.all_metrics(found, limits, occurrence, intensity)
    alarms = calm_alarms(found, limits, occurrence)
    quiet = int(calm(occurrence).any(axis=1).sum())
    scores = tuple(
        Scores(
            au=au,
            present=int((occurrence[:, a] == 1).sum()),
            threshold=float(limits[a]),
            calm_alarms=float(alarms[a]),
            **{name: float(column[a]) for name, column in columns.items()},
        )
        for a, au in enumerate(pool.aus)
    )
    return Evaluation(spec.name, spec.trained, pool.source, len(rows), quiet, scores)


def judged(pool: Pool, spec: EngineSpec, hop: int = HOP) -> NDArray[np.int64]:
    """(k, T): rows of every sample, or of every window `hop` frames apart.

    Raises:
        UsageError: a temporal engine, and no clip in the samples.
    """
    phase = PhaseTable("judged", 1, 1.0, "frames" if spec.window == 1 else "windows", hop=hop)
    items = items_of(pool, phase, spec.window, spec.rate_hz)
    if not len(items):
        raise UsageError(f"{spec.name}: no {spec.window} consecutive frames in the samples; give it clips")
    return items


def plain_batches(pool: Pool, spec: EngineSpec, items: NDArray[np.int64], batch_size: int = 16) -> Batches:
    """Samples or windows as they are, in their order."""
    beside = tuple(name for name in spec.inputs(1) if name != "crops")
    return Batches(pool, items, spec.crop.name, beside, None, batch_size, shuffle=False)


def evaluate(target: str, data: Sequence[Path], threads: int | None = None, hop: int = HOP) -> Evaluation:
    """Judge a bundle (as it streams), or a run's or checkpoint's weights (by PyTorch, thresholds 0.5).

    Args:
        target: name or folder of a bundle, folder of a run, or a checkpoint of one.
        data: sample folders; all of their samples count, so give it subjects that were not trained on.
        threads: at most so many.
        hop: frames from one window to the next, for a temporal engine.

    Raises:
        AustreamError: target or data cannot be read, or do not go together.
    """
    path = Path(target)
    path = path / BEST if (path / BEST).exists() else path
    spec, run = _checkpoint(path) if path.suffix == ".safetensors" else _engine(target, threads)
    pool = Pool.open(data, spec.aus)
    items = judged(pool, spec, hop)
    found = run(plain_batches(pool, spec, items))
    return score(spec, pool, items[:, -1], found, spec.thresholds)


def _engine(target: str, threads: int | None) -> tuple[EngineSpec, Probabilities]:
    engine = load_engine(target, threads=threads)

    def run(batches: Batches) -> NDArray[np.float32]:
        progress = Progress(engine.spec.name, len(batches.items), "samples")
        found = []
        for number in range(len(batches)):
            batch = batches[number]
            beside = {name: tensor.numpy() for name, tensor in batch.beside.items()}
            found.append(engine.run(batch.pictures.numpy(), **beside))
            progress.step(sum(map(len, found)))
        progress.close()
        return np.concatenate(found)

    return engine.spec, run


def _checkpoint(path: Path) -> tuple[EngineSpec, Probabilities]:
    learner, spec = load_learner(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run(batches: Batches) -> NDArray[np.float32]:
        progress = Progress(spec.name, len(batches.items), "samples")
        found = probabilities(learner.to(device), batches, device, tell=progress.step)
        progress.close()
        return found

    return spec, run


def load_learner(path: Path, half: bool = False) -> tuple[Learner, EngineSpec]:
    """The network of a run's best weights, and its spec.

    Args:
        path: checkpoint.
        half: round the weights to float16, as a bundle keeps them.

    Raises:
        SourceError: it is no such checkpoint.
        UsageError: it holds the state of a run, or weights of a phase before the last.
    """
    weights, facts = checkpoint.read(path)
    recipe = from_table(Recipe, facts["recipe"], str(path))
    if facts["phase"] != len(recipe.phase) - 1 or "validation" not in facts:
        raise UsageError(f"{path}: expected the best weights of a run, its {BEST}")
    spec = recipe.spec()
    learner = Learner(spec)
    rounded = {n: t.half().to(t.dtype) if half and t.is_floating_point() else t for n, t in weights.items()}
    learner.network.load_state_dict(rounded)
    return learner, spec
