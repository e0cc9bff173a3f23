"""`python -m bench overload --source FILE --plot PNG`: a live source that is faster than the engines.

The clip is given 60 frames a second (its packets are copied with new times) and replayed as live, in a loop,
into SAT-Net at hop 1 beside CEDNN. What should be seen: the stride rises within seconds until the engines
keep up, latency stays flat from then on, and every frame that was not analysed is counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import datetime
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from bench.report import print_table, write_json
from pipeline.errors import RunError, SourceError

_ROOT = Path(__file__).parents[1]
_SLICES = 6


def main(argv: list[str]) -> int:
    """Replay, print latency and stride by slices of time, and draw them with --plot."""
    parser = argparse.ArgumentParser(prog="python -m bench overload", description=__doc__)
    parser.add_argument("--source", required=True, metavar="FILE")
    parser.add_argument("--rate", type=int, default=60, help="frames a second of the replay (default 60)")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--engine", default="cednn,satnet")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    results, ledger = _replay(arguments)
    began = _wall(results[0])
    seconds = np.array([_wall(row) - began for row in results])
    latency_ms = np.array([row["latency_ms"]["total"] for row in results])
    strides = np.array([row["stride"] for row in results])
    rows = _by_slices(seconds, latency_ms, strides)
    print_table(rows)
    dropped = ", ".join(f"{d['frames']} {d['reason']}" for d in ledger["dropped"]) or "none"
    print(f"\ncaptured {ledger['captured']} = delivered {ledger['delivered']} + dropped ({dropped})")
    if arguments.plot:
        title = f"{arguments.engine}, {arguments.rate} frames/s in: {ledger['captured']} captured, "
        title += f"{ledger['delivered']} delivered, dropped: {dropped}"
        _draw(arguments.plot, title, seconds, latency_ms, strides)
    if arguments.json:
        write_json(arguments.json, rows)
    return 0


def _replay(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        clip, out = Path(folder) / "clip.mkv", Path(folder) / "rows.jsonl"
        _retimed(arguments.source, clip, arguments.rate)
        words = [sys.executable, str(_ROOT / "run_stream.py"), "--source", str(clip), "--live", "--loop"]
        words += ["--engine", arguments.engine, "--hop", "1", "--max-faces", "1"]
        words += ["--duration", str(arguments.seconds), "--out", str(out)]
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise RunError(f"run_stream.py failed: {done.stderr.strip().splitlines()[-1]}")
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    return [row for row in rows if row["type"] == "result"], rows[-1]


def _retimed(source: str, target: Path, rate_hz: int) -> None:
    """The same pictures at another rate, without coding them again."""
    try:
        with av.open(source) as given, av.open(str(target), "w") as made:
            stream = given.streams.video[0]
            copy = made.add_stream_from_template(stream)
            slower = (stream.average_rate or Fraction(rate_hz)) / rate_hz
            for packet in given.demux(stream):
                if packet.pts is None or packet.dts is None:
                    continue
                packet.pts, packet.dts = round(packet.pts * slower), round(packet.dts * slower)
                packet.stream = copy
                made.mux(packet)
    except (av.error.FFmpegError, IndexError) as error:
        raise SourceError(f"{source}: cannot be copied with other times: {error}") from None


def _wall(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(row["wall"]).timestamp()


def _by_slices(seconds: np.ndarray, latency_ms: np.ndarray, strides: np.ndarray) -> list[dict[str, Any]]:
    edges = np.linspace(0.0, seconds[-1] + 1e-6, _SLICES + 1)
    rows = []
    for low, high in pairwise(edges):
        inside = (seconds >= low) & (seconds < high)
        p50, p95 = np.percentile(latency_ms[inside], (50, 95))
        rows.append(
            {
                "seconds": f"{low:.0f}–{high:.0f}",
                "results_per_second": float(inside.sum() / (high - low)),
                "stride": int(np.median(strides[inside])),
                "latency_p50_ms": float(p50),
                "latency_p95_ms": float(p95),
            }
        )
    return rows


def _draw(path: Path, title: str, seconds: np.ndarray, latency_ms: np.ndarray, strides: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(2, 1, sharex=True, figsize=(10, 6), height_ratios=(2, 1))
    top.plot(seconds, latency_ms, ".", markersize=3, color="tab:blue")
    top.set_ylabel("camera to result (ms)")
    top.set_ylim(0, 1.1 * float(latency_ms.max()))
    top.set_title(title, fontsize=10)
    bottom.step(seconds, strides, where="post", color="tab:orange")
    bottom.set_ylabel("stride")
    bottom.set_ylim(0, strides.max() + 1)
    bottom.set_xlabel("seconds")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
