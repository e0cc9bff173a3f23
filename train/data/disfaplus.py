"""DISFA+ (Mavadati et al. 2016): 9 subjects, posed and spontaneous trials as pictures, 12 AUs by intensity.

    Images/SN001/A1_AU1_TrailNo_1/000.jpg      from 0; beside them a TimeStamp.txt
    Labels/SN001/A1_AU1_TrailNo_1/AU1.txt      two lines of heading, then `000.jpg     0`

"Trail" is how the dataset spells it. One copy in use nests SN001/SN001. A trial's first frame is neutral.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from train.data.base import (
    Dataset,
    Labels,
    Problems,
    Recording,
    Subject,
    finish,
    neutral_first,
    no_labels,
)
from train.data.disfa import AUS, from_intensities, subject_folders
from train.data.files import Column, entries, folder_like, lacking, read_column
from train.data.media import NOTHING, pictures_in

SUBJECTS = tuple(f"SN{n:03d}" for n in (1, 3, 4, 7, 9, 10, 13, 25, 27))
LABEL = r"(\d+)\.jpe?g\s+(\d+)"


def lacks(root: Path) -> list[str]:
    return lacking(root, Images="images", Labels="labels")


def read(root: Path) -> Iterator[Subject]:
    """Subjects one by one, those with labels or pictures."""
    images, labels = folder_like(root, "images"), folder_like(root, "labels")
    if images is None or labels is None:
        return
    pictures, columns = subject_folders(images), subject_folders(labels)
    for name in sorted(set(pictures) | set(columns)):
        problems = Problems(name)
        shown, coded = _trials(pictures.get(name)), _trials(columns.get(name))
        trials = [
            _trial(name, trial, shown.get(trial), coded.get(trial)) for trial in sorted({*shown, *coded})
        ]
        if not trials:
            problems.fatal("a folder without a trial; copy it again")
            trials = [finish(name, "none", NOTHING, no_labels(AUS), None, problems)]
        yield Subject(name, tuple(neutral_first(trial) for trial in trials))


def _trials(folder: Path | None) -> dict[str, Path]:
    """Trial → its folder, of one subject."""
    if folder is None:
        return {}
    nested = folder_like(folder, re.escape(folder.name))
    return {path.name: path for path in entries(nested or folder, r"[^.].*") if path.is_dir()}


def _trial(subject: str, trial: str, pictures: Path | None, labels: Path | None) -> Recording:
    problems = Problems(f"{subject}/{trial}")
    read, media = no_labels(AUS), NOTHING
    if labels is None:
        problems.fatal("no folder of labels; copy it too")
    else:
        read = problems.attempt(lambda: _labels(labels, problems), read)
    if pictures is not None:
        media = problems.attempt(lambda: pictures_in(pictures), media)
    unlabelled = set(media.numbers) - set(read.frame.tolist())
    if unlabelled and len(read):
        problems.odd(f"{len(unlabelled)} of {len(media.numbers)} pictures without a label; left out")
    return finish(subject, trial, media, read, None, problems)


def _labels(folder: Path, problems: Problems) -> Labels:
    columns: dict[str, Column] = {}
    for path in entries(folder, r"au\d+\.txt"):
        columns[f"AU{int(path.stem[2:]):02d}"] = read_column(path, LABEL, range(6), heading=True)
    return from_intensities(columns, 0, problems)


DISFAPLUS = Dataset(
    "disfaplus", "DISFA+", AUS, SUBJECTS, 9, None, "first frame of the trial", lacks, read, 378
)
