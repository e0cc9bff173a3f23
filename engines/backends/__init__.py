"""The backends by name, best first. A backend's module, and its library, is imported only when asked for."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engines.backends.base import Backend
from engines.gpu import nvidia_gpu
from pipeline.errors import EngineError, UsageError, first_line

BACKENDS = {
    "tensorrt": "torch-tensorrt",
    "inductor": "torch",
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
}
"""Name (and module here) → the package to install, in the order in which `auto` tries them."""

COMPUTES = {
    "tensorrt": ("fp32", "fp16", "int8"),
    "inductor": ("fp32", "bf16", "fp16"),
    "openvino": ("fp32", "bf16", "fp16", "int8"),
    "onnxruntime": ("fp32", "fp16"),
    "torch": ("fp32",),
}
"""Name → its precisions."""

ON_GPU = ("tensorrt", "inductor")
"""What `auto` takes only where there is an NVIDIA GPU. (Asked for, inductor compiles for a CPU as well.)"""

_CUDA = Path("/usr/local/cuda")
"""Where a CUDA toolkit lies when nothing else is said."""

PRECISIONS = ("fp32", "bf16", "fp16", "int8")


def installed_version(package: str) -> str | None:
    """Version of an installed package, without importing it; None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def compiler() -> str:
    """The C++ compiler that inductor builds with; it may be missing."""
    return os.environ.get("CXX", "g++")


def obstacle(name: str, precision: str = "auto") -> str | None:
    """Why `auto` passes a backend by, as a phrase; None where it can run here, in that precision."""
    found = installed_version(BACKENDS[name])
    if found is None:
        return f"{name} not installed"
    if precision not in ("auto", *COMPUTES[name]):
        return f"{name} has no {precision}"
    if name == "openvino" and precision == "bf16" and not _cpu_has_bfloat16():
        return "no bfloat16 in this processor (AVX512-BF16 or AMX) for openvino"
    if name not in ON_GPU:
        return None
    if nvidia_gpu() is None:
        return f"no NVIDIA GPU for {name}"
    if (installed_version("torch") or "").endswith("+cpu"):
        return f"the PyTorch here is built without CUDA, which {name} needs"
    if name == "inductor" and shutil.which(compiler()) is None:
        return f"no C++ compiler {compiler()} for inductor"
    if name == "inductor" and not _cuda_toolkit():
        return "no CUDA toolkit (CUDA_HOME, nvcc or /usr/local/cuda) for inductor to build with"
    return None


def _cuda_toolkit() -> bool:
    """Where PyTorch looks for one; its own packages bring the libraries, not the headers."""
    named = any(os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH"))
    return named or shutil.which("nvcc") is not None or _CUDA.is_dir()


def _cpu_has_bfloat16() -> bool:
    """In OpenVINO's own opinion, which is imported for it."""
    openvino = import_module(f"{__name__}.openvino")
    return "BF16" in openvino.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def able_here() -> list[str]:
    """The backends that can run here, best first."""
    return [name for name in BACKENDS if obstacle(name) is None]


def choose(name: str, precision: str = "auto") -> tuple[str, str]:
    """The backend to use for `--backend name --precision precision`, and why, as one phrase.

    Raises:
        UsageError: there is no such backend or precision, or the two do not go together.
        EngineError: it is not installed, or lacks its GPU.
    """
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"unknown precision {precision!r}: expected {' or '.join(PRECISIONS)}")
    if name == "auto":
        passed: list[str] = []
        for candidate, package in BACKENDS.items():
            why_not = obstacle(candidate, precision)
            if why_not is None:
                where = f" on {nvidia_gpu()}" if candidate in ON_GPU else ""
                why = f" ({'; '.join(passed)})" if passed else ""
                found = f"{candidate} {installed_version(package)}{where}"
                return candidate, f"auto: {found} is the best that can run here{why}"
            passed.append(why_not)
        if any(map(installed_version, BACKENDS.values())):
            raise UsageError(
                f"--precision {precision}: no backend for it runs here ({'; '.join(passed)}); choose another"
            )
        raise EngineError("no backend is installed: pip install openvino, or onnxruntime, or torch")
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}: expected auto or {' or '.join(BACKENDS)}")
    if installed_version(BACKENDS[name]) is None:
        raise EngineError(f"backend {name} needs the package {BACKENDS[name]}: pip install {BACKENDS[name]}")
    if name == "tensorrt" and (why_not := obstacle(name)):
        raise EngineError(f"backend tensorrt: {why_not}; choose another backend")
    if precision not in ("auto", *COMPUTES[name]):
        able = " or ".join(COMPUTES[name])
        raise UsageError(
            f"backend {name} computes in {able}, got --precision {precision}; choose another backend"
        )
    if name == "openvino" and (why_not := obstacle(name, precision)):
        raise UsageError(f"--precision {precision}: {why_not}; use --precision fp32")
    return name, "asked for"


def choose_precision(backend: str, name: str, int8_there: bool = False) -> tuple[str, str]:
    """The precision to use for `--precision name` on a backend, and why, as one phrase.

    Args:
        backend: of `choose`, which checks that it has the precision.
        name: the precision, or `auto`.
        int8_there: whether the bundle has an INT8 form, which is said where nobody asks for it.
    """
    if name != "auto":
        return name, f"{name} asked for"
    if backend in ON_GPU and nvidia_gpu() is not None:
        return "fp16", "auto: fp16 is what a GPU multiplies fastest without calibration"
    why = "auto: fp32 on a CPU, where fp16 would save space only"
    faster = "; --precision int8, which rounds and is faster, is there for this engine"
    return "fp32", why + faster * (int8_there and "int8" in COMPUTES[backend])


def get(name: str, precision: str = "auto") -> Backend:
    """The backend of that name, which must have that precision.

    Raises:
        UsageError: no such backend or precision, or the two do not go together.
        EngineError: it is not installed, or cannot be imported.
    """
    choose(name, precision)
    try:
        backend: Backend = import_module(f"{__name__}.{name}").BACKEND
    except (ImportError, OSError) as error:  # OSError: a library that was built for another one
        raise EngineError(
            f"backend {name}: {BACKENDS[name]} is installed but cannot be imported "
            f"({first_line(error)}); install it again or choose another backend"
        ) from None
    return backend
