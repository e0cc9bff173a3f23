"""`python -m bench diffmap`: the level-map kernel beside its NumPy twin and the chain of OpenCV calls."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.report import interleaved_microseconds, print_table, write_json
from pipeline.diffmap import THRESHOLDS, level_map, level_map_numpy

SIZE = 224


def opencv_chain(
    crop: NDArray[np.uint8], neutral: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> list[NDArray[np.uint8]]:
    """The five binary maps as one would write them: absdiff, cvtColor, bitwise_and, five thresholds."""
    grey = cv2.bitwise_and(cv2.cvtColor(cv2.absdiff(crop, neutral), cv2.COLOR_BGR2GRAY), mask)
    return [cv2.threshold(grey, t - 1, 255, cv2.THRESH_BINARY)[1] for t in THRESHOLDS]


class PreallocatedChain:
    """The same chain writing into arrays made beforehand: what OpenCV can do at its best."""

    def __init__(self) -> None:
        self._difference = np.empty((SIZE, SIZE, 3), np.uint8)
        self._grey = np.empty((SIZE, SIZE), np.uint8)
        self._maps = [np.empty((SIZE, SIZE), np.uint8) for _ in THRESHOLDS]

    def __call__(
        self, crop: NDArray[np.uint8], neutral: NDArray[np.uint8], mask: NDArray[np.uint8]
    ) -> list[NDArray[np.uint8]]:
        cv2.absdiff(crop, neutral, dst=self._difference)
        cv2.cvtColor(self._difference, cv2.COLOR_BGR2GRAY, dst=self._grey)
        cv2.bitwise_and(self._grey, mask, dst=self._grey)
        for t, out in zip(THRESHOLDS, self._maps, strict=True):
            cv2.threshold(self._grey, t - 1, 255, cv2.THRESH_BINARY, dst=out)
        return self._maps


def main(argv: list[str]) -> int:
    """Time all four on one random face in a face-shaped mask; print, and write with --json."""
    parser = argparse.ArgumentParser(prog="python -m bench diffmap", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    neutral = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    # The mask of an average face in the five-point alignment covers about this ellipse.
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.ellipse(mask, (112, 120), (66, 76), 0, 0, 360, 255, -1)
    out = np.empty((SIZE, SIZE), np.uint8)
    levels = level_map(crop, neutral, mask, out)
    same = np.array_equal(levels, level_map_numpy(crop, neutral, mask)) and np.array_equal(
        levels, sum((m > 0).astype(np.uint8) for m in opencv_chain(crop, neutral, mask))
    )
    if not same:
        raise AssertionError("kernel, NumPy twin and OpenCV chain disagree")
    preallocated = PreallocatedChain()
    taken = interleaved_microseconds(
        {
            "kernel (Numba)": lambda: level_map(crop, neutral, mask, out),
            "NumPy twin": lambda: level_map_numpy(crop, neutral, mask),
            "OpenCV chain": lambda: opencv_chain(crop, neutral, mask),
            "OpenCV chain, preallocated": lambda: preallocated(crop, neutral, mask),
        },
        arguments.rounds,
        calls=20,
    )
    kernel = taken["kernel (Numba)"]
    rows = [
        {
            "what": name,
            "p50_us": float(np.median(values)),
            "p95_us": float(np.percentile(values, 95)),
            "kernel_is_faster_by": float(np.median(values / kernel)),
        }
        for name, values in taken.items()
    ]
    print(f"one {SIZE}×{SIZE} face, all results identical, {cv2.getNumThreads()} OpenCV threads")
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)
    return 0
