"""PyTorch, eager: the reference that the other backends are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engines.backends.base import Backend, Session
from engines.export import ExportedEngine
from engines.spec import EngineSpec
from engines.weights import expected_weights, fill
from pipeline.errors import EngineError

_FILE = "weights.safetensors"


class TorchSession:
    """Runs the module itself, all faces in one batch."""

    def __init__(self, engine: ExportedEngine) -> None:
        self._engine = engine

    def run(self, crops: np.ndarray, level_maps: np.ndarray | None) -> np.ndarray:
        """See `Session`."""
        # from_numpy wants writable memory; crops may be views of a read-only ring.
        inputs = [
            torch.from_numpy(np.require(a, requirements=["C", "W"]))
            for a in (crops, level_maps)
            if a is not None
        ]
        with torch.inference_mode():
            return self._engine(*inputs).numpy()


class TorchBackend(Backend):
    """float32 on the CPU."""

    name = "torch"
    precisions = ("fp32",)

    def export(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:  # noqa: ARG002
        """Keeps the weights, so that random ones are drawn once."""
        save_file({n: t.contiguous() for n, t in expected_weights(engine.network).items()}, folder / _FILE)

    def open(self, folder: Path, spec: EngineSpec, threads: int | None) -> Session:
        """See `Backend`. PyTorch's thread count is the process's: `threads` sets it for every engine."""
        if threads is not None:
            torch.set_num_threads(threads)
        engine = ExportedEngine(spec)
        try:
            fill(engine.network, load_file(folder / _FILE), str(folder))
        except (OSError, SafetensorError) as error:
            raise EngineError(
                f"{folder}: cannot load the compiled engine: {str(error).splitlines()[0]}"
            ) from None
        return TorchSession(engine)


BACKEND = TorchBackend()
