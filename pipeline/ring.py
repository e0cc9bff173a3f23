"""Pixels between processes: rings of slots in shared memory, leased by name and checked by generation.

A ring is one file in the run's directory, mapped by every process that has to do with its pixels. One
process, the producer, takes free slots and writes; it passes the lease on with the descriptor, and whoever
holds the lease last releases it. Per slot the file holds

    generation  uint64, counted up whenever the slot is taken; only the producer writes it
    leases      one byte for every holder; a slot is free when all are 0

and the holders' names once,

so a descriptor of pixels that are gone is recognised, and after a death it can be read who held what. No two
processes ever write the same byte at a time, hence no locks and none left locked: a holder's byte is set by
whoever passes the lease to it, *before* the descriptor is sent, and from then on only by the holder itself
or, when it is dead, by the supervisor. The sockets order the one after the other.

The files are plain files under /dev/shm, not `multiprocessing.shared_memory`: before Python 3.13 that hands
every segment to a resource tracker, which removes it under processes that still use it, and its `close` fails
while an array looks at the pixels. Here a map lives as long as the last array on it, and one directory, which
the run keeps locked, is all that there is to remove.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import mmap
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import RunError, StaleError

_MAGIC = b"AURING1\0"
_HEADER = struct.Struct("<8sQQQQ")  # magic, slots, bytes per slot, holders, bytes of their names
_PAGE = 4096
_ALIGNED = 64
_PREFIX = "austream-"


@dataclass(frozen=True, slots=True)
class PixelRef:
    """Where an array of uint8 lies: what travels in place of the pixels."""

    ring: str
    slot: int
    generation: int
    offset: int
    """Bytes from the beginning of the slot."""
    shape: tuple[int, ...]
    """One to three dimensions, C order."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.shape) <= 3 or min(self.shape) < 1:
            raise ValueError(f"shape: expected one to three dimensions from 1 up, got {self.shape}")
        if min(self.slot, self.generation, self.offset) < 0:
            raise ValueError(f"slot, generation, offset: expected 0 or more, got {self}")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class RingSpec:
    """A ring before it is made; what a worker needs to know in order to attach to it."""

    name: str
    slots: int
    slot_bytes: int
    """At most so much is put into a slot; `packed_bytes` tells."""
    holders: tuple[str, ...]
    """Processes that may hold a slot; the first is the producer."""

    def __post_init__(self) -> None:
        if self.slots < 1 or self.slot_bytes < 1 or not self.holders:
            raise ValueError(f"ring: expected slots, slot_bytes and holders, got {self}")

    @property
    def data_offset(self) -> int:
        return _round_up(self.names_offset + len(self.names), _PAGE)

    @property
    def names_offset(self) -> int:
        return _HEADER.size + self.slots * (8 + len(self.holders))

    @property
    def names(self) -> bytes:
        return " ".join(self.holders).encode()

    @property
    def header(self) -> bytes:
        """What the file begins with."""
        return _HEADER.pack(_MAGIC, self.slots, self.slot_bytes, len(self.holders), len(self.names))

    @property
    def stride(self) -> int:
        return _round_up(self.slot_bytes, _PAGE)

    @property
    def total_bytes(self) -> int:
        return self.data_offset + self.slots * self.stride


def packed_bytes(shapes: Iterable[Sequence[int]]) -> int:
    """Bytes of a slot that is to hold arrays of these shapes, each on a cache line of its own."""
    return sum(_round_up(math.prod(shape), _ALIGNED) for shape in shapes)


class Slot:
    """A slot that its producer has taken and fills, array by array."""

    def __init__(self, ring: str, index: int, generation: int, memory: NDArray[np.uint8]) -> None:
        self.ring, self.index, self.generation = ring, index, generation
        self._memory = memory
        self._used = 0

    def reserve(self, shape: Sequence[int]) -> tuple[PixelRef, NDArray[np.uint8]]:
        """Room for an array, to be written in place (`dst=`, `out=`); RunError when the slot is too small."""
        ref = PixelRef(self.ring, self.index, self.generation, self._used, tuple(map(int, shape)))
        end = ref.offset + ref.nbytes
        if end > len(self._memory):
            raise RunError(
                f"ring {self.ring}: {end} bytes do not fit into a slot of {len(self._memory)}: "
                "a picture larger than the run was started for; start it again"
            )
        self._used = _round_up(end, _ALIGNED)
        return ref, self._memory[ref.offset : end].reshape(ref.shape)

    def put(self, pixels: ArrayLike) -> PixelRef:
        """Copy an array of uint8 into the slot."""
        array = np.asarray(pixels)
        ref, place = self.reserve(array.shape)
        np.copyto(place, array, casting="no")
        return ref


class Ring:
    """A ring as one process sees it: `holder` is its name there, None for the supervisor, who only looks."""

    def __init__(self, folder: Path, spec: RingSpec, holder: str | None = None) -> None:
        """Attach to a ring that `create_rings` made; RunError when there is none or it is another."""
        self.spec = spec
        self._me = None if holder is None else spec.holders.index(holder)
        try:
            with open(folder / spec.name, "r+b", buffering=0) as file:
                # Whoever uses the pixels maps all pages now, and not one by one under the first frames.
                populate = 0 if holder is None else getattr(mmap, "MAP_POPULATE", 0)
                memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | populate)
        except (OSError, ValueError) as error:
            raise RunError(
                f"ring {folder / spec.name}: cannot be attached to ({error}); is the run over?"
            ) from error
        if len(memory) != spec.total_bytes or memory[: _HEADER.size] != spec.header:
            raise RunError(f"ring {folder / spec.name}: another ring than expected: {spec}")
        generations_end = _HEADER.size + 8 * spec.slots
        self._generations = np.frombuffer(memory, np.uint64, spec.slots, _HEADER.size)
        self._leases = np.frombuffer(
            memory, np.uint8, spec.slots * len(spec.holders), generations_end
        ).reshape(spec.slots, len(spec.holders))
        self._data = np.frombuffer(memory, np.uint8, spec.slots * spec.stride, spec.data_offset).reshape(
            spec.slots, spec.stride
        )[:, : spec.slot_bytes]

    def take(self) -> Slot | None:
        """Producer only: the first free slot, leased to the producer; None while others hold all.

        The first and not the next: what is still in the caches is written again.
        """
        if self._me != 0:
            raise ValueError(f"ring {self.spec.name}: only {self.spec.holders[0]} takes slots")
        free = np.flatnonzero(~self._leases.any(axis=1))
        if not len(free):
            return None
        slot = int(free[0])
        # First, so that from here on whoever still has an old descriptor is refused.
        self._generations[slot] += np.uint64(1)
        self._leases[slot, 0] = 1
        return Slot(self.spec.name, slot, int(self._generations[slot]), self._data[slot])

    @property
    def free(self) -> bool:
        """Whether there is a slot to take."""
        return not self._leases.any(axis=1).all()

    def view(self, ref: PixelRef) -> NDArray[np.uint8]:
        """The pixels, read-only, without a copy; valid until the lease is released or passed on.

        Raises:
            StaleError: the slot has been taken anew since, or its lease is not this process's.
        """
        slot = self._check(ref)
        if ref.offset + ref.nbytes > self.spec.slot_bytes:
            raise StaleError(f"ring {self.spec.name}: {ref} reaches beyond its slot")
        pixels = self._data[slot, ref.offset : ref.offset + ref.nbytes].reshape(ref.shape)
        pixels.flags.writeable = False
        return pixels

    def copy(self, ref: PixelRef) -> NDArray[np.uint8]:
        """The pixels for longer than the lease lasts; StaleError also if they were replaced meanwhile."""
        pixels = self.view(ref).copy()
        self._check(ref)
        return pixels

    def pass_on(self, ref: PixelRef | Slot, *to: str) -> None:
        """Give the lease to one holder or several; call it right before the descriptor is sent."""
        slot = self._check(ref)
        for holder in to:
            self._leases[slot, self.spec.holders.index(holder)] = 1
        if self._me is not None and self.spec.holders[self._me] not in to:
            self._leases[slot, self._me] = 0

    def release(self, ref: PixelRef | Slot) -> None:
        """Give the lease back; nothing happens when it was given back, reclaimed or overwritten before."""
        with contextlib.suppress(StaleError):
            self._leases[self._check(ref), self._me] = 0

    def held(self) -> dict[str, list[int]]:
        """Who holds which slots now; holders of none are absent."""
        slots = {
            name: np.flatnonzero(self._leases[:, i]).tolist() for i, name in enumerate(self.spec.holders)
        }
        return {name: held for name, held in slots.items() if held}

    def reclaim(self, holder: str) -> list[int]:
        """Free what a holder holds: for the supervisor once the process is dead, for itself on a reset."""
        column = self._leases[:, self.spec.holders.index(holder)]
        slots = [int(slot) for slot in np.flatnonzero(column)]
        column[:] = 0
        return slots

    def _check(self, ref: PixelRef | Slot) -> int:
        """The number of the slot, when it still is the one that the descriptor means."""
        slot = ref.slot if isinstance(ref, PixelRef) else ref.index
        if ref.ring != self.spec.name or slot >= self.spec.slots:
            raise StaleError(f"ring {self.spec.name}: has no {ref}")
        now = int(self._generations[slot])
        if now != ref.generation:
            raise StaleError(
                f"ring {self.spec.name}: slot {slot} has generation {now}, the descriptor {ref.generation}: "
                "its pixels are gone"
            )
        if self._me is None or not self._leases[slot, self._me]:
            raise StaleError(f"ring {self.spec.name}: slot {slot} is not leased to this process")
        return slot


class Rings:
    """All rings of one kind, `frames.0`, `frames.1`, `frames-1.0` and so on, as a process sees them that is
    not the producer: each is attached to when a descriptor first names it."""

    def __init__(self, folder: Path, kind: str, holder: str) -> None:
        self._folder, self._kind, self._holder = folder, kind, holder
        self._attached: dict[str, Ring] = {}

    def of(self, ref: PixelRef) -> Ring:
        """The ring that a descriptor means; RunError when there is none."""
        if ref.ring not in self._attached:
            if ref.ring not in ring_names(self._folder, self._kind, of_all=True):
                raise StaleError(f"ring {self._folder / ref.ring}: there is none; is the run over?")
            self._attached[ref.ring] = attach_ring(self._folder, ref.ring, self._holder)
        return self._attached[ref.ring]

    def view(self, ref: PixelRef) -> NDArray[np.uint8]:
        return self.of(ref).view(ref)

    def copy(self, ref: PixelRef) -> NDArray[np.uint8]:
        return self.of(ref).copy(ref)

    def pass_on(self, ref: PixelRef, *to: str) -> None:
        self.of(ref).pass_on(ref, *to)

    def release(self, ref: PixelRef) -> None:
        self.of(ref).release(ref)

    def reclaim(self, holder: str, producer: str | None = None) -> None:
        """`Ring.reclaim` in all of them, those that no descriptor has named yet included; or only in the
        `frames-1.…` of one producer."""
        for name in ring_names(self._folder, producer or self._kind, of_all=producer is None):
            if name not in self._attached:
                self._attached[name] = attach_ring(self._folder, name, self._holder)
            self._attached[name].reclaim(holder)


def ring_names(folder: Path, kind: str, of_all: bool = False) -> list[str]:
    """Names of the rings that are there, in the order in which they were made.

    Args:
        kind: what stands before the point, `frames` or `frames-1`.
        of_all: those of all producers, `frames-1.0` for `frames` too.
    """
    pattern = re.compile(re.escape(kind) + (r"(-\d+)?" if of_all else "()") + r"\.(\d+)")
    found = [match for path in folder.glob(f"{kind}*") if (match := pattern.fullmatch(path.name))]
    return [m[0] for m in sorted(found, key=lambda m: (int((m[1] or "-0")[1:]), int(m[2])))]


def attach_ring(folder: Path, name: str, holder: str | None) -> Ring:
    """A ring that `create_rings` made, known by its name; RunError when there is none."""
    try:
        with open(folder / name, "rb") as file:
            magic, slots, slot_bytes, holders, name_bytes = _HEADER.unpack(file.read(_HEADER.size))
            if magic != _MAGIC:
                raise RunError(f"ring {folder / name}: not a ring of this version")
            file.seek(_HEADER.size + slots * (8 + holders))
            names = file.read(name_bytes).decode()
    except (OSError, struct.error) as error:
        raise RunError(f"ring {folder / name}: cannot be read ({error}); is the run over?") from error
    return Ring(folder, RingSpec(name, slots, slot_bytes, tuple(names.split())), holder)


def create_rings(
    folder: Path,
    specs: Sequence[RingSpec],
    statvfs: Callable[[Path], os.statvfs_result] = os.statvfs,
) -> list[Ring]:
    """Make the rings of a run; nothing is made unless all fit.

    Raises:
        RunError: too little shared memory, with what is there, what is needed and what to do.
    """
    needed = sum(spec.total_bytes for spec in specs)
    there = statvfs(folder)
    free = there.f_bavail * there.f_frsize
    if needed > free:
        raise RunError(_too_small(folder, specs, free))
    made: list[Path] = []
    try:
        for spec in specs:
            made.append(folder / spec.name)
            _create(made[-1], spec)
    except OSError as error:
        for path in made:
            path.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC:
            raise RunError(f"{folder}: no shared memory can be made there: {error}") from error
        raise RunError(_too_small(folder, specs, free)) from error
    return [Ring(folder, spec) for spec in specs]


def _create(path: Path, spec: RingSpec) -> None:
    if path.exists():
        raise FileExistsError(errno.EEXIST, "there is one already", str(path))
    part = path.with_name(f".{path.name}.part")  # who looks for rings finds none that is half made
    part.unlink(missing_ok=True)
    try:
        _fill(part, spec)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def _fill(path: Path, spec: RingSpec) -> None:
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b", buffering=0) as file:
        if hasattr(os, "posix_fallocate"):
            # A tmpfs promises room that it does not have and kills with SIGBUS later; this takes it now.
            os.posix_fallocate(file.fileno(), 0, spec.total_bytes)
        file.truncate(spec.total_bytes)
        os.pwrite(file.fileno(), spec.names, spec.names_offset)
        os.pwrite(file.fileno(), spec.header, 0)


def _too_small(folder: Path, specs: Sequence[RingSpec], free: int) -> str:
    parts = ", ".join(f"{s.name} {s.slots} × {s.stride / 1e6:.1f} MB" for s in specs)
    needed = sum(spec.total_bytes for spec in specs)
    return (
        f"{folder.parent}: {free / 1e6:.1f} MB of shared memory are free, the run needs "
        f"{needed / 1e6:.1f} MB ({parts}); end other runs, use a smaller --max-faces or smaller pictures, "
        f"or, in a container, start it with --shm-size={math.ceil(1.25 * needed / 2**20)}m"
    )


class RunDirectory:
    """The private directory of a run (mode 0700): its rings and its sockets; what is in it dies with it.

    The run holds a lock on it, which the kernel lets go of however the run ends; so the directories of dead
    runs can be told from those of living ones, and making one sweeps them away.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or shared_memory_folder()
        self.swept = sweep(parent)
        """Names of the dead runs that were removed."""
        try:
            # Under another name until it is locked, or a run that starts at this moment would sweep it.
            hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
            self._lock = os.open(hidden / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path = hidden.rename(parent / hidden.name.removeprefix("."))
        except OSError as error:
            raise RunError(f"{parent}: no private directory can be made there: {error.strerror}") from error

    def close(self) -> None:
        """Remove it with all that is in it; maps that are still in use stay valid."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def shared_memory_folder() -> Path:
    """/dev/shm; elsewhere than on Linux the folder for temporary files."""
    shm = Path("/dev/shm")
    return shm if os.access(shm, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def sweep(parent: Path) -> list[str]:
    """Remove the directories of this user's runs that are dead; their names."""
    removed = []
    for path in parent.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or about to be removed by somebody else
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
        except BlockingIOError:
            pass  # alive
        finally:
            os.close(lock)
    return removed


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to
