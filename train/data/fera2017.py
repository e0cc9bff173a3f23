"""FERA 2017 (Valstar et al. 2017): videos of nine views rendered from BP4D (TR) and BP4D+ (VA).

    FERA17_TR_F001_T1_6.mp4             task T1 seen from view 6 (1–9)
    FERA17_TR_F001_T1.csv               occurrence, with a header; one row a frame
    FERA17_TR_F001_T1_AU06_Int.csv      intensity of an AU, without a header (one source only)

The files may lie in the root or up to two folders below it. Row k is video frame k, both from 0, whatever the
frame column counts from. The same name in TR and VA is not the same person, so subjects are TR_F001, VA_F001.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
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
from train.data.bp4d import join
from train.data.media import NOTHING, Media, Video, video

AUS = au_names((1, 4, 6, 7, 10, 12, 14, 15, 17, 23))
INTENSITY_AUS = au_names((1, 4, 6, 10, 12, 14, 17))
FRONTAL_VIEW = 6
NAME = re.compile(r"FERA17_(TR|VA)_([FM]\d+)_(T\d+)(?:_([1-9])\.mp4|_AU(\d+)_Int\.csv|\.csv)", re.IGNORECASE)
Task = tuple[str, str]
"""(`TR_F001`, `T1`)"""


class _Files:
    """What lies below the root."""

    def __init__(self, root: Path) -> None:
        self.videos: dict[Task, dict[int, Path]] = {}
        self.occurrence: dict[Task, Path] = {}
        self.intensity: dict[Task, dict[str, Path]] = {}
        for folder, inner, names in os.walk(root):
            if len(Path(folder).relative_to(root).parts) == 2:
                inner.clear()  # a wrong root may be a whole disk
            for name in names:
                match = NAME.fullmatch(name)
                if match is not None:
                    self._add(match, Path(folder) / name)

    def _add(self, match: re.Match[str], path: Path) -> None:
        part, subject, task, view, au = match.groups()
        key = f"{part}_{subject}".upper(), task.upper()
        if view:
            self.videos.setdefault(key, {})[int(view)] = path
        elif au:
            self.intensity.setdefault(key, {})[f"AU{int(au):02d}"] = path
        else:
            self.occurrence[key] = path


def lacks(root: Path) -> list[str]:
    files = _Files(root) if root.is_dir() else None
    videos, labels = "FERA17_TR_F001_T1_6.mp4 or the like", "FERA17_TR_F001_T1.csv or the like"
    if files is None:
        return [videos, labels]
    return [what for what, found in ((videos, files.videos), (labels, files.occurrence)) if not found]


def read(root: Path) -> Iterator[Subject]:
    """Subjects one by one; a recording is one task from one view, e.g. `T1_6`."""
    files = _Files(root)
    tasks = sorted({*files.videos, *files.occurrence})
    for subject in sorted({subject for subject, _ in tasks}):
        found = [r for key in tasks if key[0] == subject for r in _views(key, files)]
        by_view: dict[str, list[Recording]] = {}
        for recording in found:
            by_view.setdefault(recording.name.rpartition("_")[2], []).append(recording)
        yield Subject(subject, tuple(r for view in by_view.values() for r in neutral_at_rest(view)))


def _views(key: Task, files: _Files) -> list[Recording]:
    """Each view of a task that is there, or the frontal one as missing."""
    subject, task = key
    shared = Problems(f"{subject}/{task}")
    labels = no_labels(AUS)
    if key in files.occurrence:
        intensities = files.intensity.get(key, {})
        labels = shared.attempt(lambda: _labels(files.occurrence[key], intensities, shared), labels)
    views: Mapping[int, Path | None] = files.videos.get(key) or {FRONTAL_VIEW: None}
    found = []
    for count, (view, path) in enumerate(sorted(views.items())):
        problems = shared if count == 0 else Problems(f"{subject}/{task}_{view}")
        media: Media = NOTHING
        if path is not None:
            media = problems.attempt(lambda path=path: video(path), media)  # type: ignore[misc]
        if isinstance(media, Video) and 0 < len(labels) < media.count:
            problems.odd(f"view {view}: {media.count} frames and {len(labels)} labels; the rest is left out")
        rate_hz = media.rate_hz if isinstance(media, Video) else None
        found.append(finish(subject, f"{task}_{view}", media, labels, rate_hz, problems))
    return found


def _labels(path: Path, intensities: Mapping[str, Path], problems: Problems) -> Labels:
    files = {au: intensities[au] for au in INTENSITY_AUS if au in intensities}
    numbers, occurrence, intensity = join(path, AUS, files, problems)
    absent = [au for au in INTENSITY_AUS if au not in files]
    if absent:
        problems.odd(f"no intensities of {', '.join(absent)}; taken as unknown")
    frame = np.arange(len(numbers), dtype=np.int64)
    return Labels(AUS, numbers, frame, occurrence, intensity, np.zeros(len(numbers), bool))


FERA2017 = Dataset("fera2017", "FERA 2017", AUS, (), 61, None, f"{REST_RULE}, of the same view", lacks, read)
