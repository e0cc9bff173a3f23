"""CK+ (Lucey et al. 2010): 593 posed sequences of 123 subjects, from neutral to the peak.

    cohn-kanade-images/S005/001/S005_001_00000011.png
    FACS/S005/001/S005_001_00000011_facs.txt             `   1.0000000e+00   3.0000000e+00` an AU

Only the last frame is coded, so a recording has one label. An AU that is listed is present whatever its
intensity; 0 there means that none was given. The first frame is neutral.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import SourceError
from train.data.base import (
    Dataset,
    Labels,
    Problems,
    Recording,
    Subject,
    au_names,
    finish,
    neutral_first,
    no_labels,
)
from train.data.files import entries, folder_like, lacking, lines, whole
from train.data.media import NOTHING, pictures_in

AUS = au_names((1, 2, 4, 5, 6, 7, 9, 12, 17, 23, 24, 25, 27))
"""The 13 that papers report; others that are listed (16, 20, 26, 54, …) are passed over."""
IMAGES = "(?:cohn-kanade-images|extended-cohn-kanade-images)"


def lacks(root: Path) -> list[str]:
    return lacking(root, **{"cohn-kanade-images": IMAGES, "FACS": "facs"})


def read(root: Path) -> Iterator[Subject]:
    """Subjects one by one, those with codes or pictures."""
    images, facs = folder_like(root, IMAGES), folder_like(root, "facs")
    if images is None or facs is None:
        return
    nested = folder_like(images, "cohn-kanade-images")
    pictures, codes = _sequences(nested or images), _sequences(facs)
    for name in sorted({subject for subject, _ in {*pictures, *codes}}):
        keys = sorted(key for key in {*pictures, *codes} if key[0] == name)
        found = [_sequence(name, key[1], pictures.get(key), codes.get(key)) for key in keys]
        yield Subject(name, tuple(neutral_first(recording) for recording in found))


def _sequences(parent: Path) -> dict[tuple[str, str], Path]:
    """(S005, 001) → its folder."""
    found: dict[tuple[str, str], Path] = {}
    for subject in entries(parent, r"s\d+"):
        for sequence in entries(subject, r"\d+"):
            found[subject.name.upper(), sequence.name] = sequence
    return found


def _sequence(subject: str, name: str, pictures: Path | None, codes: Path | None) -> Recording:
    problems = Problems(f"{subject}/{name}")
    read, media = no_labels(AUS), NOTHING
    if codes is None:
        problems.fatal("no FACS folder; copy it too")
    else:
        read = problems.attempt(lambda: _labels(codes, subject, name), read)
    if pictures is not None:
        pattern = rf"{subject}_{name}_(\d+)\.png"
        media = problems.attempt(lambda: pictures_in(pictures, pattern), media)
    if len(read) and media.numbers and media.numbers[-1] > read.frame[-1]:
        problems.odd(f"picture {read.frame[-1]} is coded, but the last one is {media.numbers[-1]}")
    return finish(subject, name, media, read, None, problems)


def _labels(folder: Path, subject: str, name: str) -> Labels:
    files = entries(folder, rf"{subject}_{name}_\d+_facs\.txt")
    if len(files) != 1:
        raise SourceError(
            f"{folder}: expected one file {subject}_{name}_…_facs.txt, found {len(files)}; copy it again"
        )
    number = np.array([int(re.findall(r"\d+", files[0].name)[2])], np.int64)
    occurrence = np.zeros((1, len(AUS)), np.uint8)
    intensity = np.zeros((1, len(AUS)), np.float32)
    rows = lines(files[0])
    for row, line in enumerate(rows, start=1):
        parts = [whole(part) for part in line.split()]
        if not parts:
            continue
        if len(parts) != 2 or parts[0] is None or parts[1] is None or not 0 <= parts[1] <= 5:
            raise SourceError(
                f"{files[0]}: line {row}: expected an AU and its intensity 0–5, got {line[:40]!r}"
            )
        au = f"AU{parts[0]:02d}"
        if au in AUS:
            occurrence[0, AUS.index(au)] = 1
            intensity[0, AUS.index(au)] = parts[1] or np.nan
    if not any(line.strip() for line in rows):
        raise SourceError(f"{files[0]}: empty; copy it again")
    return Labels(AUS, number, number, occurrence, intensity, np.zeros(1, bool))


CKPLUS = Dataset("ckplus", "CK+", AUS, (), 123, 593, "first frame of the sequence", lacks, read, 593)
