"""`python -m bench NAME`: measurements, each with a table and, with --json FILE, its figures."""

from __future__ import annotations

import sys
from importlib import import_module

from pipeline.errors import AustreamError, UsageError

BENCHES = {
    "stream": "the whole pipeline beside the naive program: speed, latency, CPU, memory",
    "overload": "a live source at 60 frames/s into engines that manage far less: latency, strides, drops",
    "memory": "memory by process over loops of a clip",
    "stops": "every way a run can end, and what it leaves behind",
    "faults": "what can break while feeds are analysed, broken on purpose; --soak 30m for long",
    "many_feeds": "RTSP feeds of one clip at once into one run: ledgers, latencies, its metrics page",
    "diffmap": "the difference-map kernel beside NumPy and OpenCV",
    "transport": "frames between two processes: ours beside ZeroMQ bytes and multiprocessing.Queue",
    "engine": "every engine × backend × precision beside PyTorch eager: speed, size, build, start-up, parity",
    "gpu": "on a machine with an NVIDIA GPU: parity, frames/s by batch, feeds, latency, ceilings, crops",
    "sliding": "SAT-Net frame by frame beside the full window, PyTorch's and OpenVINO's",
    "demo": "check a run on --source demo against the expressions that the clip was made from",
    "truth": "what engines see: on rendered strangers, on a real clip, in calm stretches; with plots",
    "traces": "AUs over a clip in one precision beside another, with a plot",
    "attention": "attention maps of engines, drawn over faces of a clip",
}


def main(argv: list[str]) -> int:
    """Run one bench; the exit code."""
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print("usage: python -m bench NAME [--help]\n")
            for name, what in BENCHES.items():
                print(f"  {name:10} {what}")
            return 0 if argv else 2
        if argv[0] not in BENCHES:
            raise UsageError(f"{argv[0]}: no such bench; expected one of {', '.join(BENCHES)}")
        return int(import_module(f"bench.{argv[0]}").main(argv[1:]))
    except AustreamError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
