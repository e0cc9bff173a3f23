"""A temporal engine frame by frame: one output per frame without computing every frame sixteen times.

What a frame adds to the gates of the ConvLSTM is computed once. Windows that overlap differ in their states
only: at a frame all windows that contain it, of all faces, advance by one step together, and the one that
ends there gives an output. A window that no output will come from is never begun.

The numbers are the full-window network's, and do not depend on what else is in flight. Works without PyTorch
when the cache is warm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines import cache
from engines.backends.base import ManyAtOnce, SlidingSession
from engines.bundle import resolve
from engines.cache import Entry, Log, Parity
from engines.runtime import finite, log_to_stderr, pick
from engines.spec import EngineSpec
from pipeline.errors import UsageError

WindowState = Literal["warming", "off_hop", "ready"]


def window_state(length: int, every: int, hop: int, kept: int, track_index: int) -> WindowState:
    """Whether a frame of a face has an output.

    Args:
        length: frames of a window.
        every: how many kept frames a window goes on by from one of its frames to the next.
        hop: outputs come where track_index + 1 is a multiple of it.
        kept: frames of the face since the last restart, this one included.
        track_index: kept frames since the face's track began, this one left out.

    Returns:
        `warming` before the first full window, `off_hop` between outputs, `ready` where there is one.
    """
    if kept < (length - 1) * every + 1:
        return "warming"
    return "off_hop" if (track_index + 1) % hop else "ready"


@dataclass(frozen=True, slots=True)
class Advance:
    """A face's newest frame: what is to be done with it."""

    track: Track
    index: int
    ends: tuple[int, ...]
    """Where the windows end that it belongs to, as track indices; empty: nobody asks for its features."""
    restarts: bool
    """Windows begun before it come to nothing."""
    state: WindowState


class Track:
    """The windows in flight of one face: at most `every` times 16 / hop, rounded up."""

    def __init__(self, length: int, every: int, hop: int) -> None:
        self.length, self.every, self.hop = length, every, hop
        self.kept = 0
        """Frames since the last restart, the newest included."""
        self.states: dict[int, Any] = {}
        """Track index at which a window ends → its state."""
        self._index: int | None = None

    def advance(self, track_index: int, restart: bool) -> Advance:
        """Go on to a frame; the windows that it belongs to are due, now or later.

        A track index that does not follow the last one restarts as well: frames between are missing.
        """
        restarts = restart or self._index is None or track_index != self._index + 1
        if restarts:
            self.kept = 0
        self._index = track_index
        self.kept += 1
        span = (self.length - 1) * self.every
        oldest = track_index - self.kept + 1
        ends = tuple(
            end
            for end in range(track_index, track_index + span + 1, self.every)
            if (end + 1) % self.hop == 0 and end - span >= oldest
        )
        return Advance(self, track_index, ends, restarts, self.state)

    @property
    def state(self) -> WindowState:
        """What the newest frame has."""
        if self._index is None:
            return "warming"
        return window_state(self.length, self.every, self.hop, self.kept, self._index)


class SlidingEngine:
    """A temporal network, compiled in parts and loaded.

    `push` does everything at once. To have several frames in work, its parts are there: `begin` in the order
    of the frames, `session.features` by any thread, `finish` in the order of the frames again.
    """

    def __init__(
        self,
        spec: EngineSpec,
        session: SlidingSession,
        backend: str,
        precision: str,
        reason: str,
        entry: Entry,
        batch: int = 1,
    ) -> None:
        self.spec = spec
        self.backend = backend
        """`openvino`, `torch`, …: never `auto`."""
        self.precision = precision
        self.reason = reason
        """Why this backend and precision, for people."""
        self.folder: Path = entry.folder
        """The compiled engine in the cache."""
        self.parity: Parity = entry.parity
        """Against PyTorch eager on full windows, when it was built."""
        self.session = session
        """Its parts."""
        self.batch = batch
        """Faces that it computes at a time, whether so many come or not."""

    def track(self, every: int, hop: int) -> Track:
        """A face comes into view: nothing in flight yet.

        Raises:
            UsageError: `every` or `hop` is below 1.
        """
        if every < 1 or hop < 1:
            raise UsageError(f"{self.spec.name}: expected every and hop of 1 or more, got {every} and {hop}")
        return Track(self.spec.window, every, hop)

    def push(
        self, frames: Sequence[tuple[Track, NDArray[np.uint8], int, bool]]
    ) -> list[NDArray[np.float32] | None]:
        """The newest frame of each of some faces.

        Args:
            frames: per face its track, each once; its crop, uint8 BGR (224, 224, 3); its track index, kept
                frames since the track began; and whether its windows start anew with this frame.

        Returns:
            Per face probabilities, float32 (n_aus,) in the order of `spec.aus`, where `track.state` is
            `ready`, else None.

        Raises:
            UsageError: a crop of another shape or type, or one track twice.
        """
        advances = self.begin(frames)
        wanted = [crop for advance, (_, crop, _, _) in zip(advances, frames, strict=True) if advance.ends]
        if isinstance(self.session, ManyAtOnce):
            seen = iter(self.session.features_of(wanted))
        else:
            seen = map(self.session.features, wanted)
        return self.finish(advances, [next(seen) if advance.ends else None for advance in advances])

    def begin(self, frames: Sequence[tuple[Track, NDArray[np.uint8], int, bool]]) -> list[Advance]:
        """Take note of frames, as `push`; computes nothing."""
        self._check(frames)
        return [track.advance(index, restart) for track, _, index, restart in frames]

    def finish(
        self, advances: Sequence[Advance], features: Sequence[Any | None]
    ) -> list[NDArray[np.float32] | None]:
        """What `push` returns; features: of every advance that has `ends`.

        Raises:
            EngineError: the network answers with something else than numbers.
        """
        gates, windows = [], []
        for advance, seen in zip(advances, features, strict=True):
            if advance.restarts:
                advance.track.states.clear()
            if advance.ends:
                gates += [self.session.gates(seen)] * len(advance.ends)
                windows += [(advance.track, end) for end in advance.ends]
        before = [track.states.pop(end, None) for track, end in windows]
        for (track, end), state in zip(windows, self.session.step(gates, before), strict=True):
            track.states[end] = state
        done = [advance.track.states.pop(advance.index, None) for advance in advances]
        ended = [state for state in done if state is not None]
        if isinstance(self.session, ManyAtOnce):
            outputs = iter(self.session.heads_of(ended))
        else:
            outputs = map(self.session.head, ended)
        about = self.spec.name, self.backend, self.precision
        return [None if state is None else finite(next(outputs), *about) for state in done]

    def _check(self, frames: Sequence[tuple[Track, NDArray[np.uint8], int, bool]]) -> None:
        shape = self.spec.crops_shape(1)[2:]
        for _, crop, _, _ in frames:
            if not isinstance(crop, np.ndarray) or crop.shape != shape or crop.dtype != np.uint8:
                got = f"{crop.dtype} {crop.shape}" if isinstance(crop, np.ndarray) else type(crop).__name__
                raise UsageError(f"{self.spec.name}: crop: expected uint8 {shape}, got {got}")
        if len({id(track) for track, _, _, _ in frames}) < len(frames):
            raise UsageError(f"{self.spec.name}: expected every track once, got one twice")


def load_sliding(
    name_or_path: str | Path,
    backend: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    log: Log = log_to_stderr,
    lanes: int = 1,
    faces: int = 1,
) -> SlidingEngine:
    """A temporal engine in parts, ready to slide; compiled first where the cache does not hold it.

    The arguments are `load_engine`'s; `lanes` is for features.

    Raises:
        UsageError: like `load_engine`, or the engine looks at single frames.
        EngineError: like `load_engine`.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads: expected 1 or more, got {threads}")
    bundle = resolve(name_or_path)
    if bundle.spec.window == 1:
        raise UsageError(f"{bundle.spec.name}: expected a temporal engine, this one looks at single frames")
    implementation, precision, reason = pick(bundle, backend, precision, faces)
    chosen, batch = implementation.name, implementation.batch
    bundle.verify()

    def compile_into(folder: Path) -> Parity:
        log(f"{bundle.spec.name}: compiling its parts for {chosen} in {precision}; kept for the next time")
        from engines.build import build_sliding  # brings PyTorch, which a warm cache does without

        return build_sliding(bundle, implementation, precision, folder)

    entry = cache.entry(bundle, chosen, precision, compile_into, log, form="sliding", batch=batch)
    if entry.built:
        log(f"{bundle.spec.name}, sliding ({chosen}, {precision}): {entry.parity}")
    session = implementation.open_sliding(entry.folder, bundle.spec, threads, lanes)
    return SlidingEngine(bundle.spec, session, chosen, precision, reason, entry, batch)
