"""What the network of one fold says of the subjects that it is tested on, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.bundle import Bundle
from pipeline.errors import SourceError
from pipeline.progress import Progress
from train import checkpoint
from train.batches import Batch, Batches
from train.networks import Learner
from train.predict import probabilities

VISIBLE = ("full", "lower", "upper", "right", "left", "none")
"""Which half of a face is left to see in ARL's occlusion study; left and right as in the picture."""


@dataclass(frozen=True)
class Tested:
    """Probabilities and labels of n tested frames."""

    fold: str
    visible: str
    """Of `VISIBLE`."""
    aus: tuple[str, ...]
    people: tuple[str, ...]
    """Who was tested."""
    thresholds: tuple[float, ...] | None
    """Chosen on validation; None where they would have been chosen on what is tested."""
    probability: NDArray[np.float32]
    """(n, A)"""
    occurrence: NDArray[np.uint8]
    """(n, A), 0, 1 or 9 for unknown."""
    intensity: NDArray[np.float32]
    """(n, A), 0–5, NaN for unknown."""
    pose: NDArray[np.int64]
    """(n,): the view of FERA 2017, 1 to 9; 0 elsewhere."""

    def __len__(self) -> int:
        return len(self.probability)

    def of_pose(self, pose: int) -> Tested:
        """The frames of one view."""
        rows = self.pose == pose
        names = ("probability", "occurrence", "intensity", "pose")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def save(self, path: Path, identity: str) -> None:
        """Write it, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        arrays = ("probability", "occurrence", "intensity", "pose")
        facts = {name: getattr(self, name) for name in ("fold", "visible", "aus", "people", "thresholds")}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in arrays}
        checkpoint.write(path, tensors, facts | {"identity": identity})

    @staticmethod
    def load(path: Path, identity: str | None = None) -> Tested | None:
        """What was saved; None where there is nothing, or where it is of another network or test.

        Raises:
            SourceError: the file is damaged.
        """
        if not path.exists():
            return None
        tensors, facts = checkpoint.read(path)
        if identity is not None and facts.pop("identity", None) != identity:
            return None
        facts.pop("identity", None)
        try:
            told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
            return Tested(**told | {name: tensor.numpy() for name, tensor in tensors.items()})
        except TypeError as error:
            raise SourceError(f"{path}: expected the result of a test, got: {error}") from None


def identity_of(bundle: Bundle, facts: Mapping[str, Any]) -> str:
    """Tells results of one bundle and test from others'."""
    told = f"{bundle.weights_id} {bundle.spec.thresholds} {sorted(facts.items())}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class Occluded(Batches):
    """Batches of faces of which one half is left to see."""

    visible = "full"

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, partly black."""
        return occlude(super().__getitem__(number), self.visible)


def occlude(batch: Batch, visible: str) -> Batch:
    """The batch with all but one half of each face black: picture, neutral and level map alike.

    Args:
        batch: its pictures (B, px, px, 3) or (B, T, px, px, 3).
        visible: of `VISIBLE`.
    """
    if visible == "full":
        return batch
    axes = {"pictures": -3, "neutral": -3, "level_map": -2}  # of the rows
    beside = {n: _hidden(t, axes[n], visible) if n in axes else t for n, t in batch.beside.items()}
    return replace(batch, pictures=_hidden(batch.pictures, axes["pictures"], visible), beside=beside)


def _hidden(pictures: Tensor, down: int, visible: str) -> Tensor:
    px = pictures.shape[down]
    begin, end = {"lower": (px // 2, px), "right": (px // 2, px), "none": (0, 0)}.get(visible, (0, px // 2))
    axis = down if visible in ("lower", "upper", "none") else down + 1
    out = torch.zeros_like(pictures)
    out.narrow(axis, begin, end - begin).copy_(pictures.narrow(axis, begin, end - begin))
    return out


def found_by(learner: Learner, batches: Batches, visible: str, what: str) -> NDArray[np.float32]:
    """Probabilities (n, A) of all the batches' items.

    Args:
        learner: in evaluation.
        batches: not shuffled.
        visible: of `VISIBLE`.
        what: shown beside the progress.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if visible != "full":
        batches = Occluded(**{f.name: getattr(batches, f.name) for f in fields(batches) if f.init})
        object.__setattr__(batches, "visible", visible)
    progress = Progress(what, len(batches.items), "samples")
    try:
        return probabilities(learner.to(device), batches, device, tell=progress.step)
    finally:
        progress.close()
