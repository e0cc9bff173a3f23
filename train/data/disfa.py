"""DISFA (Mavadati et al. 2013): 27 subjects, one video each, 12 AUs by intensity.

    Videos_LeftCamera/LeftVideoSN001_comp.avi      spelling varies; the left camera is read, as in the papers
    ActionUnit_Labels/SN001/SN001_au12.txt         `frame,intensity`, frames from 1

Label k is video frame k − 1. Landmark files are not read: some folders hold one more than there are frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

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
from train.data.files import Column, entries, folder_like, in_ranges, lacking, once, read_column, together
from train.data.media import NOTHING, Media, Video, video
from train.shards import UNKNOWN

AUS = au_names((1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26))
RATE_HZ = 20.0
PRESENT_FROM = 2
"""Intensity from which an AU counts as present, as all papers on DISFA have it."""
MOST = 0.95
"""Share of a video's frames that have to be labelled; where they are fewer, the label files are cut off."""
VIDEOS = "videos?_?left_?camera"
SUBJECTS = tuple(f"SN{n:03d}" for n in (*range(1, 14), 16, 17, 18, 21, *range(23, 33)))

BAD_FRAMES: dict[str, tuple[tuple[int, int], ...]] = {
    "SN001": ((398, 420), (3190, 3243)),
    "SN002": ((800, 826),),
    "SN004": ((4541, 4555),),
    "SN006": ((1349, 1405),),
    "SN009": ((1736, 1808), (1851, 1885)),
    "SN011": ((4529, 4533), (4830, 4845)),
    "SN021": (
        *((574, 616), (985, 1164), (1190, 1205), (1305, 1338), (1665, 1710), (1862, 2477)),
        *((2554, 4657), (4710, 4722)),
    ),
    "SN023": ((1021, 1049), (3378, 3557), (3584, 3668), (4547, 4621), (4741, 4772), (4825, 4845)),
    "SN025": ((4596, 4662), (4816, 4835)),
    "SN027": ((3461, 3494), (4738, 4785)),
    "SN028": ((1875, 1885), (4571, 4690)),
    "SN029": ((4090, 4543),),
    "SN030": ((939, 962), (1406, 1422), (2100, 2132), (2893, 2955)),
}
"""Frames that JAA-Net leaves out, by the labels' numbers, both ends included."""


def lacks(root: Path) -> list[str]:
    return lacking(root, Videos_LeftCamera=VIDEOS, ActionUnit_Labels="actionunit_?labels")


def read(root: Path) -> Iterator[Subject]:
    """Subjects one by one, those with labels or a video."""
    labels, videos = folder_like(root, "actionunit_?labels"), folder_like(root, VIDEOS)
    if labels is None or videos is None:
        return
    folders = subject_folders(labels)
    files: dict[str, list[Path]] = {}
    for path in entries(videos, r"leftvideosn\d+.*\.(?:avi|mp4|mov)"):
        files.setdefault(_subject(path.name), []).append(path)
    for name in sorted(set(folders) | set(files)):
        recording = _recording(name, folders.get(name), files.get(name, []))
        yield Subject(name, neutral_at_rest([recording]))


def _recording(name: str, folder: Path | None, files: list[Path]) -> Recording:
    problems = Problems(name)
    labels = no_labels(AUS)
    if folder is None:
        problems.fatal("no folder in ActionUnit_Labels; copy it too")
    else:
        labels = problems.attempt(lambda: _labels(name, folder, problems), labels)
    media: Media = NOTHING
    if len(files) == 1:
        media = problems.attempt(lambda: video(files[0]), media)
    elif files:
        problems.fatal(f"expected one video, found {', '.join(path.name for path in files)}; remove one")
    if isinstance(media, Video) and media.rate_hz is not None and abs(media.rate_hz - RATE_HZ) > 0.5:
        problems.odd(f"video of {media.rate_hz:g} frames/s, expected {RATE_HZ:g}; {RATE_HZ:g} is assumed")
    if isinstance(media, Video) and 0 < len(labels) < media.count:
        text = f"{media.count} frames, {len(labels)} of them labelled"
        if len(labels) < MOST * media.count:
            problems.fatal(f"{text}; copy the labels again")
        else:
            problems.odd(f"{text}; the others are left out")
    return finish(name, "left", media, labels, RATE_HZ, problems)


def _labels(name: str, folder: Path, problems: Problems) -> Labels:
    columns: dict[str, Column] = {}
    for path in entries(folder, r"(?:.*_)?au\d+\.txt"):
        columns[_au(path)] = read_column(path, r"(\d+)\s*,\s*(\d+)", range(6))
    return from_intensities(columns, -1, problems, BAD_FRAMES.get(name, ()))


def from_intensities(
    columns: dict[str, Column],
    offset: int,
    problems: Problems,
    bad: tuple[tuple[int, int], ...] = (),
) -> Labels:
    """Labels of DISFA's 12 AUs; what a column lacks is unknown, and odd.

    Args:
        columns: by AU.
        offset: from a label's number to the frame of the media.
        problems: where what is odd is put.
        bad: ranges of label numbers that the published lists leave out.
    """
    absent = [au for au in AUS if au not in columns]
    if absent:
        problems.odd(f"no label file for {', '.join(absent)}; taken as unknown")
    if not columns:
        return no_labels(AUS)
    numbers, intensity = together(columns, AUS)
    for a, au in enumerate(AUS):
        gaps = int(np.isnan(intensity[:, a]).sum())
        if au in columns and gaps:
            problems.odd(f"{au} lacks {gaps} of {len(numbers)} frames that other AUs have; taken as unknown")
    occurrence = np.where(np.isnan(intensity), UNKNOWN, intensity >= PRESENT_FROM).astype(np.uint8)
    return Labels(AUS, numbers, numbers + offset, occurrence, intensity, in_ranges(numbers, bad))


def subject_folders(parent: Path) -> dict[str, Path]:
    """Subject → its folder in `parent`, `SN1` or `SN001`.

    Raises:
        SourceError: both are there.
    """
    folders = [path for path in entries(parent, r"sn\d+") if path.is_dir()]
    return once(folders, lambda path: _subject(path.name))


def _subject(name: str) -> str:
    match = re.search(r"sn(\d+)", name, re.IGNORECASE)
    assert match is not None
    return f"SN{int(match[1]):03d}"


def _au(path: Path) -> str:
    match = re.search(r"au(\d+)$", path.stem, re.IGNORECASE)
    assert match is not None
    return f"AU{int(match[1]):02d}"


DISFA = Dataset("disfa", "DISFA", AUS, SUBJECTS, 27, 130_814, REST_RULE, lacks, read)
