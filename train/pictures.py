"""Pictures of a reproduction: bars beside the paper's, precision and recall, co-occurrence, training curves.

Every picture of rendered data says SYNTHETIC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.whole import whole
from train.comparison import THRESHOLD, Comparison, average, mean_of_folds
from train.paper_tables import PERCENT
from train.report import NAMES
from train.shards import UNKNOWN
from train.tested import Tested

PAPER, OURS, FOLD, WARN = "#999999", "#0072b2", "#56b4e9", "#d55e00"
DECIDES = {"f1": "F1", "auc": "AUC", "icc": "ICC(3,1)"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


CHARACTERS_AN_INCH = 122.0
"""How many fit, at a size of one point."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above a picture."""

    title: str
    synthetic: bool


def start(width: float, height: float, heading: Heading, what: str) -> Any:
    """A figure of so many inches with its heading.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "matplotlib is not installed; pip install 'austream[train]' -c constraints.txt"
        ) from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(width, height))
    words = f"{heading.title}: {what}"
    size = min(11.0, CHARACTERS_AN_INCH * width / len(words))
    figure.text(0.012, 1 - 0.2 / height, words, va="center", fontsize=size)
    if heading.synthetic:
        words = "SYNTHETIC – rendered faces, no real person"
        figure.text(0.012, 1 - 0.42 / height, words, va="center", fontsize=9.5, color=WARN, weight="bold")
    return figure


def save(figure: Any, path: Path, dpi: int = 110) -> Path:
    """Write a figure as PNG, whole or not at all, and close it.

    Raises:
        OutputError: it cannot be written.
    """
    import matplotlib.pyplot as plt

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            figure.savefig(part, dpi=dpi, format="png")
    finally:
        plt.close(figure)
    return path


def _frame(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, length=2)


def bars(path: Path, heading: Heading, comparison: Comparison) -> Path:
    """One metric: the paper's bars, ours, and each fold as a dot."""
    c = comparison
    height = 3.6
    figure = start(max(0.62 * (len(c.aus) + 1) + 1.6, 7.0), height, heading, NAMES[c.metric])
    axes = figure.add_axes((0.075, 0.17, 0.91, 0.55))
    x = np.arange(len(c.aus) + 1)
    if c.printed is not None:
        axes.bar(x - 0.21, [*c.printed.values, c.printed.mean], 0.4, color=PAPER, label="paper")
    whole = not c.missing and c.mean is not None
    if whole and c.mean is not None:
        ours = np.append(c.mean, mean_of_folds(c))
        axes.bar(x + 0.21, np.nan_to_num(ours), 0.4, color=OURS, label="ours, mean of folds")
        for k in np.flatnonzero(np.isnan(ours)):
            axes.text(x[k] + 0.21, 0, "–", ha="center", va="bottom", fontsize=8)
    for k, column in enumerate(c.folds.values()):
        if column is not None:
            dots = np.append(column, average(column))
            shift = 0.21 + 0.1 * (k - (len(c.folds) - 1) / 2)
            axes.plot(x + shift, dots, ".", color="black" if whole else FOLD, ms=4)
    there = [name for name in c.folds if name not in c.missing]
    if there:
        axes.lines[-1].set_label(f"ours, fold by fold from the left: {', '.join(there)}")
    axes.set_xticks(x, [*c.aus, "mean"], fontsize=8)
    axes.axvline(len(c.aus) - 0.5, color="#dddddd", lw=0.8, zorder=-1)
    axes.set_xlim(-0.6, len(c.aus) + 0.6)
    if c.metric in PERCENT:
        axes.set_ylim(0, 100)
    _frame(axes)
    axes.legend(fontsize=7.5, frameon=False, ncols=6, loc="lower left", bbox_to_anchor=(0, 1.0))
    if c.missing:
        words = f"Missing: {', '.join(c.missing)}; no mean is shown"
        figure.text(0.075, 0.05, words, fontsize=8.5, color=WARN)
    return save(figure, path)


def curve(probability: NDArray[np.floating], present: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Recall and precision at every threshold, from the highest down; equal probabilities go together.

    Args:
        probability: (n,).
        present: (n,), at least one of them.
    """
    order = np.argsort(-probability, kind="stable")
    p, hits = probability[order], np.cumsum(present[order])
    cuts = np.append(p[:-1] > p[1:], True)
    called = np.flatnonzero(cuts) + 1
    return hits[cuts] / present.sum(), hits[cuts] / called


def average_precision(probability: NDArray[np.floating], present: NDArray[np.bool_]) -> float:
    """Σ (R_k − R_{k−1}) P_k over the thresholds, from the highest down."""
    recall, precision = curve(probability, present)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def precision_recall(
    path: Path, heading: Heading, folds: Mapping[str, Tested], threshold: float = THRESHOLD
) -> Path:
    """A small plot per AU, a line per fold; dotted is calling at random, a dot is the threshold."""
    aus = next(iter(folds.values())).aus
    across = min(len(aus), 6)
    down = -(-len(aus) // across)
    height = 2.0 * down + 1.1
    figure = start(2.0 * across + 0.5, height, heading, "precision over recall on the tested subjects")
    grid = figure.add_gridspec(
        down,
        across,
        left=0.06,
        right=0.985,
        bottom=0.62 / height,
        top=1 - 0.8 / height,
        hspace=0.45,
        wspace=0.25,
    )
    for a, au in enumerate(aus):
        axes = figure.add_subplot(grid[a // across, a % across])
        for k, (name, tested) in enumerate(folds.items()):
            _draw_curve(axes, tested, a, COLOURS[k % len(COLOURS)], name, threshold)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.set_title(au, fontsize=9, pad=3)
        axes.tick_params(labelleft=a % across == 0, labelbottom=a + across >= len(aus))
        _frame(axes)
        if axes.lines:
            axes.legend(fontsize=6, framealpha=0.75, edgecolor="none", loc="best", handlelength=1.0)
        else:
            axes.text(0.5, 0.5, "never present", ha="center", fontsize=8, color="#555555")
    words = (
        f"x: recall · y: precision · dot: threshold {threshold:g} · dotted: called at random · "
        "AP: average precision"
    )
    figure.text(0.06, 0.2 / height, words, fontsize=8, color="#555555")
    return save(figure, path)


def _draw_curve(axes: Any, tested: Tested, a: int, colour: str, name: str, threshold: float) -> None:
    known = tested.occurrence[:, a] != UNKNOWN
    p, present = tested.probability[known, a], tested.occurrence[known, a] == 1
    if not present.any():
        return
    recall, precision = curve(p, present)
    ap = average_precision(p, present)
    axes.step(
        np.append(0, recall),
        np.append(precision[0], precision),
        where="pre",
        color=colour,
        lw=1.1,
        label=f"{name}  AP {ap:.2f}",
    )
    axes.axhline(present.mean(), color=colour, lw=0.7, ls=":")
    called = p >= threshold
    if called.any():
        hits = (called & present).sum()
        axes.plot(hits / present.sum(), hits / called.sum(), ".", color=colour, ms=7)


def together(occurrence: NDArray[np.uint8], said: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """How often AU j is labelled, and how often called, on frames that show AU i: (A, A) each, NaN where i
    is never shown or j never known there.

    Args:
        occurrence: (n, A), 0, 1 or 9 for unknown.
        said: (n, A), whether each AU is called.
    """
    present, known = (occurrence == 1).astype(np.float64), (occurrence != UNKNOWN).astype(np.float64)
    counted = present.T @ known
    with np.errstate(invalid="ignore", divide="ignore"):
        return present.T @ present / counted, present.T @ (said * known) / counted


def co_occurrence(path: Path, heading: Heading, tested: Tested, threshold: float = THRESHOLD) -> Path:
    """Three matrices: what is labelled together, what is called, and the difference."""
    labelled, called = together(tested.occurrence, tested.probability >= threshold)
    count = len(tested.aus)
    side = max(0.34 * count, 3.0)
    height = side + 1.7
    figure = start(3 * side + 3.6, height, heading, "AUs together")
    panels = (
        ("labelled, %", labelled, "Blues", 0, 100),
        (f"called at {threshold:g}, %", called, "Blues", 0, 100),
        ("called − labelled", called - labelled, "RdBu_r", -100, 100),
    )
    for k, (title, values, colours, low, high) in enumerate(panels):
        width = side / (3 * side + 3.6)
        axes = figure.add_axes((0.06 + k * (width + 0.07), 0.55 / height, width, side / height))
        image = 100 * values
        axes.imshow(np.ma.masked_invalid(image), cmap=colours, vmin=low, vmax=high)
        axes.set_xticks(range(count), [au[2:] for au in tested.aus], fontsize=7)
        axes.set_yticks(range(count), tested.aus, fontsize=7)
        axes.set_title(title, fontsize=9)
        for i in range(count):
            for j in range(count):
                v = image[i, j]
                dark = abs(v) > 60
                words = "·" if np.isnan(v) else f"{v:.0f}".replace("-", "−")
                axes.text(
                    j, i, words, ha="center", va="center", fontsize=6, color="white" if dark else "#333333"
                )
        axes.tick_params(length=0)
    words = (
        "Of the frames that are labelled with the AU of a row: how many are labelled, or called, with that "
        "of a column. A perfect engine has only zeros on the right."
    )
    figure.text(0.06, 0.15 / height, words, fontsize=8, color="#555555")
    return save(figure, path)


def training(
    path: Path, heading: Heading, logs: Mapping[str, Sequence[Mapping[str, str]]], best_by: str = "f1"
) -> Path:
    """Loss and the validation score that decides, by epoch, a line per fold; phases one after the other.

    Args:
        path: of the picture.
        heading: above it.
        logs: rows of log.csv, by fold.
        best_by: `f1`, `auc` or `icc`.
    """
    height = 3.7
    figure = start(10, height, heading, "training")
    for k, (column, title) in enumerate(
        (("loss", "training loss"), (f"mean_{best_by}", f"validation {DECIDES[best_by]}, mean over AUs"))
    ):
        axes = figure.add_axes((0.07 + 0.5 * k, 0.17, 0.41, 0.54))
        for n, (name, log) in enumerate(logs.items()):
            values = [float(row[column]) for row in log]
            colour = COLOURS[n % len(COLOURS)]
            axes.plot(np.arange(1, len(values) + 1), values, ".-", color=colour, lw=1.1, label=name)
            changes = [i + 0.5 for i in range(1, len(log)) if log[i]["phase"] != log[i - 1]["phase"]]
            for x in changes:
                axes.axvline(x, color="#bbbbbb", lw=0.8, ls="--")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        top = max((line.get_ydata().max() for line in axes.lines if line.get_label() in logs), default=1.0)
        low = min((float(np.nanmin([0.0, *line.get_ydata()])) for line in axes.lines), default=0.0)
        axes.set_ylim(1.1 * low, 1.1 * top if np.isfinite(top) and top > 0 else 1.0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _frame(axes)
        axes.legend(fontsize=8, frameon=False)
    return save(figure, path)


def conditions(path: Path, heading: Heading, comparisons: Sequence[Comparison], what: str) -> Path:
    """The mean over AUs under each condition: occluded halves, or poses."""
    height = 3.4
    figure = start(max(1.0 * len(comparisons) + 2, 7.0), height, heading, what)
    axes = figure.add_axes((0.08, 0.14, 0.9, 0.56))
    x = np.arange(len(comparisons))
    paper = [c.printed.mean if c.printed else np.nan for c in comparisons]
    if not np.isnan(paper).all():
        axes.bar(x - 0.21, np.nan_to_num(paper), 0.4, color=PAPER, label="paper")
    ours = np.array([mean_of_folds(c) for c in comparisons])
    axes.bar(x + 0.21, np.nan_to_num(ours), 0.4, color=OURS, label="ours, mean of folds")
    for k in np.flatnonzero(np.isnan(ours)):
        axes.text(x[k] + 0.21, 0, "missing", ha="center", va="bottom", fontsize=7, color=WARN, rotation=90)
    axes.set_ylim(0, 100 if comparisons[0].metric in PERCENT else None)
    axes.set_xticks(x, [c.condition.removeprefix("visible: ") for c in comparisons], fontsize=8)
    _frame(axes)
    axes.legend(fontsize=7.5, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    return save(figure, path)
