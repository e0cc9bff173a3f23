"""Comparisons as Markdown and JSON. Rendered data says so in every table; what is missing is not averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.comparison import Columns, Comparison, average, mean_of_folds
from train.paper_tables import PERCENT, Printed

SYNTHETIC = (
    "SYNTHETIC: rendered faces in the dataset's layout, no real person; says nothing of the paper's result"
)
NAMES = {"f1": "F1-frame, %", "accuracy": "Accuracy, %", "icc": "ICC(3,1)", "mae": "MAE"}


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a reproduction found."""

    title: str
    """E.g. `SAT-Net (satnet) on DISFA`."""
    synthetic: bool
    facts: Mapping[str, str]
    """Lines above the tables, in their order."""
    notes: Sequence[str]
    """Lines below them."""
    comparisons: Sequence[Comparison]


def figure(value: float, metric: str) -> str:
    """A number as papers print it, – where there is none."""
    return "–" if value != value else f"{value:.1f}" if metric in PERCENT else f"{value:.2f}"


def rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one table: an AU each, and the averages last."""
    c, metric = comparison, comparison.metric
    printed = c.printed
    header = ["AU", f"paper (Table {printed.table})" if printed else "paper", *c.folds]
    more = {"at validation's thresholds": c.tuned, "if always called": c.always}
    more = {name: column for name, column in more.items() if column is not None}
    header += ["mean of folds", "pooled", *more]
    columns: list[Columns | None] = [*c.folds.values(), c.mean, c.pooled, *more.values()]
    body = [
        [
            au,
            figure(printed.values[a], metric) if printed else "–",
            *(_cell(column, a, metric) for column in columns),
        ]
        for a, au in enumerate(c.aus)
    ]
    means = [average(column) for column in columns]
    means[len(c.folds)] = mean_of_folds(c)
    body.append(
        ["mean", figure(printed.mean, metric) if printed else "–", *(figure(m, metric) for m in means)]
    )
    return header, body


def _cell(column: Columns | None, a: int, metric: str) -> str:
    return "missing" if column is None else figure(float(column[a]), metric)


def table_text(comparison: Comparison, synthetic: bool) -> str:
    """One table in Markdown, columns aligned so that a terminal shows it as well."""
    header, body = rows(comparison)
    lines = [header, *body]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]

    def row(cells: Sequence[str]) -> str:
        first, *rest = (
            c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *rest])} |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if k == 0 else ":") for k, w in enumerate(widths)) + "|"
    condition = f", {comparison.condition}" if comparison.condition else ""
    title = f"### {NAMES[comparison.metric]}{condition}{' — SYNTHETIC' if synthetic else ''}"
    notes = _notes(comparison)
    return "\n".join([title, "", row(header), rule, *map(row, body), *([""] if notes else []), *notes])


def _notes(comparison: Comparison) -> list[str]:
    notes = []
    if comparison.missing:
        notes.append(f"Missing: {', '.join(comparison.missing)}. No mean is given until all folds are there.")
    printed = comparison.printed
    if (
        printed is not None
        and abs(own := sum(printed.values) / len(printed.values))
        and _differs(printed, own, comparison.metric)
    ):
        shown = figure(own, comparison.metric)
        notes.append(
            f"The paper's own values average {shown}; it prints {figure(printed.mean, comparison.metric)}."
        )
    return notes


def _differs(printed: Printed, own: float, metric: str) -> bool:
    return abs(own - printed.mean) > (0.25 if metric in PERCENT else 0.025)


def markdown(result: Result) -> str:
    """The whole report."""
    lines = [f"# {result.title}", ""]
    if result.synthetic:
        lines += [f"**{SYNTHETIC}.**", ""]
    lines += [f"- {name}: {value}" for name, value in result.facts.items()]
    for comparison in result.comparisons:
        lines += ["", table_text(comparison, result.synthetic)]
    lines += [""] + [f"- {note}" for note in result.notes]
    return "\n".join(lines).rstrip() + "\n"


def plain(result: Result) -> dict[str, Any]:
    """For JSON; NaN and missing as null."""
    return {
        "title": result.title,
        "synthetic": result.synthetic,
        "facts": dict(result.facts),
        "notes": list(result.notes),
        "tables": [_plain(c) for c in result.comparisons],
    }


def _plain(c: Comparison) -> dict[str, Any]:
    return {
        "metric": c.metric,
        "condition": c.condition,
        "aus": list(c.aus),
        "paper": None
        if c.printed is None
        else {"table": c.printed.table, "values": list(c.printed.values), "mean": c.printed.mean},
        "folds": {name: _numbers(column) for name, column in c.folds.items()},
        "missing": list(c.missing),
        "mean": _numbers(c.mean),
        "mean_of_folds": _number(mean_of_folds(c)),
        "pooled": _numbers(c.pooled),
        "mean_of_pooled": _number(average(c.pooled)),
        "at_validation_thresholds": _numbers(c.tuned),
        "if_always_called": _numbers(c.always),
    }


def _numbers(column: Columns | None) -> list[float | None] | None:
    return None if column is None else [_number(float(v)) for v in column]


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)
