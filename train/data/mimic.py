"""`python -m train data mimic LAYOUT OUT`: rendered people, laid out exactly as a licensed dataset is.

For tests, and to show the way from a dataset's folder to its tables without the dataset. `README.txt` in the
folder begins with SYNTHETIC; `check`, `prepare` and what reads their results go by it and say so.

A recording begins at rest. Then expressions come and go, one a second, each of up to three of the dataset's
AUs that a face can do together; over four to five of them every AU has been shown.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import OutputError, UsageError
from pipeline.progress import Progress
from train.data.mimic_layouts import DATASETS, Layout, Shown
from train.data.mimic_lists import LISTS
from train.data.rendered import MARK, README, is_rendered
from train.synth.camera import photograph
from train.synth.figure import Acting
from train.synth.labels import labels
from train.synth.pose import Pose
from train.synth.script import LABELLED, Event, acting_at, excludes
from train.synth.studio import Studio, take

LAYOUTS = {**DATASETS, **LISTS}
_SIZE_WH, _FACE_PX = (320, 240), 140.0
_REST_SECONDS, _PERIOD_SECONDS = 0.2, 1.0
_TOGETHER = 3


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    layout: Layout
    out: Path
    people: int
    seconds: float
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.people <= len(self.layout.subjects):
            most = len(self.layout.subjects)
            raise UsageError(f"--people {self.people}: expected 1 to {most}, as {self.layout.title} has")
        if not 0.4 <= self.seconds <= 600:
            raise UsageError(f"--seconds {self.seconds:g}: expected 0.4 to 600 for each person")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: expected 0 or more")


class Sitter:
    """One rendered person in a laboratory."""

    def __init__(self, seed: int, number: int, aus: Sequence[str]) -> None:
        self._studio = Studio(seed, number)
        self._shoot = self._studio.sitting(_SIZE_WH, _FACE_PX)
        self._rng = np.random.default_rng([seed, number, 7])
        self._aus = [au for au in LABELLED if au in aus]
        self._deck: list[str] = []

    def record(self, frames: int, rate_hz: float, to_peak: bool = False, yaw_deg: float = 0.0) -> Shown:
        """A recording from rest on.

        Args:
            frames: how many; rate_hz: how many a second.
            to_peak: one expression whose apex is the last frame, as in CK+.
            yaw_deg: where the head is turned to on average.
        """
        seconds = frames / rate_hz
        events = [self._event(seconds)] if to_peak else self._events(seconds)
        phase = self._rng.uniform(0, 6.3, 3)
        pictures, intensity, occurrence = [], [], []
        for k in range(frames):
            at = k / rate_hz
            acting = acting_at(events, at, Acting(), (0.0, 0.0))
            sway = np.sin(0.9 * at + phase) * (3.0, 1.5, 1.0)
            picture, truth = take(
                self._studio.figure,
                acting,
                Pose(yaw_deg + float(sway[0]), float(sway[1]), float(sway[2])),
                self._shoot,
            )
            pictures.append(photograph(picture, self._shoot.camera, int(self._rng.integers(1, 2**31))))
            levels, present = labels(acting, truth)
            intensity.append(levels)
            occurrence.append(present)
        return Shown(pictures, np.array(intensity), np.array(occurrence), self._shown(events))

    def _events(self, seconds: float) -> list[Event]:
        """Expressions one after the other; a recording shorter than one of them has it all the same."""
        period = min(_PERIOD_SECONDS, seconds - _REST_SECONDS)
        begins = np.arange(_REST_SECONDS, max(seconds - 0.7 * period, _REST_SECONDS + 1e-9), period)
        shares = np.array((0.0, 0.2, 0.65, 0.9)) * period
        times = [[float(begin + share) for share in shares] for begin in begins]
        return [Event(self._peaks(), on, apex, off, end, {}) for on, apex, off, end in times]

    def _event(self, seconds: float) -> Event:
        return Event(
            self._peaks(), min(_REST_SECONDS, 0.3 * seconds), 0.9 * seconds, 2 * seconds, 3 * seconds, {}
        )

    def _peaks(self) -> dict[str, tuple[float, float]]:
        """The next AUs of the deck that a face can do together, at 45 to 100 % of their strength."""
        if len(self._deck) < _TOGETHER:
            rest = [au for au in self._rng.permutation(self._aus) if au not in self._deck]
            self._deck += [str(au) for au in rest]
        chosen: list[str] = []
        for au in list(self._deck):
            if len(chosen) < _TOGETHER and not any(excludes(au, other) for other in chosen):
                chosen.append(au)
                self._deck.remove(au)
        strengths = self._rng.uniform(0.45, 1.0, len(chosen))
        return {au: (float(share), float(share)) for au, share in zip(chosen, strengths, strict=True)}

    @staticmethod
    def _shown(events: Sequence[Event]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(au for event in events for au in event.peaks))


def mimic(order: Order) -> None:
    """Render everybody, person by person, and move the folder to its place when it is whole.

    Raises:
        UsageError: the folder exists and is not empty.
        OutputError: it cannot be written.
    """
    out = order.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists already; expected a new or empty folder")
    part = out.with_name(out.name + ".part")
    if part.exists() and not is_rendered(part):
        raise UsageError(f"{part}: in the way, and not of this command; move it")
    progress = Progress("rendering", order.people, unit="people")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        (part / README).write_text(_readme(order), encoding="utf-8")
        for number, subject in enumerate(order.layout.subjects[: order.people]):
            sitter = Sitter(order.seed, number, order.layout.aus)
            order.layout.write(part, subject, sitter.record, order.seconds)
            progress.step(number + 1)
        if out.exists():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        progress.close()


def _readme(order: Order) -> str:
    return (
        f"{MARK}\n\n"
        f"Rendered faces in the layout of {order.layout.title}, made by austream:\n"
        f"python -m train data mimic {order.layout.name} … --people {order.people} "
        f"--seconds {order.seconds:g} --seed {order.seed}\n\n"
        f"Nobody of {order.layout.title} is in it, and no coder has seen it: the labels are what the\n"
        "renderer was asked for. A score on it is a score on rendered faces.\n"
    )


def main(argv: Sequence[str]) -> int:
    """What follows `python -m train data mimic`.

    Raises:
        AustreamError: a wrong argument, or the folder cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m train data mimic",
        description="Render people into a licensed dataset's layout; marked SYNTHETIC in its README.txt.",
    )
    parser.add_argument("layout", metavar="LAYOUT", help=", ".join(LAYOUTS))
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument(
        "--people", type=int, default=9, metavar="N", help="spread over the parts (default 9)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each person (default 5)")
    parser.add_argument("--seed", type=int, default=1, metavar="K", help="everything is drawn from it")
    args = parser.parse_args(argv)
    if args.layout not in LAYOUTS:
        raise UsageError(f"{args.layout}: no such layout; expected one of {', '.join(LAYOUTS)}")
    mimic(Order(LAYOUTS[args.layout], args.out, args.people, args.seconds, args.seed))
    print(f"{args.out}: {args.people} rendered people in the layout of {LAYOUTS[args.layout].title}")
    return 0
