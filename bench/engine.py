"""`python -m bench engine`: every engine × backend × precision that can run here, beside PyTorch eager."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import interleaved_microseconds, print_table, write_json
from bench.sliding import sliding_outputs
from engines import backends, int8
from engines.build import parity_inputs
from engines.bundle import list_bundles, resolve
from engines.cache import ENTRY_FILE
from engines.crew import usable_cores
from engines.runtime import Engine, load_engine
from engines.sliding import SlidingEngine, load_sliding
from pipeline.errors import EngineError, UsageError

Rows = list[dict[str, Any]]
HOP = 1
_START = """
import time
began = time.perf_counter()
from {module} import {load}
{load}({name!r}, {backend!r}, {precision!r}, {threads!r})
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Candidate:
    """One form of an engine, loaded."""

    engine: str
    """Its name; of a temporal one in parts with the hop."""
    loaded: Engine | SlidingEngine
    call: Callable[[], object]
    """Makes one output."""
    build_seconds: float

    @property
    def weight_bytes(self) -> int:
        """Of all that the cache holds of it."""
        return sum(p.stat().st_size for p in self.loaded.folder.iterdir() if p.name != ENTRY_FILE)


def forms(asked_backends: Sequence[str], asked_precisions: Sequence[str]) -> list[tuple[str, str]]:
    """Backend and precision; all that can run here where none are asked for."""
    named = [(name, backends.get(name).precisions) for name in asked_backends or backends.able_here()]
    return [(name, p) for name, able in named for p in able if p in (asked_precisions or able)]


def candidate(name: str, backend: str, precision: str, threads: int | None, sliding: bool) -> Candidate:
    """Build and load. The outputs are of noise: no engine's time depends on what it sees.

    Raises:
        UsageError: the backend has no such form of it.
        EngineError: it cannot be built, or is refused.
    """
    began = time.perf_counter()
    if sliding:
        slid = load_sliding(name, backend, precision, threads, log=lambda _: None)
        built = time.perf_counter() - began
        shape = slid.spec.crops_shape(1)[1:]
        crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return Candidate(f"{name}, sliding, hop {HOP}", slid, sliding_outputs(slid, crops, HOP), built)
    whole = load_engine(name, backend, precision, threads, log=lambda _: None)
    built = time.perf_counter() - began
    _, inputs = next(parity_inputs(whole.spec))
    return Candidate(name, whole, partial(whole.run, **inputs), built)


def start_seconds(name: str, form: Candidate, threads: int | None) -> float:
    """Of a new process, from the first import to an engine from the cache that is ready."""
    sliding = isinstance(form.loaded, SlidingEngine)
    code = _START.format(
        module="engines.sliding" if sliding else "engines.runtime",
        load="load_sliding" if sliding else "load_engine",
        name=name,
        backend=form.loaded.backend,
        precision=form.loaded.precision,
        threads=threads,
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def measured(
    name: str, wanted: Sequence[tuple[str, str]], rounds: int, threads: int | None
) -> Iterator[Rows]:
    """Rows of one engine's forms that could be built; then those of its refusals."""
    temporal = resolve(name).spec.window > 1
    eager = candidate(name, "torch", "fp32", threads, sliding=False)
    built, refused = [], []
    for backend, precision in wanted:
        for sliding in (False, True) if temporal else (False,):
            if (backend, sliding) == ("torch", False):
                built.append(eager)
                continue
            try:
                built.append(candidate(name, backend, precision, threads, sliding))
            except (EngineError, UsageError) as error:
                refused.append(
                    {"engine": name, "backend": backend, "precision": precision, "why": str(error)}
                )
    calls = {str(i): form.call for i, form in enumerate([eager, *built])}
    taken = interleaved_microseconds(calls, rounds, calls=1)
    rows = []
    for i, form in enumerate(built, start=1):
        ms = taken[str(i)] / 1e3
        p50 = float(np.median(ms))
        rows.append(
            {
                "engine": form.engine,
                "backend": form.loaded.backend,
                "precision": form.loaded.precision,
                "p50_ms": p50,
                "p95_ms": float(np.percentile(ms, 95)),
                "fps": 1e3 / p50,
                "speedup_vs_eager": float(np.median(taken["0"] / taken[str(i)])),
                "weight_bytes": form.weight_bytes,
                "build_seconds": form.build_seconds,
                "start_seconds": start_seconds(name, form, threads),
                "max_abs": form.loaded.parity.max_abs,
                "p99_abs": form.loaded.parity.p99_abs,
                "mean_abs": form.loaded.parity.mean_abs,
                "decisions_changed": form.loaded.parity.decisions_changed,
            }
        )
    yield rows
    yield refused


@contextmanager
def own_cache() -> Iterator[None]:
    """An empty cache of engines, so that building is measured; with the user's own INT8 forms."""
    before = os.environ.get("AUSTREAM_CACHE_DIR")
    forms = int8.own_folder()
    with tempfile.TemporaryDirectory(prefix="austream-bench-") as folder:
        os.environ["AUSTREAM_CACHE_DIR"] = folder
        if forms.is_dir():
            shutil.copytree(forms, int8.own_folder())
        try:
            yield
        finally:
            if before is None:
                del os.environ["AUSTREAM_CACHE_DIR"]
            else:
                os.environ["AUSTREAM_CACHE_DIR"] = before


def main(argv: list[str]) -> int:
    """Build everything anew, time it in turns; print, and write with --json."""
    parser = argparse.ArgumentParser(prog="python -m bench engine", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, metavar="N", help="of every backend (default: its own choice)")
    parser.add_argument("--engine", action="append", metavar="NAME|BUNDLE", help="repeatable (default: all)")
    parser.add_argument("--backend", action="append", metavar="NAME", help="repeatable (default: all here)")
    parser.add_argument("--precision", action="append", metavar="NAME", help="repeatable (default: all)")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        raise UsageError(f"--rounds: expected 1 or more, got {arguments.rounds}")
    names = arguments.engine or [bundle.spec.name for bundle in list_bundles()]
    wanted = forms(arguments.backend or (), arguments.precision or ())
    if not wanted:
        raise UsageError("expected a backend that computes in that precision, got none")
    rows, refused = [], []
    with own_cache():
        for name in names:
            found, failed = measured(name, wanted, arguments.rounds, arguments.threads)
            rows += found
            refused += failed
    print_table(rows)
    for row in refused:
        print(f"not built: {row['engine']}, {row['backend']}, {row['precision']}: {row['why']}")
    threads = "the backends' own choice" if arguments.threads is None else arguments.threads
    print(
        f"one face an output, {arguments.rounds} rounds in turns, {usable_cores()} cores, threads: {threads};"
    )
    print("eager of a temporal engine: the full window; start: a new process, from the cache")
    if arguments.json:
        write_json(arguments.json, [*rows, *refused])
    return 0
