"""What a reproduction has found so far, as tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.errors import SourceError
from train import attention, checkpoint
from train import pictures as draw
from train.comparison import Comparison, compare, pooled
from train.data.cache import PreparedSet
from train.data.layouts import named
from train.evaluate import load_learner, plain_batches
from train.fit import BEST
from train.foldtest import FoldTest, names
from train.logs import CSV_FILE, read_rows
from train.paper_tables import By
from train.provenance import commit
from train.recipe import PUBLISHED, Recipe
from train.report import Result
from train.task import Task
from train.tested import VISIBLE, Tested

Found = Mapping[str, Mapping[str, Tested | None]]
"""By visible part and fold."""
PROTOCOL = {
    "clean": "clean: subjects of the training part chose epoch and thresholds; the tested ones did not",
    "paper": "paper: the epoch was chosen on the tested fold itself, so the figures are optimistic",
}
SHOWN_PROBLEMS = 4
"""What is odd about the data."""
SHOWN_FACES = 5
"""Tested samples whose attention is drawn."""


def result(task: Task, found: Found) -> Result:
    """Tables of whole faces; by visible part and by pose where that was asked for."""
    study, own = task.study, task.variant == task.study.variant
    tested = task.tested or task.trained
    across = task.tested.dataset if task.tested is not None else ""
    aus = [au for au in task.recipe.engine.aus if au in tested.aus]
    comparisons = [
        _comparison(task, metric, found["full"], aus, "variant", task.variant, across)
        for metric in study.metrics
    ]
    first = study.metrics[0]
    if len(found) > 1:
        comparisons += [
            _comparison(task, first, found[v], aus, "visible", v if own else "", across) for v in VISIBLE
        ]
    if tested.dataset == "fera2017":
        poses = {p: {n: t.of_pose(p) if t else None for n, t in found["full"].items()} for p in range(1, 10)}
        comparisons += [
            _comparison(task, first, folds, aus, "pose", str(p), across) for p, folds in poses.items()
        ]
    return Result(title(task), task.synthetic, _facts(task, found), _remarks(task), comparisons)


def title(task: Task) -> str:
    """`SAT-Net (sanet) on DISFA`; says so where the recipe is not the paper's any more."""
    data = named(task.trained.dataset).title
    data += f", tested on {named(task.tested.dataset).title}" if task.tested is not None else ""
    return f"{task.study.title} ({task.variant}) on {data}{', RECIPE CHANGED' if task.changed else ''}"


def _comparison(
    task: Task,
    metric: str,
    folds: Mapping[str, Tested | None],
    aus: list[str],
    by: By,
    column: str,
    across: str,
) -> Comparison:
    """With the paper's column, where it prints one for the same AUs."""
    printed = task.study.printed(metric, column, by, across)
    if list(task.study.au_names) != aus:
        printed = None
    condition = "" if by == "variant" else f"visible: {column}" if by == "visible" else f"pose {column}"
    return compare(
        metric, condition, aus, printed, folds, rounded=task.recipe.engine.max_intensity is not None
    )


def _facts(task: Task, found: Found) -> dict[str, str]:
    recipe = task.recipe
    facts = {"Protocol": PROTOCOL[task.protocol], "The paper's choice of epoch": task.study.epoch}
    facts |= _data("Trained on", task.trained)
    if task.tested is not None:
        facts |= _data("Tested on", task.tested)
        facts["In both"] = "whoever is, or may be, in both is trained on and not tested"
    if recipe.engine.window > 1 or task.hop > 1:
        facts["Hop"] = f"{task.hop} frames from one tested window to the next"
    for fold in task.every:
        tested = found["full"][fold.name]
        done = f"{len(tested)} samples" if tested is not None else "**missing**"
        facts[f"Fold {fold.name}"] = f"tests {names(fold.test)}: {done}"
    facts["Begins with"] = _begins(recipe)
    facts["Changed by hand"] = "; ".join(task.changed) or "nothing"
    if task.study.deviates:
        facts["Not as the paper has it"] = task.study.deviates
    return facts | {"Seed": str(recipe.seed), "Commit of this report": commit()}


def _begins(recipe: Recipe) -> str:
    """The starting weights; of a run of ours also what that was trained on, which may be rendered."""
    if not recipe.initial or recipe.initial.startswith(PUBLISHED) or not Path(recipe.initial).is_file():
        return recipe.initial or "random weights"
    try:
        data = checkpoint.read_facts(Path(recipe.initial)).get("data", ())
    except SourceError:  # weights, but not of a run
        data = ()
    sources = ", ".join(str(samples["source"]) for samples in data)
    return f"{recipe.initial}{f', trained on {sources}' if sources else ''}"


def _data(verb: str, prepared: PreparedSet) -> dict[str, str]:
    """What became of a dataset's frames, and what is odd about it."""
    known, rows, told = named(prepared.dataset), prepared.recordings, prepared.report
    lost = {name: sum(getattr(r, name) for r in rows) for name in ("no_face", "bad", "unreadable")}
    bad = "with the bad frames" if told.get("bad_frames_kept") else f"{lost['bad']:,} bad"
    published = f" (published: {known.frames:,})" if known.frames else ""
    exposure = "matched to the frame's" if prepared.exposure_compensation else "as it was taken"
    facts = {
        verb: f"{known.title}, {len(prepared.subjects)} of {known.subject_count} subjects, "
        f"{sum(r.labels for r in rows):,} labelled frames{published}: {len(prepared):,} samples, "
        f"{lost['no_face']:,} without a face, {bad}, {lost['unreadable']:,} unreadable",
        f"{verb}, neutral faces": f"{prepared.neutral_rule}; exposure {exposure}",
    }
    odd = [str(problem["text"]) for problem in told.get("problems", ())]
    if odd:
        more = f"; … and {len(odd) - SHOWN_PROBLEMS} more" if len(odd) > SHOWN_PROBLEMS else ""
        facts[f"{verb}, odd"] = "; ".join(odd[:SHOWN_PROBLEMS]) + more
    return facts


def _remarks(task: Task) -> list[str]:
    remarks = []
    if task.synthetic:
        remarks.append(
            "The people are rendered under the dataset's names: these are not the published folds."
        )
    if task.partial:
        remarks.append("Subjects or recordings are missing (--partial): these are not the published folds.")
    if task.recipe.engine.window > 1:
        remarks.append(
            f"The first {task.recipe.engine.window - 1} frames of a clip have no full window: not tested."
        )
    remarks.append(
        "Paper: as printed. Mean of folds: AUs averaged in each fold, then folds; an AU that a fold never "
        "shows has no F1 there (–) and is left out of its mean. Pooled: over the frames of all folds. F1 and "
        "accuracy are at threshold 0.5 unless a column says otherwise."
    )
    return remarks


def pictures(task: Task, shown: Result, found: Found, tests: Mapping[str, FoldTest]) -> list[Path]:
    """Draw all that there is something for."""
    folder = task.out / "pictures"
    done = {name: tested for name, tested in found["full"].items() if tested is not None}
    if not done:
        return []
    threshold = task.recipe.threshold
    whole = [c for c in shown.comparisons if not c.condition]
    missing = [name for name in found["full"] if name not in done]
    lacking = f" – {', '.join(missing)} missing" if missing else ""
    heading = draw.Heading(f"{shown.title}, {task.protocol} protocol{lacking}", shown.synthetic)
    made = [draw.bars(folder / f"{c.metric}.png", heading, c) for c in whole]
    made.append(draw.precision_recall(folder / "precision-recall.png", heading, done, threshold))
    everybody = pooled(list(done.values()))
    made.append(draw.co_occurrence(folder / "co-occurrence.png", heading, everybody, threshold))
    logs = {name: read_rows(tests[name].run / CSV_FILE) for name in done}
    made.append(draw.training(folder / "training.png", heading, logs, task.recipe.best_by))
    for kind, what in (("visible", "with half of each face black"), ("pose", "by pose")):
        some = [c for c in shown.comparisons if c.condition.startswith(kind)]
        if some:
            made.append(draw.conditions(folder / f"{kind}.png", heading, some, what))
    name = next(iter(done))
    made += _attention(folder / "attention.png", heading, tests[name], name)
    return made


def _attention(path: Path, heading: draw.Heading, test: FoldTest, name: str) -> list[Path]:
    """Of the tested samples that show most, from different subjects, in one fold."""
    bundle = test.bundle()
    if not attention.shows(bundle.spec):
        return []
    learner, spec = load_learner(test.run / BEST, half=True)
    pool, items = test.items(spec)
    rows = items[:, -1]
    present = (pool.occurrence[rows] == 1).sum(axis=1)
    best = [
        max(np.flatnonzero(pool.subject[rows] == s), key=lambda k: int(present[k]))
        for s in np.unique(pool.subject[rows])
    ]
    batch = plain_batches(pool, spec, items[best[:SHOWN_FACES]], SHOWN_FACES)[0]
    maps = attention.look(learner, batch, spec)
    shown = draw.Heading(f"{heading.title}, fold {name}", heading.synthetic)
    return [attention.draw(path, shown, batch, maps, spec)]
