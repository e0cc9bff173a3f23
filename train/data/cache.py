"""Reading what `python -m train data prepare` wrote: a sample folder with its dataset's own names.

CACHE/samples.json, shards/     a sample folder (`train.samples`), which `train fit` reads as it is
CACHE/prepared.json             dataset, options, subjects, recordings, counts; the report, written last
CACHE/frames/NAME.safetensors   one recording each: every labelled frame, those without a sample included
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pipeline.errors import SourceError, UsageError
from train.samples import Samples

PREPARED_FILE = "prepared.json"
FRAMES = "frames"
SCHEMA = 1
TRACKS = 10_000
"""`sequence` of a sample is its recording's number · TRACKS + the id that the tracker gave the face there."""
SAMPLE, NO_FACE, BAD, UNREADABLE = 0, 1, 2, 3
"""`FrameIndex.status`: there is a sample; no face was found; left out as in JAA-Net's published lists; the
video is damaged there."""


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Every labelled frame of one recording, whether it became a sample or not."""

    frame: NDArray[np.int64]
    """(n,), rising: as in `Labels.frame`."""
    number: NDArray[np.int64]
    """(n,): the label file's own number."""
    status: NDArray[np.uint8]
    """(n,): SAMPLE, NO_FACE, BAD or UNREADABLE."""
    occurrence: NDArray[np.uint8]
    """(n, A): 0, 1 or 9 for unknown."""
    intensity: NDArray[np.float32]
    """(n, A): 0–5, NaN unknown."""


@dataclass(frozen=True)
class PreparedRecording:
    """One recording of the cache."""

    subject: str
    name: str
    labels: int
    """Labelled frames: samples + no_face + bad + unreadable."""
    samples: int
    no_face: int
    bad: int
    unreadable: int
    neutral: str
    """Where its neutral face is from, e.g. `T1 2440`; "" without one."""
    file: str
    """Stem of its file in `frames`, and the beginning of its shards' names."""


@dataclass(frozen=True, eq=False)
class PreparedSet:
    """A prepared dataset, open for reading. Rows are those of `samples`, 0 … n − 1, by recording and
    frame."""

    folder: Path
    dataset: str
    """Its name, e.g. `disfa`."""
    synthetic: bool
    """Rendered faces in the dataset's layout (`train data mimic`), not the dataset."""
    whole: bool
    """False where subjects or recordings were missing and `--partial` was given."""
    exposure_compensation: bool
    """Whether neutrals were exposed like the frames before the level map; off in CEDNN's own protocol."""
    neutral_rule: str
    subjects: tuple[str, ...]
    """Names; `samples.subject` holds indices into it."""
    recordings: tuple[PreparedRecording, ...]
    samples: Samples
    report: Mapping[str, Any]
    """All of prepared.json."""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def aus(self) -> tuple[str, ...]:
        """Columns of the labels, `AU01`, …"""
        return self.samples.aus

    @property
    def subject(self) -> NDArray[np.int32]:
        """(n,): index into `subjects`."""
        return self.samples.subject

    @cached_property
    def recording(self) -> NDArray[np.int32]:
        """(n,): index into `recordings`."""
        return self.samples.sequence // TRACKS

    @property
    def frame(self) -> NDArray[np.int32]:
        """(n,): the frame's number in its recording, as in `Labels.frame`."""
        return self.samples.frame

    def rows_of(self, subjects: Sequence[str]) -> NDArray[np.int64]:
        """Rows of some subjects, rising.

        Raises:
            UsageError: one of them is not in the cache.
        """
        absent = [name for name in subjects if name not in self.subjects]
        if absent:
            raise UsageError(f"{self.folder}: no subject {', '.join(absent)}; has {', '.join(self.subjects)}")
        wanted = [self.subjects.index(name) for name in subjects]
        return np.flatnonzero(np.isin(self.subject, wanted))

    def columns(self, aus: Sequence[str]) -> list[int]:
        """Where some AUs stand among the label columns.

        Raises:
            UsageError: the dataset does not code one of them.
        """
        absent = [au for au in aus if au not in self.aus]
        if absent:
            raise UsageError(
                f"{', '.join(absent)}: {self.dataset} does not code it; it codes {', '.join(self.aus)}"
            )
        return [self.aus.index(au) for au in aus]

    def clips(self, length: int, every: int) -> NDArray[np.int64]:
        """Rows of `length` consecutive frames of one face in one recording each, (k, length), never spliced
        over a frame that is no sample; the next window begins `every` frames later.
        """
        return self.samples.windows(length, every)

    def frames(self, recording: int) -> FrameIndex:
        """Every labelled frame of `recordings[recording]`.

        Raises:
            SourceError: its file is missing or damaged.
        """
        return read_frames(self.folder / FRAMES / f"{self.recordings[recording].file}.safetensors")


def open_cache(path: Path) -> PreparedSet:
    """Open what `python -m train data prepare … --out PATH` wrote.

    Raises:
        SourceError: no such folder, not finished, or damaged; says what to do.
    """
    folder = Path(path)
    report = _read_report(folder)
    samples = Samples.open(folder)
    recordings = tuple(
        PreparedRecording(**{name: row[name] for name in PreparedRecording.__dataclass_fields__})
        for row in report["recordings"]
    )
    if sum(recording.samples for recording in recordings) != len(samples):
        raise SourceError(f"{folder}: {PREPARED_FILE} and the shards do not belong together; prepare again")
    return PreparedSet(
        folder=folder,
        dataset=report["dataset"],
        synthetic=report["synthetic"],
        whole=report["whole"],
        exposure_compensation=report["exposure_compensation"],
        neutral_rule=report["neutral"],
        subjects=tuple(report["subjects"]),
        recordings=recordings,
        samples=samples,
        report=report,
    )


def read_frames(path: Path) -> FrameIndex:
    """One recording's file.

    Raises:
        SourceError: it is missing or damaged.
    """
    arrays = _load(path)
    return FrameIndex(*(arrays[name] for name in FrameIndex.__dataclass_fields__))


def read_neutral(path: Path) -> int:
    """The frame that the recording's neutral face is of, −1 without one, from the same file.

    Raises:
        SourceError: it is missing or damaged.
    """
    return int(_load(path)["neutral_frame"])


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{path}: cannot be read ({error}); prepare the dataset again") from None
    absent = {*FrameIndex.__dataclass_fields__, "neutral_frame"} - set(arrays)
    if absent:
        raise SourceError(f"{path}: lacks {', '.join(sorted(absent))}; prepare the dataset again")
    return arrays


def _read_report(folder: Path) -> dict[str, Any]:
    path = folder / PREPARED_FILE
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        begun = (folder / FRAMES).is_dir()
        hint = "preparing did not finish: run the same command again" if begun else "see train data prepare"
        raise SourceError(
            f"{folder}: no prepared dataset ({PREPARED_FILE}: {error.strerror}); {hint}"
        ) from None
    except ValueError as error:
        raise SourceError(f"{path}: expected JSON, got something else: {error}") from None
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise SourceError(f"{path}: expected schema {SCHEMA}, got {schema!r}; prepare the dataset again")
    wanted = {"dataset": str, "synthetic": bool, "whole": bool, "exposure_compensation": bool}
    wanted |= {"neutral": str, "subjects": list, "recordings": list}
    for name, kind in wanted.items():
        if not isinstance(report.get(name), kind):
            raise SourceError(f"{path}: {name}: expected a {kind.__name__}, got {report.get(name)!r}")
    return report
