"""python -m train synth | data … | fit RECIPE | average RUN OTHER OUT | evaluate ENGINE DATA |
export RUN FOLDER | reproduce …"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import AustreamError
from pipeline.whole import write_whole


def command_fit(args: argparse.Namespace) -> None:
    """Train by a recipe, or go on where a killed run stopped."""
    from train.fit import fit
    from train.recipe import read_recipe

    recipe = read_recipe(args.recipe, args.set)
    if args.dry_run:
        from train.dryrun import dry_run

        print(dry_run(recipe))
        return
    fit(recipe, args.out or Path("build") / "train" / Path(args.recipe).stem)


def command_evaluate(args: argparse.Namespace) -> None:
    """Score an engine, a run or a checkpoint on sample folders."""
    from train.evaluate import evaluate

    evaluation = evaluate(args.engine, args.data, args.threads, args.hop)
    print(evaluation.text())
    if args.json is not None:
        write_whole(args.json, (json.dumps(evaluation.plain(), indent=2) + "\n").encode())


def command_export(args: argparse.Namespace) -> None:
    """Make a bundle of a run's best weights."""
    from train.export import export

    bundle, evaluation = export(args.run, args.folder, args.name, args.note)
    print(evaluation.text())
    size = bundle.weights_path.stat().st_size / 1e6
    print(f"{bundle.folder}: {bundle.spec.name}, {bundle.spec.trained}, {size:.1f} MB of weights")


def command_average(args: argparse.Namespace) -> None:
    """Mix the weights of two runs of one network."""
    from train.average import average

    average(args.run, args.other, args.out, args.share)
    print(f"{args.out}: next: python -m train export {args.out} FOLDER")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m train", description="Render samples, train, score, export.")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("synth", help="Render faces with known AUs.", add_help=False)
    commands.add_parser("data", help="Check or prepare a dataset, or render one.", add_help=False)
    commands.add_parser("reproduce", help="A paper's folds, and its table beside ours.", add_help=False)

    fit = commands.add_parser("fit", help=command_fit.__doc__, description=command_fit.__doc__)
    fit.set_defaults(run_command=command_fit)
    fit.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of one in train/recipes")
    fit.add_argument("--out", type=Path, metavar="DIR", help="of the run; build/train/RECIPE by default")
    fit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="e.g. phase.0.epochs=3; may be repeated",
    )

    fit.add_argument(
        "--dry-run", action="store_true", help="build everything, take a step on noise, need no data"
    )

    evaluate = commands.add_parser("evaluate", help=command_evaluate.__doc__)
    evaluate.set_defaults(run_command=command_evaluate)
    evaluate.add_argument("engine", metavar="ENGINE", help="bundle (name or folder), run, or checkpoint")
    evaluate.add_argument("data", type=Path, nargs="+", metavar="DATA", help="sample folders")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write the scores there")
    evaluate.add_argument("--threads", type=int, metavar="N")
    evaluate.add_argument("--hop", type=int, default=4, metavar="N", help="frames between windows")

    average = commands.add_parser("average", help=command_average.__doc__)
    average.set_defaults(run_command=command_average)
    average.add_argument("run", type=Path, metavar="RUN", help="folder of `train fit`")
    average.add_argument("other", type=Path, metavar="OTHER", help="another of the same network")
    average.add_argument("out", type=Path, metavar="OUT", help="the new run's folder")
    average.add_argument("--share", type=float, default=0.5, help="of the other's weights (default 0.5)")

    export = commands.add_parser("export", help=command_export.__doc__)
    export.set_defaults(run_command=command_export)
    export.add_argument("run", type=Path, metavar="RUN", help="folder of `train fit`")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="of the bundle")
    export.add_argument("--name", metavar="NAME", help="of the engine, if not the recipe's")
    export.add_argument("--note", default="", metavar="TEXT", help="a sentence for engine.json")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or the exit code of the error that it printed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["synth"]:
            from train.synth.generate import main as synth

            return int(synth(arguments[1:]) or 0)
        if arguments[:1] == ["data"]:
            from train.data.command import main as data

            return data(arguments[1:])
        if arguments[:1] == ["reproduce"]:
            from train.reproduce import main as reproduce

            return reproduce(arguments[1:])
        args = parser().parse_args(arguments)
        args.run_command(args)
    except AustreamError as error:
        print(f"train: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("train: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
