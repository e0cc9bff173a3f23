"""Batches of a phase. Batch k is a function of recipe, data and k, so a run can go on from any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from engines.spec import CropSpec
from train.augment import Change, draw
from train.features import FeatureCache
from train.pool import Pool
from train.recipe import AugmentTable, PhaseTable

RARE_BELOW, RARE_TIMES = 0.3, 5.0
"""Of the sampler `rare`. Half of EAC-Net's AUs on BP4D occur in 15 to 24 % of the frames, the others in 36 %
or more; the rate of the former was raised 4 to 7 times."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a network reads and what it should say."""

    pictures: Tensor
    """uint8 BGR (B, px, px, 3) or (B, T, px, px, 3); for a phase on features float16 (B, T, C, H, W)."""
    beside: Mapping[str, Tensor]
    """What else the network reads, by name and as in `EngineSpec.inputs`."""
    occurrence: Tensor
    """uint8 (B, A), 0, 1 or 9: of the last frame of a window."""
    intensity: Tensor
    """float32 (B, A), 0–5, NaN for unknown: of the same frame."""

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        beside = {name: tensor.to(device, non_blocking=True) for name, tensor in self.beside.items()}
        pictures = self.pictures.to(device, non_blocking=True)
        return Batch(pictures, beside, self.occurrence.to(device), self.intensity.to(device))


@dataclass(frozen=True)
class Batches(Dataset[Batch]):
    """All batches of a phase, endlessly many."""

    pool: Pool
    items: NDArray[np.int64]
    """(k, T): rows of each sample or window that is trained on."""
    crop: str
    """Which pictures of the samples are read."""
    beside: tuple[str, ...]
    """Of `level_map`, `au_centers`, `neutral`, `landmarks`: what else the network reads."""
    table: AugmentTable | None
    """None: pictures as they are."""
    batch_size: int
    shuffle: bool
    """True in training: items in drawn order, full batches only; False: each once, in its own order."""
    sampler: str = "uniform"
    seed: tuple[int, ...] = (0,)
    features: FeatureCache | None = None
    kept_px: int | None = None
    """Side of the piece that the network gets of each picture, cut at random; None for all of it."""
    shrunk_px: int = 0
    """Side that pictures are shrunk to at last; 0: not."""
    _orders: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Of the pass that is under way: drawing it takes longer than preparing a batch."""

    def __len__(self) -> int:
        """Batches of one pass."""
        whole, rest = divmod(len(self.items), self.batch_size)
        return max(whole, 1) if self.shuffle else whole + bool(rest)

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, counted through all passes."""
        lap, k = divmod(number, len(self))
        if lap not in self._orders:
            self._orders.clear()
            self._orders[lap] = self.order(lap)
        chosen = self._orders[lap][k * self.batch_size : (k + 1) * self.batch_size]
        windows = self.items[chosen]
        labels = self.pool.occurrence[windows[:, -1]], self.pool.intensity[windows[:, -1]]
        occurrence, intensity = map(torch.from_numpy, labels)
        if self.features is not None:
            return Batch(self.features.read(windows, self._rng(lap, k)), {}, occurrence, intensity)
        table = self.table
        if table is None:
            changes: list[Change | None] = [None] * len(windows)
        else:
            px = CropSpec.named(self.crop).size_px
            changes = [draw(table, px, self._rng(lap, k, i), self.kept_px) for i in range(len(windows))]
        pairs = list(zip(windows, changes, strict=True))
        pictures = np.stack([self._pictures(rows, change) for rows, change in pairs])
        beside = {name: torch.from_numpy(self._beside(name, windows[:, -1], changes)) for name in self.beside}
        return Batch(torch.from_numpy(pictures), beside, occurrence, intensity)

    def _beside(
        self, name: str, rows: NDArray[np.int64], changes: Sequence[Change | None]
    ) -> NDArray[np.generic]:
        """One array per sample, changed as its picture is."""
        of_crop = (self.crop,) if name == "au_centers" else ()
        arrays = getattr(self.pool, name)(rows, *of_crop)
        change_of = {"level_map": "levels", "au_centers": "centers", "neutral": "neutral_face"}.get(
            name, name
        )
        pairs = zip(arrays, changes, strict=True)
        return np.stack([a if change is None else getattr(change, change_of)(a) for a, change in pairs])

    def order(self, lap: int) -> NDArray[np.int64]:
        """Which items the batches of a pass consist of.

        `balanced`: half of the draws are even; for the other half an AU is drawn first, then a sample that
        shows it. So a rare AU is met more often, and common ones still are. `rare` (EAC-Net, Table II):
        samples with an AU that fewer than 30% show are drawn 5 times as often. `inverse_rate` (TRA-Net): a
        sample is drawn by the mean over its AUs of 1 / rate, by 1 where it shows none; the paper gives no
        formula.
        """
        count = len(self.items)
        if not self.shuffle:
            return np.arange(count)
        rng = self._rng(lap)
        if self.sampler == "uniform":
            return rng.permutation(count)
        present = self.pool.occurrence[self.items[:, -1]] == 1
        if self.sampler != "balanced":
            weights = sampling_weights(present, self.sampler)
            return rng.choice(count, count, p=weights / weights.sum())
        order = rng.integers(0, count, count)
        shown = [np.flatnonzero(column) for column in present.T]
        for i in np.flatnonzero(rng.uniform(size=count) < 0.5):
            order[i] = rng.choice(shown[rng.integers(len(shown))])
        return order

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((*self.seed, *key))

    def _pictures(self, rows: NDArray[np.int64], change: Change | None) -> NDArray[np.uint8]:
        """(px, px, 3) of a single row, (T, px, px, 3) of a window."""
        crops = self.pool.crop(self.crop, rows)
        changed = (
            crops if change is None else np.stack([change.picture(crop, t) for t, crop in enumerate(crops)])
        )
        if self.shrunk_px:
            side = (self.shrunk_px, self.shrunk_px)
            changed = np.stack([cv2.resize(p, side, interpolation=cv2.INTER_AREA) for p in changed])
        return changed[0] if len(rows) == 1 else changed


def sampling_weights(present: NDArray[np.bool_], sampler: str) -> NDArray[np.float64]:
    """(n,): how often each sample is drawn, (n, A) of them known to show an AU; see `Batches.order`."""
    rates = present.mean(axis=0)
    if sampler == "rare":
        return np.where(present[:, rates < RARE_BELOW].any(axis=1), RARE_TIMES, 1.0)
    inverse = present @ (1 / np.maximum(rates, 1 / len(present)))
    return np.where(present.any(axis=1), inverse / np.maximum(present.sum(axis=1), 1), 1.0)


def _alone(worker: int) -> None:  # noqa: ARG001
    """A worker keeps to one thread: the others belong to the training."""
    cv2.setNumThreads(1)


def stream(batches: Batches, begin: int, end: int, workers: int, device: torch.device) -> Iterator[Batch]:
    """Batches begin … end − 1, prepared by other processes where there are workers."""
    loader: Any = DataLoader(
        batches,
        batch_size=None,
        sampler=range(begin, end),
        num_workers=workers,
        generator=torch.Generator(),  # its own: the run's state shall not depend on how often it was resumed
        pin_memory=device.type == "cuda",
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_alone,
    )
    yield from loader


def items_of(pool: Pool, phase: PhaseTable, window: int, rate_hz: float | None) -> NDArray[np.int64]:
    """(k, T): all samples of a pool, T = 1, or all its windows."""
    if phase.reads == "frames":
        return np.arange(len(pool))[:, None]
    return pool.windows(window, phase.hop, rate_hz)
