"""Several sample folders as one, with the AUs that an engine wants, split by subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from train.recipe import DataTable
from train.samples import Samples
from train.shards import UNKNOWN

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Rows of all folders one after the other."""

    folders: tuple[Samples, ...]
    starts: Rows
    """(folders + 1,)"""
    aus: tuple[str, ...]
    occurrence: NDArray[np.uint8]
    """(n, A) in the order of `aus`; 9 where a folder does not code the AU."""
    intensity: NDArray[np.float32]
    """(n, A), NaN unknown."""
    subject: NDArray[np.int64]
    """(n,): index into `people`."""
    people: tuple[tuple[str, int], ...]
    """Source and number of each subject. The same number of one source is the same person in every folder."""

    @staticmethod
    def open(paths: Sequence[Path | str], aus: Sequence[str]) -> Pool:
        """Open the folders.

        Raises:
            SourceError: one is no sample folder.
            UsageError: no folder codes an AU.
        """
        folders = tuple(Samples.open(Path(path)) for path in paths)
        absent = [au for au in aus if not any(au in samples.aus for samples in folders)]
        if absent:
            known = sorted({au for samples in folders for au in samples.aus})
            raise UsageError(f"{', '.join(absent)}: not in the data, which has {', '.join(known)}")
        occurrence, intensity = [], []
        for samples in folders:
            there = [a for a, au in enumerate(aus) if au in samples.aus]
            columns = [samples.aus.index(aus[a]) for a in there]
            coded = np.full((len(samples), len(aus)), UNKNOWN, np.uint8)
            coded[:, there] = samples.occurrence[:, columns]
            levels = np.full((len(samples), len(aus)), np.nan, np.float32)
            levels[:, there] = samples.intensity[:, columns]
            occurrence.append(coded)
            intensity.append(levels)
        people: list[tuple[str, int]] = sorted(
            {(s.source, int(number)) for s in folders for number in s.subjects}
        )
        index = {person: i for i, person in enumerate(people)}
        subject = [index[s.source, int(number)] for s in folders for number in s.subject]
        return Pool(
            folders=folders,
            starts=np.cumsum([0, *map(len, folders)]),
            aus=tuple(aus),
            occurrence=np.concatenate(occurrence),
            intensity=np.concatenate(intensity),
            subject=np.array(subject, np.int64),
            people=tuple(people),
        )

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def source(self) -> str:
        """The folders' sources, e.g. `synthetic`."""
        return "+".join(sorted({samples.source for samples in self.folders}))

    def crop(self, name: str, rows: Rows) -> NDArray[np.uint8]:
        """(k, px, px, 3) BGR."""
        return self._read(rows, lambda samples, inner: samples.crop(name, inner))

    def level_map(self, rows: Rows) -> NDArray[np.uint8]:
        """(k, 224, 224), 0–5."""
        return self._read(rows, lambda samples, inner: samples.level_map(inner))

    def neutral(self, rows: Rows) -> NDArray[np.uint8]:
        """(k, 224, 224, 3) BGR: each sample's neutral face, exposed like its crop, black for none."""
        return self._read(rows, lambda samples, inner: samples.neutral_exposed(inner))

    def landmarks(self, rows: Rows) -> NDArray[np.float32]:
        """(k, 2, 468, 3): each face and its neutral from straight ahead, zeros where there is none."""
        return self._read(rows, lambda samples, inner: samples.landmarks(inner))

    def without_faint(self, present_from: Mapping[str, float]) -> Pool:
        """The same rows; of the AUs named here, what is present with less than that intensity is unknown.

        Raises:
            UsageError: an AU that is not in `aus`.
        """
        if absent := [au for au in present_from if au not in self.aus]:
            raise UsageError(f"present_from.{absent[0]}: expected one of {', '.join(self.aus)}")
        least = np.array([present_from.get(au, 0.0) for au in self.aus], np.float32)
        faint = (self.occurrence == 1) & (self.intensity < least)
        return replace(self, occurrence=np.where(faint, UNKNOWN, self.occurrence).astype(np.uint8))

    def au_centers(self, rows: Rows, crop: str) -> NDArray[np.float32]:
        """(k, 20, 2): EAC-Net's AU centres as shares of that crop's side."""
        return self._read(rows, lambda samples, inner: samples.au_centers(inner, crop))

    def clip(self, rows: Rows) -> Rows:
        """(k,): a number for each row's clip, no other folder's; all stills of a folder share one."""
        folder = np.searchsorted(self.starts, rows, side="right") - 1
        sequence = np.concatenate([samples.sequence for samples in self.folders]).astype(np.int64)
        return folder * 2**32 + sequence[rows]

    def windows(self, length: int, stride: int, rate_hz: float | None) -> Rows:
        """Rows of windows within one clip, (k, length).

        Raises:
            UsageError: a folder's clips run at another rate.
        """
        found = []
        for samples, start in zip(self.folders, self.starts[:-1], strict=True):
            windows = samples.windows(length, stride)
            if len(windows) and rate_hz is not None and samples.rate_hz != rate_hz:
                raise UsageError(
                    f"{samples.folder}: clips of {samples.rate_hz} frames/s, engine.rate_hz is {rate_hz:g}"
                )
            found.append(windows + start)
        return np.concatenate(found)

    def split(self, table: DataTable) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows are for training and which for validation, (n,) each; no subject is in both.

        Raises:
            UsageError: one of them would be empty.
        """
        tested, counted = self.numbered(table.test_subjects), self.counted(table)
        if table.validation_subjects:
            held = self.numbered(table.validation_subjects)
        else:
            people = [i for i in range(len(self.people)) if i not in tested]
            order = np.random.default_rng(table.validation_seed).permutation(len(people))
            wanted = max(round(table.validation_share * len(people)), 1)
            held = [people[i] for i in order[: min(wanted, len(people) - 1)]]
        validation = np.isin(self.subject, held) & counted
        training = ~np.isin(self.subject, [*held, *tested]) & counted
        if not validation.any() or not training.any():
            which = "validation" if not validation.any() else "training"
            raise UsageError(
                f"data: no subject is left for {which}: {len(held)} of {len(self.people)} are held out; "
                "set validation_share or validation_subjects, or prepare more subjects"
            )
        return training, validation

    def numbered(self, subjects: Sequence[int]) -> list[int]:
        """Indices of people by their numbers."""
        return [i for i, (_source, number) in enumerate(self.people) if number in subjects]

    def counted(self, table: DataTable) -> NDArray[np.bool_]:
        """(n,): samples that are used at all."""
        shown = (self.occurrence == 1).any(axis=1)
        return shown if table.shown_only else np.ones(len(self), bool)

    def _read(self, rows: Rows, read: Any) -> Any:
        folder = np.searchsorted(self.starts, rows, side="right") - 1
        return np.concatenate(
            [read(self.folders[f], [row - self.starts[f]]) for f, row in zip(folder, rows, strict=True)]
        )
