"""A run's best weights → a bundle: float16 weights, thresholds from validation, provenance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engines.bundle import Bundle
from engines.weights import save_bundle
from pipeline.errors import OutputError, SourceError
from pipeline.progress import Progress
from train import checkpoint, thresholds
from train.evaluate import Evaluation, judged, load_learner, plain_batches, score
from train.fit import BEST
from train.pool import Pool
from train.predict import probabilities
from train.recipe import Recipe
from train.tables import from_table, plain

VALIDATION = "subjects of the same data that were not trained on"


def trained_on(source: str) -> str:
    """What headers and overlays say: `synthetic-trained`, or `trained on bp4d`."""
    alone = all(part.startswith("synthetic") for part in source.split("+"))
    return "synthetic-trained" if alone else f"trained on {source}"


def export(run: Path, folder: Path, name: str | None = None, note: str = "") -> tuple[Bundle, Evaluation]:
    """Write a bundle.

    Args:
        run: folder of `train fit`, whose data folders are still there.
        folder: of the bundle; one in it is replaced.
        name: of the engine; the recipe's where none is given.
        note: a sentence for engine.json.

    Returns:
        The bundle, and its scores on the validation subjects that its thresholds were chosen on.

    Raises:
        AustreamError: the run is not finished enough to have best weights, its data is gone or changed, or
            the bundle cannot be written.
    """
    path = run / BEST
    if not path.exists():
        raise SourceError(f"{run}: expected a run of `train fit` with {BEST}; let it reach the last phase")
    weights, facts = checkpoint.read(path)
    recipe = from_table(Recipe, facts["recipe"], str(path))
    facts |= {"checkpoint": checkpoint.digest(path)}
    learner, spec = load_learner(path, half=True)
    pool = Pool.open(recipe.data.folders, spec.aus)
    items = judged(pool, spec)
    _training, held = pool.split(recipe.data)
    items = items[held[items[:, -1]]]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    progress = Progress("validation", len(items), "samples")
    found = probabilities(learner.to(device), plain_batches(pool, spec, items), device, tell=progress.step)
    progress.close()
    occurrence = pool.occurrence[items[:, -1]]
    if recipe.data.protocol == "paper":  # validation is the test there
        chosen = thresholds.kept(spec.thresholds, found, occurrence)
    else:
        chosen = thresholds.choose(found, occurrence)
    spec = replace(
        spec,
        name=name or spec.name,
        thresholds=chosen.values,
        provenance={"trained": trained_on(pool.source)},
    )
    evaluation = score(spec, pool, items[:, -1], found, chosen.values)
    spec = replace(spec, provenance=_provenance(spec.trained, recipe, facts, chosen, evaluation, note))
    try:
        return save_bundle(folder, spec, weights, half=True), evaluation
    except OSError as error:
        raise OutputError(f"{folder}: cannot write the bundle: {error.strerror}") from None


def _provenance(
    trained: str,
    recipe: Recipe,
    facts: dict[str, Any],
    chosen: thresholds.Thresholds,
    evaluation: Evaluation,
    note: str,
) -> dict[str, Any]:
    scores = {
        s.au: {
            "f1": _rounded(s.f1),
            "auc": _rounded(s.auc),
            "icc": _rounded(s.icc),
            "calm_alarms": _rounded(s.calm_alarms),
        }
        for s in evaluation.scores
    }
    means = {name: _rounded(evaluation.mean(name)) for name in ("f1", "accuracy", "auc", "icc", "mae")}
    judges, decided = VALIDATION, "thresholds and epoch"
    if recipe.data.protocol == "paper":
        judges, decided = "the tested fold itself", "epoch"
    return {
        "trained": trained,
        "note": note or recipe.note,
        "data": facts["data"],
        "dataset": recipe.data.dataset or None,
        "protocol": {"name": recipe.data.protocol or None, "fold": recipe.data.fold or None},
        "checkpoint": facts["checkpoint"],
        "commit": facts["commit"],
        "seed": recipe.seed,
        "recipe": _without_places(plain(recipe)),
        "step": facts["step"],
        "mean_of": facts.get("mean_of"),
        "thresholds": {"rule": chosen.rule, "calm_frames": chosen.calm_frames},
        "validation": {
            "what": f"{judges}; {decided} chosen on them",
            "frames": evaluation.frames,
            "mean": means,
            "aus": scores,
        },
    }


def _without_places(value: Any) -> Any:
    """A recipe as a bundle tells it: of an absolute path the last two parts. The rest says nothing to others,
    and may say who trained."""
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return "/".join(["…", *Path(value).parts[-2:]])
    return value


def _rounded(value: float) -> float | None:
    return None if value != value else round(value, 4)
