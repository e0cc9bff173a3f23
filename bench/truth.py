"""`python -m bench truth`: what engines see, on rendered strangers and on a real clip that nobody labelled.

Four measures, each for every engine:

    --rendered FOLDER   scores per AU on rendered people with known AUs. Give subjects never trained on.
    --source CLIP       does the probability of an AU go with what the mesh measures of it (Spearman)?
                        which AUs does it call in calm stretches, where the mesh is at rest?
    --labels CSV        scores per AU on those frames of the clip that somebody labelled by eye

An engine that reads the mesh's points agrees with distances between them for a bad reason: its Spearman
has no weight. Calm is only what the mesh can see: a cheek or a nose may move while all five distances rest.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.plots import Beside, Marks, Watched, draw_traces, watch
from bench.report import print_table, write_json
from engines.bundle import resolve
from engines.spec import EngineSpec
from pipeline.config import DEFAULT_ENGINES
from pipeline.errors import OutputError, SourceError, UsageError
from train import metrics

Row = dict[str, Any]
"""One figure or a few, of one engine and one AU: what the JSON holds, and what the tables are made of."""


@dataclass(frozen=True, slots=True)
class Compared:
    """An AU, and the distance of `pipeline.messages.Geometry` that it widens (+1) or narrows (−1)."""

    au: str
    measure: str
    sign: int
    aim: float | None = None
    """Least Spearman to be content with."""

    @property
    def name(self) -> str:
        """The measure with its sign."""
        return f"{'−' if self.sign < 0 else ''}{self.measure}"


COMPARED = (
    Compared("AU01", "brow_raise", +1),
    Compared("AU02", "brow_raise", +1),
    Compared("AU04", "brow_raise", -1, 0.5),
    Compared("AU04", "brow_gap", -1, 0.5),
    Compared("AU12", "mouth_width", +1, 0.5),
    Compared("AU25", "lip_gap", +1, 0.6),
    Compared("AU26", "jaw_drop", +1, 0.5),
    Compared("AU43", "eye_opening", -1, 0.6),
)

CALM_WITHIN = {
    "lip_gap": 0.012,
    "corner_lift": 0.015,
    "mouth_width": 0.025,
    "brow_raise": 0.02,
    "eye_opening": 0.07,
}
"""How far each distance of a calm face may be from this person's own rest, in `Geometry`'s units."""
CALM_SECONDS = 0.5
"""A calm stretch lasts at least so long."""
NEAREST = 25
"""So many frames, those nearest to an average face's rest, say where this person's own rest is."""


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation over the rows where neither is NaN, ties sharing their rank.

    (n,) and (n,) → −1 to 1; NaN with fewer than three rows, or where one of them is constant.
    """
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def agreement(clip: Watched, spec: EngineSpec) -> list[Row]:
    """Spearman of the engine's probabilities with the distances that the mesh measures."""
    rows: list[Row] = []
    for pair in COMPARED:
        if pair.au not in spec.aus:
            continue
        found = clip.probability[spec.name][:, spec.aus.index(pair.au)]
        rho = spearman(found, pair.sign * clip.geometry[pair.measure])
        rows.append(
            {
                "part": "geometry",
                "engine": spec.name,
                "au": pair.au,
                "measure": pair.name,
                "aim": pair.aim,
                "spearman": rho,
                "frames": int((~np.isnan(found)).sum()),
                "of_no_weight": sees_landmarks(spec),
            }
        )
    return rows


def sees_landmarks(spec: EngineSpec) -> bool:
    """Whether the engine is told where the mesh's points are."""
    return spec.landmarks or spec.au_centers


def calm_frames(clip: Watched) -> NDArray[np.bool_]:
    """(n,): whether the face is at rest, and has been or will be for `CALM_SECONDS` without a gap.

    A person's rest is the median over the frames nearest to it. Only frames count that could serve as a
    neutral face: near-frontal, sharp, uncovered.
    """
    candidates = np.flatnonzero(~np.isnan(clip.rest_distance))
    calm = np.zeros(len(clip), bool)
    if not len(candidates):
        return calm
    nearest = candidates[np.argsort(clip.rest_distance[candidates], kind="stable")[:NEAREST]]
    calm[candidates] = True
    for name, within in CALM_WITHIN.items():
        values = clip.geometry[name]
        calm &= np.abs(values - np.median(values[nearest])) <= within
    return calm & _lasting(calm, clip.seq, clip.pts_seconds)


def _lasting(
    calm: NDArray[np.bool_], seq: NDArray[np.int64], pts_seconds: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which frames belong to an unbroken run of calm ones of at least `CALM_SECONDS`."""
    rows = np.flatnonzero(calm)
    lasting = np.zeros(len(calm), bool)
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(seq[rows]) != 1)) + 1
    for run in np.split(rows, breaks):
        if len(run) and pts_seconds[run[-1]] - pts_seconds[run[0]] >= CALM_SECONDS - 1e-6:
            lasting[run] = True
    return lasting


def calm_alarms(clip: Watched, spec: EngineSpec, calm: NDArray[np.bool_]) -> list[Row]:
    """Share of calm frames on which each AU is called, NaN without any; a last row has the mean."""
    judged = calm & ~np.isnan(clip.probability[spec.name]).any(axis=1)
    active = clip.active[spec.name][judged]
    shares = active.mean(axis=0) if len(active) else np.full(len(spec.aus), np.nan)
    base = {"part": "calm", "engine": spec.name, "frames": int(judged.sum())}
    rows = [base | {"au": au, "alarms": float(s)} for au, s in zip(spec.aus, shares, strict=True)]
    return [*rows, base | {"au": "mean", "alarms": float(shares.mean())}]


@dataclass(frozen=True, slots=True)
class Labels:
    """What somebody saw on some frames of a clip."""

    aus: tuple[str, ...]
    key: str
    """`seq` or `pts_seconds`: what tells the frames."""
    at: NDArray[np.float64]
    """(k,), values of the key."""
    occurrence: NDArray[np.uint8]
    """(k, A): 0, 1 or 9 for unknown."""

    def rows_of(self, clip: Watched) -> NDArray[np.int64]:
        """(k,): each label's row in the clip, −1 where that frame shows no such face."""
        of_clip = clip.seq.astype(np.float64) if self.key == "seq" else clip.pts_seconds
        within = 0.0 if self.key == "seq" else 0.5 / clip.rate_hz
        distance = np.abs(of_clip[None] - self.at[:, None])
        nearest = distance.argmin(axis=1)
        return np.where(distance[np.arange(len(self.at)), nearest] <= within, nearest, -1)


def read_labels(path: Path) -> Labels:
    """Labels from a CSV file: a column `seq` (from 0) or `pts_seconds`, and columns of AUs, 0, 1 or 9.

    Raises:
        SourceError: it cannot be read.
        UsageError: a column or a value is not that.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lines = list(reader)
            columns = [column.strip() for column in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"--labels {path}: cannot be read ({error}); expected a CSV file") from None
    keys = [column for column in columns if column in ("seq", "pts_seconds")]
    aus = tuple(c for c in columns if len(c) == 4 and c.startswith("AU") and c[2:].isdigit())
    if len(keys) != 1 or not aus or len(aus) + 1 != len(columns) or not lines:
        raise UsageError(
            f"--labels {path}: expected one column seq or pts_seconds, columns named like AU01, and at "
            f"least one line; got {', '.join(columns) or 'nothing'} and {len(lines)} lines"
        )
    at, occurrence = [], []
    for number, line in enumerate(lines, start=2):
        values = [str(value or "").strip() for value in line.values()]
        cells = dict(zip(columns, values, strict=False))
        try:
            at.append(float(cells[keys[0]]))
        except (ValueError, KeyError):
            raise UsageError(f"--labels {path}: line {number}: {keys[0]} is no number") from None
        wrong = [au for au in aus if cells.get(au) not in ("0", "1", "9")]
        if wrong or len(values) != len(columns):
            raise UsageError(
                f"--labels {path}: line {number}: {(wrong or columns)[-1]}: expected 0, 1 or 9 for unknown"
            )
        occurrence.append([int(cells[au]) for au in aus])
    return Labels(aus, keys[0], np.array(at), np.array(occurrence, np.uint8))


def labelled(clip: Watched, labels: Labels) -> list[Row]:
    """AUC and F1 of every engine and AU on the labelled frames, and rows of means over AUs of both classes.

    The frames are those on which every engine has an answer, so that all are judged by the same.

    Raises:
        UsageError: an engine and the labels have no AU in common.
    """
    rows_of = labels.rows_of(clip)
    answered = [~np.isnan(clip.probability[spec.name]).any(axis=1) for spec in clip.specs]
    judged = (rows_of >= 0) & np.all(answered, axis=0)[rows_of]
    return [
        row
        for spec in clip.specs
        for row in _labelled(clip, spec, labels.aus, labels.occurrence[judged], rows_of[judged])
    ]


def _labelled(
    clip: Watched,
    spec: EngineSpec,
    known: Sequence[str],
    occurrence: NDArray[np.uint8],
    rows_of: NDArray[np.int64],
) -> list[Row]:
    aus = [au for au in known if au in spec.aus]
    if not aus:
        raise UsageError(f"--labels: {', '.join(known)}: none of them is an AU of {spec.name}")
    columns = [spec.aus.index(au) for au in aus]
    truth = occurrence[:, [list(known).index(au) for au in aus]]
    auc = metrics.auc(clip.probability[spec.name][rows_of][:, columns], truth)
    f1 = metrics.f1(clip.active[spec.name][rows_of][:, columns], truth)
    f1 = np.where(np.isnan(auc), np.nan, f1)
    base = {"part": "labels", "engine": spec.name, "frames": len(rows_of)}
    rows = [
        base
        | {
            "au": au,
            "present": int((truth[:, a] == 1).sum()),
            "absent": int((truth[:, a] == 0).sum()),
            "auc": float(auc[a]),
            "f1": float(f1[a]),
        }
        for a, au in enumerate(aus)
    ]
    return [*rows, base | {"au": "mean", "auc": metrics.mean(auc), "f1": metrics.mean(f1)}]


def rendered(engine: str, folders: Sequence[Path]) -> list[Row]:
    """`train.evaluate` of an engine: every sample for a frame-wise one, windows for a temporal one."""
    from train.evaluate import evaluate  # brings PyTorch

    evaluation = evaluate(engine, folders)
    base = {"part": "rendered", "engine": evaluation.name, "frames": evaluation.frames}
    names = ("f1", "auc", "icc")
    rows = [
        base | {"au": s.au, "present": s.present} | {n: getattr(s, n) for n in names}
        for s in evaluation.scores
    ]
    return [*rows, base | {"au": "mean"} | {n: evaluation.mean(n) for n in names}]


def pivot(rows: Sequence[Row], line: Sequence[str], values: Mapping[str, str]) -> list[Row]:
    """Long rows as a table.

    A line for each combination of the keys in `line`; a column for every engine and each of `values`, which
    gives keys their titles.
    """
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    table: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        keys = tuple(row.get(key) for key in line)
        if keys not in table:
            blank = {f"{e} {title}".strip(): "" for e in engines for title in values.values()}
            table[keys] = {k: "" if v is None else str(v) for k, v in zip(line, keys, strict=True)} | blank
        for key, title in values.items():
            table[keys][f"{row['engine']} {title}".strip()] = _figure(row.get(key))
    return sorted(table.values(), key=lambda row: (row["au"] == "mean", row["au"]))


def _frames(rows: Sequence[Row]) -> str:
    """How many frames each engine was judged on."""
    found = {row["engine"]: row["frames"] for row in rows}
    return "frames: " + ", ".join(f"{engine} {frames}" for engine, frames in found.items())


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{'–':>5}" if value != value else f"{round(value, 2) + 0.0:5.2f}".replace("-", "−")


def specs_of(engines: Sequence[str]) -> list[EngineSpec]:
    """Their specs.

    Raises:
        UsageError: no such engine, or two of one name, whose figures could not be told apart.
        EngineError: a bundle is damaged.
    """
    specs = [resolve(engine).spec for engine in engines]
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"--engine: two engines are called {twice[0]}; export one under another name")
    return specs


def on_clip(clip: Watched, labels: Labels | None) -> list[Row]:
    """Measure on a clip, and print."""
    calm = calm_frames(clip)
    rows: list[Row] = []
    print(f"\n{clip.stream}: the face is in {len(clip)} of {clip.frames} frames, {calm.sum()} of them calm")
    found = [row for spec in clip.specs for row in agreement(clip, spec)]
    print("\nSpearman of probabilities with the mesh's distances")
    print_table(pivot(found, ("au", "measure", "aim"), {"spearman": ""}))
    for spec in clip.specs:
        if sees_landmarks(spec):
            print(f"{spec.name}: of no weight, it sees the landmarks")
    rows += found
    found = [row for spec in clip.specs for row in calm_alarms(clip, spec, calm)]
    print(f"\nshare of calm frames on which an AU is called ({_frames(found)})")
    print_table(pivot(found, ("au",), {"alarms": ""}))
    rows += found
    if labels is not None:
        found = labelled(clip, labels)
        lost = int((labels.rows_of(clip) < 0).sum())
        print(
            f"\n{len(labels.at)} frames labelled by eye: {lost} without this face, "
            f"{found[0]['frames']} on which every engine has an answer"
        )
        print_table(pivot(found, ("au", "present", "absent"), {"auc": "AUC", "f1": "F1"}))
        rows += found
    return rows


def main(argv: list[str]) -> int:
    """Measure, print tables, and draw with --out."""
    parser = argparse.ArgumentParser(
        prog="python -m bench truth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--engine", default=",".join(DEFAULT_ENGINES), help="names or folders of bundles")
    parser.add_argument("--source", metavar="CLIP", help="a real clip without labels")
    parser.add_argument("--frames", type=int, metavar="N", help="only the clip's first N frames")
    parser.add_argument(
        "--labels", type=Path, metavar="CSV", help="seq or pts_seconds, then AUs as 0, 1 or 9"
    )
    parser.add_argument(
        "--rendered", type=Path, nargs="+", metavar="FOLDER", help="of `python -m train synth`"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for truth_ENGINE.png, traces over the clip"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    if arguments.source is None and arguments.rendered is None:
        raise UsageError("nothing to measure on; give --source CLIP, --rendered FOLDER or both")
    if arguments.source is None and (arguments.labels or arguments.out):
        raise UsageError("--labels and --out belong to a clip; give it with --source")
    engines = tuple(arguments.engine.split(","))
    specs = specs_of(engines)
    labels = None if arguments.labels is None else read_labels(arguments.labels)
    rows: list[Row] = []
    print("; ".join(f"{spec.name}: {spec.trained}" for spec in specs))
    if arguments.rendered:
        rows += [row for engine in engines for row in rendered(engine, arguments.rendered)]
        print(f"\nrendered people, whose AUs are synthetic ({_frames(rows)})")
        print("ICC(3,1): intensity 0 to 5, for which 5 × probability stands")
        print_table(pivot(rows, ("au",), {"f1": "F1", "auc": "AUC", "icc": "ICC(3,1)"}))
    if arguments.source:
        clip = watch(arguments.source, engines, arguments.frames)
        rows += on_clip(clip, labels)
        if arguments.out:
            _draw(clip, labels, rows, arguments.out)
    if arguments.json:
        plain = [{k: None if v != v else v for k, v in row.items()} for row in rows]
        write_json(arguments.json, [row | {"trained": _trained(specs, row)} for row in plain])
    return 0


def _trained(specs: Sequence[EngineSpec], row: Row) -> str:
    return next(spec.trained for spec in specs if spec.name == row["engine"])


def _draw(clip: Watched, labels: Labels | None, rows: Sequence[Row], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"--out {folder}: cannot be made ({error.strerror}); choose another place"
        ) from error
    for spec in clip.specs:
        path = folder / f"truth_{spec.name}.png"
        draw_traces(path, clip, spec, _beside(clip, spec, rows), calm_frames(clip), _marks(clip, labels))
        print(f"plot: {path}")


def _beside(clip: Watched, spec: EngineSpec, rows: Sequence[Row]) -> list[Beside]:
    """The compared distances with their Spearman."""
    found = {(row["au"], row["measure"]): row for row in rows if _is(row, "geometry", spec)}
    return [
        Beside(
            pair.au,
            pair.name,
            pair.sign * clip.geometry[pair.measure],
            row["spearman"],
            row["of_no_weight"],
        )
        for pair in COMPARED
        if (row := found.get((pair.au, pair.name))) is not None
    ]


def _is(row: Row, part: str, spec: EngineSpec) -> bool:
    return row["part"] == part and row["engine"] == spec.name


def _marks(clip: Watched, labels: Labels | None) -> dict[str, Marks]:
    """Labels that have a row in the clip, by AU."""
    if labels is None:
        return {}
    rows_of = labels.rows_of(clip)
    there = rows_of >= 0
    seconds = clip.pts_seconds[rows_of[there]]
    return {au: Marks(seconds, labels.occurrence[there, a]) for a, au in enumerate(labels.aus)}
