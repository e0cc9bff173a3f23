"""What `train data prepare` will do: every recording of a dataset, with its options, and what tells one such
run from another."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SourceError, UsageError
from train.data.base import Dataset, Labels, Recording
from train.data.cache import SCHEMA
from train.data.check import Report, read_checked
from train.data.layouts import recognise
from train.data.rendered import is_rendered
from train.data.streamed import Job, Options
from train.samples import SampleWriter


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    root: Path
    out: Path
    dataset: str | None
    """Its name, where the layout does not tell."""
    images: Path | None
    """Image root of lists."""
    workers: int
    options: Options
    partial: bool
    """Prepare what is there although something is missing."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}: expected 1 or more")
        if self.out.resolve().is_relative_to(self.root.resolve()):
            raise UsageError(f"--out {self.out}: lies inside the dataset; give a folder elsewhere")


@dataclass(frozen=True, eq=False)
class Plan:
    """All recordings that will be prepared, and where."""

    order: Order
    dataset: Dataset
    report: Report
    subjects: tuple[str, ...]
    """Names."""
    jobs: tuple[Job, ...]
    left_out: tuple[str, ...]
    """One line for each recording that is not, with --partial."""

    @property
    def identity(self) -> str:
        """Tells the shards of another dataset or other options."""
        recordings = [
            [
                job.file,
                len(job.recording.labels),
                len(job.recording.media.numbers),
                str(job.recording.neutral),
                _digest(job.recording.labels),
            ]
            for job in self.jobs
        ]
        options = self.order.options
        said = [SCHEMA, self.dataset.name, [crop.name for crop in options.crops]]
        said += [options.exposure_compensation, options.keep_bad, recordings]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    @property
    def synthetic(self) -> bool:
        return is_rendered(self.order.root)

    @property
    def rate_hz(self) -> float | None:
        """That of all recordings; None where they differ or do not say."""
        rates = {job.recording.rate_hz for job in self.jobs}
        return rates.pop() if len(rates) == 1 else None

    def writer(self) -> SampleWriter:
        """Of the sample folder, whose source says `synthetic` where rendered faces went into it."""
        options = self.order.options
        return SampleWriter(
            self.order.out,
            source=f"synthetic-{self.dataset.name}" if self.synthetic else self.dataset.name,
            aus=self.dataset.aus,
            crops=[crop.name for crop in options.crops],
            rate_hz=self.rate_hz,
            provenance={
                "run": self.identity,
                "dataset": self.dataset.name,
                "synthetic": self.synthetic,
                "neutral": self.dataset.neutral_rule,
                "exposure_compensation": options.exposure_compensation,
                "bad_frames": "kept" if options.keep_bad else "left out",
            },
        )


def plan(order: Order) -> Plan:
    """Read all labels and say what will be done.

    Raises:
        SourceError: not recognised, or not whole and `partial` was not asked for.
        UsageError: no dataset has that name.
    """
    dataset = recognise(order.root, order.dataset, order.images)
    report, subjects = read_checked(order.root, dataset)
    if report.fatal and not order.partial:
        first, count = report.fatal[0], len(report.fatal)
        raise SourceError(
            f"{order.root}: {dataset.title} is not whole: {first} ({count} such problems, see train data "
            "check); copy what is missing, or prepare what is there with --partial"
        )
    jobs: list[Job] = []
    left_out: list[str] = []
    for number, subject in enumerate(subjects):
        media = {recording.name: recording.media for recording in subject.recordings}
        for recording in subject.recordings:
            try:
                recording.require()
            except SourceError as error:
                left_out.append(str(error))
                continue
            place = recording.neutral
            neutral_media = None if place is None else media[place.recording]
            jobs.append(Job(len(jobs), number, recording, neutral_media, _file(len(jobs), recording)))
    if not jobs:
        raise SourceError(f"{order.root}: not one recording that can be prepared ({left_out[0]})")
    return Plan(
        order, dataset, report, tuple(subject.name for subject in subjects), tuple(jobs), tuple(left_out)
    )


def _digest(labels: Labels) -> str:
    arrays = (labels.number, labels.frame, labels.occurrence, labels.intensity, labels.bad)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def _file(number: int, recording: Recording) -> str:
    name = re.sub(r"[^\w.-]", "_", f"{recording.subject}-{recording.name}")
    return f"{number:05d}-{name}"
