"""python -m engines list | params [NETWORK] | build BUNDLE | parity BUNDLE | profile BUNDLE"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines import backends
from engines.backends import BACKENDS, PRECISIONS
from engines.bundle import Bundle, list_bundles, resolve
from engines.runtime import Engine, load_engine, log_to_stderr
from engines.sliding import SlidingEngine, load_sliding
from pipeline.errors import AustreamError, EngineError, OutputError, UsageError

if TYPE_CHECKING:
    from engines.figures import Figures

Rows = list[dict[str, Any]]
ONNX_FILE = "onnx"
"""Not a backend that runs: `build` writes a file."""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns side by side: numbers (and their headings) to the right, words to the left."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [
        all(isinstance(row[i], int | float) or _numeric(str(row[i])) for row in rows)
        for i in range(len(header))
    ]
    lines = [
        "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def _numeric(text: str) -> bool:
    return text == "–" or text.replace(".", "").replace(",", "").isdigit()


def command_list(args: argparse.Namespace) -> Rows:  # noqa: ARG001
    """The bundles that come along."""
    specs = [bundle.spec for bundle in list_bundles()]
    header = ("engine", "network", "AUs", "crop", "level map", "window", "rate_hz", "trained")
    cells = [
        (s.name, s.network, len(s.aus), s.crop.name, s.level_map, s.window, s.rate_hz or "–", s.trained)
        for s in specs
    ]
    print(table(header, cells))
    return [
        {
            "engine": s.name,
            "network": s.network,
            "variant": dict(s.variant),
            "crop": s.crop.name,
            "level_map": s.level_map,
            "window": s.window,
            "rate_hz": s.rate_hz,
            "aus": list(s.aus),
            "provenance": dict(s.provenance),
        }
        for s in specs
    ]


def command_params(args: argparse.Namespace) -> Rows:
    """Parameters and multiply-accumulates beside the paper's, of one network or of all."""
    from engines.figures import FIGURES

    if args.network is not None and args.network not in FIGURES:
        raise UsageError(f"params: unknown network {args.network!r}, expected one of {', '.join(FIGURES)}")
    rows: Rows = []
    for i, network in enumerate([args.network] if args.network else FIGURES):
        figures_of, note = FIGURES[network]
        figures = figures_of()
        print("\n" * (i > 0) + _params_table(network, figures), note, sep="\n\n")
        rows += [{"family": network, **asdict(f)} for f in figures]
    return rows


def _params_table(network: str, figures: Sequence[Figures]) -> str:
    mark = {True: "agrees", False: "DIFFERS", None: "–"}
    cells = [
        (
            f.network,
            f"{f.parameters:,}",
            f"{f.parameters / 1e6:.2f}",
            "–" if f.paper_parameters_m is None else f"{f.paper_parameters_m:g}",
            f"{f.multiply_accumulates / 1e9:.3f}",
            "–" if f.paper_flops_g is None else f"{f.paper_flops_g:.2f}",
            mark[f.agrees],
        )
        for f in figures
    ]
    return table((network, "parameters", "M", "paper M", "GMAC", "paper GFLOPs", ""), cells)


def command_build(args: argparse.Namespace) -> Rows:
    """Compile, or find compiled; or write an ONNX file."""
    if args.backend == ONNX_FILE:
        if args.calibrate or args.ship:
            raise UsageError(
                f"--calibrate, --ship: --backend {ONNX_FILE} goes by an INT8 form; make that first, without "
                "--backend"
            )
        return _write_onnx(args)
    if args.out is not None:
        raise UsageError(f"--out: expected --backend {ONNX_FILE} beside it; others are kept in the cache")
    if args.ship and not args.calibrate:
        raise UsageError("--ship: keeps what --calibrate makes; give it videos or a folder of samples")
    if args.calibrate:
        _calibrate(args)
    rows: Rows = []
    # Runs compute a temporal engine in parts; its whole window stands in where those are refused.
    loaders: dict[str, Callable[..., Engine | SlidingEngine]] = {"whole": load_engine}
    if resolve(args.bundle).spec.window > 1:
        loaders["sliding"] = load_sliding
    for form, load in loaders.items():
        engine = load(args.bundle, args.backend, args.precision)
        name = engine.spec.name if form == "whole" else f"{engine.spec.name}, {form}"
        print(f"{name}: {engine.backend} ({engine.reason}), {engine.precision}, {engine.spec.trained}")
        against = "float32" if engine.precision == "int8" else "PyTorch eager"
        print(f"parity with {against}: {engine.parity}")
        print(engine.folder)
        rows.append(
            {"engine": engine.spec.name, "form": form, "backend": engine.backend}
            | {"precision": engine.precision, "folder": str(engine.folder), "parity": asdict(engine.parity)}
        )
    return rows


def _write_onnx(args: argparse.Namespace) -> Rows:
    """What other machines read: TensorRT's own tools, for one."""
    backends.get("onnxruntime")  # refuses in one line where it is missing
    from engines.onnx_file import hand_out

    path = args.out or Path(f"{resolve(args.bundle).spec.name}.onnx")
    precision = "fp32" if args.precision == "auto" else args.precision
    if precision == "int8":
        return _write_int8_onnx(resolve(args.bundle), path)
    engine, apart = hand_out(args.bundle, precision, path, log_to_stderr)
    print(f"{engine.spec.name}: ONNX, {precision}, any number of faces at a time, {engine.spec.trained}")
    print(f"parity of ONNX Runtime with PyTorch eager: {engine.parity}; in one batch {apart:.1e} more")
    print(path)
    return [
        {"engine": engine.spec.name, "backend": ONNX_FILE, "precision": precision, "file": str(path)}
        | {"parity": asdict(engine.parity), "batch_max_abs": apart}
    ]


def _write_int8_onnx(bundle: Bundle, path: Path) -> Rows:
    """The same with explicit roundings."""
    from engines.int8_onnx import hand_out

    handed = hand_out(bundle, path)
    name, trained = bundle.spec.name, bundle.spec.trained
    print(f"{name}: ONNX, int8 (ranges {handed.origin}), any number of faces at a time, {trained}")
    kept = ", ".join(handed.floating_point) or "none"
    print(f"{handed.layers} layers between QuantizeLinear and DequantizeLinear; in floating point: {kept}")
    print(
        f"ONNX Runtime beside OpenVINO's INT8 on seeded inputs: 99th percentile {handed.off:.4f}; "
        f"in one batch {handed.apart:.1e} more"
    )
    print(path)
    row = {"engine": name, "backend": ONNX_FILE, "precision": "int8", "file": str(path)}
    return [row | {"layers": handed.layers, "p99_abs": handed.off, "batch_max_abs": handed.apart}]


def _calibrate(args: argparse.Namespace) -> None:
    """Make the INT8 form that the build then goes by."""
    from engines import int8
    from engines.quantise import quantise
    from train.calibration import gather

    if args.precision != "int8":
        raise UsageError(f"--calibrate: is for --precision int8, got {args.precision}")
    backends.choose(args.backend, "int8")  # refuses one without INT8 now, not after a calibration
    bundle = resolve(args.bundle)
    found = quantise(bundle, gather(bundle.spec, args.calibrate), log_to_stderr)
    path = bundle.folder / int8.INT8_FILE if args.ship else int8.own_path(bundle)
    int8.write(path, found)
    if args.ship:
        int8.own_path(bundle).unlink(missing_ok=True)  # it would go before
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
    for name, value in found.made.items():
        print(f"  {name}: {value}")


def command_parity(args: argparse.Namespace) -> Rows:
    """Compare again, now, whatever the cache remembers."""
    engine = load_engine(args.bundle, args.backend, args.precision)
    from engines.backends.torch import TorchSession
    from engines.build import compare, require
    from engines.export import ExportedEngine
    from engines.weights import load_network

    if engine.precision == "int8":
        return _int8_parity(engine, resolve(args.bundle))
    eager = TorchSession(ExportedEngine(engine.spec, load_network(resolve(args.bundle))))
    parity = compare(engine.session, eager, engine.spec, engine.precision)
    what = f"{engine.spec.name} ({engine.backend}, {engine.precision})"
    print(f"{what}: {parity}")
    require(parity, what)
    return [
        {
            "engine": engine.spec.name,
            "backend": engine.backend,
            "precision": engine.precision,
            **asdict(parity),
        }
    ]


def _int8_parity(engine: Engine, bundle: Bundle) -> Rows:
    """INT8 is judged on faces when it is calibrated; here it should answer as it did there."""
    from engines.build import INT8_AGREES, int8_disagreement
    from engines.int8 import load

    off = int8_disagreement(engine.session, engine.spec, load(bundle)[0])
    print(f"{engine.spec.name} ({engine.backend}, int8): {engine.parity}")
    print(f"here, on seeded inputs: within {off:.4f} of where it was calibrated (tolerance {INT8_AGREES})")
    if not off <= INT8_AGREES:
        raise EngineError(
            f"{engine.spec.name} (int8): answers otherwise than where it was calibrated; build it again"
        )
    row = {"engine": engine.spec.name, "backend": engine.backend, "precision": "int8", "disagreement": off}
    return [row | asdict(engine.parity)]


def command_profile(args: argparse.Namespace) -> Rows:
    """Milliseconds per output of one face, eager beside compiled."""
    if args.runs < 1:
        raise UsageError(f"--runs: expected 1 or more, got {args.runs}")
    engine = load_engine(args.bundle, args.backend, args.precision, args.threads)
    from engines.build import parity_inputs

    eager = load_engine(args.bundle, "torch", "fp32", args.threads)
    _name, inputs = next(parity_inputs(engine.spec))
    rows: Rows = []
    for label, candidate in (("torch, eager", eager), (f"{engine.backend}, {engine.precision}", engine)):
        ms = _milliseconds(partial(candidate.run, **inputs), args.runs)
        p50, p95 = (float(np.percentile(ms, q)) for q in (50, 95))
        rows.append(
            {"engine": engine.spec.name, "backend": candidate.backend, "precision": candidate.precision}
            | {"p50_ms": round(p50, 2), "p95_ms": round(p95, 2), "fps": round(1000 / p50, 1), "label": label}
        )
    for row in rows:
        row["speedup_vs_eager"] = round(rows[0]["p50_ms"] / row["p50_ms"], 2)
    columns = ("label", "p50_ms", "p95_ms", "fps", "speedup_vs_eager")
    print(table((engine.spec.name, *columns[1:]), [[row[c] for c in columns] for row in rows]))
    threads = "the backends' own choice" if args.threads is None else args.threads
    print(f"{args.runs} runs of one face after 3 to warm up; threads: {threads}")
    return rows


def _milliseconds(call: Callable[[], object], runs: int) -> list[float]:
    for _ in range(3):
        call()
    spent = []
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        spent.append(1000 * (time.perf_counter() - begin))
    return spent


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m engines", description="Inspect, compile and measure engines."
    )
    commands = top.add_subparsers(dest="command", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], Rows]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=(run.__doc__ or "").strip(), description=run.__doc__)
        command.set_defaults(run=run)
        command.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
        return command

    add("list", command_list)
    add("params", command_params).add_argument(
        "network", nargs="?", metavar="NETWORK", help="all if left out"
    )
    for name, run in (("build", command_build), ("parity", command_parity), ("profile", command_profile)):
        command = add(name, run)
        command.add_argument("bundle", metavar="BUNDLE", help="name of an engine, or folder of a bundle")
        command.add_argument("--backend", default="auto", metavar="|".join(("auto", *BACKENDS)))
        command.add_argument("--precision", default="auto", metavar="|".join(("auto", *PRECISIONS)))
        if name == "build":
            command.add_argument(
                "--out",
                type=Path,
                metavar="FILE",
                help=f"with --backend {ONNX_FILE}: where to write the file (default: ENGINE.onnx)",
            )
            command.add_argument(
                "--calibrate",
                nargs="+",
                action="extend",
                metavar="VIDEO|FOLDER",
                help="for int8: faces of videos, or folders of samples, to calibrate on",
            )
            command.add_argument("--ship", action="store_true", help="keep the INT8 form in the bundle")
        if name == "profile":
            command.add_argument("--runs", type=int, default=30, metavar="N")
            command.add_argument("--threads", type=int, metavar="N")
    return top


def write_json(path: Path, rows: Rows) -> None:
    """{"machine": …, "rows": […]}

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        path.write_text(
            json.dumps({"machine": platform.platform(), "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise OutputError(f"--json {path}: cannot write it: {error.strerror}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or the exit code of the error that it printed.
    """
    args = parser().parse_args(argv)
    try:
        rows = args.run(args)
        if args.json is not None:
            write_json(args.json, rows)
    except AustreamError as error:
        print(f"engines: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
