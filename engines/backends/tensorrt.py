"""TensorRT through Torch-TensorRT, on an NVIDIA GPU. Written against the source of Torch-TensorRT 2.14: where
austream is developed it cannot be installed, so nothing here has been run (README).

A file is TensorRT's own serialized engine, nothing pickled. It belongs to one GPU and one version, both of
which are in the cache's key. Types are those of the graph (TensorRT is strongly typed): `fp16` are autocast's
casts, `int8` are the quantizers that NVIDIA's Model Optimizer puts in after it has seen calibration crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_tensorrt
from torch import Tensor, nn
from torch_tensorrt.dynamo import convert_exported_program_to_serialized_trt_engine
from torch_tensorrt.dynamo.runtime import TorchTensorRTModule

from engines.backends.fixed import Call, FixedBackend, Shapes, empty_inputs, mixed
from engines.export import ExportedEngine
from engines.int8 import Int8
from engines.spec import EngineSpec
from pipeline.errors import EngineError

_OUTPUT = "result"


class TensorRTBackend(FixedBackend):
    """float32, `fp16`, or `int8` beside float32."""

    name = "tensorrt"
    precisions = ("fp32", "fp16", "int8")
    suffix = ".engine"
    records = False  # Torch-TensorRT records and replays by itself
    calibration: Sequence[dict[str, np.ndarray]] = ()
    """For `int8`: inputs like those that it will see, of any number of faces each."""

    def export_int8(self, engine: ExportedEngine, spec: EngineSpec, int8: Int8, folder: Path) -> None:  # noqa: ARG002
        """See `Backend`. Quantised anew, on `calibration`; `int8` says what it should answer."""
        self.export(engine, spec, "int8", folder)

    def compile(self, module: nn.Module, shapes: Shapes, precision: str, device: str, path: Path) -> None:
        """See `FixedBackend`."""
        if device != "cuda":
            raise EngineError(
                "backend tensorrt needs an NVIDIA GPU, PyTorch sees none; choose another backend"
            )
        # Bytes become floats before TensorRT, which takes few operations on bytes.
        inputs = {name: tensor.float() for name, tensor in empty_inputs(shapes, device).items()}
        try:
            program = self._traced(mixed(module, precision, device), inputs, precision)
            content = convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=(),
                kwarg_inputs=inputs,
                kwarg_input_binding_names={name: name for name in inputs},
                output_binding_names=_OUTPUT,
                disable_tf32=True,
                require_full_compilation=True,
            )
        except EngineError:
            raise
        except Exception as error:  # TensorRT, its converters and the tracer fail in many ways
            raise EngineError(f"TensorRT cannot compile {path.stem}: {str(error).splitlines()[0]}") from error
        path.write_bytes(content)

    def _traced(self, module: nn.Module, inputs: dict[str, Tensor], precision: str) -> Any:
        if precision == "int8":
            self._quantize(module)
            from modelopt.torch.quantization.utils import export_torch_mode

            as_operators: AbstractContextManager[Any] = export_torch_mode()
        else:
            as_operators = nullcontext()
        with torch.no_grad(), as_operators:
            return torch.export.export(module, (), inputs, strict=False)

    def _quantize(self, module: nn.Module) -> None:
        if not self.calibration:
            raise EngineError("backend tensorrt: int8 needs calibration crops, got none; build in fp16")
        try:
            import modelopt.torch.quantization as quantization
        except ImportError:
            raise EngineError(
                "backend tensorrt: int8 needs the package nvidia-modelopt: pip install nvidia-modelopt"
            ) from None

        def see(quantized: nn.Module) -> None:
            for given in self.calibration:
                quantized(**{name: torch.from_numpy(a).float().cuda() for name, a in given.items()})

        quantization.quantize(module, quantization.INT8_DEFAULT_CFG, see)

    def load(self, path: Path, shapes: Shapes, device: str) -> Call:  # noqa: ARG002
        """See `FixedBackend`."""
        try:
            module = TorchTensorRTModule(
                path.read_bytes(), input_binding_names=list(shapes), output_binding_names=[_OUTPUT]
            )
            torch_tensorrt.runtime.set_cudagraphs_mode(True)
        except Exception as error:  # whatever TensorRT says to a file of another version
            raise EngineError(
                f"{path.parent}: TensorRT cannot load the compiled engine: {str(error).splitlines()[0]}"
            ) from None

        def call(**inputs: Tensor) -> Tensor:
            result: Tensor = module(*[inputs[name].float() for name in shapes])
            return result

        return call


BACKEND = TensorRTBackend()
