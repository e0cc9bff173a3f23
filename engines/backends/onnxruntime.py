"""ONNX Runtime on the CPU, anywhere. PyTorch and the ONNX exporter are imported to export only."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from engines.backends import COMPUTES
from engines.backends.base import Backend, Session, SlidingSession
from engines.backends.recurrence import PartsSession, open_recurrence, save_recurrence
from engines.spec import EngineSpec
from pipeline.errors import EngineError, last_line

if TYPE_CHECKING:
    from engines.export import ExportedEngine

FILE = "model.onnx"
_FRAME_FILE, _HEAD_FILE = "frame.onnx", "head.onnx"
_ERRORS_ONLY = 3


class Model:
    """A loaded ONNX file; any number of threads may run it, as many at a time as it has lanes."""

    def __init__(self, file: Path | bytes, threads: int | None, lanes: int) -> None:
        """file: where it lies, or its content."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if lanes > 1:
            # Every lane brings its own thread; with one each they do not wait for each other.
            options.intra_op_num_threads = max(1, (threads or lanes) // lanes)
        elif threads is not None:
            options.intra_op_num_threads = threads
        # Idle threads sleep: spinning would take the cores of the decoder and the face stage.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Of INT8: no sums that overflow, on processors without 8-bit dot products.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own exceptions share no base but this
            reason, where = last_line(error), file.parent if isinstance(file, Path) else "ONNX file"
            raise EngineError(f"{where}: ONNX Runtime cannot load the compiled engine: {reason}") from None
        self._free = threading.BoundedSemaphore(lanes)

    def infer(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The file's only output."""
        with self._free:
            [output] = self._session.run(None, dict(inputs))
        result: np.ndarray = output
        return result


class OnnxRuntimeSession:
    """Runs one face at a time, so that a face's result does not depend on its company."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `Session`."""
        faces = range(len(inputs["crops"]))
        one_by_one = (
            {name: np.ascontiguousarray(array[face : face + 1]) for name, array in inputs.items()}
            for face in faces
        )
        return np.concatenate([self._model.infer(one) for one in one_by_one])


class OnnxRuntimeBackend(Backend):
    """float32 arithmetic; `fp16` stores the weights in half the space and computes in float32 as well."""

    name = "onnxruntime"
    precisions = COMPUTES[name]

    def export(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """Writes the file that `engines build --backend onnx` hands out."""
        from engines.onnx_file import engine_to_onnx

        (folder / FILE).write_bytes(engine_to_onnx(engine, spec, precision))

    def open(self, folder: Path, spec: EngineSpec, threads: int | None, lanes: int = 1) -> Session:  # noqa: ARG002
        """See `Backend`."""
        return OnnxRuntimeSession(Model(folder / FILE, threads, lanes))

    def export_sliding(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """Frame part and head as ONNX; the ConvLSTM's weights as its kernel wants them."""
        from engines.convlstm import CHANNELS, PADDED
        from engines.export import FramePart, HeadPart
        from engines.onnx_file import to_onnx

        frames = {"crops": ((2, *spec.crops_shape(1)[2:]), np.uint8)}
        (folder / _FRAME_FILE).write_bytes(to_onnx(FramePart(engine), frames, precision, "features"))
        hidden = {"hidden": ((2, PADDED, PADDED, CHANNELS), np.float32)}
        (folder / _HEAD_FILE).write_bytes(to_onnx(HeadPart(engine), hidden, precision))
        save_recurrence(engine, precision, folder)

    def open_sliding(
        self,
        folder: Path,
        spec: EngineSpec,  # noqa: ARG002
        threads: int | None,
        lanes: int = 1,
    ) -> SlidingSession:
        """See `Backend`."""
        recurrence = open_recurrence(folder, threads)
        frame = Model(folder / _FRAME_FILE, threads, lanes)
        return PartsSession(frame, recurrence, Model(folder / _HEAD_FILE, threads, 1))


BACKEND = OnnxRuntimeBackend()
