"""AOTInductor packages for an NVIDIA GPU, replayed as CUDA graphs; without a GPU they are compiled for the
CPU, where OpenVINO is faster. Wants a C++ compiler to build, PyTorch to run."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import torch
from torch import nn

from engines.backends import COMPUTES, compiler
from engines.backends.fixed import Call, FixedBackend, Shapes, empty_inputs, mixed
from pipeline.errors import EngineError, first_line


class InductorBackend(FixedBackend):
    """float32 throughout, or convolutions and products in `bf16` or `fp16` as autocast decides."""

    name = "inductor"
    precisions = COMPUTES[name]
    suffix = ".pt2"

    def compile(self, module: nn.Module, shapes: Shapes, precision: str, device: str, path: Path) -> None:
        """See `FixedBackend`."""
        if shutil.which(compiler()) is None:
            raise EngineError(
                f"backend inductor builds with a C++ compiler, {compiler()} is missing; install it or set CXX"
            )
        # Halves of the weights are made once, when the package is loaded.
        options = {"aot_inductor.use_runtime_constant_folding": precision != "fp32"}
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    mixed(module, precision, device), (), empty_inputs(shapes, device), strict=False
                )
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(path), inductor_configs=options
                )
        except Exception as error:  # compilers fail in many ways
            raise EngineError(f"AOTInductor cannot compile {path.stem}: {first_line(error)}") from error

    def load(self, path: Path, shapes: Shapes, device: str) -> Call:  # noqa: ARG002
        """See `FixedBackend`."""
        try:
            # Single-threaded: `Fixed` lets one call in at a time, and CUDA graphs want no locks inside.
            call: Call = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
        except Exception as error:  # a damaged package can be anything
            raise EngineError(
                f"{path.parent}: AOTInductor cannot load the compiled engine: {first_line(error)}"
            ) from None
        return call


BACKEND = InductorBackend()
