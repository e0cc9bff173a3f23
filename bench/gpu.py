"""`python -m bench gpu`: all that is to be known of an NVIDIA GPU, in one command.

Parity of every form; frames/s at batch 1, 8, 32 and 128 beside PyTorch eager at the same, with the share of
the chip's measured ceilings for products and copies; SAT-Net at hop 1, 1, 8 and 32 feeds to a batch; latency
of one face as a run asks for it; alignment and level map as candidates. What fails is listed and the rest
goes on; --json is written anew after every row. Wants PyTorch, NumPy, safetensors and a backend for a GPU;
platformdirs unless AUSTREAM_CACHE_DIR is set, and Numba for the candidates. Written where no GPU could be
had: it has never been run on one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import print_table, write_json
from engines import backends, int8
from engines.backends.base import Session
from engines.backends.fixed import device_here
from engines.build import parity_inputs
from engines.bundle import list_bundles, resolve
from engines.gpu import nvidia_gpu
from engines.runtime import Engine, load_engine
from engines.sliding import load_sliding
from engines.spec import EngineSpec
from pipeline.errors import UsageError, first_line

BATCHES = (1, 8, 32, 128)
FEEDS = (1, 8, 32)
_SIDE = 8192
"""Of the square matrices whose product is the ceiling."""
_COPY_BYTES = 1 << 30
_FRAME_HW = (1080, 1920)
_FP32, _CPU = "fp32", "cpu"
_FACES = 4
"""As many as a run follows unless told otherwise."""
_FIRST = ("cednn", "satnet", "delta")
"""Measured first, should the time be short."""
_TABLES = ("eager", "latency", "throughput", "sliding", "crops")
Rows = list[dict[str, Any]]


def seconds(call: Callable[[], object], device: str, rounds: int) -> np.ndarray:
    """Of each call, after three to warm up; on a GPU until it has answered."""
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    taken = []
    for i in range(rounds + 3):
        wait()
        began = time.perf_counter()
        call()
        wait()
        if i >= 3:
            taken.append(time.perf_counter() - began)
    return np.array(taken)


def ceilings(device: str, rounds: int, side: int = _SIDE, copy_bytes: int = _COPY_BYTES) -> dict[str, float]:
    """Operations a second of a large product, by precision; bytes a second that a copy reads and writes."""
    import torch

    found = {}
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, dtype in dtypes.items():
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        spent = seconds(partial(torch.mm, a, b, out=out), device, rounds)
        found[name] = 2 * side**3 / float(np.median(spent))
    here, there = (torch.empty(copy_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    found["copy"] = 2 * copy_bytes / float(np.median(seconds(partial(there.copy_, here), device, rounds)))
    return found


def operations(spec: EngineSpec) -> int:
    """Of one output: two for each multiply-accumulate."""
    import torch

    from engines.figures import multiply_accumulates
    from engines.networks import build_network

    with torch.device("meta"):
        network = build_network(spec)
    return 2 * multiply_accumulates(network, spec.window)


def faces_of(spec: EngineSpec, batch: int) -> dict[str, np.ndarray]:
    """Noise for so many faces."""
    _, one = next(parity_inputs(spec))
    return {name: np.repeat(array, batch, axis=0) for name, array in one.items()}


def throughput_row(
    engine: Engine, session: Session, device: str, ceiling: dict[str, float], rounds: int
) -> dict[str, Any]:
    """Frames a second, from arrays to arrays and of the device alone, and how near that is to what it can.

    Args:
        engine: what `session` was opened for.
        session: a `FixedSession`.
        device: where it computes.
        ceiling: of `ceilings`.
        rounds: to take the median of.
    """
    given = faces_of(engine.spec, engine.batch)
    whole = seconds(partial(session.run, given), device, rounds)
    launch = getattr(session, "fixed").launch  # noqa: B009 - every backend for a GPU has it
    alone = float(np.median(seconds(launch, device, rounds)))
    # In the files they are float32; what is read each time are the halves that were made of them.
    weights = sum(path.stat().st_size for path in engine.folder.iterdir())
    weights //= 1 if engine.precision == _FP32 else 2
    moved = weights + sum(array.nbytes for array in given.values())
    product = ceiling.get(engine.precision, ceiling["fp16"])
    return {
        "engine": engine.spec.name,
        "backend": engine.backend,
        "precision": engine.precision,
        "batch": engine.batch,
        "p50_ms": 1e3 * float(np.median(whole)),
        "p95_ms": 1e3 * float(np.percentile(whole, 95)),
        "fps": engine.batch / float(np.median(whole)),
        "device_fps": engine.batch / alone,
        "share_of_products": engine.batch * operations(engine.spec) / alone / product,
        "share_of_copies_without_activations": moved / alone / ceiling["copy"],
        "max_abs": engine.parity.max_abs,
        "decisions_changed": engine.parity.decisions_changed,
    }


def throughput(
    name: str,
    backend: str,
    precision: str,
    batch: int,
    ceiling: dict[str, float],
    eager_ms: float | None,
    rounds: int,
) -> dict[str, Any]:
    """`throughput_row` of an engine on the GPU."""
    engine = load_engine(name, backend, precision, faces=batch)
    implementation = backends.get(engine.backend, engine.precision).at(engine.batch)
    session = implementation.open(engine.folder, engine.spec, None)
    row = throughput_row(engine, session, "cuda", ceiling, rounds)
    return row | {"speedup_vs_eager": eager_ms and eager_ms / row["p50_ms"]}


def latency_row(name: str, backend: str, precision: str, rounds: int) -> dict[str, Any]:
    """One face of one feed, from arrays to an array, as a run with its usual number of faces computes it: in
    a batch for several, after the wait for company."""
    engine = load_engine(name, backend, precision, faces=_FACES)
    ms = 1e3 * seconds(partial(engine.run, **faces_of(engine.spec, 1)), _CPU, rounds)
    row = {"engine": name, "backend": engine.backend, "precision": engine.precision, "batch": engine.batch}
    return row | {"p50_ms": float(np.median(ms)), "p95_ms": float(np.percentile(ms, 95))}


def eager_row(name: str, device: str, batch: int, rounds: int) -> dict[str, Any]:
    """So many faces at a time in PyTorch, as a user would write it: to the GPU, the module, and back."""
    import torch

    from engines.export import ExportedEngine
    from engines.weights import load_network

    # Else convolutions would round their factors to ten bits, and fp32 not be what it is compared with.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    bundle = resolve(name)
    module = ExportedEngine(bundle.spec, load_network(bundle)).to(device)
    given = faces_of(bundle.spec, batch)

    def once() -> None:
        with torch.inference_mode():
            module(**{n: torch.from_numpy(a).to(device) for n, a in given.items()}).cpu()

    ms = 1e3 * seconds(once, device, rounds)
    p50 = float(np.median(ms))
    row = {"engine": name, "backend": "torch, eager", "precision": "fp32", "batch": batch}
    return row | {"p50_ms": p50, "p95_ms": float(np.percentile(ms, 95)), "fps": 1e3 * batch / p50}


def sliding_row(
    name: str, backend: str, precision: str, feeds: int, eager_ms: float | None, rounds: int
) -> dict[str, Any]:
    """One frame of each feed after another, all feeds in one batch, an output for each; `eager_ms`: so many
    full windows in PyTorch."""
    engine = load_sliding(name, backend, precision, faces=feeds)
    shape = engine.spec.crops_shape(1)[1:]
    crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tracks = [engine.track(1, 1) for _ in range(feeds)]
    frame = 0

    def once() -> None:
        nonlocal frame
        engine.push([(track, crops[frame % len(crops)], frame, False) for track in tracks])
        frame += 1

    for _ in range(engine.spec.window):
        once()
    ms = 1e3 * seconds(once, _CPU, rounds)  # an output is an array, so nothing is left to wait for
    p50 = float(np.median(ms))
    return {
        "engine": f"{name}, sliding, hop 1",
        "backend": engine.backend,
        "precision": engine.precision,
        "feeds": feeds,
        "p50_ms": p50,
        "p95_ms": float(np.percentile(ms, 95)),
        "fps": 1e3 * feeds / p50,
        "speedup_vs_eager": eager_ms and eager_ms / p50,
        "max_abs": engine.parity.max_abs,
        "decisions_changed": engine.parity.decisions_changed,
    }


def crop_rows(device: str, rounds: int, faces: Sequence[int] = FEEDS) -> Rows:
    """Alignment and level map of many faces of 1080p frames."""
    import torch

    from bench.gpu_faces import level_maps, warp_faces

    rows = []
    for count in faces:
        frames = torch.randint(0, 256, (count, *_FRAME_HW, 3), dtype=torch.uint8, device=device)
        turn = torch.tensor([[0.8, 0.1, -500.0], [-0.1, 0.8, -200.0]], device=device)
        crops = torch.randint(0, 256, (count, 224, 224, 3), dtype=torch.uint8, device=device)
        masks = torch.full((count, 224, 224), 255, dtype=torch.uint8, device=device)
        calls: dict[str, Callable[[], object]] = {
            "alignment": partial(warp_faces, frames, turn.expand(count, -1, -1), 224),
            "level map": partial(level_maps, crops, crops.flip(0), masks),
        }
        for what, call in calls.items():
            p50 = 1e3 * float(np.median(seconds(call, device, rounds)))
            rows.append({"what": what, "faces": count, "p50_ms": p50, "us_per_face": 1e3 * p50 / count})
    return rows


class Report:
    """What has been found so far, written anew after every row: a failure costs no more than itself."""

    def __init__(self, chip: dict[str, Any], path: Path | None) -> None:
        self.tables: dict[str, Rows] = {name: [] for name in _TABLES}
        self.failed: Rows = []
        self._chip, self._path = chip, path

    def attempt(
        self, table: str, about: dict[str, Any], measure: Callable[..., dict[str, Any] | Rows], *given: Any
    ) -> Rows:
        """What `measure(*given)` finds goes into a table; where it fails, why goes to those that failed."""
        import torch

        found: Rows = []
        try:
            measured = measure(*given)
            found = measured if isinstance(measured, list) else [measured]
        except Exception as error:  # no memory left, a compiler's own, a GPU that has gone
            self.failed.append({"table": table, **about, "why": first_line(error)})
        self.tables[table] += found
        if self._path:
            rows = [row for table in self.tables.values() for row in table]
            write_json(self._path, [self._chip, *rows, *self.failed])
        with suppress(RuntimeError):  # after some errors a GPU answers nothing any more
            torch.cuda.empty_cache()  # outside of `except`, whose error holds on to what failed
        return found

    def print(self) -> None:
        """All tables, and what failed."""
        for table in self.tables.values():
            print_table(table)
            print()
        for row in self.failed:
            *about, why = map(str, row.values())
            print(f"failed: {', '.join(about)}: {why}")


def measure(
    report: Report,
    names: Sequence[str],
    forms: Sequence[tuple[str, str]],
    batches: Sequence[int],
    ceiling: dict[str, float],
    rounds: int,
) -> None:
    """All of these engines in these forms (backend and precision) at these batches; and the crops."""
    for name in names:
        eager: dict[int, float | None] = {}
        for batch in batches:
            about: dict[str, Any] = {"engine": name, "batch": batch}
            row = report.attempt("eager", about, eager_row, name, "cuda", batch, rounds)
            eager[batch] = row[0]["p50_ms"] if row else None
        bundle = resolve(name)
        for form in forms:
            rounded, temporal = form[1] == "int8", bundle.spec.window > 1
            if rounded and int8.find(bundle) is None:
                continue  # it was never calibrated
            about = {"engine": name, "backend": form[0], "precision": form[1]}
            report.attempt("latency", about, latency_row, name, *form, rounds)
            for batch in () if rounded and temporal else batches:  # that is in parts alone
                given = (name, *form, batch, ceiling, eager[batch], rounds)
                report.attempt("throughput", about | {"batch": batch}, throughput, *given)
            for feeds in (n for n in FEEDS if n in batches and temporal):
                fed = (name, *form, feeds, eager[feeds], rounds)
                report.attempt("sliding", about | {"feeds": feeds}, sliding_row, *fed)
    report.attempt("crops", {}, crop_rows, "cuda", rounds)


def wanted_forms(
    able: Sequence[str], asked_backends: Sequence[str], asked_precisions: Sequence[str]
) -> list[tuple[str, str]]:
    """Backend and precision; all that can run here where none are asked for.

    Raises:
        UsageError: a backend that cannot, or none that computes in such a precision.
    """
    for name in asked_backends:
        if name not in able:
            raise UsageError(f"--backend {name}: expected one that computes on this GPU: {' or '.join(able)}")
    chosen = asked_backends or able
    found = [(b, p) for b in chosen for p in backends.COMPUTES[b] if p in (asked_precisions or (p,))]
    if not found:
        raise UsageError(f"--precision: {' and '.join(chosen)} have no {' or '.join(asked_precisions)}")
    return found


def main(argv: list[str]) -> int:
    """Measure; print, and write with --json.

    Raises:
        UsageError: there is no GPU, or not what is asked for.
        EngineError: PyTorch cannot use it.
    """
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--engine", action="append", metavar="NAME|BUNDLE", help="repeatable (default: all)")
    parser.add_argument("--backend", action="append", metavar="NAME", help="repeatable (default: all here)")
    parser.add_argument("--precision", action="append", metavar="NAME", help="repeatable (default: all)")
    parser.add_argument("--batch", action="append", type=int, metavar="N", help="repeatable; feeds as well")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        raise UsageError(f"--rounds: expected 1 or more, got {arguments.rounds}")
    batches = arguments.batch or BATCHES
    if unknown := sorted(set(batches) - set(BATCHES)):
        raise UsageError(f"--batch {unknown[0]}: expected {' or '.join(map(str, BATCHES))}")
    known = [bundle.spec.name for bundle in list_bundles()]
    names = arguments.engine or sorted(known, key=lambda name: name not in _FIRST)
    for name in names:
        resolve(name)
    able = [name for name in backends.able_here() if name in backends.ON_GPU]
    if nvidia_gpu() is None or not able:
        why = "; ".join(filter(None, map(backends.obstacle, backends.ON_GPU)))
        raise UsageError(f"gpu: expected an NVIDIA GPU and a backend for it, got none: {why}")
    forms = wanted_forms(able, arguments.backend or (), arguments.precision or ())
    device_here()  # one line where the driver is too old for PyTorch
    ceiling = ceilings("cuda", arguments.rounds)
    products = ", ".join(f"{name} {ceiling[name] / 1e12:.0f}" for name in ceiling if name != "copy")
    print(f"{nvidia_gpu()}: products {products} TFLOP/s, copies {ceiling['copy'] / 1e9:.0f} GB/s")
    report = Report({"what": str(nvidia_gpu()), **ceiling}, arguments.json)
    measure(report, names, forms, batches, ceiling, arguments.rounds)
    report.print()
    return 0
