"""The infer stage's logic: faces go in, action units come out, frame-wise engines and temporal ones alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.runtime import Engine
from pipeline.messages import AUResult, FaceCrop, Ledger, Stamp, WindowInfo
from pipeline.windows import FaceWindow, spacing

CPU_HOP = 4


class InferStage:
    """The engines of a run, on the faces of one stream."""

    def __init__(self, engines: Sequence[Engine], rate_hz: float, hop: int | None) -> None:
        self._engines = tuple(engines)
        self._hop = hop or CPU_HOP
        self._every = {
            engine.spec.name: spacing(rate_hz, engine.spec.rate_hz or rate_hz) for engine in self._engines
        }
        self._windows: dict[tuple[str, int], FaceWindow] = {}

    def __call__(
        self, stamp: Stamp, crops: Sequence[FaceCrop], stride: int, ledger: Ledger
    ) -> list[AUResult]:
        """One result per face, in their order; for a frame without a face one result without a crop."""
        if not crops:
            ledger.without_face += 1
            self._windows.clear()
            return [AUResult(stamp, stride, None, {}, {})]
        self._forget_absent(crops)
        aus: list[dict[str, dict[str, float]]] = [{} for _ in crops]
        active: list[dict[str, tuple[str, ...]]] = [{} for _ in crops]
        windows: list[WindowInfo | None] = [None] * len(crops)
        for engine in self._engines:
            spec = engine.spec
            due = list(range(len(crops)))
            pixels = [crop.crops_bgr[spec.crop.name] for crop in crops]
            if spec.window > 1:
                due, pixels, states = self._slide(engine, stamp, crops, stride)
                windows = [window or state for window, state in zip(windows, states, strict=True)]
                for state in states:
                    if state.state != "ready":
                        ledger.skipped_inferences[state.state] = (
                            ledger.skipped_inferences.get(state.state, 0) + 1
                        )
            if not due:
                continue
            levels = np.stack([_levels(crops[i]) for i in due]) if spec.level_map else None
            probabilities = engine.run(np.stack(pixels), levels)
            for i, values in zip(due, probabilities, strict=True):
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

    def _slide(
        self, engine: Engine, stamp: Stamp, crops: Sequence[FaceCrop], stride: int
    ) -> tuple[list[int], list[np.ndarray], list[WindowInfo]]:
        """Push every crop into its face's window: which faces are due, their pixels, every window's state."""
        due: list[int] = []
        pixels: list[np.ndarray] = []
        states: list[WindowInfo] = []
        spec = engine.spec
        for i, crop in enumerate(crops):
            window = self._windows.setdefault(
                (spec.name, crop.face), FaceWindow(spec.window, self._every[spec.name], self._hop)
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
            if frames is not None:
                due.append(i)
                pixels.append(frames)
        return due, pixels, states

    def _forget_absent(self, crops: Sequence[FaceCrop]) -> None:
        # A face that misses a kept frame starts its window anew, so nothing of it need be kept.
        present = {crop.face for crop in crops}
        self._windows = {key: window for key, window in self._windows.items() if key[1] in present}


def _levels(crop: FaceCrop) -> np.ndarray:
    if crop.level_map is None:
        raise ValueError("level_map: expected one for an engine that reads it, got None")
    return crop.level_map
