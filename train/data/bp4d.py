"""BP4D (Zhang et al. 2014) and BP4D+ (Zhang et al. 2016): tasks as pictures, 12 AUs, 5 of them by intensity.

    BP4D-training/F001/T1/2440.jpg               padded in some copies, so matched by number
    AUCoding/AU_OCC/F001_T1.csv                  or AUCoding/F001_T1.csv; frame column `0`, AUs by number
    AUCoding/AU_INT/AU06/F001_T1_AU06.csv        or `AU Intensity Codes3.0`; no header, `frame,intensity`

BP4D+ has 2D+3D/F001/T1/*.jpg or 2D+3D/F001.zip instead, and only T1, T6, T7 and T8 are coded. Label k is
picture k; only a segment of each task is listed. 9 is unknown, in both kinds of files.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from train.data.base import (
    REST_RULE,
    Dataset,
    Labels,
    Problems,
    Recording,
    Subject,
    au_names,
    finish,
    neutral_at_rest,
    no_labels,
)
from train.data.files import (
    Column,
    entries,
    folder_like,
    in_ranges,
    lacking,
    lines,
    once,
    read_column,
    together,
    whole,
)
from train.data.media import NOTHING, Media, pictures_in, pictures_zipped
from train.shards import UNKNOWN

AUS = au_names((1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24))
INTENSITY_AUS = au_names((6, 10, 12, 14, 17))
RATE_HZ = 25.0
SUBJECTS = (*(f"F{n:03d}" for n in range(1, 24)), *(f"M{n:03d}" for n in range(1, 19)))
PLUS_SUBJECTS = (*(f"F{n:03d}" for n in range(1, 83)), *(f"M{n:03d}" for n in range(1, 59)))
PICTURES, PLUS_PICTURES = r"bp4d[-_ ]?training", r"2d\+3d"
INTENSITIES = r"au_int|au[-_ ]intensity[-_ ]codes.*"

BAD_FRAMES: dict[str, tuple[tuple[int, int], ...]] = {
    "F017/T3": ((198, 201), (203, 206), (209, 263), (265, 267), (269, 332), (335, 335)),
    "F021/T3": ((223, 227),),
    "F023/T6": ((1002, 1031),),
    "M003/T5": ((844, 845),),
    "M003/T7": ((1386, 1461),),
    "M009/T4": ((749, 753), (755, 760)),
    "M010/T6": ((942, 957),),
}
"""Frames of BP4D that JAA-Net leaves out, both ends included."""
PLUS_MISMATCHED = ("F041/T7",)
"""Tasks of BP4D+ whose labels and pictures do not belong together; they are left out."""


Levels = dict[tuple[str, str], dict[str, Path]]
"""(F001, T1) → AU → file of its intensities."""


@dataclass(frozen=True)
class Kind:
    """How one of the datasets that share these files differs from the others."""

    aus: tuple[str, ...]
    intensity_aus: tuple[str, ...]
    tasks: tuple[str, ...]
    pictures: str
    bad: dict[str, tuple[tuple[int, int], ...]]
    left_out: tuple[str, ...] = ()


TASKS = tuple(f"T{n}" for n in range(1, 9))
KIND = Kind(AUS, INTENSITY_AUS, TASKS, PICTURES, BAD_FRAMES)
PLUS_KIND = Kind(AUS, INTENSITY_AUS, ("T1", "T6", "T7", "T8"), PLUS_PICTURES, {}, PLUS_MISMATCHED)


def lacks(root: Path) -> list[str]:
    return lacking(root, **{"BP4D-training": PICTURES, "AUCoding": "aucoding"})


def lacks_plus(root: Path) -> list[str]:
    return lacking(root, **{"2D+3D": PLUS_PICTURES, "AUCoding": "aucoding"})


def read(root: Path) -> Iterator[Subject]:
    """Subjects of BP4D one by one, those with codes or pictures."""
    return read_kind(root, KIND)


def read_plus(root: Path) -> Iterator[Subject]:
    """Subjects of BP4D+ one by one, those with codes or pictures."""
    return read_kind(root, PLUS_KIND)


def read_kind(root: Path, kind: Kind) -> Iterator[Subject]:
    """Subjects one by one, of any dataset that has these files."""
    pictures, coding = folder_like(root, kind.pictures), folder_like(root, "aucoding")
    if pictures is None or coding is None:
        return
    codes = once(entries(folder_like(coding, "au_occ") or coding, r"[fm]\d+_t\d+\.csv"), _task)
    folder = folder_like(coding, INTENSITIES) or folder_like(root, INTENSITIES)
    levels = None if folder is None else _intensity_files(folder, kind.intensity_aus)
    shown = once(entries(pictures, r"[fm]\d+\.zip"), lambda path: _subject(path.stem))
    shown |= once([p for p in entries(pictures, r"[fm]\d+") if p.is_dir()], lambda path: _subject(path.name))
    for name in sorted({subject for subject, _ in codes} | set(shown)):
        found = [
            _recording(name, task, shown.get(name), codes.get((name, task)), levels, kind)
            for task in kind.tasks
            if f"{name}/{task}" not in kind.left_out
        ]
        yield Subject(name, neutral_at_rest(found))


def _task(path: Path) -> tuple[str, str]:
    """`F001_T1.csv` or `F001_T1_AU06.csv` → (F001, T1)"""
    subject, task = path.stem.upper().split("_")[:2]
    return _subject(subject), f"T{int(task[1:])}"


def _subject(name: str) -> str:
    return f"{name[0].upper()}{int(name[1:]):03d}"


def _recording(
    subject: str, task: str, pictures: Path | None, codes: Path | None, levels: Levels | None, kind: Kind
) -> Recording:
    place = f"{subject}/{task}"
    problems = Problems(place)
    labels, media = no_labels(kind.aus), NOTHING
    if codes is None:
        problems.fatal(f"no file {subject}_{task}.csv in AUCoding; copy it too")
    else:
        bad = kind.bad.get(place, ())
        files = None if levels is None else levels.get((subject, task), {})
        labels = problems.attempt(lambda: _labels(codes, files, kind, bad, problems), labels)
    if pictures is not None:
        media = problems.attempt(lambda: _pictures(pictures, task), media)
    return finish(subject, task, media, labels, RATE_HZ, problems)


def _pictures(place: Path, task: str) -> Media:
    if place.is_dir():
        folder = folder_like(place, task)
        return NOTHING if folder is None else pictures_in(folder)
    return pictures_zipped(place, task)


def _labels(
    path: Path,
    files: Mapping[str, Path] | None,
    kind: Kind,
    bad: tuple[tuple[int, int], ...],
    problems: Problems,
) -> Labels:
    numbers, occurrence, intensity = join(path, kind.aus, files or {}, problems)
    absent = [au for au in kind.intensity_aus if files is not None and au not in files]
    if absent:
        problems.odd(f"no intensities of {', '.join(absent)}; taken as unknown")
    return Labels(kind.aus, numbers, numbers, occurrence, intensity, in_ranges(numbers, bad))


def _intensity_files(folder: Path, aus: Sequence[str]) -> Levels:
    found: Levels = {}
    for au in aus:
        inner = folder_like(folder, f"au0*{int(au[2:])}")
        files = [] if inner is None else entries(inner, rf"[fm]\d+_t\d+_au0*{int(au[2:])}\.csv")
        for task, path in once(files, _task).items():
            found.setdefault(task, {})[au] = path
    return found


def join(
    occurrences: Path, aus: Sequence[str], intensities: Mapping[str, Path], problems: Problems
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float32]]:
    """One file of occurrences and one file of intensities an AU, side by side.

    Returns:
        (n,) the frames of the occurrences; (n, A) 0, 1 or 9; (n, A) 0–5, NaN unknown or in no file.

    Raises:
        SourceError: a file cannot be read.
    """
    coded = read_occurrence(occurrences)
    absent = [au for au in aus if au not in coded]
    if absent:
        problems.odd(f"{occurrences.name} has no column for {', '.join(absent)}; taken as unknown")
    if len(absent) == len(aus):
        raise SourceError(f"{occurrences}: expected columns of {', '.join(aus)}, got {', '.join(coded)}")
    numbers, occurrence = together({au: coded[au] for au in aus if au in coded}, aus)
    intensity = np.full(occurrence.shape, np.nan, np.float32)
    for au, path in intensities.items():
        levels = read_column(path, r"(\d+)\s*,\s*(\d+)", (0, 1, 2, 3, 4, 5, UNKNOWN))
        there, values = together({au: levels}, (au,))
        rows = np.isin(there, numbers)
        if not rows.all():
            problems.odd(f"{au}: intensities of {int((~rows).sum())} frames without occurrence; left out")
        gaps = len(numbers) - int(rows.sum())
        if gaps:
            problems.odd(f"{au}: no intensities of {gaps} of {len(numbers)} frames; taken as unknown")
        intensity[np.searchsorted(numbers, there[rows]), aus.index(au)] = values[rows, 0]
    intensity[intensity == UNKNOWN] = np.nan
    return numbers, np.where(np.isnan(occurrence), UNKNOWN, occurrence).astype(np.uint8), intensity


def read_occurrence(path: Path) -> dict[str, Column]:
    """AU → frame → 0, 1 or 9, from a table with a header; columns that are no AU are passed over.

    Raises:
        SourceError: no header whose first column is the frame (`0`), an AU twice, a line of another length, a
            label that is none of these, a frame twice, or no line at all.
    """
    rows = list(csv.reader(line for line in lines(path) if line.strip(" ,;\t")))
    header = [cell.strip() for cell in rows[0]] if rows else []
    if not header or header[0].lower() not in ("0", "frame", "frames", "framenumber"):
        first = header[0] if header else "nothing"
        raise SourceError(f"{path}: expected a header whose first column is 0 (the frame), got {first!r}")
    matches = [re.fullmatch(r"(?:AU)?0*(\d+)", cell, re.IGNORECASE) for cell in header[1:]]
    names = [f"AU{int(match[1]):02d}" if match else "" for match in matches]
    named = [name for name in names if name]
    if not named or len(set(named)) != len(named):
        raise SourceError(f"{path}: expected one column an AU, named by its number, got {', '.join(header)}")
    columns: dict[str, Column] = {name: {} for name in named}
    for row, cells in enumerate(rows[1:], start=2):
        values = [whole(cell) for cell in cells]
        if values[0] is None:
            raise SourceError(f"{path}: row {row}: expected a frame's number first, got {cells[0][:40]!r}")
        if len(cells) < len(header):
            raise SourceError(f"{path}: row {row}: expected {len(header)} numbers, got {len(cells)}")
        number = values[0]
        if number in columns[named[0]]:
            raise SourceError(f"{path}: row {row}: frame {number} for the second time")
        for name, value in zip(names, values[1:], strict=False):
            if not name:
                continue
            if value not in (0, 1, UNKNOWN):
                raise SourceError(f"{path}: row {row}: {name}: expected 0, 1 or {UNKNOWN}, got {value}")
            columns[name][number] = int(value)
    if len(rows) < 2:
        raise SourceError(f"{path}: a header and no labels; copy it again")
    return columns


BP4D = Dataset("bp4d", "BP4D", AUS, SUBJECTS, 41, 146_847, REST_RULE, lacks, read, 328)
BP4DPLUS = Dataset("bp4dplus", "BP4D+", AUS, PLUS_SUBJECTS, 140, 197_875, REST_RULE, lacks_plus, read_plus)
