"""TensorRT through Torch-TensorRT, on an NVIDIA GPU. Written against the source of Torch-TensorRT 2.13, which
goes with the pinned PyTorch, and of 2.14: where austream is developed neither can be installed, so nothing
here has been run (README).

A file is TensorRT's own serialized engine, nothing pickled. It belongs to one GPU and one version, both of
which are in the cache's key. Types are those of the graph (TensorRT is strongly typed): `fp16` are autocast's
casts, `int8` roundings before the layers that `int8.json` names (`engines.int8_torch`), fp16 beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch_tensorrt
from torch import Tensor, nn
from torch_tensorrt.dynamo import convert_exported_program_to_serialized_trt_engine
from torch_tensorrt.dynamo._SourceIR import SourceIR
from torch_tensorrt.dynamo.conversion import dynamo_tensorrt_converter
from torch_tensorrt.dynamo.conversion.impl.quantize import quantize
from torch_tensorrt.dynamo.runtime import TorchTensorRTModule

from engines.backends import COMPUTES
from engines.backends.fixed import Call, FixedBackend, Shapes, empty_inputs, mixed
from engines.int8_torch import ROUND8
from pipeline.errors import EngineError, first_line

_INT8 = (8, 0)
"""Bits, and bits of exponent."""
_OUTPUT = "output0"
"""What both versions call the first result of a graph. Its inputs keep the names of the graph's own."""


# The same that Torch-TensorRT makes of ModelOpt's roundings, for which it would want ModelOpt.
@dynamo_tensorrt_converter(ROUND8)
def _quantize_and_dequantize(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:  # noqa: ARG001
    """QuantizeLinear and DequantizeLinear for `round8(x, largest)`."""
    return quantize(ctx, target, SourceIR.ATEN, name, args[0], args[1], *_INT8)


class TensorRTBackend(FixedBackend):
    """float32, `fp16` beside float32, or `int8` beside both."""

    name = "tensorrt"
    precisions = COMPUTES[name]
    suffix = ".engine"
    records = False  # Torch-TensorRT records and replays by itself

    def examples(self, shapes: Shapes, device: str) -> dict[str, Tensor]:
        """See `FixedBackend`. Bytes become floats before TensorRT, which takes few operations on bytes."""
        return {name: tensor.float() for name, tensor in empty_inputs(shapes, device).items()}

    def compile(self, module: nn.Module, shapes: Shapes, precision: str, device: str, path: Path) -> None:
        """See `FixedBackend`."""
        if device != "cuda":
            raise EngineError(
                "backend tensorrt needs an NVIDIA GPU, PyTorch sees none; choose another backend"
            )
        inputs = self.examples(shapes, device)
        try:
            with torch.no_grad():
                program = torch.export.export(mixed(module, precision, device), (), inputs, strict=False)
            content = convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=(),
                kwarg_inputs=inputs,
                disable_tf32=True,
                require_full_compilation=True,
            )
        except Exception as error:  # TensorRT, its converters and the tracer fail in many ways
            raise EngineError(f"TensorRT cannot compile {path.stem}: {first_line(error)}") from error
        path.write_bytes(content)

    def load(self, path: Path, shapes: Shapes, device: str) -> Call:  # noqa: ARG002
        """See `FixedBackend`."""
        try:
            module = TorchTensorRTModule(
                path.read_bytes(), input_binding_names=list(shapes), output_binding_names=[_OUTPUT]
            )
            torch_tensorrt.runtime.set_cudagraphs_mode(True)
        except Exception as error:  # whatever TensorRT says to a file of another version
            raise EngineError(
                f"{path.parent}: TensorRT cannot load the compiled engine: {first_line(error)}"
            ) from None

        def call(**inputs: Tensor) -> Tensor:
            result: Tensor = module(*[inputs[name].float() for name in shapes])
            return result

        return call


BACKEND = TensorRTBackend()
