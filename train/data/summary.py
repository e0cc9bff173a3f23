"""prepared.json: what became of a dataset's frames, for programs and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.data.cache import (
    BAD,
    FRAMES,
    NO_FACE,
    SAMPLE,
    SCHEMA,
    UNREADABLE,
    FrameIndex,
    read_frames,
    read_neutral,
)
from train.data.plan import Plan
from train.data.rendered import MARK
from train.data.streamed import Job
from train.shards import UNKNOWN

COUNTS = {"samples": SAMPLE, "no_face": NO_FACE, "bad": BAD, "unreadable": UNREADABLE}


def summary(plan: Plan, jobs: Sequence[Job], left_out: Sequence[str]) -> dict[str, Any]:
    """All that is said of a prepared dataset.

    Args:
        plan: what was to be done.
        jobs: what was done.
        left_out: one line for each recording that was not.

    Raises:
        SourceError: an index of a recording is missing or damaged.
    """
    options = plan.order.options
    rows, known, present = [], np.zeros(len(plan.dataset.aus), int), np.zeros(len(plan.dataset.aus), int)
    for job in jobs:
        path = plan.order.out / FRAMES / f"{job.file}.safetensors"
        index = read_frames(path)
        rows.append(_recording(job, index, read_neutral(path)))
        used = index.occurrence[index.status == SAMPLE]
        known += (used != UNKNOWN).sum(axis=0)
        present += (used == 1).sum(axis=0)
    fatal = plan.report.fatal
    return {
        "schema": SCHEMA,
        "dataset": plan.dataset.name,
        "title": plan.dataset.title,
        "root": str(plan.order.root.resolve()),
        "synthetic": plan.synthetic,
        "whole": not fatal and not left_out,
        "exposure_compensation": options.exposure_compensation,
        "bad_frames_kept": options.keep_bad,
        "crops": [crop.name for crop in options.crops],
        "rate_hz": plan.rate_hz,
        "neutral": plan.dataset.neutral_rule,
        "counts": {
            "subjects": len({row["subject"] for row in rows}),
            "recordings": len(rows),
            "without_neutral": sum(not row["neutral"] for row in rows),
            "labels": sum(row["labels"] for row in rows),
            **{name: sum(row[name] for row in rows) for name in COUNTS},
        },
        "aus": [
            {
                "au": au,
                "known": int(known[a]),
                "present": int(present[a]),
                "rate": float(present[a] / known[a]) if known[a] else None,
            }
            for a, au in enumerate(plan.dataset.aus)
        ],
        "left_out": list(left_out),
        "problems": [{"fatal": problem.fatal, "text": problem.text} for problem in plan.report.problems],
        "subjects": list(plan.subjects),
        "recordings": rows,
    }


def _recording(job: Job, index: FrameIndex, neutral_frame: int) -> dict[str, Any]:
    recording = job.recording
    place = recording.neutral
    return {
        "subject": recording.subject,
        "name": recording.name,
        "labels": len(index.frame),
        **{name: int((index.status == status).sum()) for name, status in COUNTS.items()},
        "neutral": f"{place.recording} {neutral_frame}" if place is not None and neutral_frame >= 0 else "",
        "file": job.file,
    }


def text(report: Mapping[str, Any], folder: Path) -> str:
    """As a person reads it."""
    counts = report["counts"]
    title = f"{report['title']} ({MARK}: rendered faces)" if report["synthetic"] else report["title"]
    dropped = (
        f"{counts['no_face']:,} without a face, {counts['bad']:,} bad, {counts['unreadable']:,} unreadable"
    )
    compensated = "matched to the frame's" if report["exposure_compensation"] else "as it was taken"
    rows = [
        f"{folder}: {title}" + ("" if report["whole"] else ", NOT WHOLE"),
        f"subjects    {counts['subjects']:,}",
        f"recordings  {counts['recordings']:,}, {counts['without_neutral']:,} of them without a neutral face",
        f"frames      {counts['labels']:,} labelled, {counts['samples']:,} samples ({dropped})",
        f"crops       {', '.join(report['crops'])}",
        f"neutral     {report['neutral']}",
        f"            its exposure {compensated}",
        "",
        f"{'AU':5}{'known':>10}{'present':>10}{'rate':>8}",
    ]
    for au in report["aus"]:
        rate = "–" if au["rate"] is None else f"{100 * au['rate']:.1f} %"
        rows.append(f"{au['au']:5}{au['known']:>10,}{au['present']:>10,}{rate:>8}")
    if report["left_out"]:
        rows += [
            "",
            f"left out: {len(report['left_out'])}",
            *(f"  {line}" for line in report["left_out"][:12]),
        ]
    return "\n".join(rows)
