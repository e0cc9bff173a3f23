"""`python -m train synth`: rendered faces with known action units, streamed into a sample folder.

python -m train synth --out DIR --people 2000 --stills 8 --clips 1 --clip-frames 48 --processes 8
python -m train synth --sheet sheet.png
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.spec import CropSpec
from pipeline.errors import AustreamError, UsageError
from pipeline.progress import Progress
from train.samples import SampleWriter
from train.synth.demo import fingerprint
from train.synth.script import LABELLED
from train.synth.sheet import write_sheet
from train.synth.streaming import Neutral, Seen, Watcher
from train.synth.studio import Shot, Studio

RATE_HZ = 25
PEOPLE_PER_SHARD = 8
_CROPS = ("five_point_224", "box_224")
_NO_NEUTRAL, _IMPERFECT_NEUTRAL = 0.12, 0.22
"""Chance that a recording has no neutral face, and that it has one that is not quite neutral."""
_OF_THE_RECORDING = 0.5
"""Share of the neutral faces that come from the recording itself. What differs from those is the face alone;
a network that knew only others would ask for large differences before it says anything."""


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    out: Path
    people: int
    stills: int
    clips: int
    clip_frames: int
    seed: int
    crops: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("people", "clip_frames"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(self, name)}")
        for name in ("stills", "clips", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name}: expected 0 or more, got {getattr(self, name)}")
        if not self.stills and not self.clips:
            raise UsageError("--stills and --clips are both 0: expected pictures to be asked for")
        for crop in self.crops:
            crop_spec(crop)

    @property
    def shards(self) -> list[range]:
        """People by number, shard by shard."""
        firsts = range(0, self.people, PEOPLE_PER_SHARD)
        return [range(first, min(first + PEOPLE_PER_SHARD, self.people)) for first in firsts]

    def writer(self) -> SampleWriter:
        recordings = f"{self.stills} stills, {self.clips} clips of {self.clip_frames} frames"
        seed = f"{self.seed} ({recordings} each)"
        provenance: dict[str, Any] = {
            "run": f"{seed}, renderer {fingerprint()}",
            "seed": seed,
            "trained": "synthetic",
            "people": self.people,
            "renderer": fingerprint(),
            "commit": _commit(),
        }
        return SampleWriter(
            self.out,
            source="synthetic",
            aus=LABELLED,
            crops=self.crops,
            rate_hz=RATE_HZ if self.clips else None,
            provenance=provenance,
        )


def crop_spec(name: str) -> CropSpec:
    """`five_point_224` → CropSpec; UsageError where it is no crop."""
    try:
        return CropSpec.named(name)
    except ValueError as error:
        raise UsageError(f"--crops: {error}") from None


def shard_name(people: range) -> str:
    return f"people-{people.start:06d}-{people.stop - 1:06d}"


def render_shard(order: Order, people: range) -> int:
    """Render some people and write their shard; returns in how many pictures no face was found."""
    cv2.setNumThreads(1)
    rows, missed = _Rows(order.crops), 0
    watcher = Watcher([crop_spec(name) for name in order.crops])
    try:
        for number in people:
            missed += _record(order, number, watcher, rows)
    finally:
        watcher.close()
    order.writer().write_shard(shard_name(people), rows.arrays())
    return missed


def _record(order: Order, number: int, watcher: Watcher, rows: "_Rows") -> int:
    studio = Studio(order.seed, number)
    rng = np.random.default_rng([order.seed, number, 99])
    neutrals = {flag: rows.add_neutral(watcher.neutral(studio.neutral(flag))) for flag in (False, True)}
    missed = 0

    def choose(k: int, of_clip: bool) -> int:
        chance = rng.random()
        if chance < _NO_NEUTRAL:
            return -1
        imperfect = bool(chance < _NO_NEUTRAL + _IMPERFECT_NEUTRAL)
        if rng.random() >= _OF_THE_RECORDING:
            return neutrals[imperfect]
        return rows.add_neutral(watcher.neutral(studio.rest_in(k, of_clip, imperfect)))

    for k in range(order.stills):
        missed += _watch([studio.still(k)], choose(k, False), watcher, rows, number, -1)
    for k in range(order.clips):
        shots = studio.clip(k, order.clip_frames, RATE_HZ)
        missed += _watch(shots, choose(k, True), watcher, rows, number, number * order.clips + k)
    return missed


def _watch(
    shots: Sequence[Shot], neutral: int, watcher: Watcher, rows: "_Rows", person: int, sequence: int
) -> int:
    """Stream the pictures; frames without a face are left out and counted."""
    watcher.forget()
    missed = 0
    for frame, shot in enumerate(shots):
        seconds = frame / RATE_HZ
        observation = watcher.find(shot.picture_bgr, seconds)
        if observation is None:
            missed += 1
            continue
        seen = watcher.look(shot.picture_bgr, observation, rows.neutral(neutral))
        rows.add(shot, seen, neutral, (person, sequence, frame), seconds)
    return missed


class _Rows:
    """Samples of one shard as they come in."""

    def __init__(self, crops: Sequence[str]) -> None:
        self._crops = tuple(crops)
        self._columns: dict[str, list[Any]] = {}
        self._neutrals: list[Neutral] = []

    def add_neutral(self, neutral: Neutral | None) -> int:
        """Its index, −1 where no face was found."""
        if neutral is None:
            return -1
        self._neutrals.append(neutral)
        return len(self._neutrals) - 1

    def neutral(self, index: int) -> Neutral | None:
        return self._neutrals[index] if index >= 0 else None

    def add(self, shot: Shot, seen: Seen, neutral: int, place: tuple[int, int, int], seconds: float) -> None:
        row = {
            **seen.crops,
            "level_map": seen.level_map,
            "points": seen.points,
            "pose_deg": seen.pose_deg,
            "exposure": seen.exposure,
            "neutral": neutral,
            "intensity": shot.intensity,
            "occurrence": shot.occurrence,
            "subject": place[0],
            "sequence": place[1],
            "frame": place[2],
            "pts_seconds": seconds,
        }
        for name, value in row.items():
            self._columns.setdefault(name, []).append(value)

    def arrays(self) -> dict[str, NDArray[Any]]:
        types: dict[str, type[np.generic]] = dict.fromkeys(
            ("neutral", "subject", "sequence", "frame"), np.int32
        )
        types |= dict.fromkeys(("points", "pose_deg", "exposure", "intensity"), np.float32)
        types |= dict.fromkeys((*self._crops, "level_map", "occurrence"), np.uint8)
        arrays = {name: np.array(column, types.get(name)) for name, column in self._columns.items()}
        images = [neutral.image_bgr for neutral in self._neutrals]
        points = [neutral.points for neutral in self._neutrals]
        arrays["neutrals"] = np.array(images, np.uint8).reshape(-1, 224, 224, 3)
        arrays["neutral_points"] = np.array(points, np.float32).reshape(-1, 478, 3)
        return arrays


def generate(order: Order, processes: int) -> None:
    """Render all shards that are not there yet, then finish the folder."""
    writer = order.writer()
    waiting = [people for people in order.shards if not writer.has_shard(shard_name(people))]
    done = order.people - sum(len(people) for people in waiting)
    progress = Progress("rendering", order.people, unit="people")
    progress.step(done)
    missed = 0
    try:
        for people, lost in _run(order, waiting, processes):
            done += len(people)
            missed += lost
            progress.step(done)
    finally:
        progress.close()
    writer.finish({shard_name(people) for people in order.shards})
    if missed:
        print(f"no face was found in {missed} pictures; they were left out", file=sys.stderr)


def _run(order: Order, waiting: Sequence[range], processes: int) -> Iterator[tuple[range, int]]:
    """(people, pictures without a face) of each shard as it comes."""
    if processes == 1:
        for people in waiting:
            yield people, render_shard(order, people)
        return
    # Spawned, since a fork would share the graphs of MediaPipe.
    context, deaf = get_context("spawn"), _leave_interrupts_to_the_parent
    with ProcessPoolExecutor(processes, mp_context=context, initializer=deaf) as pool:
        running = {pool.submit(render_shard, order, people): people for people in waiting}
        try:
            for job in as_completed(running):
                yield running[job], job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches all processes; the children finish their shard, which is then whole."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _commit() -> str:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def main(argv: list[str]) -> int:
    """Parse the command line and render; 0 when everything is there."""
    parser = argparse.ArgumentParser(
        prog="python -m train synth",
        description="Render faces with known action units, through the streaming code, into a sample folder.",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="sample folder; an interrupted run goes on")
    parser.add_argument("--people", type=int, default=200, help="different people (default 200)")
    parser.add_argument("--stills", type=int, default=8, help="stills of each (default 8)")
    parser.add_argument("--clips", type=int, default=0, help="clips of each (default 0)")
    parser.add_argument(
        "--clip-frames", type=int, default=48, help=f"at {RATE_HZ} frames a second (default 48)"
    )
    parser.add_argument("--seed", type=int, default=1, help="everything is drawn from it (default 1)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one a core")
    parser.add_argument("--crops", default=",".join(_CROPS), help=f"default {','.join(_CROPS)}")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw a labelled sheet of samples")
    arguments = parser.parse_args(argv)
    if arguments.out is None and arguments.sheet is None:
        parser.error("expected --out DIR, --sheet PNG, or both")
    if arguments.processes < 1:
        raise UsageError(f"--processes: expected 1 or more, got {arguments.processes}")
    if arguments.sheet is not None:
        write_sheet(arguments.sheet, arguments.seed)
        print(f"sheet: {arguments.sheet}")
    if arguments.out is not None:
        crops = tuple(dict.fromkeys(arguments.crops.split(",")))
        order = Order(
            arguments.out,
            arguments.people,
            arguments.stills,
            arguments.clips,
            arguments.clip_frames,
            arguments.seed,
            crops,
        )
        try:
            generate(order, arguments.processes)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return 130
        print(f"samples: {arguments.out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except AustreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
