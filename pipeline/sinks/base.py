"""What every sink can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.messages import AUResult, Frame, Ledger, StreamInfo


class Sink(Protocol):
    """Takes the results of a run, frame by frame and in frame order within a stream.

    A sink is made before the run, and refuses then what cannot work. Every method may raise OutputError;
    after that only `abort` may be called.
    """

    lossless: bool
    """Whether a frame counts as delivered only when this sink has its rows; a viewer may miss some."""

    def open_stream(self, info: StreamInfo) -> None:
        """Called before the first frame of each stream, also of one that joined during the run."""

    def write(self, frame: Frame, results: Sequence[AUResult]) -> None:
        """Takes one frame with the rows of all its faces, or with one row, whose crop is None."""

    def close_stream(self, ledger: Ledger) -> None:
        """Called after the last frame of each stream, and for one that never had any."""

    def finish(self) -> list[Path]:
        """The run ended in order: makes the files whole and returns their paths."""

    def abort(self) -> None:
        """The run failed: lets go of all and leaves no file that claims to be whole. Does not raise."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the sinks of a run that have died had taken of a stream."""

    frames: int
    """By the last of them alone."""
    rows: int
    """By all of them."""


def stop_requested(sinks: Sequence[Sink]) -> bool:
    """Whether somebody asked for the end of the run, by closing the window."""
    return any(getattr(sink, "closed", False) for sink in sinks)
