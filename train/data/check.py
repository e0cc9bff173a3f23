"""`python -m train data check ROOT`: what a dataset's folder holds, and what is missing or odd."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError, UsageError
from pipeline.progress import Progress
from pipeline.whole import write_whole
from train.data.base import Dataset, Problem, Subject
from train.data.folds import parts_of
from train.data.layouts import recognise
from train.data.rendered import MARK, is_rendered
from train.shards import UNKNOWN

SHOWN_PROBLEMS = 12


@dataclass
class SubjectRow:
    """What one subject has; known, present: (A,) frames; levels: (6, A), those of each intensity."""

    name: str
    recordings: int
    labels: int
    bad: int
    media_frames: int
    without_neutral: int
    known: NDArray[np.int64]
    present: NDArray[np.int64]
    levels: NDArray[np.int64]

    @staticmethod
    def of(subject: Subject) -> SubjectRow:
        occurrence = np.concatenate([r.labels.occurrence for r in subject.recordings])
        intensity = np.concatenate([r.labels.intensity for r in subject.recordings])
        return SubjectRow(
            subject.name,
            len(subject.recordings),
            len(occurrence),
            sum(int(r.labels.bad.sum()) for r in subject.recordings),
            sum(len(r.media.numbers) for r in subject.recordings),
            sum(r.neutral is None for r in subject.recordings),
            (occurrence != UNKNOWN).sum(axis=0),
            (occurrence == 1).sum(axis=0),
            np.stack([(intensity == level).sum(axis=0) for level in range(6)]),
        )

    def plain(self) -> dict[str, Any]:
        return {
            "subject": self.name,
            "recordings": self.recordings,
            "labels": self.labels,
            "bad": self.bad,
            "media_frames": self.media_frames,
            "without_neutral": self.without_neutral,
        }


@dataclass
class Report:
    """All of a dataset's folder."""

    root: Path
    dataset: Dataset
    subjects: list[SubjectRow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def fatal(self) -> list[str]:
        return [problem.text for problem in self.problems if problem.fatal]

    def total(self, name: str) -> int:
        """Sum of a number over the subjects."""
        return sum(int(getattr(subject, name)) for subject in self.subjects)

    def parts(self) -> dict[str, dict[str, int]]:
        """Subjects and labelled frames of each part of the folds; {} where they cannot be made."""
        try:
            parts = parts_of(self.dataset.name, [subject.name for subject in self.subjects])
        except UsageError:
            return {}
        labels = {subject.name: subject.labels for subject in self.subjects}
        return {
            part: {"subjects": len(names), "labels": sum(labels[name] for name in names)}
            for part, names in parts.items()
        }

    def aus(self) -> list[dict[str, Any]]:
        """One row an AU: known and present frames, the rate of the one among the other, levels 0–5."""
        known = np.sum([s.known for s in self.subjects], axis=0)
        present = np.sum([s.present for s in self.subjects], axis=0)
        levels = np.sum([s.levels for s in self.subjects], axis=0)
        return [
            {
                "au": au,
                "known": int(known[a]),
                "present": int(present[a]),
                "rate": float(present[a] / known[a]) if known[a] else None,
                "levels": levels[:, a].tolist() if levels[:, a].any() else None,
            }
            for a, au in enumerate(self.dataset.aus)
        ]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "root": str(self.root),
            "dataset": self.dataset.name,
            "whole": not self.fatal,
            "neutral": self.dataset.neutral_rule,
            "published": {
                "subjects": self.dataset.subject_count,
                "recordings": self.dataset.recordings,
                "labels": self.dataset.frames,
            },
            "subjects": [subject.plain() for subject in self.subjects],
            "aus": self.aus(),
            "parts": self.parts(),
            "problems": [{"fatal": problem.fatal, "text": problem.text} for problem in self.problems],
        }

    def text(self) -> str:
        """As a person reads it."""
        published = f" (published: {self.dataset.frames:,})" if self.dataset.frames else ""
        of = f" of {self.dataset.recordings:,}" if self.dataset.recordings else ""
        without = self.total("without_neutral")
        rows = [
            f"{self.root}: {self.dataset.title}",
            f"subjects    {len(self.subjects)} of {self.dataset.subject_count}",
            f"recordings  {self.total('recordings'):,}{of}, {without:,} of them without a neutral frame",
            f"frames      {self.total('media_frames'):,}, {self.total('labels'):,} labels{published}",
            f"bad frames  {self.total('bad'):,} of those labelled (JAA-Net leaves them out)",
            f"neutral     {self.dataset.neutral_rule}",
        ]
        parts = [f"{name} {p['subjects']} ({p['labels']:,})" for name, p in self.parts().items()]
        rows.append(f"parts       {', '.join(parts) or 'none, as subjects are missing or unknown'}")
        rows += ["", f"{'AU':5}{'known':>10}{'present':>10}{'rate':>8}   intensity 0 1 2 3 4 5"]
        for au in self.aus():
            rate = "–" if au["rate"] is None else f"{100 * au['rate']:.1f} %"
            levels = " ".join(f"{n:,}" for n in au["levels"]) if au["levels"] else "–"
            rows.append(f"{au['au']:5}{au['known']:>10,}{au['present']:>10,}{rate:>8}   {levels}")
        for title, fatal in (("missing or wrong", True), ("odd", False)):
            texts = [problem.text for problem in self.problems if problem.fatal == fatal]
            if texts:
                rows += ["", f"{title}: {len(texts)}", *(f"  {text}" for text in texts[:SHOWN_PROBLEMS])]
                if len(texts) > SHOWN_PROBLEMS:
                    rows.append(f"  … and {len(texts) - SHOWN_PROBLEMS} more; --json FILE has them all")
        return "\n".join(rows)


def check(root: Path, name: str | None = None, images: Path | None = None) -> Report:
    """Read all labels of a dataset, and list its pictures or open its videos without decoding them.

    Args:
        root: its top folder.
        name: of the dataset; None to tell by the layout.
        images: the image root of lists.

    Raises:
        SourceError: not recognised, or not one labelled frame in it.
        UsageError: no dataset has that name.
    """
    return read_checked(root, recognise(root, name, images))[0]


def read_checked(root: Path, dataset: Dataset) -> tuple[Report, list[Subject]]:
    """The same of a dataset that is known, with what was read.

    Raises:
        SourceError: not one labelled frame in it.
    """
    report, subjects = Report(root, dataset), []
    progress = Progress(f"reading {dataset.title}", dataset.subject_count, unit="subjects")
    try:
        for subject in dataset.read(root):
            subjects.append(subject)
            report.subjects.append(SubjectRow.of(subject))
            report.problems += [problem for r in subject.recordings for problem in r.problems]
            progress.step(len(report.subjects))
    finally:
        progress.close()
    _check_subjects(report)
    if not report.total("labels"):
        first = f" ({report.fatal[0]})" if report.fatal else ""
        raise SourceError(f"{root}: laid out as {dataset.title}, but not one labelled frame in it{first}")
    return report, subjects


def _check_subjects(report: Report) -> None:
    dataset, there = report.dataset, {subject.name for subject in report.subjects}
    missing = [name for name in dataset.subjects if name not in there]
    strange = sorted(there - set(dataset.subjects)) if dataset.subjects else []
    rendered = is_rendered(report.root)
    if rendered:
        text = f"{MARK}: rendered faces in the layout of {dataset.title}, not the dataset"
        report.problems.append(Problem(text, False))
    if missing:
        text = f"subjects that are not there: {', '.join(missing)}"
        report.problems.append(Problem(text, not rendered))
    if strange:
        report.problems.append(Problem(f"no subjects of {dataset.title}: {', '.join(strange)}", False))
    if not dataset.subjects and len(there) != dataset.subject_count:
        text = f"{len(there)} subjects, {dataset.title} has {dataset.subject_count}"
        report.problems.append(Problem(text, len(there) < dataset.subject_count and not rendered))
    recordings = report.total("recordings")
    if dataset.recordings is not None and recordings != dataset.recordings:
        text = f"{recordings} recordings, {dataset.title} has {dataset.recordings}"
        report.problems.append(Problem(text, recordings < dataset.recordings and not rendered))
    if not any(subject.levels.any() for subject in report.subjects):
        report.problems.append(Problem("no intensity of any AU in it; taken as unknown", False))
    labels = report.total("labels")
    if dataset.frames is not None and labels != dataset.frames:
        text = f"{labels:,} labelled frames, {dataset.title} has {dataset.frames:,}"
        report.problems.append(Problem(text, False))


def main(argv: Sequence[str]) -> int:
    """What follows `python -m train data check`; 0 where the dataset is whole.

    Raises:
        AustreamError: it is not, or was not recognised.
    """
    parser = argparse.ArgumentParser(
        prog="python -m train data check",
        description="Say what a dataset's folder holds, and what is missing or odd.",
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="the dataset's top folder")
    parser.add_argument(
        "--dataset", metavar="NAME", help="if the layout does not tell: fera2015, jaanet-bp4d …"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="image root of JAA-Net's and others' lists"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all of it there")
    args = parser.parse_args(argv)
    report = check(args.root, args.dataset, args.images)
    print(report.text())
    if args.json is not None:
        write_whole(args.json, (json.dumps(report.plain(), indent=2, ensure_ascii=False) + "\n").encode())
    if report.fatal:
        more = f", {len(report.fatal)} problems in all" if len(report.fatal) > 1 else ""
        raise SourceError(f"{args.root}: {report.dataset.title} is not whole: {report.fatal[0]}{more}")
    return 0
