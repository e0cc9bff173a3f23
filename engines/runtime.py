"""Load an engine by name and run it: uint8 crops in, probabilities out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from engines import backends, cache, int8
from engines.backends.base import Backend, Session
from engines.batching import GatheringSession, fitting
from engines.bundle import Bundle, resolve
from engines.cache import Entry, Log, Parity
from engines.spec import EngineSpec
from pipeline.errors import EngineError, UsageError

MAX_LEVEL = 5


def log_to_stderr(message: str) -> None:
    """Where progress goes by default."""
    print(message, file=sys.stderr, flush=True)


def pick(bundle: Bundle, backend: str, precision: str, faces: int) -> tuple[Backend, str, str]:
    """The backend for what `load_engine` is asked for, at the batch of so many faces; precision; and why.

    Raises:
        UsageError, EngineError: as `backends.choose` and `backends.get`.
    """
    chosen, reason = backends.choose(backend, precision)
    precision, why = backends.choose_precision(chosen, precision, int8.find(bundle) is not None)
    found = backends.get(chosen, precision)
    return found.at(fitting(found.batches, faces)), precision, f"{reason}; {why}"


def finite(found: np.ndarray, name: str, backend: str, precision: str) -> np.ndarray:
    """What an engine answered, if it is numbers: NaN would be below every threshold, and look like calm.

    Raises:
        EngineError: it is not.
    """
    if not np.isfinite(found).all():
        raise EngineError(
            f"{name} ({backend}, {precision}): expected probabilities, got NaN: its numbers overflow in that "
            "precision; use --precision fp32"
        )
    return found


class Engine:
    """A network with its weights, compiled and loaded; any number of threads may use it."""

    def __init__(
        self,
        spec: EngineSpec,
        session: Session,
        backend: str,
        precision: str,
        reason: str,
        entry: Entry,
        batch: int = 1,
    ):
        self.spec = spec
        self.backend = backend
        """`openvino`, `torch`, …: never `auto`."""
        self.precision = precision
        self.reason = reason
        """Why this backend and precision, for people."""
        self.folder: Path = entry.folder
        """The compiled engine in the cache."""
        self.parity: Parity = entry.parity
        """Against PyTorch eager, when it was built."""
        self.session = session
        """What `run` hands checked inputs to."""
        self.batch = batch
        """Faces that it computes at a time, whether so many come or not."""

    def run(
        self,
        crops: np.ndarray,
        level_map: np.ndarray | None = None,
        au_centers: np.ndarray | None = None,
        neutral: np.ndarray | None = None,
        landmarks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Probability of each AU for each face.

        Args:
            crops: uint8 BGR, (B, 224, 224, 3), or (B, 16, 224, 224, 3) for an engine with a window; B may be
            0.
            level_map: uint8 (B, 224, 224), 0–5.
            au_centers: float32 (B, 20, 2), x and y as shares of the crop's side.
            neutral: uint8 BGR (B, 224, 224, 3), exposed like the crops; black for a face without.
            landmarks: float32 (B, 2, 468, 3), face and neutral, as `pipeline.geometry.frontal_points`.

        All but the crops are for the engines whose spec says so by the same name, and for no others.

        Returns:
            float32 (B, n_aus), in the order of `spec.aus`; with `spec.max_intensity`, shares of that.

        Raises:
            UsageError: a shape, type or value is not that.
            EngineError: it answers with something else than numbers.
        """
        named = {"crops": crops, "level_map": level_map, "au_centers": au_centers}
        named |= {"neutral": neutral, "landmarks": landmarks}
        given = {name: array for name, array in named.items() if array is not None}
        faces = len(crops) if np.ndim(crops) else 0
        wanted = self.spec.inputs(faces)
        for name, (shape, dtype) in wanted.items():
            if name not in given:
                raise UsageError(f"{self.spec.name}: expected {name} beside the crops, got none")
            self._check(name, given[name], shape, dtype)
        if extra := sorted(given.keys() - wanted.keys()):
            raise UsageError(f"{self.spec.name}: expected no {extra[0]}, got one")
        if faces and level_map is not None and level_map.max() > MAX_LEVEL:
            raise UsageError(f"{self.spec.name}: level_map: expected 0 to {MAX_LEVEL}, got {level_map.max()}")
        if not faces:
            return np.empty((0, len(self.spec.aus)), np.float32)
        return finite(self.session.run(given), self.spec.name, self.backend, self.precision)

    def _check(self, name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
        wanted = f"{np.dtype(dtype)} ({', '.join(['B', *map(str, shape[1:])])})"
        if not isinstance(array, np.ndarray):
            raise UsageError(f"{self.spec.name}: {name}: expected {wanted}, got {type(array).__name__}")
        if array.shape != shape or array.dtype != dtype:
            raise UsageError(f"{self.spec.name}: {name}: expected {wanted}, got {array.dtype} {array.shape}")
        if dtype is np.float32 and not np.isfinite(array).all():
            raise UsageError(f"{self.spec.name}: {name}: expected finite numbers, got others")


def load_engine(
    name_or_path: str | Path,
    backend: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    log: Log = log_to_stderr,
    lanes: int = 1,
    faces: int = 1,
) -> Engine:
    """An engine ready to run; compiled first where the cache does not hold it.

    Args:
        name_or_path: a bundle that comes with austream, or the folder of one.
        backend: a key of `engines.backends.BACKENDS`, or `auto` for the best that can run here.
        precision: one of `engines.backends.PRECISIONS`, or `auto` for what suits the backend.
        threads: at most so many; None leaves it to the backend.
        log: gets what takes long or went wrong, a line at a time.
        lanes: calls of `run` that go on side by side and share the threads; others wait.
        faces: how many may come at a time; a backend for a GPU computes batches that hold so many.

    Raises:
        UsageError: no such engine, backend, precision or thread count.
        EngineError: the bundle is damaged, the backend not installed, or parity does not hold.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads: expected 1 or more, got {threads}")
    bundle = resolve(name_or_path)
    implementation, precision, reason = pick(bundle, backend, precision, faces)
    chosen, batch = implementation.name, implementation.batch
    bundle.verify()

    def compile_into(folder: Path) -> Parity:
        log(f"{bundle.spec.name}: compiling for {chosen} in {precision}; kept for the next time")
        from engines.build import build  # brings PyTorch, which a warm cache does without

        return build(bundle, implementation, precision, folder)

    entry = cache.entry(bundle, chosen, precision, compile_into, log, batch=batch)
    if entry.built:
        log(f"{bundle.spec.name} ({chosen}, {precision}): {entry.parity}")
    session = implementation.open(entry.folder, bundle.spec, threads, lanes)
    if batch > 1:
        session = GatheringSession(session.run, batch)
    return Engine(bundle.spec, session, chosen, precision, reason, entry, batch)
