"""`python -m bench demo RESULTS.jsonl`: does a run on `--source demo` show what the clip was made from?

The clip's script is known, so the rows can be checked against it: the tracked geometry and the level map at
each expression's apex against the stretches at rest, and each AU's probability by trained engines likewise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import print_table
from pipeline.errors import RunError, SourceError

ENOUGH_SCATTERS = 3.0
"""An apex counts as seen when it stands this many times the scatter at rest away from rest."""
CLEARLY_ABOVE = 0.1
"""An AU's probability at its apex stands at least so far above 95 % of what it is at rest."""
QUIET_SHARE = 0.02
"""Level share that a face at rest may show under any light."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """At the apex of `au`, `measure` (a path into the row) is above rest (+1) or below it (−1)."""

    au: str
    measure: tuple[str, str]
    sign: int


EXPECTATIONS = (
    Expectation("AU01", ("geometry", "brow_raise"), +1),
    Expectation("AU01", ("level_share", "brows"), +1),
    Expectation("AU04", ("geometry", "brow_raise"), -1),
    Expectation("AU04", ("level_share", "brows"), +1),
    Expectation("AU06", ("level_share", "face"), +1),
    Expectation("AU09", ("level_share", "face"), +1),
    Expectation("AU12", ("geometry", "mouth_width"), +1),
    Expectation("AU12", ("level_share", "mouth"), +1),
    Expectation("AU15", ("geometry", "corner_lift"), -1),
    Expectation("AU15", ("level_share", "mouth"), +1),
    Expectation("AU20", ("geometry", "mouth_width"), +1),
    Expectation("AU25", ("geometry", "lip_gap"), +1),
    Expectation("AU25", ("level_share", "mouth"), +1),
    Expectation("AU26", ("geometry", "jaw_drop"), +1),
    Expectation("AU26", ("level_share", "mouth"), +1),
    Expectation("AU43", ("geometry", "eye_opening"), -1),
    Expectation("AU43", ("level_share", "eyes"), +1),
)


class DemoRun:
    """The rows of one run on the demo clip beside the clip's script."""

    def __init__(self, path: Path) -> None:
        from train.synth.timeline import FRAMES, FRAMES_PER_SECOND, SEGMENTS, timeline_at

        lines = _read(path)
        self.rows = [row for row in lines if row["type"] == "result"]
        self.engines = [engine for row in lines if row["type"] == "header" for engine in row["engines"]]
        self.ledger = next((row for row in lines if row["type"] == "ledger"), None)
        if len(self.rows) < FRAMES or self.ledger is None:
            raise RunError(
                f"{path}: {len(self.rows)} rows; expected a whole run on --source demo ({FRAMES} frames)"
            )
        self.rate_hz = FRAMES_PER_SECOND
        self.seconds = np.array([row["pts_seconds"] for row in self.rows])
        self.script = [timeline_at(s) for s in self.seconds]
        self.segments = {segment.name: segment for segment in SEGMENTS}
        quiet = np.array([not any(aus.values()) for aus in self.script])
        known = np.array([row.get("level_share") is not None for row in self.rows])
        moving = self._within("head motion") | self._within("light")
        self.rest = quiet & known & ~moving

    def _within(self, segment: str) -> NDArray[np.bool_]:
        s = self.segments[segment]
        return (self.seconds >= s.begin) & (self.seconds < s.end)

    def values(self, group: str, name: str) -> NDArray[np.float64]:
        """A measure over all rows; NaN where a row has none."""
        return np.array([np.nan if not row.get(group) else row[group][name] for row in self.rows])

    def apex(self, au: str) -> NDArray[np.bool_]:
        strongest = max(aus.get(au, 0.0) for aus in self.script)
        return np.array([aus.get(au, 0.0) > 0.95 * strongest for aus in self.script])


def check(run: DemoRun) -> list[dict[str, Any]]:
    """Every expectation with what was seen and whether it holds."""
    rows: list[dict[str, Any]] = []

    def add(what: str, expected: str, seen: str, holds: bool) -> None:
        rows.append({"check": what, "expected": expected, "seen": seen, "": "ok" if holds else "FAILED"})

    faces = {row["face"] for row in run.rows}
    add("one face, one id, in every frame", "{0}", str(faces), faces == {0})
    balanced = bool(run.ledger and run.ledger["balanced"])
    add("every frame accounted for", "balanced", "balanced" if balanced else "not balanced", balanced)
    first = next((row["pts_seconds"] for row in run.rows if row["neutral"] == "automatic"), float("inf"))
    add("neutral found while at rest", "before 3.2 s", f"{first:.2f} s", first < 3.2)
    for expectation in EXPECTATIONS:
        values = run.values(*expectation.measure)
        rest, apex = values[run.rest], values[run.apex(expectation.au)]
        scatter = max(float(np.percentile(rest, 84) - np.percentile(rest, 16)) / 2, 1e-4)
        distance = expectation.sign * float(np.nanmedian(apex) - np.median(rest)) / scatter
        direction = "above" if expectation.sign > 0 else "below"
        add(
            f"{expectation.au}: {expectation.measure[1]} ({expectation.measure[0]})",
            f"{direction} rest",
            f"{np.median(rest):.3f} → {np.nanmedian(apex):.3f}, {distance:.0f} × scatter",
            distance >= ENOUGH_SCATTERS,
        )
    rows += _engine_checks(run)
    light = run._within("light")
    share = float(np.nanmedian(run.values("level_share", "face")[light]))
    gain = float(np.nanmax(run.values("exposure", "gain")[light]))
    add("light step: level map stays dark", f"< {QUIET_SHARE}", f"{share:.4f}", share < QUIET_SHARE)
    add("light step: recorded as gain", "> 1.1", f"{gain:.2f}", gain > 1.1)
    yaw = run.values("pose_deg", "yaw")[run._within("head motion")]
    add(
        "head motion: yaw to both sides",
        "±5°",
        f"{yaw.min():+.0f}° … {yaw.max():+.0f}°",
        yaw.min() < -5 and yaw.max() > 5,
    )
    return rows


def _engine_checks(run: DemoRun) -> list[dict[str, Any]]:
    """Every AU of the script that a trained engine knows. What random weights say means nothing."""
    rows = []
    for engine in run.engines:
        if engine["trained"] == "untrained":
            continue
        for au in sorted(
            {au for aus in run.script for au, share in aus.items() if share} & set(engine["aus"])
        ):
            found = np.array([row["aus"].get(engine["name"], {}).get(au, np.nan) for row in run.rows])
            rest, apex = np.nanpercentile(found[run.rest], 95), np.nanmedian(found[run.apex(au)])
            holds = bool(apex >= rest + CLEARLY_ABOVE)
            rows.append(
                {
                    "check": f"{au}: probability ({engine['name']})",
                    "expected": "above rest",
                    "seen": f"{rest:.2f} → {apex:.2f}",
                    "": "ok" if holds else "FAILED",
                }
            )
    return rows


def plot(run: DemoRun, path: Path) -> None:
    """Tracked geometry and level shares over time, with the script behind them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = (
        ("brow height", "geometry", "brow_raise", ("AU01", "AU04")),
        ("eye opening", "geometry", "eye_opening", ("AU43",)),
        ("mouth width", "geometry", "mouth_width", ("AU12", "AU20")),
        ("lip gap", "geometry", "lip_gap", ("AU25",)),
        ("nose to chin", "geometry", "jaw_drop", ("AU26",)),
        ("level map: brows", "level_share", "brows", ("AU01", "AU04")),
        ("level map: eyes", "level_share", "eyes", ("AU43",)),
        ("level map: mouth", "level_share", "mouth", ("AU12", "AU15", "AU25")),
        ("exposure gain", "exposure", "gain", ()),
    )
    figure, axes = plt.subplots(len(panels), 1, figsize=(11, 13), sharex=True, layout="constrained")
    colors = ("#e69f00", "#56b4e9", "#009e73")
    for axis, (title, group, name, aus) in zip(axes, panels, strict=True):
        for au, color in zip(aus, colors, strict=False):
            level = np.array([script.get(au, 0.0) for script in run.script])
            axis.fill_between(
                run.seconds,
                0,
                level,
                color=color,
                alpha=0.3,
                lw=0,
                label=f"{au} in the script",
                transform=axis.get_xaxis_transform(),
            )
        axis.plot(run.seconds, run.values(group, name), color="#222222", lw=1.2)
        axis.set_ylabel(title, rotation=0, ha="right", va="center")
        axis.spines[["top", "right"]].set_visible(False)
        if aus:
            axis.legend(loc="upper right", fontsize=8, frameon=False, ncols=3)
    axes[-1].set_xlabel("seconds")
    figure.suptitle("What the pipeline measured on the demo clip, and what the clip was made from")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str]) -> int:
    """Check one file of results; 1 when an expectation fails."""
    parser = argparse.ArgumentParser(prog="python -m bench demo", description=__doc__)
    parser.add_argument("results", type=Path, metavar="RESULTS.jsonl")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    arguments = parser.parse_args(argv)
    run = DemoRun(arguments.results)
    rows = check(run)
    print_table(rows)
    if arguments.plot:
        plot(run, arguments.plot)
        print(f"\nplot: {arguments.plot}")
    failed = sum(row[""] != "ok" for row in rows)
    print(f"\n{len(rows) - failed} of {len(rows)} checks hold")
    return 1 if failed else 0


def _read(path: Path) -> Sequence[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror}); expected the .jsonl of a demo run"
        ) from error
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}: not JSON lines ({error}); expected the .jsonl of a demo run") from error
