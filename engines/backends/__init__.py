"""The backends by name, best first. A backend's module, and its library, is imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from engines.backends.base import Backend
from engines.gpu import nvidia_gpu
from pipeline.errors import EngineError, UsageError

BACKENDS = {
    "tensorrt": "torch-tensorrt",
    "inductor": "torch",
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
}
"""Name (and module here) → the package to install, in the order in which `auto` tries them."""

ON_GPU = ("tensorrt", "inductor")
"""What `auto` takes only where there is an NVIDIA GPU. (Asked for, inductor compiles for a CPU as well.)"""

PRECISIONS = ("fp32", "bf16", "fp16", "int8")


def installed_version(package: str) -> str | None:
    """Version of an installed package, without importing it; None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def obstacle(name: str) -> str | None:
    """Why `auto` passes a backend by, as a phrase; None where it can run here."""
    found = installed_version(BACKENDS[name])
    if found is None:
        return f"{name} not installed"
    if name not in ON_GPU:
        return None
    if nvidia_gpu() is None:
        return f"no NVIDIA GPU for {name}"
    cpu_only = (installed_version("torch") or "").endswith("+cpu")
    return f"the PyTorch here is built without CUDA, which {name} needs" if cpu_only else None


def able_here() -> list[str]:
    """The backends that can run here, best first."""
    return [name for name in BACKENDS if obstacle(name) is None]


def choose(name: str) -> tuple[str, str]:
    """The backend to use for `--backend name`, and why, as one phrase.

    Raises:
        UsageError: there is no such backend.
        EngineError: it is not installed, or lacks its GPU.
    """
    if name == "auto":
        passed: list[str] = []
        for candidate, package in BACKENDS.items():
            why_not = obstacle(candidate)
            if why_not is None:
                where = f" on {nvidia_gpu()}" if candidate in ON_GPU else ""
                why = f" ({'; '.join(passed)})" if passed else ""
                found = f"{candidate} {installed_version(package)}{where}"
                return candidate, f"auto: {found} is the best that can run here{why}"
            passed.append(why_not)
        raise EngineError("no backend is installed: pip install openvino, or onnxruntime, or torch")
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}: expected auto or {' or '.join(BACKENDS)}")
    if installed_version(BACKENDS[name]) is None:
        raise EngineError(f"backend {name} needs the package {BACKENDS[name]}: pip install {BACKENDS[name]}")
    if name == "tensorrt" and (why_not := obstacle(name)):
        raise EngineError(f"backend tensorrt: {why_not}; choose another backend")
    return name, "asked for"


def choose_precision(backend: str, name: str) -> tuple[str, str]:
    """The precision to use for `--precision name` on a backend, and why, as one phrase; `get` checks it."""
    if name != "auto":
        return name, f"{name} asked for"
    if backend in ON_GPU:
        return "fp16", "auto: fp16 is what a GPU multiplies fastest without calibration"
    return "fp32", "auto: fp32 on a CPU, where fp16 would save space only"


def get(name: str, precision: str = "fp32") -> Backend:
    """The backend of that name, ready for that precision.

    Raises:
        UsageError: no such backend or precision, or the two do not go together.
        EngineError: it is not installed, or cannot be imported.
    """
    choose(name)
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}: expected {' or '.join(PRECISIONS)}")
    try:
        backend: Backend = import_module(f"{__name__}.{name}").BACKEND
    except ImportError as error:
        raise EngineError(
            f"backend {name}: {BACKENDS[name]} is installed but cannot be imported "
            f"({str(error).splitlines()[0]}); install it again or choose another backend"
        ) from None
    if precision not in backend.precisions:
        able = " or ".join(backend.precisions)
        raise UsageError(
            f"backend {name} computes in {able}, got --precision {precision}; choose another backend"
        )
    return backend
