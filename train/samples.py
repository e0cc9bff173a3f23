"""Sample folders: what everything that trains reads, whoever made it (rendered faces, or a dataset prepared).

    FOLDER/samples.json               schema, source, AUs, crops, rate, counts, provenance; written last
    FOLDER/shards/NAME.safetensors    the arrays of `ARRAYS`, for n samples and m neutral faces

A shard is whole or absent, so that preparing can be killed, resumed and split over processes. Reading maps
the shards into memory; labels are loaded at once, pictures when asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from engines.spec import AU_CENTERS, LANDMARKS, CropSpec
from pipeline.align import au_centers_in_crop, box_around
from pipeline.errors import OutputError, SourceError, UsageError
from pipeline.exposure import expose
from pipeline.geometry import frontal_points, head_rotation
from pipeline.whole import write_whole
from train.shards import UNKNOWN, Array, check_header, check_shard, crop_layout, open_shard

__all__ = ["UNKNOWN", "SampleWriter", "Samples"]

SCHEMA = 1
INDEX_FILE = "samples.json"
SHARDS = "shards"

LABELS = ("intensity", "occurrence", "subject", "sequence", "frame", "pts_seconds", "pose_deg", "exposure")
"""What a reader keeps in memory."""


class SampleWriter:
    """Writes a sample folder shard by shard; several processes may write different shards of one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        source: str,
        aus: Sequence[str],
        crops: Sequence[str],
        rate_hz: float | None,
        provenance: Mapping[str, Any],
    ) -> None:
        """Makes the folder.

        Args:
            folder: may hold shards of an earlier, interrupted run.
            source: e.g. `synthetic`, `bp4d`.
            aus: `AU01`, … in the order of the label columns.
            crops: `CropSpec.name`s, e.g. `five_point_224`.
            rate_hz: frames a second of the clips; None where there are only stills.
            provenance: as JSON; `run` or `seed`, where given, tells one run's shards from another's.

        Raises:
            ValueError: an AU or a crop has no such name.
            OutputError: the folder cannot be made.
        """
        for au in aus:
            if not (len(au) == 4 and au.startswith("AU") and au[2:].isdigit()):
                raise ValueError(f"aus: expected names like AU01, got {au!r}")
        for crop in crops:
            crop_layout(crop)
        self._folder = Path(folder)
        self._aus, self._crops = list(aus), list(crops)
        self._description = {"schema": SCHEMA, "source": source, "aus": self._aus, "rate_hz": rate_hz}
        self._description |= {"crops": self._crops}
        self._provenance = dict(provenance)
        run = self._provenance.get("run", self._provenance.get("seed"))
        identity = json.dumps([self._description, run], sort_keys=True)
        self._identity = hashlib.sha256(identity.encode()).hexdigest()[:16]
        try:
            (self._folder / SHARDS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot make the sample folder: {error.strerror}") from None

    def has_shard(self, name: str) -> bool:
        """Whether that shard is already there.

        Raises:
            UsageError: it is, but belongs to a run with another seed, other AUs or other crops.
        """
        path = self._path(name)
        if not path.exists():
            return False
        with open_shard(path) as file:
            identity = (file.metadata() or {}).get("run")
        if identity != self._identity:
            raise UsageError(
                f"{path}: made by another run (other seed, AUs, crops or rate); give another folder"
            )
        return True

    def write_shard(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Write one shard, whole or not at all.

        Raises:
            ValueError: names the array that does not fit.
            OutputError: it cannot be written, e.g. the disk is full.
        """
        try:
            check_shard(arrays, self._aus, self._crops)
        except ValueError as error:
            raise ValueError(f"shard {name}: {error}") from None
        content = save(
            {key: np.ascontiguousarray(value) for key, value in arrays.items()},
            {"run": self._identity},
        )
        write_whole(self._path(name), content)

    def finish(self, names: Collection[str] | None = None) -> None:
        """Write samples.json over all shards that are there; the folder can be read from then on.

        Args:
            names: of the shards that may be there; all where none are given.

        Raises:
            UsageError: there is no shard, or one of another run or name.
            SourceError: a shard is damaged.
            OutputError: samples.json cannot be written.
        """
        shards: dict[str, int] = {}
        subjects: set[int] = set()
        for path in sorted((self._folder / SHARDS).glob("*.safetensors")):
            self.has_shard(path.stem)
            if names is not None and path.stem not in names:
                raise UsageError(
                    f"{path}: made when others were asked for; delete it, or give another folder"
                )
            with open_shard(path) as file:
                subject = file.get_tensor("subject")
            shards[path.stem] = len(subject)
            subjects |= set(subject.tolist())
        if not shards:
            raise UsageError(f"{self._folder}: no shard was written, so there is nothing to finish")
        counts = {"samples": sum(shards.values()), "subjects": len(subjects)}
        index = {**self._description, "counts": counts, "shards": shards, "provenance": self._provenance}
        text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
        write_whole(self._folder / INDEX_FILE, text.encode())

    def _path(self, name: str) -> Path:
        return self._folder / SHARDS / f"{name}.safetensors"


@dataclass(frozen=True)
class Samples:
    """A sample folder, open for reading. Safe to hand to spawned worker processes: each maps the shards anew.
    Forked ones would share the maps of the process they come from, which nobody has tried.
    """

    folder: Path
    source: str
    aus: tuple[str, ...]
    crops: tuple[str, ...]
    rate_hz: float | None
    provenance: Mapping[str, Any]
    shards: tuple[str, ...]
    starts: NDArray[np.int64]
    """(shards + 1,): row of each shard's first sample, and the count of all."""
    labels: Mapping[str, Array]
    """The arrays of `LABELS`, all shards one after the other."""
    _mapped: dict[int, Mapping[str, Any]] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets: all but the mapped files."""
        return self.__dict__ | {"_mapped": {}}

    @staticmethod
    def open(folder: Path) -> Samples:
        """Read samples.json and the labels.

        Raises:
            SourceError: no sample folder, not finished, too new, or a shard is missing or damaged.
        """
        folder = Path(folder)
        index = _read_index(folder)
        names = tuple(index["shards"])
        parts: dict[str, list[Array]] = {name: [] for name in LABELS}
        for name in names:
            path = folder / SHARDS / f"{name}.safetensors"
            with open_shard(path) as file:
                check_header(file, path, index, index["shards"][name])
                for label in LABELS:
                    parts[label].append(file.get_tensor(label))
        return Samples(
            folder=folder,
            source=index["source"],
            aus=tuple(index["aus"]),
            crops=tuple(index["crops"]),
            rate_hz=index["rate_hz"],
            provenance=index["provenance"],
            shards=names,
            starts=np.cumsum([0, *index["shards"].values()]),
            labels={name: np.concatenate(arrays) for name, arrays in parts.items()},
        )

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def intensity(self) -> NDArray[np.float32]:
        """(n, A), 0–5, NaN unknown."""
        return self.labels["intensity"]

    @property
    def occurrence(self) -> NDArray[np.uint8]:
        """(n, A), 0, 1 or 9."""
        return self.labels["occurrence"]

    @property
    def subject(self) -> NDArray[np.int32]:
        """(n,)"""
        return self.labels["subject"]

    @property
    def sequence(self) -> NDArray[np.int32]:
        """(n,), −1 for a still."""
        return self.labels["sequence"]

    @property
    def frame(self) -> NDArray[np.int32]:
        """(n,)"""
        return self.labels["frame"]

    @cached_property
    def subjects(self) -> NDArray[np.int32]:
        """Everybody in the folder, once."""
        return np.unique(self.subject)

    def crop(self, name: str, indices: Sequence[int] | Array) -> NDArray[np.uint8]:
        """(k, px, px, 3) BGR.

        Raises:
            SourceError: the folder has no such crop.
        """
        if name not in self.crops:
            raise SourceError(f"{self.folder}: no crop {name!r}, only {', '.join(self.crops)}")
        return self._rows(name, indices)

    def level_map(self, indices: Sequence[int] | Array) -> NDArray[np.uint8]:
        """(k, 224, 224), 0–5."""
        return self._rows("level_map", indices)

    def points(self, indices: Sequence[int] | Array) -> NDArray[np.float32]:
        """(k, 478, 3), pixels of their frames."""
        return self._rows("points", indices)

    def neutral(self, indices: Sequence[int] | Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Each sample's neutral face: (k, 224, 224, 3) uint8 BGR, its points (k, 478, 3) float32, and (k,)
        whether there is one; zeros where not.
        """
        faces = np.zeros((len(indices), 224, 224, 3), np.uint8)
        points = np.zeros((len(indices), 478, 3), np.float32)
        there = np.zeros(len(indices), bool)
        both = (self._neutral_rows(name, indices) for name in ("neutrals", "neutral_points"))
        for i, (face, its_points) in enumerate(zip(*both, strict=True)):
            if face is not None:
                faces[i], points[i], there[i] = face, its_points, True
        return faces, points, there

    def neutral_exposed(self, indices: Sequence[int] | Array) -> NDArray[np.uint8]:
        """(k, 224, 224, 3): each sample's neutral face, exposed like its crop as the face stage does it."""
        exposed = np.zeros((len(indices), 224, 224, 3), np.uint8)
        for i, face in enumerate(self._neutral_rows("neutrals", indices)):
            if face is not None:
                exposed[i] = expose(face, *map(float, self.labels["exposure"][indices[i]]))
        return exposed

    def landmarks(self, indices: Sequence[int] | Array) -> NDArray[np.float32]:
        """(k, 2, 468, 3): `frontal_points` of each face and of its neutral, zeros where there is none."""
        neutrals = self._neutral_rows("neutral_points", indices)
        found = np.zeros((len(neutrals), 2, LANDMARKS, 3), np.float32)
        for i, (points, neutral) in enumerate(zip(self.points(indices), neutrals, strict=True)):
            found[i, 0] = frontal_points(points, head_rotation(points))
            if neutral is not None:
                found[i, 1] = frontal_points(neutral, head_rotation(neutral))
        return found

    def au_centers(self, indices: Sequence[int] | Array, crop: str) -> NDArray[np.float32]:
        """(k, 20, 2): EAC-Net's AU centres as shares of a crop's side, as engines read them live."""
        spec, found = CropSpec.named(crop), np.zeros((len(indices), AU_CENTERS, 2), np.float32)
        for i, points in enumerate(self.points(indices)):
            found[i] = au_centers_in_crop(spec, points, box_around(points))
        return found

    def windows(self, length: int, stride: int) -> NDArray[np.int64]:
        """Rows of `length` consecutive frames of one sequence each, (k, length), never spliced.

        Args:
            length: frames of a window.
            stride: frames from one window's begin to the next one's, within a sequence.
        """
        clips = np.flatnonzero(self.sequence >= 0)
        order = clips[np.lexsort((self.frame[clips], self.sequence[clips]))]
        sequence, frame = self.sequence[order], self.frame[order].astype(np.int64)
        cuts = np.flatnonzero((np.diff(sequence) != 0) | (np.diff(frame) != 1)) + 1
        runs = np.split(order, cuts)
        found = [run[a : a + length] for run in runs for a in range(0, len(run) - length + 1, stride)]
        return np.array(found, np.int64).reshape(-1, length)

    def _rows(self, name: str, indices: Sequence[int] | Array) -> Array:
        index = np.asarray(indices, np.int64)
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"samples: expected 0 to {len(self) - 1}, got {index.min()} to {index.max()}")
        shard = np.searchsorted(self.starts, index, side="right") - 1
        found = [
            self._slices(int(s))[name][int(i - self.starts[s]) : int(i - self.starts[s]) + 1]
            for i, s in zip(index, shard, strict=True)
        ]
        return np.concatenate(found) if found else self._slices(0)[name][0:0]

    def _neutral_rows(self, name: str, indices: Sequence[int] | Array) -> list[Array | None]:
        """`neutrals` or `neutral_points` of each sample, None where it has no neutral."""
        rows: list[Array | None] = []
        for index, neutral in zip(indices, self._rows("neutral", indices), strict=True):
            shard = int(np.searchsorted(self.starts, index, side="right")) - 1
            rows.append(self._slices(shard)[name][neutral : neutral + 1][0] if neutral >= 0 else None)
        return rows

    def _slices(self, shard: int) -> Mapping[str, Any]:
        """Slices of one mapped shard."""
        if shard not in self._mapped:
            file = open_shard(self.folder / SHARDS / f"{self.shards[shard]}.safetensors")
            names = ("level_map", "neutral", "neutrals", "neutral_points", "points", *self.crops)
            self._mapped[shard] = {name: file.get_slice(name) for name in names}
        return self._mapped[shard]


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_FILE
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        unfinished = (folder / SHARDS).is_dir()
        hint = "its preparation did not finish, run it again" if unfinished else "name another folder"
        raise SourceError(
            f"{folder}: expected a sample folder with {INDEX_FILE}: {error.strerror}; {hint}"
        ) from None
    except ValueError as error:
        raise SourceError(f"{path}: expected JSON, got something else: {error}") from None
    schema = index.get("schema") if isinstance(index, dict) else None
    if schema != SCHEMA:
        raise SourceError(f"{path}: expected schema {SCHEMA}, got {schema!r}; prepare the samples again")
    wanted = {"source": str, "aus": list, "crops": list, "shards": dict, "provenance": dict}
    for name, kind in wanted.items():
        if not isinstance(index.get(name), kind):
            raise SourceError(f"{path}: {name}: expected a {kind.__name__}, got {index.get(name)!r}")
    if "rate_hz" not in index or not index["shards"]:
        raise SourceError(f"{path}: expected rate_hz and at least one shard; prepare the samples again")
    return index
