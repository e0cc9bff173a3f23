"""What a phase minimises: the loss that its recipe names, of a network's answers to a batch.

bce            binary cross-entropy, summed over AUs (train.losses)
mean_bce       the same, but its mean over AUs: PyTorch's default
weighted_bce   SAT-Net's Eq. 4
arl            ARL's Eq. 9; Eq. 13 for an engine that estimates intensities, which is iARL
eacnet         EAC-Net's Eq. 3
tranet         TRA-Net's: a mean for each branch, summed
linear         least squares of the logits, as EAC-Net's last layer is fitted to DISFA
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.networks.arl import ARL, Attention, Branch
from engines.networks.base import AUNetwork
from engines.networks.tranet import TRANet
from engines.spec import EngineSpec
from pipeline.errors import UsageError
from train import paper_losses
from train.batches import Batch
from train.losses import linear_loss, positive_weights, weighted_bce
from train.networks import Learner
from train.recipe import PhaseTable
from train.shards import UNKNOWN


@dataclass(frozen=True, slots=True)
class Answer:
    """A network's, to a batch."""

    logits: Tensor
    """(B, A), float32."""
    attention: Any = None
    """What it looked at, where the loss asks for that."""


@dataclass(frozen=True)
class Objective:
    """The loss of a phase."""

    phase: PhaseTable
    spec: EngineSpec
    weights: Tensor | None
    """(A,), float32, of those losses that weigh AUs."""

    @staticmethod
    def of(
        phase: PhaseTable,
        spec: EngineSpec,
        occurrence: NDArray[np.uint8],
        intensity: NDArray[np.floating],
    ) -> Objective:
        """With weights from the training labels, (n, A) each.

        Raises:
            UsageError: an AU never occurs in them, or is never strong enough to count.
        """
        weights = None
        if phase.loss == "weighted_bce":
            weights = torch.from_numpy(positive_weights(occurrence))
        elif phase.loss == "arl" and phase.arl.weights == "equal":
            weights = torch.ones(len(spec.aus))
        elif phase.loss == "arl":
            weights = paper_losses.inverse_rate_weights(_rates(spec, occurrence, intensity)).float()
        return Objective(phase, spec, weights)

    def to(self, device: torch.device) -> Objective:
        """The same on another device."""
        return self if self.weights is None else replace(self, weights=self.weights.to(device))

    def answer(self, learner: Learner, batch: Batch) -> Answer:
        """What the loss needs of a network."""
        if self.phase.arl.energy:
            return Answer(*learner.attend(batch))
        return Answer(learner(batch))

    def loss(self, network: AUNetwork, answer: Answer, batch: Batch) -> Tensor:
        """A scalar."""
        logits, occurrence = answer.logits, batch.occurrence
        match self.phase.loss:
            case "arl":
                return self._arl(network, answer, batch)
            case "eacnet":
                return paper_losses.eacnet_loss(logits, occurrence)
            case "tranet":
                assert isinstance(network, TRANet)
                return paper_losses.tranet_loss(logits, occurrence, network.branch_of)
            case "mean_bce":
                return weighted_bce(logits, occurrence) / logits.shape[1]
            case "linear":
                return linear_loss(logits, occurrence)
            case _:
                return weighted_bce(logits, occurrence, self.weights)

    def _arl(self, network: AUNetwork, answer: Answer, batch: Batch) -> Tensor:
        assert self.weights is not None
        share, energies = self.phase.arl.energy, list[Tensor]()
        if share:
            assert isinstance(network, ARL)
            energies = [share * energy for energy in _energies(network, answer.attention)]
        limit = self.spec.max_intensity
        if limit is None:
            return paper_losses.arl_loss(answer.logits, batch.occurrence, self.weights, energies)
        return paper_losses.iarl_loss(
            answer.logits, batch.intensity, self.weights, energies, self.phase.arl.cosine, limit
        )


def _energies(network: ARL, attention: Sequence[Attention]) -> list[Tensor]:
    """Of each AU's CRF, (B,); float32, whatever the pass before computed in."""
    found = []
    for branch, looked in zip(network.branches, attention, strict=True):
        assert isinstance(branch, Branch)
        maps = [looked.pixel_logits, looked.pixel_features, looked.refined]
        found.append(branch.of_crf(paper_losses.crf_energy, *(m.float() for m in maps if m is not None)))
    return found


def _rates(spec: EngineSpec, occurrence: NDArray[np.uint8], intensity: NDArray[np.floating]) -> Tensor:
    """(A,), float64: how often each AU occurs, or reaches the upper half of its range."""
    if spec.max_intensity is None:
        known = torch.from_numpy(occurrence != UNKNOWN)
        rates = torch.from_numpy(occurrence == 1).sum(0).double() / known.sum(0)
    else:
        rates = paper_losses.intensity_rates(torch.from_numpy(intensity), spec.max_intensity)
    if never := [au for au, rate in zip(spec.aus, rates.tolist(), strict=True) if not rate > 0]:
        what = "occurs" if spec.max_intensity is None else "reaches half of its greatest intensity"
        raise UsageError(
            f"loss 'arl': {', '.join(never)} never {what} in the training labels, so it has no weight; "
            "add samples, or take arl.weights 'equal'"
        )
    return rates
