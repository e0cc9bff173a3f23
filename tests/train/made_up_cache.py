"""A prepared dataset of coloured bars: nine of DISFA+'s subjects, or others, without a face."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from patterns import CROPS, shard

from train.data.cache import PREPARED_FILE, TRACKS
from train.samples import SampleWriter


def prepared(
    folder: Path,
    dataset: str,
    subjects: Sequence[str],
    aus: Sequence[str],
    each: int = 8,
    synthetic: bool = True,
) -> Path:
    """`each` samples of every subject, a recording each."""
    made = SampleWriter(
        folder,
        source=f"synthetic-{dataset}" if synthetic else dataset,
        aus=aus,
        crops=CROPS,
        rate_hz=20.0,
        provenance={"dataset": dataset},
    )
    for k in range(len(subjects)):
        numbers = {
            "subject": np.full(each, k),
            "sequence": np.full(each, k * TRACKS),
            "frame": np.arange(each),
        }
        made.write_shard(f"s{k:03d}", shard(each, len(aus), seed=k, **numbers))
    made.finish()
    recordings = [
        {"subject": s, "name": f"T1_{1 + k % 9}", "labels": each, "samples": each, "no_face": 0, "bad": 0}
        | {"unreadable": 0, "neutral": "", "file": f"s{k:03d}"}
        for k, s in enumerate(subjects)
    ]
    report = {
        "schema": 1,
        "dataset": dataset,
        "synthetic": synthetic,
        "whole": True,
        "exposure_compensation": False,
        "neutral": "none",
        "subjects": list(subjects),
        "recordings": recordings,
    }
    (folder / PREPARED_FILE).write_text(json.dumps(report), encoding="utf-8")
    return folder
