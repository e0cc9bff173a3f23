"""What a temporal network's frozen layers make of every frame, computed once and read from disk.

SAT-Net's first stages see one frame at a time. Frozen, they need not run again for each of the windows that a
frame is in, nor for each epoch; only the ConvLSTM and what follows it are left to train.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import OutputError
from pipeline.whole import write_whole

CHUNK = 32
"""Frames that go through the network at once."""


@dataclass(frozen=True)
class FeatureCache:
    """Features of some rows of a pool, in a file (copies, m, C, H, W) float16."""

    path: Path
    where: NDArray[np.int64]
    """(rows of the pool,): place in the file, −1 for none."""

    def read(self, windows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """(B, T, C, H, W) float16 of windows (B, T); each window from one copy, drawn."""
        stored = np.load(self.path, mmap_mode="r")
        copies = rng.integers(0, len(stored), len(windows))
        return torch.from_numpy(
            np.stack([stored[c, self.where[w]] for c, w in zip(copies, windows, strict=True)])
        )


def cached(
    path: Path,
    rows: NDArray[np.int64],
    pool_size: int,
    copies: int,
    identity: dict[str, Any],
    features_of: Callable[[int, NDArray[np.int64]], Tensor],
    tell: Callable[[int], None],
) -> FeatureCache:
    """The features of rows; computed unless the file already holds them.

    Args:
        path: ends in .npy; beside it lies a .json that says what it was made from.
        rows: (m,) rows of the pool, each once.
        pool_size: rows in the pool.
        copies: how many differently augmented ones.
        identity: everything that the features depend on.
        features_of: (copy, rows (k,)) → (k, C, H, W).
        tell: gets the number of frames done.

    Raises:
        OutputError: the file cannot be written.
    """
    where = np.full(pool_size, -1, np.int64)
    where[rows] = np.arange(len(rows))
    label = json.dumps(identity | {"rows": hashlib.sha256(rows.tobytes()).hexdigest()}, sort_keys=True)
    described = path.with_suffix(".json")
    if path.exists() and described.exists() and described.read_text(encoding="utf-8") == label:
        return FeatureCache(path, where)
    try:
        described.unlink(missing_ok=True)
        _fill(path, rows, copies, features_of, tell)
    except OSError as error:
        raise OutputError(f"{path}: cannot write the features: {error.strerror}") from None
    write_whole(described, label.encode())
    return FeatureCache(path, where)


def _fill(
    path: Path,
    rows: NDArray[np.int64],
    copies: int,
    features_of: Callable[[int, NDArray[np.int64]], Tensor],
    tell: Callable[[int], None],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    first = features_of(0, rows[:1])
    shape = (copies, len(rows), *first.shape[1:])
    # Plain writes: a full disk is an error here, where a mapped file would end the process.
    with part.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        done = 0
        for copy in range(copies):
            for chunk in np.split(rows, range(CHUNK, len(rows), CHUNK)):
                file.write(features_of(copy, chunk).to(torch.float16).numpy().tobytes())
                done += len(chunk)
                tell(done)
    os.replace(part, path)
