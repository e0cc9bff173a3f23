"""`python -m bench sliding`: SAT-Net frame by frame beside the full window, PyTorch's and OpenVINO's."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import interleaved_microseconds, print_table, write_json
from engines.backends.openvino import core
from engines.crew import usable_cores
from engines.runtime import load_engine
from engines.sliding import SlidingEngine, load_sliding
from pipeline.errors import UsageError

HOPS = (1, 2, 4, 8)
BATCHES = (1, 4, 15)
"""Windows in flight at one frame: one face at hop 16, 4 and 1."""
EAGER = "full window, PyTorch eager"


def sliding_outputs(engine: SlidingEngine, crops: np.ndarray, hop: int) -> Callable[[], None]:
    """What takes one face on by one output: `hop` frames, the windows in flight as they are in a long run."""
    track = engine.track(1, hop)
    frames = enumerate(itertools.cycle(crops))

    def until_output() -> None:
        for i, crop in frames:
            if engine.push([(track, crop, i, False)])[0] is not None:
                return

    for _ in range(32 // hop):
        until_output()
    return until_output


def openvino_step(name: str, windows: int) -> Callable[[], Any]:
    """One step of so many windows as OpenVINO computes it: gates and state in, state out."""
    import openvino
    import torch

    from engines.bundle import resolve
    from engines.weights import load_network

    network: Any = load_network(resolve(name))

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = network.conv_lstm

        def forward(self, gates: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> Any:
            return self.lstm.step(gates, (hidden, cell))

    state = (windows, 128, 28, 28)
    inputs = [torch.randn(shape) for shape in ((windows, 512, 28, 28), state, state)]
    with torch.inference_mode():
        model = openvino.convert_model(
            Step(), example_input=tuple(inputs), input=[tuple(i.shape) for i in inputs]
        )
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core().compile_model(model, "CPU", options).create_infer_request()
    arrays = [i.numpy() for i in inputs]
    return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)


def parts(name: str, engine: SlidingEngine, crop: np.ndarray) -> dict[str, Callable[[], object]]:
    """Each part of the sliding engine on its own, and OpenVINO's step beside ours."""
    session = engine.session
    features = session.features(crop)
    gates = session.gates(features)
    calls: dict[str, Callable[[], object]] = {
        "features": lambda: session.features(crop),
        "input gates": lambda: session.gates(features),
    }
    calls["first step, 1 window"] = lambda: session.step([gates], [None])

    def step(windows: int) -> Callable[[], None]:
        states = session.step([gates] * windows, [None] * windows)

        def once() -> None:
            states[:] = session.step([gates] * windows, states)

        return once

    for windows in BATCHES:
        calls[f"step, {windows} windows"] = step(windows)
        calls[f"step, {windows} windows, OpenVINO"] = openvino_step(name, windows)
    [state] = session.step([gates], [None])
    calls["head"] = lambda: session.head(state)
    return calls


def main(argv: list[str]) -> int:
    """Time full windows, hops and parts in turns; print, and write with --json."""
    parser = argparse.ArgumentParser(prog="python -m bench sliding", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--engine", default="satnet", metavar="NAME|BUNDLE")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        raise UsageError(f"--rounds: expected 1 or more, got {arguments.rounds}")
    name = arguments.engine
    engine = load_sliding(name, "openvino")
    whole = {backend: load_engine(name, backend) for backend in ("torch", "openvino")}
    crops = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), dtype=np.uint8)
    full: dict[str, Callable[[], object]] = {
        EAGER: lambda: whole["torch"].run(crops[None]),
        "full window, OpenVINO": lambda: whole["openvino"].run(crops[None]),
    }
    hops = {f"sliding, hop {hop}": hop for hop in HOPS}
    sliding = {what: sliding_outputs(engine, crops, hop) for what, hop in hops.items()}
    split = parts(name, engine, crops[0])
    taken = interleaved_microseconds({**full, **sliding, **split}, arguments.rounds, calls=1)
    eager, openvino = taken[EAGER], taken["full window, OpenVINO"]
    rows = [
        {
            "what": what,
            "p50_ms": float(np.median(taken[what])) / 1e3,
            "p95_ms": float(np.percentile(taken[what], 95)) / 1e3,
            "ms_per_frame": float(np.median(taken[what])) / 1e3 / hops.get(what, 1),
            "speedup_vs_eager": float(np.median(eager / taken[what])),
            "speedup_vs_openvino": float(np.median(openvino / taken[what])),
        }
        for what in (*full, *sliding)
    ]
    print(f"{name}, fp32, per output, {usable_cores()} cores; parity of sliding {engine.parity}")
    print_table(rows)
    print()
    split_rows = [
        {
            "part": what,
            "p50_ms": float(np.median(taken[what])) / 1e3,
            "p95_ms": float(np.percentile(taken[what], 95)) / 1e3,
        }
        for what in split
    ]
    print_table(split_rows)
    if arguments.json:
        write_json(arguments.json, [*rows, *split_rows])
    return 0
