"""Compiled engines on disk: found by all that they depend on, checked when found, replaced as a whole.

    <cache>/engines/<engine>-<form>-<backend>-<precision>-<key>/     the backend's files, and entry.json

The form is left out for a whole engine; `sliding` is one in parts, which overlapping windows share.

`<cache>` is the user's cache folder for austream, or AUSTREAM_CACHE_DIR. Works without PyTorch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from engines.backends import BACKENDS, ON_GPU, installed_version
from engines.bundle import SPEC_FILE, Bundle
from engines.gpu import nvidia_gpu
from engines.networks import NETWORKS
from pipeline.errors import EngineError

SCHEMA = 2
ENTRY_FILE = "entry.json"
_HERE = Path(__file__).parent

Log = Callable[[str], None]
Form = Literal["whole", "sliding"]
_SLIDING_SOURCES = ("convlstm.py", "winograd.py", "crew.py", "backends/recurrence.py")
_BACKEND_SOURCES = {
    "onnxruntime": ("onnx_file.py",),
    "inductor": ("backends/fixed.py",),
    "tensorrt": ("backends/fixed.py", "int8_layers.py", "int8_torch.py"),
}
"""What a backend's files are made by, beside its own module."""
_TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13")


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a compiled engine is from PyTorch eager, over seeded inputs."""

    max_abs: float
    """Largest difference of a probability."""
    mean_abs: float
    decisions_changed: int
    """Probabilities that crossed their AU's threshold."""
    decisions: int
    """Probabilities compared."""
    tolerance: float
    """What `max_abs`, or where there is one `p99_abs`, may be."""
    p99_abs: float | None = None
    """99th percentile of the differences, which INT8 is held to."""
    note: str = ""
    """Of INT8: where it comes from, on which faces it was compared, and what stayed in floating point."""

    def __post_init__(self) -> None:
        numbers = [self.max_abs, self.mean_abs, self.decisions_changed, self.decisions, self.tolerance]
        numbers += [] if self.p99_abs is None else [self.p99_abs]
        if not all(type(number) in (int, float) and number >= 0 for number in numbers):
            raise ValueError(f"parity: expected numbers from 0 up, got {numbers}")

    @property
    def holds(self) -> bool:
        """Whether the engine is within its tolerance."""
        return (self.max_abs if self.p99_abs is None else self.p99_abs) <= self.tolerance

    def __str__(self) -> str:
        counted = f"{self.decisions_changed} of {self.decisions} decisions changed"
        if self.p99_abs is None:
            figures = f"max {self.max_abs:.1e}, mean {self.mean_abs:.1e} (tolerance {self.tolerance:.0e})"
            return f"{figures}, {counted}"
        return (
            f"99th percentile {self.p99_abs:.4f} (tolerance {self.tolerance:g}), max {self.max_abs:.4f}, "
            f"mean {self.mean_abs:.4f}, {counted}" + f"; {self.note}" * bool(self.note)
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A compiled engine in the cache."""

    folder: Path
    parity: Parity
    built: bool
    """Whether it was built just now."""


class _Damaged(Exception):
    """Says what is wrong with an entry."""


def cache_folder() -> Path:
    """Where compiled engines lie; AUSTREAM_CACHE_DIR goes before the user's cache folder."""
    root = os.environ.get("AUSTREAM_CACHE_DIR")
    if not root:
        import platformdirs  # a machine lent for measuring on need not have it

        root = platformdirs.user_cache_dir("austream")
    return Path(root) / "engines"


def _machine() -> str:
    """Architecture and CPU, as far as compiled code and its rounding depend on them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        cpu = [platform.processor()]
    return "\n".join([platform.system(), platform.machine(), *cpu])


def _backend_parts(backend: str) -> list[str | None]:
    """Backend and versions that its compiled code depends on, and for a GPU's which it is."""
    parts = [backend, installed_version(BACKENDS[backend])]
    if backend in ON_GPU:
        parts += [str(nvidia_gpu()), *map(installed_version, _TENSORRT_PACKAGES)]
    return parts


def entry_key(bundle: Bundle, backend: str, precision: str, form: Form = "whole", batch: int = 1) -> str:
    """SHA-256 over everything that the compiled engine depends on.

    Raises:
        EngineError: INT8 of a bundle that has no INT8 form.
    """
    module = NETWORKS.get(bundle.spec.network, bundle.spec.network).split(".")[0]
    networks = _HERE / "networks"
    sources = [networks / f"{name}.py" for name in (module, f"{module}_deployed", "layers", "__init__")]
    sources += [_HERE / "backends" / f"{backend}.py"]
    shared = (
        "export.py",
        "weights.py",
        "build.py",
        "cache.py",
        "spec.py",
        "winograd_graph.py",
        "networks/base.py",
    )
    sources += [_HERE / name for name in (*shared, *_BACKEND_SOURCES.get(backend, ()))]
    if form == "sliding" or precision == "int8":
        sources += [_HERE / name for name in _SLIDING_SOURCES]
    if precision == "int8":
        from engines.int8 import content

        sources += [_HERE / name for name in ("int8.py", "int8_graph.py")]
    parts = {
        "form": [form, installed_version("numba") if form == "sliding" else None],
        "schema": SCHEMA,
        "bundle": (bundle.folder / SPEC_FILE).read_text(encoding="utf-8"),
        "weights": bundle.weights_id,
        "sources": {str(p.relative_to(_HERE)): p.read_text(encoding="utf-8") for p in sources if p.exists()},
        "backend": _backend_parts(backend),
        "torch": installed_version("torch"),  # draws random weights and traces
        "precision": precision if precision != "int8" else ["int8", content(bundle)],
        "shapes": {name: shape for name, (shape, _) in bundle.spec.inputs(batch).items()},
        "machine": _machine(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(content: dict[str, Any]) -> str:
    """Of all that an entry says of itself."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path, key: str) -> Entry:
    """The entry in that folder, every file checked.

    Raises:
        _Damaged: it is not as it was written.
    """
    try:
        entry = json.loads((folder / ENTRY_FILE).read_text(encoding="utf-8"))
        said = entry.pop("sha256")
        if entry["key"] != key or entry["schema"] != SCHEMA:
            raise _Damaged(f"{ENTRY_FILE} is of another engine")
        if said != _digest(entry):
            raise _Damaged(f"{ENTRY_FILE} was changed")
        there = {path.name for path in folder.iterdir()} - {ENTRY_FILE}
        if there != set(entry["files"]):
            odd = ", ".join(sorted(there ^ set(entry["files"])))
            raise _Damaged(f"{odd}: missing, or not of this engine")
        for name, digest in entry["files"].items():
            if _sha256(folder / name) != digest:
                raise _Damaged(f"{name} was changed")
        return Entry(folder, Parity(**entry["parity"]), built=False)
    except OSError as error:
        raise _Damaged(f"{Path(error.filename or folder).name}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _Damaged(f"{ENTRY_FILE} cannot be read") from None


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the system drops it when one dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def entry(
    bundle: Bundle,
    backend: str,
    precision: str,
    build: Callable[[Path], Parity],
    log: Log,
    form: Form = "whole",
    batch: int = 1,
) -> Entry:
    """The compiled engine from the cache; built where it is missing or damaged.

    One process builds, others that want the same wait for it. It is built beside its place and moved there
    when whole, so nobody sees half of one.

    Args:
        build: writes the backend's files into the folder that it is given, and says how they compare.
        log: is told of a damaged entry.
        form: whole, or in parts.
        batch: faces at a time.

    Raises:
        EngineError: the cache cannot be written; or what `build` raises.
    """
    key = entry_key(bundle, backend, precision, form, batch)
    root = cache_folder()
    name = bundle.spec.name if form == "whole" else f"{bundle.spec.name}-{form}"
    name = name if batch == 1 else f"{name}-{batch}"
    folder = root / f"{name}-{backend}-{precision}-{key[:16]}"
    if folder.exists():
        try:
            return _read(folder, key)
        except _Damaged:
            pass  # said below, once it is certain that no other process is replacing it
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _only_one(root / f".{folder.name}.lock"):
            if folder.exists():
                try:
                    return _read(folder, key)
                except _Damaged as damage:
                    log(f"{folder}: the compiled engine is damaged ({damage}); building it again")
            return Entry(folder, _build_beside(folder, key, build), built=True)
    except OSError as error:
        where = error.filename or root
        raise EngineError(
            f"{where}: cannot write the engine cache: {error.strerror}; free space or set AUSTREAM_CACHE_DIR"
        ) from None


def _build_beside(folder: Path, key: str, build: Callable[[Path], Parity]) -> Parity:
    """Fill a neighbouring folder and swap it in. Under the lock, so leftovers of a killed build can go."""
    work = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(work, ignore_errors=True)
    new = work / "new"
    new.mkdir(parents=True)
    try:
        parity = build(new)
        files = {path.name: _sha256(path) for path in sorted(new.iterdir())}
        content = {"schema": SCHEMA, "key": key, "files": files, "parity": asdict(parity)}
        content["sha256"] = _digest(content)
        (new / ENTRY_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            os.rename(folder, work / "old")
        os.rename(new, folder)
        return parity
    finally:
        shutil.rmtree(work, ignore_errors=True)
