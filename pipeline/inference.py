"""The infer stage's logic: faces go in, action units come out, frame-wise engines and temporal ones alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from engines.runtime import Engine, load_engine
from engines.sliding import SlidingEngine, Track, load_sliding
from pipeline.config import RunConfig
from pipeline.errors import EngineError
from pipeline.messages import AUResult, FaceCrop, Ledger, Stamp, WindowInfo
from pipeline.windows import FaceWindow, spacing

CPU_HOP = 4


def load_engines(config: RunConfig, log: Callable[[str], None]) -> list[Engine | SlidingEngine]:
    """The engines of a run; temporal ones slide.

    Raises:
        UsageError, EngineError: as `engines.runtime.load_engine`.
    """
    return [_load(name, config, log) for name in config.engine]


def _load(name: str, config: RunConfig, log: Callable[[str], None]) -> Engine | SlidingEngine:
    from engines.bundle import resolve

    if resolve(name).spec.window == 1:
        return load_engine(name, config.backend, config.precision, log=log)
    try:
        return load_sliding(name, config.backend, config.precision, log=log)
    except EngineError as error:
        log(f"{error}; the whole window is computed at every output instead, which is slower")
        return load_engine(name, config.backend, config.precision, log=log)


@dataclass
class _Slide:
    """One face before a sliding engine."""

    track: Track
    stride: int
    pts_seconds: deque[float]
    last: tuple[int, int] | None = field(default=None)
    """Epoch and number of its newest frame."""


class InferStage:
    """The engines of a run, on the faces of one stream."""

    def __init__(self, engines: Sequence[Engine | SlidingEngine], rate_hz: float, hop: int | None) -> None:
        self._engines = tuple(engines)
        self._rate_hz = rate_hz
        self._hop = hop or CPU_HOP
        self._windows: dict[tuple[str, int], FaceWindow] = {}
        self._slides: dict[tuple[str, int], _Slide] = {}
        self._stride = 1

    def __call__(
        self, stamp: Stamp, crops: Sequence[FaceCrop], stride: int, ledger: Ledger
    ) -> list[AUResult]:
        """One result per face, in their order; for a frame without a face one result without a crop."""
        if not crops:
            ledger.without_face += 1
        self._forget_absent(crops, stride)
        if not crops:
            return [AUResult(stamp, stride, None, {}, {})]
        aus: list[dict[str, dict[str, float]]] = [{} for _ in crops]
        active: list[dict[str, tuple[str, ...]]] = [{} for _ in crops]
        windows: list[WindowInfo | None] = [None] * len(crops)
        for engine in self._engines:
            spec = engine.spec
            if spec.window == 1:
                answers: Sequence[np.ndarray | None] = list(_frame_wise(engine, crops))
            else:
                states, answers = self._temporal(engine, stamp, crops, stride)
                windows = [window or state for window, state in zip(windows, states, strict=True)]
                for state in states:
                    if state.state != "ready":
                        ledger.skipped_inferences[state.state] = (
                            ledger.skipped_inferences.get(state.state, 0) + 1
                        )
            for i, values in enumerate(answers):
                if values is None:
                    continue
                aus[i][spec.name] = {au: float(p) for au, p in zip(spec.aus, values, strict=True)}
                active[i][spec.name] = tuple(
                    au
                    for au, p, threshold in zip(spec.aus, values, spec.thresholds, strict=True)
                    if p >= threshold
                )
        return [
            AUResult(stamp, stride, crop, aus[i], active[i], window=windows[i])
            for i, crop in enumerate(crops)
        ]

    def _temporal(
        self, engine: Engine | SlidingEngine, stamp: Stamp, crops: Sequence[FaceCrop], stride: int
    ) -> tuple[list[WindowInfo], Sequence[np.ndarray | None]]:
        """Every face's newest frame into its window: the windows' states, and probabilities where due."""
        if isinstance(engine, SlidingEngine):
            return self._slide(engine, stamp, crops, stride)
        return self._recompute(engine, stamp, crops, stride)

    def _slide(
        self, engine: SlidingEngine, stamp: Stamp, crops: Sequence[FaceCrop], stride: int
    ) -> tuple[list[WindowInfo], Sequence[np.ndarray | None]]:
        spec = engine.spec
        every = self._every(engine, stride)
        slides: list[_Slide] = []
        frames = []
        for crop in crops:
            key = (spec.name, crop.face)
            if key not in self._slides:
                span = (spec.window - 1) * every + 1
                self._slides[key] = _Slide(engine.track(every, self._hop), stride, deque(maxlen=span))
            slide = self._slides[key]
            restart = slide.last is not None and slide.last != (stamp.epoch, stamp.seq - stride)
            if restart:
                slide.pts_seconds.clear()
            slide.last = (stamp.epoch, stamp.seq)
            slide.pts_seconds.append(stamp.pts_seconds)
            slides.append(slide)
            frames.append((slide.track, crop.crops_bgr[spec.crop.name], crop.track_index, restart))
        answers = engine.push(frames)
        states = []
        for slide in slides:
            ready = slide.track.state == "ready"
            first, last = (slide.pts_seconds[0], slide.pts_seconds[-1]) if ready else (None, None)
            states.append(WindowInfo(slide.track.state, first, last, every))
        return states, answers

    def _recompute(
        self, engine: Engine, stamp: Stamp, crops: Sequence[FaceCrop], stride: int
    ) -> tuple[list[WindowInfo], Sequence[np.ndarray | None]]:
        spec = engine.spec
        states: list[WindowInfo] = []
        answers: list[np.ndarray | None] = []
        for crop in crops:
            window = self._windows.setdefault(
                (spec.name, crop.face), FaceWindow(spec.window, self._every(engine, stride), self._hop)
            )
            state, frames = window.push(
                crop.crops_bgr[spec.crop.name],
                stamp.epoch,
                stamp.seq,
                stride,
                crop.track_index,
                stamp.pts_seconds,
            )
            states.append(state)
            answers.append(None if frames is None else engine.run(frames[None])[0])
        return states, answers

    def _every(self, engine: Engine | SlidingEngine, stride: int) -> int:
        rate_hz = self._rate_hz / stride
        return spacing(rate_hz, engine.spec.rate_hz or rate_hz)

    def _forget_absent(self, crops: Sequence[FaceCrop], stride: int) -> None:
        # A face that misses a kept frame starts its window anew, so nothing of it need be kept; at another
        # stride all windows have another spacing.
        present = {crop.face for crop in crops} if stride == self._stride else set()
        self._stride = stride
        self._windows = {key: window for key, window in self._windows.items() if key[1] in present}
        self._slides = {key: slide for key, slide in self._slides.items() if key[1] in present}


def _frame_wise(engine: Engine | SlidingEngine, crops: Sequence[FaceCrop]) -> np.ndarray:
    assert not isinstance(engine, SlidingEngine)
    pixels = np.stack([crop.crops_bgr[engine.spec.crop.name] for crop in crops])
    levels = np.stack([_levels(crop) for crop in crops]) if engine.spec.level_map else None
    return engine.run(pixels, levels)


def _levels(crop: FaceCrop) -> np.ndarray:
    if crop.level_map is None:
        raise ValueError("level_map: expected one for an engine that reads it, got None")
    return crop.level_map
