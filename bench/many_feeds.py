"""`python -m bench many_feeds`: a clip over RTSP, many times at once, into one run: ledgers and latencies."""

from __future__ import annotations

import argparse
import json
import re
import socket
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.faults import lost_frames
from bench.feeds import RtspServer, playing
from bench.live_run import LiveRun
from bench.report import print_table, write_json
from bench.soak import seconds_of
from pipeline.errors import RunError
from pipeline.sources import render_demo

_BEGIN_SECONDS = 240.0
"""Engines may have to be compiled first."""
_BEFORE_END_SECONDS = 2.0
"""When the page is read."""
_END_SECONDS = 60.0
_CLIP_SECONDS = 20.0
"""Of the clip, played again and again."""
_SHOWN = re.compile(r"austream_(frames_(captured|delivered|dropped)|reconnects|stage_restarts)_total\{")


def main(argv: list[str]) -> int:
    """Run it; 1 if the run is to blame for anything."""
    parser = argparse.ArgumentParser(prog="python -m bench many_feeds", description=__doc__)
    parser.add_argument(
        "--source", type=Path, metavar="FILE", help="a clip to serve (default: the demo clip)"
    )
    parser.add_argument("--feeds", type=int, default=4, help="at once (default 4)")
    parser.add_argument("--duration", default="60s", metavar="TIME", help="90s or 2m (default 60s)")
    parser.add_argument("--size", default="640x360", metavar="WxH", help="of the feeds (default 640x360)")
    parser.add_argument("--rate", type=int, default=24, help="frames a second of the feeds (default 24)")
    parser.add_argument("--engine", default="delta")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="latency over time, feed by feed")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    seconds = seconds_of(arguments.duration, "--duration")
    with tempfile.TemporaryDirectory(prefix="many-feeds-") as folder, ExitStack() as stack:
        clip = arguments.source or render_demo()
        options = playing(clip, Path(folder) / "pictures", arguments.size, arguments.rate, _CLIP_SECONDS)
        addresses = [stack.enter_context(RtspServer(*options)).address for _ in range(arguments.feeds)]
        run, page = _watched(addresses, Path(folder) / "rows.jsonl", arguments.engine, seconds)
        complaints = run.complaints()
        seen = _latencies(run.out)
        rows = [_row(run, address, seen) for address in addresses]
    print_table(rows)
    print("\nThe metrics page near the end:\n", *page, sep="\n")
    print(f"\nto blame: {', '.join(complaints) or 'nothing'}")
    if arguments.json:
        write_json(arguments.json, [*rows, {"metrics": page}, {"to_blame": complaints}])
    if arguments.plot:
        _draw(
            arguments.plot, seen, f"{arguments.feeds} feeds at {arguments.rate} frames/s, {arguments.engine}"
        )
    return int(bool(complaints))


def _watched(addresses: list[str], out: Path, engine: str, seconds: float) -> tuple[LiveRun, list[str]]:
    """The run, at its end, and lines of its metrics page from shortly before.

    Raises:
        RunError: it gives no results, or does not end.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--engine", engine, "--max-faces", "1", "--duration", f"{seconds:g}", "--metrics", str(port)]
    run = LiveRun(addresses, out, words)
    try:
        run.wait_for_rows(addresses, 1, _BEGIN_SECONDS)
        run.pids()
        time.sleep(max(0.0, seconds - _BEFORE_END_SECONDS))
        page = _page(port).splitlines()
        run.wait(_END_SECONDS)
    finally:
        run.end()
    return run, [line for line in page if _SHOWN.match(line)]


def _page(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError as error:
        raise RunError(f"the metrics page cannot be read: {error}; has the run ended early?") from None


Latencies = dict[str, NDArray[np.float64]]
"""By stream: N×2, PTS in seconds and the whole latency in milliseconds."""


def _latencies(out: Path) -> Latencies:
    found: dict[str, list[tuple[float, float]]] = {}
    with out.open() as lines:
        for line in lines:
            row = json.loads(line)
            if row["type"] == "result":
                pair = row["pts_seconds"], row["latency_ms"]["total"]
                found.setdefault(row["stream"], []).append(pair)
    return {stream: np.array(pairs) for stream, pairs in found.items()}


def _row(run: LiveRun, address: str, seen: Latencies) -> dict[str, Any]:
    ledger = (run.ledgers() or {}).get(address)
    if ledger is None:
        said = "; ".join(line for _, line in run.said[-4:])
        raise RunError(f"{address}: no ledger, exit code {run.process.returncode}; the run last said: {said}")
    p50, p95, p99 = np.percentile(seen[address][:, 1], (50, 95, 99)) if address in seen else 3 * [np.nan]
    return {
        "feed": address,
        "captured": ledger["captured"],
        "delivered": ledger["delivered"],
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "reconnects": ledger["reconnects"],
        "balanced": ledger["balanced"],
        "lost": lost_frames(ledger),
    }


def _draw(path: Path, seen: Latencies, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(seen), 1, sharex=True, sharey=True, squeeze=False, figsize=(9, 1 + 1.6 * len(seen))
    )
    for number, (panel, pairs) in enumerate(zip(axes[:, 0], seen.values(), strict=True), 1):
        panel.plot(pairs[:, 0] - pairs[0, 0], pairs[:, 1], ".", markersize=3)
        panel.set_ylabel(f"feed {number}\n(ms)")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    axes[0, 0].set_title(f"{title}: from capture to the row", fontsize=10)
    axes[-1, 0].set_xlabel("seconds of the feed")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
