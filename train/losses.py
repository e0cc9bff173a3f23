"""Binary cross-entropy over AUs, plain and weighted, unknown labels left out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from train.shards import UNKNOWN


def weighted_bce(logits: Tensor, occurrence: Tensor, weights: Tensor | None = None) -> Tensor:
    """Eq. 4 of SAT-Net: summed over AUs, averaged over samples; the weight meets the positive term alone.

        −1/N Σ_n Σ_c  w_c · y · log σ(x) + (1 − y) · log(1 − σ(x))

    Without weights it is the plain loss.

    Args:
        logits: (N, A), float.
        occurrence: (N, A), uint8: 0, 1 or 9; unknown labels add nothing.
        weights: (A,), w_c.

    Returns:
        A scalar.
    """
    known = occurrence != UNKNOWN
    target = (occurrence == 1).to(logits.dtype)
    terms = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weights, reduction="none")
    return torch.where(known, terms, torch.zeros_like(terms)).sum() / len(logits)


def linear_loss(logits: Tensor, occurrence: Tensor) -> Tensor:
    """Least squares, ½ Σ_c (x − (y − ½))², averaged over samples, unknown labels left out.

    A last layer that is trained by it is the linear regression from the features before it to 0 and 1, less
    ½: the sigmoid behind it is 0.5 where the regression is.

    Args:
        logits: (N, A).
        occurrence: (N, A), uint8: 0, 1 or 9.
    """
    off = logits - ((occurrence == 1).to(logits.dtype) - 0.5)
    return torch.where(occurrence != UNKNOWN, off * off / 2, torch.zeros_like(off)).sum() / len(logits)


def positive_weights(occurrence: NDArray[np.uint8]) -> NDArray[np.float32]:
    """w_c of Eq. 4: absent over present frames, so that both classes of an AU weigh the same.

    The paper only says that the weight comes from the AU's occurrence rate; this reading is ours.

    Args:
        occurrence: (n, A), the training labels.

    Returns:
        (A,).

    Raises:
        ValueError: an AU never occurs; its column is named.
    """
    present, absent = (occurrence == 1).sum(axis=0), (occurrence == 0).sum(axis=0)
    if not present.all():
        raise ValueError(f"no frame shows column {int(np.flatnonzero(present == 0)[0])}")
    return np.maximum(absent / present, 1e-3).astype(np.float32)
