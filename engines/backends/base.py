"""What every backend can do. It knows nothing of bundles, caches or parity."""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np

from engines.spec import EngineSpec
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from engines.export import ExportedEngine
    from engines.int8 import Int8


class Session(Protocol):
    """A compiled engine, loaded and ready; any number of threads may use it."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Probabilities, float32 (B, n_aus), of checked inputs: those of `EngineSpec.inputs`."""
        ...


class SlidingSession(Protocol):
    """A temporal engine in the three parts that overlapping windows share. What passes between them, gates of
    a frame and state of a window, is the backend's own affair. No result depends on what else is in a batch.
    `features` is for any number of threads, the rest for one at a time.
    """

    def features(self, crop: np.ndarray) -> Any:
        """What the network sees in a frame by itself; crop uint8 (px, px, 3)."""
        ...

    def gates(self, features: Any) -> Any:
        """What a frame adds to the gates of every window that it is in."""
        ...

    def step(self, gates: Sequence[Any], states: Sequence[Any | None]) -> list[Any]:
        """Every window one frame on: its frame's gates and its state, None at its first. The states handed in
        are used up."""
        ...

    def head(self, state: Any) -> np.ndarray:
        """Probabilities, float32 (n_aus,), after a window's last step."""
        ...


@runtime_checkable
class ManyAtOnce(Protocol):
    """What a `SlidingSession` has as well whose device wants many faces at a time."""

    def features_of(self, crops: Sequence[np.ndarray]) -> list[Any]:
        """`features` of each."""
        ...

    def heads_of(self, states: Sequence[Any]) -> list[np.ndarray]:
        """`head` of each."""
        ...


class InParts:
    """A sliding session as one that takes whole windows."""

    def __init__(self, session: SlidingSession) -> None:
        self._session = session
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `Session`."""
        windows = inputs["crops"]
        features = [[self._session.features(crop) for crop in window] for window in windows]
        states: list[Any] = [None] * len(windows)
        with self._lock:
            for together in zip(*features, strict=True):
                states = self._session.step([self._session.gates(seen) for seen in together], states)
            return np.stack([self._session.head(state) for state in states])


class Backend(ABC):
    """Turns an exported engine into files, and such files into a session."""

    name: str
    precisions: tuple[str, ...]
    batches: tuple[int, ...] = (1,)
    """How many faces at a time it can be compiled for; a batch that is not full is filled up with zeros."""
    batch: int = 1
    """Which of these this one is for."""

    def at(self, batch: int) -> Self:
        """The same backend for so many faces at a time.

        Raises:
            UsageError: it has no such batch.
        """
        if batch not in self.batches:
            able = " or ".join(map(str, self.batches))
            raise UsageError(f"backend {self.name} computes {able} faces at a time, not {batch}")
        other = copy.copy(self)
        other.batch = batch
        return other

    @abstractmethod
    def export(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """Compile into the files of an existing, empty folder. May import PyTorch."""

    @abstractmethod
    def open(self, folder: Path, spec: EngineSpec, threads: int | None, lanes: int = 1) -> Session:
        """Load what `export` wrote.

        Args:
            folder: the compiled engine.
            spec: of the bundle that it was made from.
            threads: at most so many; None leaves it to the library.
            lanes: calls that run side by side; they share the threads.

        Raises:
            EngineError: the library refuses the files.
        """

    def export_sliding(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:  # noqa: ARG002
        """Like `export`, of a temporal engine in parts.

        Raises:
            UsageError: this backend has none.
        """
        raise self._whole_only()

    def open_sliding(
        self,
        folder: Path,  # noqa: ARG002
        spec: EngineSpec,  # noqa: ARG002
        threads: int | None,  # noqa: ARG002
        lanes: int = 1,  # noqa: ARG002
    ) -> SlidingSession:
        """Like `open`, of what `export_sliding` wrote.

        Raises:
            UsageError: this backend has none.
            EngineError: the library refuses the files.
        """
        raise self._whole_only()

    def export_int8(self, engine: ExportedEngine, spec: EngineSpec, int8: Int8, folder: Path) -> None:  # noqa: ARG002
        """Like `export`, in INT8; a temporal engine in parts, which `open` and `open_sliding` both load.

        Raises:
            UsageError: this backend has no INT8.
            EngineError: `int8` does not fit the network.
        """
        raise UsageError(f"backend {self.name} has no INT8; choose openvino")

    def _whole_only(self) -> UsageError:
        return UsageError(f"backend {self.name} computes whole windows only; choose openvino or torch")
