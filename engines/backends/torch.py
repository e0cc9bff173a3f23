"""PyTorch, eager: the reference that the other backends are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines.backends import COMPUTES
from engines.backends.base import Backend, Session, SlidingSession
from engines.export import ExportedEngine
from engines.spec import EngineSpec
from engines.weights import expected_weights, fill
from pipeline.errors import EngineError, first_line

_FILE = "weights.safetensors"


class TorchSession:
    """Runs the module itself, all faces in one batch."""

    def __init__(self, engine: ExportedEngine) -> None:
        self._engine = engine

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `Session`."""
        # from_numpy wants writable memory; crops may be views of a read-only ring.
        tensors = {
            name: torch.from_numpy(np.require(array, requirements=["C", "W"]))
            for name, array in inputs.items()
        }
        with torch.inference_mode():
            return self._engine(**tensors).numpy()


class TorchSlidingSession:
    """The module's own parts, window by window, so that a window's result does not depend on its company."""

    def __init__(self, engine: ExportedEngine) -> None:
        self._engine = engine
        self._network: Any = engine.network

    def features(self, crop: np.ndarray) -> Tensor:
        """See `SlidingSession`; (1, 128, 28, 28)."""
        with torch.inference_mode():
            images = self._engine.images(torch.from_numpy(np.require(crop, requirements=["C", "W"]))[None])
            return self._network.frame_features(images)

    def gates(self, features: Tensor) -> Tensor:
        """See `SlidingSession`; (1, 512, 28, 28)."""
        with torch.inference_mode():
            return self._network.conv_lstm.input_gates(features)

    def step(self, gates: Sequence[Tensor], states: Sequence[Any | None]) -> list[Any]:
        """See `SlidingSession`; a state is hidden and cell, (1, 128, 28, 28) each."""
        with torch.inference_mode():
            return [self._network.conv_lstm.step(g, s) for g, s in zip(gates, states, strict=True)]

    def head(self, state: Any) -> np.ndarray:
        """See `SlidingSession`."""
        with torch.inference_mode():
            return torch.sigmoid(self._network.head(state[0])[0])[0].numpy()


class TorchBackend(Backend):
    """float32 on the CPU."""

    name = "torch"
    precisions = COMPUTES[name]

    def export(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:  # noqa: ARG002
        """Keeps the weights, so that random ones are drawn once."""
        save_file({n: t.contiguous() for n, t in expected_weights(engine.network).items()}, folder / _FILE)

    def open(self, folder: Path, spec: EngineSpec, threads: int | None, lanes: int = 1) -> Session:  # noqa: ARG002
        """See `Backend`. PyTorch's thread count is the process's: `threads` sets it for every engine."""
        return TorchSession(self._load(folder, spec, threads))

    def export_sliding(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """The same files as for the whole."""
        self.export(engine, spec, precision, folder)

    def open_sliding(
        self,
        folder: Path,
        spec: EngineSpec,
        threads: int | None,
        lanes: int = 1,  # noqa: ARG002
    ) -> SlidingSession:
        """See `Backend` and `open`."""
        return TorchSlidingSession(self._load(folder, spec, threads))

    @staticmethod
    def _load(folder: Path, spec: EngineSpec, threads: int | None) -> ExportedEngine:
        if threads is not None:
            torch.set_num_threads(threads)
        engine = ExportedEngine(spec)
        try:
            fill(engine.network, load_file(folder / _FILE), str(folder))
        except (OSError, SafetensorError) as error:
            raise EngineError(f"{folder}: cannot load the compiled engine: {first_line(error)}") from None
        return engine


BACKEND = TorchBackend()
