"""What every backend can do. It knows nothing of bundles, caches or parity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engines.spec import EngineSpec

if TYPE_CHECKING:
    from engines.export import ExportedEngine


class Session(Protocol):
    """A compiled engine, loaded and ready."""

    def run(self, crops: np.ndarray, level_maps: np.ndarray | None) -> np.ndarray:
        """Probabilities, float32 (B, n_aus), of checked inputs: the shapes of `ExportedEngine.forward`."""
        ...


class Backend(ABC):
    """Turns an exported engine into files, and such files into a session."""

    name: str
    precisions: tuple[str, ...]

    @abstractmethod
    def export(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """Compile into the files of an existing, empty folder. May import PyTorch."""

    @abstractmethod
    def open(self, folder: Path, spec: EngineSpec, threads: int | None) -> Session:
        """Load what `export` wrote.

        Args:
            folder: the compiled engine.
            spec: of the bundle that it was made from.
            threads: at most so many; None leaves it to the library.

        Raises:
            EngineError: the library refuses the files.
        """
