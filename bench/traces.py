"""`python -m bench traces`: what an engine says of a clip in one precision beside another, in one plot.

The whole chain runs once for each precision. The table has, per AU, how far the later ones lie from the
first, and how many frames cross the AU's threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.plots import Watched, rows_below_faces, save_with_legend, watch
from bench.report import print_table, write_json
from engines.spec import EngineSpec
from pipeline.config import DEFAULT_ENGINES
from pipeline.errors import UsageError
from pipeline.overlay_panel import AU_NAMES

COLOURS = ("#0072b2", "#d55e00", "#009e73")
"""Of the precisions, in their order; the first is drawn widest, below the others."""

Values = NDArray[np.float64]


def compare(
    spec: EngineSpec, first: Values, other: Values, precisions: tuple[str, str]
) -> list[dict[str, Any]]:
    """One row per AU and one for all; probabilities (n, A), NaN rows where an engine says nothing."""
    said = ~(np.isnan(first).any(axis=1) | np.isnan(other).any(axis=1))
    if not said.any():
        raise UsageError(f"{spec.name}: says nothing of this clip; give a longer one")
    difference = np.abs(first - other)[said]
    limits = np.asarray(spec.thresholds)
    crossed = ((first >= limits) != (other >= limits))[said]
    columns = [(au, difference[:, a], crossed[:, a]) for a, au in enumerate(spec.aus)]
    return [
        {
            "engine": spec.name,
            "precisions": " / ".join(precisions),
            "au": au,
            "frames": int(said.sum()),
            "p99": float(np.percentile(moved, 99)),
            "max": float(moved.max()),
            "decisions_changed": int(changed.sum()),
        }
        for au, moved, changed in (*columns, ("all", difference, crossed))
    ]


def draw(
    path: Path,
    clip: Watched,
    found: Mapping[str, Values],
    rows: Sequence[dict[str, Any]],
    faces: bool = True,
) -> None:
    """Faces, and below them a row for each AU with a line for each precision.

    Args:
        path: of the PNG.
        clip: what was seen; of one engine.
        found: precision → probabilities (n, A).
        rows: of `compare`, for the notes beside the rows; of the first two precisions.
        faces: whether to show them.
    """
    [spec] = clip.specs
    both = list(found)
    title = f"{spec.name} ({spec.trained}) on {clip.stream}: {' beside '.join(both)}"
    figure, axes_of = rows_below_faces(clip, title, len(spec.aus), faces)
    notes = {row["au"]: row for row in rows}
    for a, (au, axes) in enumerate(zip(spec.aus, axes_of, strict=True)):
        axes.axhline(spec.thresholds[a], color="#999999", lw=0.7, ls="--", zorder=0)
        for k, (values, colour) in enumerate(zip(found.values(), COLOURS, strict=False)):
            axes.plot(
                clip.pts_seconds,
                values[:, a],
                color=colour,
                lw=3.0 if k == 0 else 1.1,
                alpha=0.5 if k == 0 else 1,
            )
        placed: dict[str, Any] = {"va": "center", "transform": axes.transAxes}
        axes.text(-0.035, 0.5, f"{au}  {AU_NAMES.get(au, '')}", ha="right", fontsize=8.5, **placed)
        note = f"p99 {notes[au]['p99']:.3f}  max {notes[au]['max']:.3f}"
        axes.text(1.01, 0.5, note, fontsize=8, color="#555555", **placed)
    whole = notes["all"]
    legend = " · ".join(
        f"{colour}: {name}" for name, colour in zip(both, ("wide blue", "red", "green"), strict=False)
    )
    legend += f" · dashed: threshold · right: difference of {both[1]} from {both[0]}; over all AUs "
    legend += f"p99 {whole['p99']:.3f}, max {whole['max']:.3f}, {whole['decisions_changed']} of "
    legend += f"{whole['frames'] * len(spec.aus)} decisions changed"
    save_with_legend(figure, path, legend)


def main(argv: list[str]) -> int:
    """Run each precision; print, plot with --plot, write with --json."""
    parser = argparse.ArgumentParser(prog="python -m bench traces", description=__doc__)
    parser.add_argument("--engine", default=DEFAULT_ENGINES[0], metavar="NAME|BUNDLE", help="one")
    parser.add_argument("--precision", default="fp32,int8", metavar="A,B", help="two or three")
    parser.add_argument("--source", required=True, metavar="CLIP")
    parser.add_argument("--frames", type=int, metavar="N", help="only the clip's first N frames")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    parser.add_argument("--no-faces", action="store_true", help="plot the curves alone, nobody's face")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    precisions = tuple(arguments.precision.split(","))
    if not 2 <= len(set(precisions)) == len(precisions) <= len(COLOURS):
        raise UsageError(f"--precision {arguments.precision}: expected two or three different ones")
    clips = {p: watch(arguments.source, [arguments.engine], arguments.frames, p) for p in precisions}
    clip = clips[precisions[0]]
    [spec] = clip.specs
    found = {p: each.probability[spec.name] for p, each in clips.items()}
    rows = [
        row
        for p in precisions[1:]
        for row in compare(spec, found[precisions[0]], found[p], (precisions[0], p))
    ]
    print_table(rows)
    if arguments.plot:
        draw(arguments.plot, clip, found, rows[: len(spec.aus) + 1], faces=not arguments.no_faces)
        print(f"plot: {arguments.plot}")
    if arguments.json:
        write_json(arguments.json, [row | {"trained": spec.trained} for row in rows])
    return 0
