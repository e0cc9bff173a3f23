"""The backends by name, best first. A backend's module, and its library, is imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from engines.backends.base import Backend
from pipeline.errors import EngineError, UsageError

BACKENDS = {"openvino": "openvino", "torch": "torch"}
"""Name (and module here) → the package to install, in the order in which `auto` tries them."""

PRECISIONS = ("fp32", "fp16", "int8")


def installed_version(package: str) -> str | None:
    """Version of an installed package, without importing it; None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def choose(name: str) -> tuple[str, str]:
    """The backend to use for `--backend name`, and why, as one phrase.

    Raises:
        UsageError: there is no such backend.
        EngineError: it is not installed.
    """
    if name == "auto":
        for candidate, package in BACKENDS.items():
            if found := installed_version(package):
                passed = list(BACKENDS)[: list(BACKENDS).index(candidate)]
                why = f"; {' and '.join(passed)} not installed" if passed else ""
                return candidate, f"auto: {candidate} {found} is the first of {', '.join(BACKENDS)} here{why}"
        raise EngineError(f"no backend is installed: pip install {' or '.join(BACKENDS.values())}")
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}: expected auto or {' or '.join(BACKENDS)}")
    if installed_version(BACKENDS[name]) is None:
        raise EngineError(f"backend {name} needs the package {BACKENDS[name]}: pip install {BACKENDS[name]}")
    return name, "asked for"


def get(name: str, precision: str = "fp32") -> Backend:
    """The backend of that name, ready for that precision.

    Raises:
        UsageError: no such backend or precision, or the two do not go together.
        EngineError: it is not installed.
    """
    choose(name)
    backend: Backend = import_module(f"{__name__}.{name}").BACKEND
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}: expected {' or '.join(PRECISIONS)}")
    if precision not in backend.precisions:
        able = " or ".join(backend.precisions)
        raise UsageError(
            f"backend {name} computes in {able}, got --precision {precision}; choose another backend"
        )
    return backend
