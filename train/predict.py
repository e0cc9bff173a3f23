"""Probabilities of a network for many samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from train.batches import Batches, stream
from train.networks import Learner


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What the forward pass computes in."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype if precision != "fp32" else None, enabled=precision != "fp32")


@torch.inference_mode()
def probabilities(
    learner: Learner,
    batches: Batches,
    device: torch.device,
    precision: str = "fp32",
    tell: Callable[[int], None] = lambda _done: None,
) -> NDArray[np.float32]:
    """(k, A) in the order of the batches' items; the network is in evaluation mode meanwhile.

    Args:
        learner: on the device.
        batches: not shuffled.
        device: where to compute.
        precision: `fp32`, `bf16` or `fp16`.
        tell: gets the number of samples done.
    """
    was_training = learner.training
    learner.eval()
    found = []
    for i, batch in enumerate(stream(batches, 0, len(batches), 0, device)):
        with autocast(device, precision):
            logits = learner(batch.to(device))
        found.append(torch.sigmoid(logits).cpu().numpy())
        tell(min((i + 1) * batches.batch_size, len(batches.items)))
    learner.train(was_training)
    return np.concatenate(found)
