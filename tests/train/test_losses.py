"""The losses against loops that write Eq. 4 out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.losses import positive_weights, weighted_bce


def eq_4(logits: np.ndarray, occurrence: np.ndarray, weights: np.ndarray) -> float:
    total = 0.0
    for x_row, y_row in zip(logits, occurrence, strict=True):
        for x, y, w in zip(x_row, y_row, weights, strict=True):
            sigma = 1 / (1 + math.exp(-x))
            if y == 1:
                total += w * math.log(sigma)
            elif y == 0:
                total += math.log(1 - sigma)
    return -total / len(logits)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 999), st.booleans())
def test_both_losses_are_eq_4(n: int, seed: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 4))
    occurrence = rng.choice(np.array([0, 1, 9], np.uint8), (n, 4))
    weights = rng.uniform(0.2, 9, 4) if weighted else np.ones(4)
    got = weighted_bce(
        torch.tensor(logits), torch.tensor(occurrence), torch.tensor(weights) if weighted else None
    )
    assert float(got) == pytest.approx(eq_4(logits, occurrence, weights), abs=1e-9)


def test_unknown_labels_pull_at_nothing() -> None:
    logits = torch.tensor([[3.0, -1e30]], requires_grad=True)
    weighted_bce(logits, torch.tensor([[1, 9]], dtype=torch.uint8)).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] < 0
    assert logits.grad[0, 1] == 0


def test_weights_make_both_classes_weigh_the_same() -> None:
    occurrence = np.array([[1], [0], [0], [0], [9]], np.uint8)
    weights = positive_weights(occurrence)
    assert weights == pytest.approx([3])
    logits = torch.zeros(5, 1, requires_grad=True)
    weighted_bce(logits, torch.tensor(occurrence), torch.tensor(weights)).backward()
    assert logits.grad is not None
    assert float(logits.grad.sum()) == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match="no frame shows column 0"):
        positive_weights(occurrence[1:])
