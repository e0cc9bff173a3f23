"""`python -m bench faults`: what can break while feeds are analysed, broken on purpose, one after the other.

Two feeds come from RTSP servers of its own; `run_stream.py` is started on both as a user would start it. When
it gives results, one thing is broken, and mended again where it does not mend by itself. Then one looks, from
outside: when the run said so, when the broken feed's results were back, how long after the first key frame of
a new connection, how long each feed gave none, which frames were lost and why, and what is left of processes,
descriptors and shared memory. `--soak 30m` breaks things at random in one long run instead, and draws memory
and descriptors.

What the run is to blame for: hanging, ending with a traceback or without whole files, a ledger that does not
balance or that its rows belie, rows out of order, results later than FIRST_RESULT_SECONDS after the key
frame, growth beyond MOST_GROWTH, anything left behind. The exit code says whether there was any of it.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.breaking import FAULTS, Fault, NotRunError, Scene
from bench.feeds import RtspServer, playing
from bench.live_run import NOWHERE, LiveRun, Sample, too_much
from bench.report import print_table, write_json
from bench.soak import soak
from pipeline.errors import RunError, UsageError
from pipeline.sources import render_demo

_BEGIN_SECONDS = 240.0
"""Engines may have to be compiled first."""
_SETTLED_ROWS = 40
"""Results of each feed before something is broken."""
_PATIENCE_SECONDS = 60.0
"""A sink that stands still is found after 30 s."""
_AFTER_SECONDS = 3.0
"""How long it is watched after the results are back."""
FIRST_RESULT_SECONDS = 3.0
"""From the first key frame of a new connection to its first result."""
_SPARES_SECONDS = 30.0
IN_FLIGHT = 10
"""Frames of one feed that can be in the stages at a time: one on its way to the face stage, one in work
there, the rest by the credits of the two channels behind it."""
MOST_GROWTH = {"processes": 0, "descriptors": 8, "shared_files": 4, "memory_mb": 100.0}
"""Over one fault. Memory still settles when a run is young; a restarted stage opens its sockets anew."""
_SAYS = re.compile(
    r": (lost|stalled|failed|changed|damaged)\b|^the \w+ stage (?!is at work)|^run_stream\.py: "
)


def main(argv: list[str]) -> int:
    """Break everything, or what --only names; 1 if the run is to blame for anything."""
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=__doc__)
    parser.add_argument(
        "--source", type=Path, metavar="FILE", help="a clip to serve (default: the demo clip)"
    )
    parser.add_argument("--size", default="640x360", metavar="WxH", help="of the feeds (default 640x360)")
    parser.add_argument("--rate", type=int, default=15, help="frames a second of the feeds (default 15)")
    parser.add_argument("--feeds", type=int, default=2, help="feeds at once; the first is broken (default 2)")
    parser.add_argument("--engine", default="delta")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help=f"of: {', '.join(FAULTS)}; repeatable"
    )
    parser.add_argument("--soak", metavar="TIME", help="faults at random for 90s, 30m or 2h instead")
    parser.add_argument("--seed", type=int, default=0, help="of the soak's chance")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="of the soak")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    for name in arguments.only or ():
        if name not in FAULTS:
            raise UsageError(f"--only {name}: no such fault; expected one of {', '.join(FAULTS)}")
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        clip = arguments.source or render_demo()
        options = playing(clip, Path(folder) / "pictures", arguments.size, arguments.rate, seconds=10)
        if arguments.soak:
            rows, blame = soak(arguments, options, Path(folder))
        else:
            rows = []
            for name in arguments.only or FAULTS:
                rows.append(_row(name, arguments, options, Path(folder)))
                told = f"{name}: {rows[-1]['outcome']}; it said: {rows[-1]['said'] or 'nothing'}"
                print(told, file=sys.stderr, flush=True)
            blame = any(row["to_blame"] for row in rows)
    print_table([{what: found for what, found in row.items() if what != "said"} for row in rows])
    if arguments.json:
        write_json(arguments.json, rows)
    return int(blame)


def _row(name: str, arguments: argparse.Namespace, options: list[str], folder: Path) -> dict[str, Any]:
    blank = dict.fromkeys(_COLUMNS, "–")
    row = {"fault": name, **blank, "to_blame": ""}
    home = folder / name.replace(" ", "-")
    home.mkdir()
    with ExitStack() as stack:
        servers = [stack.enter_context(RtspServer(*options)) for _ in range(arguments.feeds)]
        scene = Scene(home, servers, stack)
        try:
            FAULTS[name].prepare(scene)
        except NotRunError as error:
            return {**row, "outcome": f"not run: {error}"}
        try:
            return {**row, **_broken(FAULTS[name], scene, arguments.engine)}
        except RunError as error:
            return {**row, "outcome": "did not begin", "to_blame": str(error)}


def _broken(fault: Fault, scene: Scene, engine: str) -> dict[str, Any]:
    addresses = [server.address for server in scene.servers]
    words = ["--engine", engine, "--max-faces", "1", *scene.words]
    run = LiveRun(addresses, scene.out, words, scene.environment)
    scene.run = run
    try:
        run.wait_for_rows(addresses, _SETTLED_ROWS, _BEGIN_SECONDS)
        run.await_spares(_SPARES_SECONDS)
        before = run.sample()
        place = run.rows[addresses[0]][-1].place
        broken_at = time.monotonic()
        fault.inject(scene)
        time.sleep(fault.heal_after_seconds)
        healed_at = time.monotonic()
        fault.heal(scene)
        recovered_at = run.await_row(
            addresses[0], healed_at, place if fault.new_epoch else NOWHERE, _PATIENCE_SECONDS
        )
        until = time.monotonic()
        time.sleep(_AFTER_SECONDS if run.running else 0.0)
        run.await_spares(_SPARES_SECONDS if run.running else 0.0)
        after = run.sample() if run.running else None
        running = run.running
        willing = run.end()
        key_at = None if recovered_at is None else scene.victim.last_key(healed_at, recovered_at)
        first_result = "–" if key_at is None else _since(key_at, recovered_at)
        growth = _growth(before, after)
        said = next(((at, line) for at, line in run.said if at > broken_at and _SAYS.search(line)), None)
        return {
            "outcome": _outcome(run, running, recovered_at),
            "detected_s": _since(broken_at, said[0] if said else None),
            "recovered_s": _since(healed_at, recovered_at),
            "first_result_s": first_result,
            "gap_s": run.longest_gap(addresses[0], broken_at, until),
            "others_gap_s": max((run.longest_gap(a, broken_at, until) for a in addresses[1:]), default="–"),
            **_losses(run, addresses),
            **growth,
            "said": "" if said is None else said[1][:100],
            "to_blame": ", ".join(
                [
                    *run.complaints(fault.no_files),
                    *_too_bad(fault, running, willing, recovered_at),
                    *too_late(first_result),
                    *too_much(growth, MOST_GROWTH),
                    *others_lost_too_much(run.ledgers() or {}, addresses[1:]),
                ]
            ),
        }
    finally:
        run.end()
        run.left()


_COLUMNS = (
    *("outcome", "detected_s", "recovered_s", "first_result_s", "gap_s", "others_gap_s"),
    *("frames_lost", "others_lost", "processes", "descriptors", "shared_files", "memory_mb", "said"),
)


def _since(began: float, at: float | None) -> float | str:
    return "–" if at is None else at - began


def _outcome(run: LiveRun, running: bool, recovered_at: float | None) -> str:
    if not running:
        return f"ended, exit {run.process.returncode}"
    return "recovered" if recovered_at is not None else "no results again"


def _too_bad(fault: Fault, running: bool, willing: bool, recovered_at: float | None) -> list[str]:
    """How it came through is not as it should be."""
    found = []
    if not running and not fault.may_end:
        found.append("the run ended")
    if running and recovered_at is None:
        found.append("no results again")
    if not willing:
        found.append("had to be killed")
    return found


def too_late(first_result_seconds: float | str) -> list[str]:
    """The first result came late after the key frame; no figure is no blame."""
    if isinstance(first_result_seconds, str) or first_result_seconds <= FIRST_RESULT_SECONDS:
        return []
    return [f"first result {first_result_seconds:.1f} s after the key frame"]


def _losses(run: LiveRun, addresses: list[str]) -> dict[str, str]:
    ledgers = run.ledgers()
    if ledgers is None:
        return {"frames_lost": "no ledger", "others_lost": "no ledger"}
    lost = [lost_frames(ledgers[address]) if address in ledgers else "no ledger" for address in addresses]
    return {"frames_lost": lost[0], "others_lost": "; ".join(lost[1:]) or "–"}


def others_lost_too_much(ledgers: Mapping[str, dict[str, Any]], others: Sequence[str]) -> list[str]:
    """Feeds that were not broken lose at most what was in flight when a stage died."""
    found = []
    for stream in others:
        dropped = ledgers.get(stream, {"dropped": ()})["dropped"]
        lost = sum(d["frames"] for d in dropped if d["reason"] in ("restarted", "restarting"))
        if lost > IN_FLIGHT:
            found.append(f"another feed lost {lost} frames, at most {IN_FLIGHT} are in flight")
    return found


def lost_frames(ledger: dict[str, Any]) -> str:
    """Frames of a ledger row that gave no result, by reason."""
    parts = [f"{d['frames']} {d['stage']}: {d['reason']}" for d in ledger["dropped"]]
    parts += [f"{ledger['undecodable_packets']} packets"] * bool(ledger["undecodable_packets"])
    parts += [f"{ledger['in_flight']} unaccounted for"] * bool(ledger["in_flight"])
    return ", ".join(parts) or "none"


def _growth(before: Sample, after: Sample | None) -> dict[str, float]:
    if after is None:
        return {}
    return {
        "processes": after.processes - before.processes,
        "descriptors": after.descriptors - before.descriptors,
        "shared_files": after.shared_files - before.shared_files,
        "memory_mb": after.memory_mb - before.memory_mb,
    }
