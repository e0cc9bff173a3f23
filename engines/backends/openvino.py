"""OpenVINO on the CPU. PyTorch is imported to export only."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from engines.backends.base import Backend, Session
from engines.spec import EngineSpec
from pipeline.errors import EngineError

if TYPE_CHECKING:
    from engines.export import ExportedEngine

_FILE = "model.xml"


class OpenVINOSession:
    """Runs one face at a time, so that a face's result does not depend on its company."""

    def __init__(self, compiled: Any, spec: EngineSpec) -> None:
        self._request = compiled.create_infer_request()
        self._n_aus = len(spec.aus)

    def run(self, crops: np.ndarray, level_maps: np.ndarray | None) -> np.ndarray:
        """See `Session`."""
        probabilities = np.empty((len(crops), self._n_aus), np.float32)
        for face in range(len(crops)):
            inputs = {"crops": crops[face : face + 1]}
            if level_maps is not None:
                inputs["level_map"] = level_maps[face : face + 1]
            probabilities[face] = self._request.infer(inputs)[0][0]
        return probabilities


class OpenVINOBackend(Backend):
    """float32 arithmetic; `fp16` stores the weights in half the space and computes in float32 as well."""

    name = "openvino"
    precisions = ("fp32", "fp16")

    def export(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """Traces the engine at batch 1 and writes OpenVINO's IR."""
        import torch

        shapes = {"crops": spec.crops_shape(1)}
        if spec.level_map:
            shapes["level_map"] = spec.level_maps_shape(1)
        example = {name: torch.zeros(shape, dtype=torch.uint8) for name, shape in shapes.items()}
        with warnings.catch_warnings(), torch.inference_mode():
            # Tracing fixes the shapes, which is meant, and says so at every shape that Python code looks at.
            warnings.simplefilter("ignore")
            model = openvino.convert_model(engine, example_input=example, input=list(shapes.items()))
        openvino.save_model(model, folder / _FILE, compress_to_fp16=precision == "fp16")

    def open(self, folder: Path, spec: EngineSpec, threads: int | None) -> Session:
        """See `Backend`."""
        # f32 said outright: on a CPU with bfloat16 OpenVINO would take that by itself, and probabilities
        # would be off by up to 0.16 on these networks.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = openvino.Core().compile_model(folder / _FILE, "CPU", options)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise EngineError(f"{folder}: OpenVINO cannot load the compiled engine: {reason}") from None
        return OpenVINOSession(compiled, spec)


BACKEND = OpenVINOBackend()
