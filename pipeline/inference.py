"""The infer stage's logic: faces go in, action units come out, frame-wise engines and temporal ones alike."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines.backends import ON_GPU
from engines.gpu import nvidia_gpu
from engines.runtime import Engine, load_engine
from engines.sliding import Advance, SlidingEngine, Track, load_sliding
from engines.spec import EngineSpec
from pipeline import align
from pipeline.address import LIVE_SCHEMES, scheme_of
from pipeline.config import RunConfig
from pipeline.errors import EngineError
from pipeline.messages import AUResult, FaceCrop, Ledger, Stamp, WindowInfo
from pipeline.streams import IN_INFER
from pipeline.windows import FaceWindow, spacing

CPU_HOP, GPU_HOP = 4, 1


def load_engines(
    config: RunConfig, log: Callable[[str], None], lanes: int = 1
) -> list[Engine | SlidingEngine]:
    """The engines of a run; temporal ones slide. `lanes`: how many faces each can be at work on at a time.

    Raises:
        UsageError, EngineError: as `engines.runtime.load_engine`.
    """
    return [_load(name, config, log, lanes) for name in config.engine]


def _load(name: str, config: RunConfig, log: Callable[[str], None], lanes: int) -> Engine | SlidingEngine:
    from engines.bundle import resolve

    faces = config.max_faces
    if resolve(name).spec.window == 1:
        faces *= feeds_in_work(config)
        return load_engine(name, config.backend, config.precision, log=log, lanes=lanes, faces=faces)
    try:
        return load_sliding(name, config.backend, config.precision, log=log, lanes=lanes, faces=faces)
    except EngineError as error:
        if config.precision == "int8":  # the whole window in INT8 is made of the same parts
            raise
        log(f"{error}; the whole window is computed at every output instead, which is slower")
        return load_engine(name, config.backend, config.precision, log=log, lanes=lanes, faces=faces)


def feeds_in_work(config: RunConfig) -> int:
    """Of how many feeds frames can be at the engines at a time, for whose faces a GPU's batch has room.

    Live ones come side by side, but no more than `IN_INFER` frames are in work. A temporal engine's windows
    go on feed by feed, so its batch is for one.
    """
    live = sum(scheme_of(uri) in LIVE_SCHEMES for uri in config.source) + len(config.camera)
    return min(max(live, 1), IN_INFER)


def auto_hop(temporal_backends: Iterable[str]) -> int:
    """The hop where none is asked for, by the backends of the engines that have one. Inductor computes on a
    GPU where there is one, else on the CPU."""
    backends = set(temporal_backends)
    return GPU_HOP if backends and backends <= set(ON_GPU) and nvidia_gpu() else CPU_HOP


@dataclass
class _Slide:
    """One face before a sliding engine."""

    track: Track
    stride: int
    pts_seconds: deque[float]
    last: tuple[int, int] | None = field(default=None)
    """Epoch and number of its newest frame."""


@dataclass(frozen=True)
class _Asked:
    """One engine's share of a frame: what has been asked for each face; None where nothing is due."""

    engine: Engine | SlidingEngine
    advances: list[Advance] | None
    """Of a sliding engine, whose windows go on when the answers are collected."""
    answers: list[Future[Any] | None]
    spent_ms: list[float]
    """What its threads have taken so far, a number for every piece of work."""

    def collect(self) -> list[np.ndarray | None]:
        """Probabilities per face; waits for them."""
        values = [None if answer is None else answer.result() for answer in self.answers]
        if self.advances is None:
            return values
        assert isinstance(self.engine, SlidingEngine)
        return list(_timed(self.spent_ms, self.engine.finish, self.advances, values))


@dataclass(frozen=True)
class Pending:
    """A frame that the engines are at work on."""

    stamp: Stamp
    stride: int
    crops: Sequence[FaceCrop]
    asked: list[_Asked]
    windows: list[WindowInfo | None]

    @property
    def done(self) -> bool:
        """Whether `InferStage.finish` would not wait for other threads."""
        return all(f is None or f.done() for asked in self.asked for f in asked.answers)

    @property
    def compute_ms(self) -> dict[str, float]:
        """By engine that had something to do: its time on this frame, all threads together; once finished."""
        return {asked.engine.spec.name: sum(asked.spent_ms) for asked in self.asked if asked.spent_ms}

    def wait(self, timeout_seconds: float) -> None:
        """Until `done`, or until the time is up."""
        futures.wait([f for asked in self.asked for f in asked.answers if f is not None], timeout_seconds)


class _AtOnce(Executor):
    """Does what it is given before `submit` returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class InferStage:
    """The engines of a run, on the faces of one stream.

    Called, it answers for one frame. To have several in work: `begin` each in order, `finish` each in the
    same order. The results are the same.
    """

    def __init__(
        self,
        engines: Sequence[Engine | SlidingEngine],
        rate_hz: float,
        hop: int | None,
        workers: Executor | None = None,
    ) -> None:
        """workers: the threads that run the engines; None does everything in the caller's."""
        self._engines = tuple(engines)
        self._rate_hz = rate_hz
        self._hop = hop or auto_hop(e.backend for e in self._engines if e.spec.window > 1)
        self._workers = workers or _AtOnce()
        self._windows: dict[tuple[str, int], FaceWindow] = {}
        self._slides: dict[tuple[str, int], _Slide] = {}
        self._stride = 1

    def __call__(
        self, stamp: Stamp, crops: Sequence[FaceCrop], stride: int, ledger: Ledger
    ) -> list[AUResult]:
        """One result per face, in their order; for a frame without a face one result without a crop."""
        return self.finish(self.begin(stamp, crops, stride, ledger))

    def begin(self, stamp: Stamp, crops: Sequence[FaceCrop], stride: int, ledger: Ledger) -> Pending:
        """Set the engines to work on a frame. Its crops must not change until `finish`."""
        self._forget_absent(crops, stride)
        windows: list[WindowInfo | None] = [None] * len(crops)
        asked = []
        for engine in self._engines if crops else ():
            if engine.spec.window == 1:
                asked.append(self._frame_wise(engine, crops))
                continue
            states, asking = self._temporal(engine, stamp, crops, stride)
            asked.append(asking)
            windows = [window or state for window, state in zip(windows, states, strict=True)]
        ledger.count_row_states([window.state for window in windows if window], len(crops))
        return Pending(stamp, stride, crops, asked, windows)

    def finish(self, pending: Pending) -> list[AUResult]:
        """The results of a frame; waits for them."""
        stamp, stride, crops = pending.stamp, pending.stride, pending.crops
        if not crops:
            return [AUResult(stamp, stride, None, {}, {})]
        aus: list[dict[str, dict[str, float]]] = [{} for _ in crops]
        active: list[dict[str, tuple[str, ...]]] = [{} for _ in crops]
        intensity: list[dict[str, dict[str, float]]] = [{} for _ in crops]
        for asked in pending.asked:
            spec = asked.engine.spec
            for i, values in enumerate(asked.collect()):
                if values is None:
                    continue
                aus[i][spec.name] = {au: float(p) for au, p in zip(spec.aus, values, strict=True)}
                active[i][spec.name] = tuple(
                    au
                    for au, p, threshold in zip(spec.aus, values, spec.thresholds, strict=True)
                    if p >= threshold
                )
                if spec.max_intensity is not None:
                    intensity[i][spec.name] = {
                        au: spec.max_intensity * p for au, p in aus[i][spec.name].items()
                    }
        return [
            AUResult(stamp, stride, crop, aus[i], active[i], intensity[i], pending.windows[i])
            for i, crop in enumerate(crops)
        ]

    def _frame_wise(self, engine: Engine | SlidingEngine, crops: Sequence[FaceCrop]) -> _Asked:
        # A face by itself, whatever its company: its numbers are the same then.
        assert not isinstance(engine, SlidingEngine)
        spent_ms: list[float] = []
        return _Asked(
            engine,
            None,
            [self._workers.submit(_timed, spent_ms, _ask, engine, crop) for crop in crops],
            spent_ms,
        )

    def _temporal(
        self, engine: Engine | SlidingEngine, stamp: Stamp, crops: Sequence[FaceCrop], stride: int
    ) -> tuple[list[WindowInfo], _Asked]:
        """Every face's newest frame into its window: the windows' states, and what is asked for."""
        if isinstance(engine, SlidingEngine):
            return self._slide(engine, stamp, crops, stride)
        return self._recompute(engine, stamp, crops, stride)

    def _slide(
        self, engine: SlidingEngine, stamp: Stamp, crops: Sequence[FaceCrop], stride: int
    ) -> tuple[list[WindowInfo], _Asked]:
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
        advances = engine.begin(frames)
        spent_ms: list[float] = []
        answers = [
            self._workers.submit(_timed, spent_ms, engine.session.features, crop) if advance.ends else None
            for advance, (_, crop, _, _) in zip(advances, frames, strict=True)
        ]
        states = []
        for slide, advance in zip(slides, advances, strict=True):
            ready = advance.state == "ready"
            first, last = (slide.pts_seconds[0], slide.pts_seconds[-1]) if ready else (None, None)
            states.append(WindowInfo(advance.state, first, last, every))
        return states, _Asked(engine, advances, answers, spent_ms)

    def _recompute(
        self, engine: Engine, stamp: Stamp, crops: Sequence[FaceCrop], stride: int
    ) -> tuple[list[WindowInfo], _Asked]:
        spec = engine.spec
        states: list[WindowInfo] = []
        answers: list[Future[Any] | None] = []
        spent_ms: list[float] = []
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
            due = frames is not None
            answers.append(self._workers.submit(_timed, spent_ms, _run_one, engine, frames) if due else None)
        return states, _Asked(engine, None, answers, spent_ms)

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


def _timed(spent_ms: list[float], work: Callable[..., Any], *args: Any) -> Any:
    began = time.perf_counter()
    done = work(*args)
    spent_ms.append(1e3 * (time.perf_counter() - began))
    return done


def inputs_of(spec: EngineSpec, crop: FaceCrop) -> dict[str, np.ndarray]:
    """What an engine that looks at single frames reads of a face, by name: `EngineSpec.inputs(1)`."""
    beside = {"level_map": crop.level_map, "neutral": crop.neutral_bgr, "landmarks": crop.landmarks}
    if spec.au_centers:
        beside["au_centers"] = align.au_centers_in_crop(spec.crop, crop.landmarks_px, crop.bbox_xyxy)
    given: dict[str, np.ndarray] = {"crops": crop.crops_bgr[spec.crop.name][None]}
    for name in spec.inputs(1).keys() - {"crops"}:
        array = beside[name]
        if array is None:
            raise ValueError(f"{name}: expected one for an engine that reads it, got None")
        given[name] = array[None]
    return given


def _ask(engine: Engine, crop: FaceCrop) -> np.ndarray:
    probabilities: np.ndarray = engine.run(**inputs_of(engine.spec, crop))[0]
    return probabilities


def _run_one(engine: Engine, pixels: np.ndarray) -> np.ndarray:
    probabilities: np.ndarray = engine.run(pixels[None])[0]
    return probabilities
