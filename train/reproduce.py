"""`python -m train reproduce --paper PAPER --dataset DATASET --root ROOT`: the paper's table beside ours.

OUT/report.md, report.json      the tables; rewritten after every fold; pictures at the end
OUT/pictures/                   bars, precision over recall, co-occurrence, training, attention
OUT/FOLD/run/                   a run of `train fit`
OUT/FOLD/bundle/                its best weights as an engine, with thresholds, protocol and scores
OUT/FOLD/tested-VISIBLE.safetensors    what it said of the tested subjects

Killed, it goes on: what is whole is not done again. A fold that is not there yet is shown as missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import UsageError
from pipeline.whole import write_whole
from train import protocol
from train.data.cache import PreparedSet
from train.data.folds import Fold
from train.data.layouts import named
from train.fit import fit, say
from train.obtain import obtain
from train.paper_tables import Study, find
from train.recipe import PUBLISHED, Recipe, read_recipe
from train.report import markdown, plain
from train.results import pictures, result
from train.task import Task
from train.tested import VISIBLE, Tested
from train.variants import changes

OUT = Path("build") / "reproduce"


def run(task: Task) -> Path:
    """Train, test and report fold by fold; returns the report.

    Raises:
        AustreamError: with one line that says what is wrong; folds that are done stay.
    """
    for number, fold in enumerate(task.todo):
        say(f"{task.study.name} {task.variant}: fold {fold.name} ({number + 1} of {len(task.todo)})")
        test = task.fold_test(fold)
        fit(test.recipe, test.run)
        for visible in task.visible:
            test.tested(visible)
        report(task, pictured=number + 1 == len(task.todo))
    return task.out / "report.md"


def report(task: Task, pictured: bool) -> None:
    """Write the tables of what is there, and draw it."""
    found: dict[str, Mapping[str, Tested | None]] = {}
    tests = {fold.name: task.fold_test(fold) for fold in task.every}
    for visible in task.visible:
        found[visible] = {name: test.known(visible) for name, test in tests.items()}
    shown = result(task, found)
    path = task.out / "report.md"
    task.out.mkdir(parents=True, exist_ok=True)
    write_whole(path, markdown(shown).encode())
    write_whole(task.out / "report.json", (json.dumps(plain(shown), indent=2) + "\n").encode())
    if pictured:
        pictures(task, shown, found, tests)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m train reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--paper", required=True, help="cednn, satnet, arl, iarl, eacnet or tranet")
    made.add_argument("--dataset", required=True, help="e.g. disfa: what it is trained on")
    made.add_argument("--root", type=Path, metavar="DIR", help="the dataset's folder")
    made.add_argument("--cache", type=Path, metavar="DIR", help="of `train data prepare`; made where missing")
    made.add_argument("--out", type=Path, metavar="DIR", help=f"{OUT}/STUDY-VARIANT by default")
    made.add_argument("--protocol", choices=protocol.PROTOCOLS, default="clean")
    made.add_argument("--variant", metavar="NAME", help="an ablation, e.g. sanet; the paper's own by default")
    made.add_argument("--folds", default="", metavar="1,2", help="only these, by the part that they test")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="see train fit")
    made.add_argument("--test-on", metavar="DATASET", help="train on all of --dataset, test on another one")
    made.add_argument("--test-root", type=Path, metavar="DIR")
    made.add_argument("--test-cache", type=Path, metavar="DIR")
    made.add_argument(
        "--occluded", action="store_true", help="ARL's study: with only half of each face visible"
    )
    made.add_argument("--hop", type=int, default=1, metavar="N", help="frames between tested windows")
    made.add_argument("--partial", action="store_true", help="also with subjects missing; no published folds")
    return made


def main(argv: Sequence[str]) -> int:
    """Run it and print the report.

    Raises:
        AustreamError: with one line that says what is wrong.
    """
    task = parse(parser().parse_args(argv))
    path = run(task)
    print(path.read_text(encoding="utf-8"))
    print(f"report: {path}; pictures: {path.parent / 'pictures'}")
    return 0


def parse(args: argparse.Namespace) -> Task:
    """Everything settled and opened before anything is trained.

    Raises:
        AustreamError: a contradiction, or a dataset that cannot be used.
    """
    study = find(args.paper, args.dataset)
    variant = args.variant or study.variant
    varied = changes(study, variant)
    papers = read_recipe(study.name, varied)
    recipe = read_recipe(study.name, (*varied, *args.set))
    _check_words(args, study, recipe)
    compensates = study.name.split("-")[0] != "cednn"
    trained = obtain(study.dataset, args.root, args.cache, recipe, compensates, args.partial)
    trained.columns(recipe.engine.aus)
    _check_intensities(study, trained)
    tested = None
    if args.test_on is not None:
        tested = obtain(args.test_on, args.test_root, args.test_cache, recipe, compensates, args.partial)
        _check_other(study, recipe, tested)
        every: tuple[Fold, ...] = (protocol.across(trained, tested),)
    else:
        every = protocol.folds_of(trained, args.partial)
    suffix = f"{'' if args.protocol == 'clean' else '-paper'}{f'-on-{args.test_on}' if tested else ''}"
    task = Task(
        study=study,
        variant=variant,
        protocol=args.protocol,
        trained=trained,
        tested=tested,
        every=every,
        todo=protocol.chosen(every, [word for word in args.folds.split(",") if word]),
        recipe=recipe,
        papers=papers,
        visible=VISIBLE if args.occluded else ("full",),
        hop=args.hop,
        out=args.out or OUT / f"{study.name}-{variant}{suffix}",
    )
    for fold in every:
        task.fold_test(fold)  # whatever a fold lacks is said before the first is trained
    return task


def _check_words(args: argparse.Namespace, study: Study, recipe: Recipe) -> None:
    """What can be said before hours of preparing."""
    if args.hop < 1:
        raise UsageError(f"--hop {args.hop}: expected 1 or more")
    if (args.test_on is None) != (args.test_root is None and args.test_cache is None):
        raise UsageError("--test-on goes with --test-root or --test-cache")
    if args.test_on is not None:
        named(args.test_on)
    start = Path(recipe.initial.removeprefix(PUBLISHED))
    if recipe.initial and not start.is_file():
        raise UsageError(
            f"initial: {start}: no such file; the head of train/recipes/{study.name}.toml says what it is"
        )


def _check_intensities(study: Study, prepared: PreparedSet) -> None:
    if "icc" in study.metrics and np.isnan(prepared.samples.intensity).all():
        raise UsageError(
            f"{prepared.folder}: {prepared.dataset} knows no intensities, which {study.title} estimates; "
            "expected a dataset that does"
        )


def _check_other(study: Study, recipe: Recipe, tested: PreparedSet) -> None:
    """Whether an engine of this recipe can be tested on another dataset."""
    if not set(recipe.engine.aus) & set(tested.aus):
        raise UsageError(f"--test-on {tested.dataset}: codes none of {', '.join(recipe.engine.aus)}")
    _check_intensities(study, tested)
    wanted, rate_hz = recipe.engine.rate_hz, tested.samples.rate_hz
    if recipe.engine.window > 1 and rate_hz != wanted:
        raise UsageError(
            f"--test-on {tested.dataset}: of {rate_hz} frames/s, the engine's windows are of {wanted}; "
            "name a dataset of that rate"
        )
