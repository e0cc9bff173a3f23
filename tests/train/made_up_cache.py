"""A prepared dataset of coloured bars: nine of DISFA+'s subjects, or others, without a face."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    compensates: bool = False,
    rate_hz: float = 20.0,
    levels: bool = True,
    **report: Any,
) -> Path:
    """`each` samples of every subject, a recording each.

    Args:
        folder: of the cache.
        dataset: whose it shall be.
        subjects: names.
        aus: columns.
        each: samples of a subject.
        synthetic: whether it says that it is rendered.
        compensates: whether neutrals were exposed like their frames.
        rate_hz: of all recordings.
        levels: whether intensities are known.
        report: more of prepared.json.
    """
    made = SampleWriter(
        folder,
        source=f"synthetic-{dataset}" if synthetic else dataset,
        aus=aus,
        crops=CROPS,
        rate_hz=rate_hz,
        provenance={"dataset": dataset},
    )
    for k in range(len(subjects)):
        numbers = {
            "subject": np.full(each, k),
            "sequence": np.full(each, k * TRACKS),
            "frame": np.arange(each),
        }
        arrays = shard(each, len(aus), seed=k, **numbers)
        if not levels:
            arrays["intensity"] = np.full_like(arrays["intensity"], np.nan)
        made.write_shard(f"s{k:03d}", arrays)
    made.finish()
    recordings = [
        {"subject": s, "name": f"T1_{1 + k % 9}", "labels": each, "samples": each, "no_face": 0, "bad": 0}
        | {"unreadable": 0, "neutral": "", "file": f"s{k:03d}"}
        for k, s in enumerate(subjects)
    ]
    written = {
        "schema": 1,
        "dataset": dataset,
        "synthetic": synthetic,
        "whole": True,
        "exposure_compensation": compensates,
        "neutral": "none",
        "subjects": list(subjects),
        "recordings": recordings,
    }
    (folder / PREPARED_FILE).write_text(json.dumps(written | report), encoding="utf-8")
    return folder
