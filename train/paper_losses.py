"""The losses of ARL and iARL (Eqs. 8–13), EAC-Net (Eq. 3) and TRA-Net (section 4.1).

All are summed over AUs and averaged over samples unless a docstring says otherwise. Unknown labels add
nothing.

What the papers leave open, and what was decided:

- ARL's Eqs. 9 and 13 add the CRF's energy. Mean-field inference inside the network is what minimises it
  there; as a term of the loss it also rewards attention that is nowhere or everywhere, whatever the labels
  say. It is there to be added (`crf_energy`) and is left out where none is handed over. Its kernels are
  divided by their sums as in the inference, for the same reason (engines/networks/arl.py).
- ARL's Eq. 12 has no value for a sample without any intensity, which most of DISFA's are: such a sample adds
  nothing, and the mean is over the others.
- EAC-Net's Eq. 3 does not say over what it sums: over AUs here, and averaged over samples.
- TRA-Net's "multilabel binary cross-entropy" of a branch is the mean over its AUs, as in PyTorch, which its
  author used; the branches' are summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from engines.networks.arl import APPEARANCE_WEIGHT, SMOOTHNESS_WEIGHT, FullyConnectedCRF
from engines.networks.layers import unmixed, whole
from train.shards import UNKNOWN

MAX_INTENSITY = 5
"""L of iARL."""
COSINE_WEIGHT = 0.5
"""λ of Eq. 13."""
EAC_OFFSET = 0.05


def inverse_rate_weights(rates: Tensor) -> Tensor:
    """w_i = (1/r_i) / Σ_k (1/r_k), which sum to 1 (ARL, below Eq. 8).

    Args:
        rates: (A,), above 0: how often each AU occurs in the training labels.
    """
    return (1 / rates) / (1 / rates).sum()


def intensity_rates(intensity: Tensor, max_intensity: float = MAX_INTENSITY) -> Tensor:
    """How often each AU reaches ⌈L/2⌉, for `inverse_rate_weights` (ARL, below Eq. 11).

    Args:
        intensity: (N, A), float: 0 to L, or NaN for unknown.
        max_intensity: L.

    Returns:
        (A,), float.
    """
    high = intensity >= math.ceil(max_intensity / 2)  # NaN is not
    return high.sum(0).double() / (~intensity.isnan()).sum(0)


def _sum_known(terms: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, terms, torch.zeros_like(terms)).sum() / len(known)


def arl_detection_loss(logits: Tensor, occurrence: Tensor, weights: Tensor) -> Tensor:
    """Eq. 8: −Σ_i w_i [p_i log p̂_i + (1 − p_i) log(1 − p̂_i)].

    Args:
        logits: (N, A); p̂ is their sigmoid.
        occurrence: (N, A), uint8: 0, 1 or 9 for unknown.
        weights: (A,); all 1 for B-Net.
    """
    target = (occurrence == 1).to(logits.dtype)
    terms = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _sum_known(weights * terms, occurrence != UNKNOWN)


def arl_intensity_loss(
    logits: Tensor, intensity: Tensor, weights: Tensor, max_intensity: float = MAX_INTENSITY
) -> Tensor:
    """Eqs. 10 and 11: ½ Σ_i w_i (p_i − L·p̂_i)².

    Args:
        logits: (N, A); p̂ is their sigmoid.
        intensity: (N, A), float: 0 to L, or NaN for unknown.
        weights: (A,).
        max_intensity: L.
    """
    # NaN must not reach the subtraction: times zero on the way back, it would still be NaN.
    off = intensity.nan_to_num().to(logits.dtype) - max_intensity * torch.sigmoid(logits)
    return _sum_known(weights * off * off / 2, ~intensity.isnan())


def cosine_loss(logits: Tensor, intensity: Tensor) -> Tensor:
    """Eq. 12: 1 − the cosine of a sample's true and estimated intensities, which L does not change.

    Args:
        logits: (N, A).
        intensity: (N, A), float: 0 to L, or NaN for unknown.
    """
    known = ~intensity.isnan()
    true = intensity.nan_to_num().to(logits.dtype)
    estimated = torch.sigmoid(logits) * known
    has_direction = (true.sum(1) > 0).to(logits.dtype)
    losses = 1 - functional.cosine_similarity(true, estimated, dim=1)
    return (losses * has_direction).sum() / has_direction.sum().clamp(min=1)


def crf_energy(crf: FullyConnectedCRF, logits: Tensor, features: Tensor, attended: Tensor) -> Tensor:
    """Eq. 3 with the kernels of Eq. 4: the mean energy of labels drawn pixel by pixel. For whole labels,
    their energy.

    Args:
        crf: of an AU's branch.
        logits: (B, 1, H, W), whose sigmoid is P⁽⁰⁾(y = 1).
        features: f⁽³ˢ⁾, (B, C, H, W).
        attended: P(y = 1), (B, 1, H, W).

    Returns:
        (B,).
    """
    with unmixed(logits.device.type):
        return _crf_energy(crf, whole(logits), whole(features), whole(attended))


def _crf_energy(crf: FullyConnectedCRF, logits: Tensor, features: Tensor, attended: Tensor) -> Tensor:
    ones = attended[:, 0]
    flat = ones.flatten(1).unsqueeze(2)
    kernel = crf.appearance_kernel(features)
    appearance = (kernel @ flat - flat) / (kernel.sum(2, keepdim=True) - 1)
    smoothness = crf.smooth(ones) / crf.smooth(torch.ones_like(ones))
    near_ones = APPEARANCE_WEIGHT * appearance.reshape_as(ones) + SMOOTHNESS_WEIGHT * smoothness
    near_zeros = APPEARANCE_WEIGHT + SMOOTHNESS_WEIGHT - near_ones
    mu = crf.compatibility
    pairs = ones * (mu[1, 0] * near_zeros + mu[1, 1] * near_ones)
    pairs = pairs + (1 - ones) * (mu[0, 0] * near_zeros + mu[0, 1] * near_ones)
    unary = -ones * functional.logsigmoid(logits[:, 0]) - (1 - ones) * functional.logsigmoid(-logits[:, 0])
    return (unary + pairs / 2).sum(dim=(1, 2))  # each pair was met from both sides


def arl_loss(logits: Tensor, occurrence: Tensor, weights: Tensor, energies: Sequence[Tensor] = ()) -> Tensor:
    """Eq. 9: `arl_detection_loss`, and the AUs' `crf_energy`, (N,) each, where they are handed over."""
    return arl_detection_loss(logits, occurrence, weights) + sum(
        (e.mean() for e in energies), logits.new_zeros(())
    )


def iarl_loss(
    logits: Tensor,
    intensity: Tensor,
    weights: Tensor,
    energies: Sequence[Tensor] = (),
    cosine_weight: float = COSINE_WEIGHT,
    max_intensity: float = MAX_INTENSITY,
) -> Tensor:
    """Eq. 13: `arl_intensity_loss`, the energies as in Eq. 9, and λ times `cosine_loss` (0 for iWCSP-Net)."""
    energy = sum((e.mean() for e in energies), logits.new_zeros(()))
    return (
        arl_intensity_loss(logits, intensity, weights, max_intensity)
        + energy
        + cosine_weight * cosine_loss(logits, intensity)
    )


def eacnet_loss(logits: Tensor, occurrence: Tensor) -> Tensor:
    """EAC-Net's Eq. 3: cross-entropy of (p + 0.05)/1.05 and (1.05 − p)/1.05, which bounds each term by 3.04.

    Args:
        logits: (N, A); p is their sigmoid.
        occurrence: (N, A), uint8: 0, 1 or 9 for unknown.
    """
    p = torch.sigmoid(logits)
    right = torch.where(occurrence == 1, p, 1 - p)
    return _sum_known(-torch.log((right + EAC_OFFSET) / (1 + EAC_OFFSET)), occurrence != UNKNOWN)


def tranet_loss(logits: Tensor, occurrence: Tensor, regions: Sequence[str]) -> Tensor:
    """Binary cross-entropy averaged over each branch's labels, and summed over the branches.

    Args:
        logits: (N, A).
        occurrence: (N, A), uint8: 0, 1 or 9 for unknown; left out of the averages.
        regions: of each AU, as `TRANet` has them.
    """
    target = (occurrence == 1).to(logits.dtype)
    terms = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    known = (occurrence != UNKNOWN).to(logits.dtype)
    total = logits.new_zeros(())
    for region in sorted(set(regions)):
        members = [i for i, other in enumerate(regions) if other == region]
        counted = known[:, members]
        total = total + (terms[:, members] * counted).sum() / counted.sum().clamp(min=1)
    return total
