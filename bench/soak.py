"""`python -m bench faults --soak 30m`: a long run, and faults at random: are memory and descriptors flat?"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from bench.breaking import FAULTS, Fault, Scene
from bench.feeds import RtspServer
from bench.live_run import NOWHERE, LiveRun, Sample, too_much
from pipeline.errors import UsageError

_BEGIN_SECONDS = 240.0
_SAMPLE_SECONDS = 1.0
_PAUSE_SECONDS = (8.0, 16.0)
"""Between two faults; at the least so long that no stage is started anew more than five times a minute."""
_PATIENCE_SECONDS = 60.0
MOST_AN_HOUR = {"processes": 1.0, "descriptors": 20.0, "shared_files": 20.0, "memory_mb": 100.0}
"""Of growth; more is a leak."""
_JUDGED_SECONDS = 300.0
"""A second half shorter than this says nothing about growth."""
_NOT_AT_RANDOM = frozenset({"resize", "slow subscriber", "clock an hour ahead", "clock an hour back"})
"""They want something prepared before the run; nor what a run may end of. (It resizes in its own way.)"""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str, flag: str = "--soak") -> float:
    """`90s`, `30m` or `2h`; `flag` is named in the error.

    Raises:
        UsageError: it is none of them.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None or not float(found[1]):
        raise UsageError(f"{flag} {text}: expected a time such as 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def soak(
    arguments: argparse.Namespace, server_options: Sequence[str], folder: Path
) -> tuple[list[dict[str, Any]], bool]:
    """Rows by kind of fault and of what was sampled; and whether the run is to blame for anything."""
    seconds = seconds_of(arguments.soak)
    chance = random.Random(arguments.seed)
    faults = {name: f for name, f in FAULTS.items() if not f.may_end and name not in _NOT_AT_RANDOM}
    faults["resize"] = _resizing(arguments.size)
    with ExitStack() as stack:
        servers = [stack.enter_context(RtspServer(*server_options)) for _ in range(arguments.feeds)]
        scene = Scene(folder, servers, stack)
        addresses = [server.address for server in servers]
        run = scene.run = LiveRun(addresses, scene.out, ["--engine", arguments.engine, "--max-faces", "1"])
        stack.callback(run.end)
        run.wait_for_rows(addresses, 40, _BEGIN_SECONDS)
        samples: list[Sample] = []
        over = Event()
        sampler = Thread(target=_sample, args=(run, samples, over), daemon=True)
        sampler.start()
        broken = _break_at_random(scene, addresses, faults, chance, time.monotonic() + seconds)
        over.set()
        sampler.join()
        running = run.running
        willing = run.end()
        found = [f"{name}: no results again" for name, _, wait in broken if wait is None]
        found += [] if running else [f"the run ended, exit {run.process.returncode}: {run.said[-1][1][:80]}"]
        found += [] if willing else ["had to be killed"]
        found += [*run.complaints(), *leaks(samples)]
    if arguments.plot:
        draw(
            arguments.plot, samples, broken, f"{arguments.feeds} feeds, {arguments.engine}, {arguments.soak}"
        )
    lasted = f"{(samples[-1].seconds - samples[0].seconds) / 60:.1f} minutes" if samples else "no time"
    end = [
        _plain("lasted", f"{lasted} of {arguments.soak}"),
        _plain("to blame", ", ".join(found) or "nothing"),
    ]
    return [*_by_fault(broken), *_trends(samples), *end], bool(found)


def _resizing(size: str) -> Fault:
    """Another size each time, of every feed for itself: a server that came back has its first one again."""
    other = "480x270" if size != "480x270" else "640x360"
    sizes: dict[RtspServer, Iterator[str]] = defaultdict(lambda: cycle([other, size]))
    return Fault(lambda scene: scene.victim.tell(f"size {next(sizes[scene.victim])}"))


def _sample(run: LiveRun, samples: list[Sample], over: Event) -> None:
    while not over.wait(_SAMPLE_SECONDS):
        samples.append(run.sample())


Broken = tuple[str, float, float | None]
"""What, when, and when the results were back."""


def _break_at_random(
    scene: Scene, addresses: Sequence[str], faults: dict[str, Fault], chance: random.Random, until: float
) -> list[Broken]:
    broken: list[Broken] = []
    run = scene.run
    time.sleep(min(_PAUSE_SECONDS[0], max(0.0, until - time.monotonic())))
    while run.running and time.monotonic() < until:
        scene.chosen = chance.randrange(len(scene.servers))
        stream = addresses[scene.chosen]
        name = chance.choice(sorted(faults))
        place = run.rows[stream][-1].place
        at = time.monotonic()
        faults[name].inject(scene)
        time.sleep(faults[name].heal_after_seconds)
        healed_at = time.monotonic()
        faults[name].heal(scene)
        beyond = place if faults[name].new_epoch else NOWHERE
        back = run.await_row(stream, healed_at, beyond, _PATIENCE_SECONDS)
        broken.append((name, at, None if back is None else back - healed_at))
        time.sleep(chance.uniform(*_PAUSE_SECONDS))
    return broken


def _by_fault(broken: Sequence[Broken]) -> list[dict[str, Any]]:
    waits: dict[str, list[float | None]] = defaultdict(list)
    for name, _, wait in broken:
        waits[name].append(wait)
    rows = []
    for name, all_waits in sorted(waits.items()):
        back = [wait for wait in all_waits if wait is not None]
        slowest = f"slowest after {max(back):.1f} s" if back else "never"
        rows.append(_plain(name, f"{len(all_waits)} times, back {len(back)} times, {slowest}"))
    return rows


def growth_an_hour(samples: Sequence[Sample]) -> dict[str, float]:
    """Of the second half, as the first fills what fills up; by medians, which restarts do not touch.

    From the median of the third quarter to that of the fourth, per hour. Empty without enough samples.
    """
    quarter = len(samples) // 4
    if not quarter:
        return {}
    third, last = samples[-2 * quarter : -quarter], samples[-quarter:]

    def median(name: str, of: Sequence[Sample]) -> float:
        return float(np.median([getattr(sample, name) for sample in of]))

    hours = (median("seconds", last) - median("seconds", third)) / 3600
    return {name: (median(name, last) - median(name, third)) / hours for name in MOST_AN_HOUR}


def leaks(samples: Sequence[Sample]) -> list[str]:
    """What grows too fast in the second half, if that is long enough to tell."""
    if not samples or samples[-1].seconds - samples[0].seconds < 2 * _JUDGED_SECONDS:
        return []
    return too_much(growth_an_hour(samples), MOST_AN_HOUR, " an hour")


def _trends(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    half = samples[len(samples) // 2 :]
    rows = []
    for name, an_hour in growth_an_hour(samples).items():
        values = np.array([getattr(sample, name) for sample in half], float)
        unit = " MB" if name == "memory_mb" else ""
        text = f"median {np.median(values):.0f}{unit}, from {values.min():.0f} to {values.max():.0f}"
        rows.append(_plain(name, f"{text}, {an_hour:+.1f} an hour"))
    return rows


def _plain(what: str, found: str) -> dict[str, Any]:
    return {"what": what, "found": found}


def draw(path: Path, samples: Sequence[Sample], broken: Sequence[Broken], title: str) -> None:
    """Memory and descriptors over time, with a mark for every fault."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    began = samples[0].seconds
    minutes = [(sample.seconds - began) / 60 for sample in samples]
    figure, (top, bottom) = pyplot.subplots(2, 1, sharex=True, figsize=(10, 6))
    top.plot(minutes, [sample.memory_mb for sample in samples], color="tab:blue")
    top.set_ylabel("resident memory of all\nprocesses (MB)")
    top.set_title(f"{title}; dashed: something is broken", fontsize=10)
    bottom.plot(minutes, [sample.descriptors for sample in samples], color="tab:orange", label="descriptors")
    bottom.plot(minutes, [sample.processes for sample in samples], color="tab:green", label="processes")
    bottom.plot(
        minutes,
        [sample.shared_files for sample in samples],
        color="tab:purple",
        label="files in shared memory",
    )
    bottom.set_ylabel("number")
    bottom.set_xlabel("minutes")
    bottom.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in (top, bottom):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        for _, at, _ in broken:
            axes.axvline((at - began) / 60, color="grey", linewidth=0.6, linestyle="--", alpha=0.6)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
