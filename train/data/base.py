"""What every dataset is read as: subjects, their recordings, and labels per frame.

    Dataset ─read(root)─▶ Subject ─▶ Recording ─▶ Labels   rows → frames of the media, AU by AU
                                         │
                                         ├─▶ Media      pictures or a video, decoded when asked for
                                         └─▶ Problem    what is missing or odd, one line each

A loader reads labels and lists files; pictures it leaves on disk. What is wrong with one recording does not
keep it from reading the next: it becomes a `Problem`, which `check` shows and `Recording.require` refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError, UsageError
from train.data.media import NOTHING, Media
from train.shards import UNKNOWN

T = TypeVar("T")


def au_names(numbers: Sequence[int]) -> tuple[str, ...]:
    """(1, 12) → (`AU01`, `AU12`)"""
    return tuple(f"AU{number:02d}" for number in numbers)


@dataclass(frozen=True)
class Problem:
    """One line about a recording."""

    text: str
    fatal: bool
    """Whether the recording must not be used as it is; False: merely odd, and dealt with as the text says."""


class Problems:
    """Collects the problems of one recording while it is read."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._found: list[Problem] = []

    def fatal(self, text: str) -> None:
        self._found.append(Problem(f"{self._where}: {text}", True))

    def odd(self, text: str) -> None:
        self._found.append(Problem(f"{self._where}: {text}", False))

    def attempt(self, read: Callable[[], T], otherwise: T) -> T:
        """What `read` returns; `otherwise` where it raises SourceError, whose text is kept as fatal."""
        try:
            return read()
        except SourceError as error:
            self._found.append(Problem(str(error), True))
            return otherwise

    @property
    def is_fatal(self) -> bool:
        return any(problem.fatal for problem in self._found)

    def all(self) -> tuple[Problem, ...]:
        return tuple(self._found)


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of n frames of one recording, A action units each."""

    aus: tuple[str, ...]
    """A names, `AU01`, …"""
    number: NDArray[np.int64]
    """(n,): frame numbers as the label file has them, rising."""
    frame: NDArray[np.int64]
    """(n,): the frame of the media that each row labels: of a video its 0-based position, of pictures the
    number in the file's name."""
    occurrence: NDArray[np.uint8]
    """(n, A): 0, 1 or 9 for unknown."""
    intensity: NDArray[np.float32]
    """(n, A): 0–5, NaN unknown."""
    bad: NDArray[np.bool_]
    """(n,): frames that JAA-Net's published lists leave out."""

    def __post_init__(self) -> None:
        n, shape = len(self.number), (len(self.number), len(self.aus))
        for name, wanted in (("frame", (n,)), ("bad", (n,)), ("occurrence", shape), ("intensity", shape)):
            if getattr(self, name).shape != wanted:
                raise ValueError(f"{name}: expected {wanted}, got {getattr(self, name).shape}")

    def __len__(self) -> int:
        return len(self.number)

    @property
    def at_rest(self) -> NDArray[np.bool_]:
        """(n,): good frames in which every AU that this recording codes is known and absent, with intensity 0
        where intensities are coded."""
        known, levels = self.occurrence != UNKNOWN, ~np.isnan(self.intensity)
        coded, levelled = known.any(axis=0), levels.any(axis=0)
        absent = (self.occurrence[:, coded] == 0).all(axis=1)
        level_zero = (self.intensity[:, levelled] == 0).all(axis=1)
        return absent & level_zero & ~self.bad & coded.any()


def no_labels(aus: Sequence[str]) -> Labels:
    """Labels of no frame."""
    none = np.zeros(0, np.int64)
    shape = (0, len(aus))
    return Labels(
        tuple(aus), none, none, np.zeros(shape, np.uint8), np.zeros(shape, np.float32), none.astype(bool)
    )


@dataclass(frozen=True)
class Place:
    """One frame of one of a subject's recordings."""

    recording: str
    frame: int
    """As in `Labels.frame`."""
    choice: tuple[int, ...] = field(default=(), compare=False)
    """Frames, this one among them, that serve as well: whoever sees their pictures takes the best."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One continuous recording of a subject: a task, a trial or a sequence."""

    subject: str
    name: str
    """Of the task, trial or sequence; different for each recording of a subject."""
    media: Media
    labels: Labels
    rate_hz: float | None
    """Frames a second; None where the dataset does not say."""
    neutral: Place | None
    """The subject's neutral frame for this recording; may lie in another of its recordings."""
    problems: tuple[Problem, ...] = ()

    def require(self) -> None:
        """Refuse a recording that must not be used.

        Raises:
            SourceError: says the first of its fatal problems.
        """
        fatal = [problem.text for problem in self.problems if problem.fatal]
        if fatal:
            more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
            raise SourceError(f"{fatal[0]}{more}")


@dataclass(frozen=True, eq=False)
class Subject:
    """A person, with all recordings of theirs that are labelled."""

    name: str
    recordings: tuple[Recording, ...]


@dataclass(frozen=True)
class Dataset:
    """A dataset's layout and its loader."""

    name: str
    """On the command line, e.g. `disfaplus`."""
    title: str
    aus: tuple[str, ...]
    """Columns of the labels, `AU01`, …"""
    subjects: tuple[str, ...]
    """All that were published; () where only their count is known."""
    subject_count: int
    frames: int | None
    """Labelled frames as published."""
    neutral_rule: str
    """Which frame is taken for neutral."""
    lacks: Callable[[Path], list[str]]
    """What a folder would need to have this layout, besides what it has; [] where it has it."""
    read: Callable[[Path], Iterator[Subject]]
    """Subjects in order of their names, one at a time."""
    recordings: int | None = None
    """Tasks, trials or sequences as published."""

    def columns(self, aus: Sequence[str]) -> list[int]:
        """Where some AUs stand among the label columns.

        Raises:
            UsageError: the dataset does not code one of them.
        """
        absent = [au for au in aus if au not in self.aus]
        if absent:
            raise UsageError(
                f"{', '.join(absent)}: {self.title} does not code it; it codes {', '.join(self.aus)}"
            )
        return [self.aus.index(au) for au in aus]


def check_reach(labels: Labels, media: Media, problems: Problems) -> None:
    """Every label needs its frame, and a fatal problem says where one has none."""
    there = np.isin(labels.frame, np.asarray(media.numbers, np.int64))
    if media is not NOTHING and not there.all():
        rows = np.flatnonzero(~there)
        first = labels.number[rows[0]]
        problems.fatal(
            f"labels for {len(labels)} frames, {len(rows)} of them not among the {len(media.numbers)} frames "
            f"of {media.shown} (first: label {first}); copy it again"
        )


def finish(
    subject: str,
    name: str,
    media: Media,
    labels: Labels,
    rate_hz: float | None,
    problems: Problems,
    neutral: Place | None = None,
) -> Recording:
    """A recording, after its labels were held against its media."""
    if media is NOTHING:
        problems.fatal("labelled, but there are no pictures and no video of it; copy them too")
    if not len(labels) and not problems.is_fatal:
        problems.fatal("no labels of it; copy them too")
    check_reach(labels, media, problems)
    return Recording(subject, name, media, labels, rate_hz, neutral, problems.all())


REST_RULE = (
    "of nine frames spread over the subject's longest run of frames with no coded AU (the earliest of equal "
    "ones), the one nearest to rest by the streaming code's geometry; its middle where none is near"
)
_CHOICE = 9


def neutral_at_rest(recordings: Sequence[Recording]) -> tuple[Recording, ...]:
    """Give each recording of a subject the neutral of `REST_RULE`, all frames of whose choice are in
    `Place.choice`; None where the subject never rests."""
    best, place = 0, None
    for recording in recordings:
        labels = recording.labels
        there = np.isin(labels.frame, np.asarray(recording.media.numbers, np.int64))
        frames = labels.frame[labels.at_rest & there]
        for run in np.split(frames, np.flatnonzero(np.diff(frames) != 1) + 1):
            if len(run) > best:
                best, middle = len(run), int(run[(len(run) - 1) // 2])
                spread = run[np.linspace(0, len(run) - 1, _CHOICE).round().astype(int)].tolist()
                place = Place(recording.name, middle, tuple(sorted({middle, *spread})))
    none = (Problem(f"{recordings[0].subject}: no frame without an AU, so no neutral", False),)
    told = recordings[0].problems + (none if place is None else ())
    first = replace(recordings[0], problems=told)
    return tuple(replace(recording, neutral=place) for recording in (first, *recordings[1:]))


def neutral_first(recording: Recording) -> Recording:
    """Give a recording its own first frame as neutral, odd where that one is labelled with an AU."""
    if not recording.media.numbers:
        return recording
    first, labels = recording.media.numbers[0], recording.labels
    shown = labels.occurrence[labels.frame == first] == 1
    problems = recording.problems
    if shown.any():
        aus = ", ".join(au for au, there in zip(labels.aus, shown.any(axis=0), strict=True) if there)
        text = f"{recording.subject}/{recording.name}: its first frame, taken as neutral, shows {aus}"
        problems = (*problems, Problem(text, False))
    return replace(recording, neutral=Place(recording.name, first), problems=problems)
