"""The papers' losses, number by number in plain Python."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from engines.networks.arl import FullyConnectedCRF
from train.paper_losses import (
    arl_detection_loss,
    arl_intensity_loss,
    arl_loss,
    cosine_loss,
    crf_energy,
    eacnet_loss,
    iarl_loss,
    intensity_rates,
    inverse_rate_weights,
    tranet_loss,
)

N, A = 6, 4


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture
def logits(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.normal(0, 2, (N, A)))


@pytest.fixture
def occurrence(rng: np.random.Generator) -> torch.Tensor:
    labels = rng.integers(0, 2, (N, A)).astype(np.uint8)
    labels[1, 2] = labels[4, 0] = 9
    return torch.from_numpy(labels)


@pytest.fixture
def intensity(rng: np.random.Generator) -> torch.Tensor:
    labels = rng.integers(0, 6, (N, A)).astype(np.float64)
    labels[1, 2] = np.nan
    labels[3] = 0
    return torch.from_numpy(labels)


WEIGHTS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def cells(labels: torch.Tensor) -> list[tuple[int, int, int]]:
    values = labels.double().nan_to_num(9).tolist()
    return [(n, a, int(values[n][a])) for n in range(N) for a in range(A) if values[n][a] != 9]


def test_weights_are_inverse_rates() -> None:
    weights = inverse_rate_weights(torch.tensor([0.1, 0.2, 0.4]))
    total = 10 + 5 + 2.5
    assert weights.tolist() == pytest.approx([10 / total, 5 / total, 2.5 / total])


def test_intensities_of_3_and_more_are_occurrences(intensity: torch.Tensor) -> None:
    for a, rate in enumerate(intensity_rates(intensity).tolist()):
        column = [label for _n, other, label in cells(intensity) if other == a]
        assert rate == pytest.approx(sum(v >= 3 for v in column) / len(column))
    assert intensity_rates(torch.tensor([[2.0], [3.0]]), max_intensity=4).tolist() == [1.0]


def test_detection_loss_is_equation_8(logits: torch.Tensor, occurrence: torch.Tensor) -> None:
    expected = 0.0
    for n, a, label in cells(occurrence):
        p = sigmoid(float(logits[n, a]))
        expected -= float(WEIGHTS[a]) * (label * math.log(p) + (1 - label) * math.log(1 - p))
    assert float(arl_detection_loss(logits, occurrence, WEIGHTS)) == pytest.approx(expected / N)
    assert float(arl_loss(logits, occurrence, WEIGHTS)) == pytest.approx(expected / N)


def test_intensity_losses_are_equations_10_to_13(logits: torch.Tensor, intensity: torch.Tensor) -> None:
    squares = 0.0
    for n, a, label in cells(intensity):
        squares += float(WEIGHTS[a]) * (label - 5 * sigmoid(float(logits[n, a]))) ** 2 / 2
    cosines = []
    for n in range(N):
        known = [a for a in range(A) if not intensity[n, a].isnan()]
        true = [int(intensity[n, a]) for a in known]
        estimated = [5 * sigmoid(float(logits[n, a])) for a in known]
        if any(true):
            product = sum(t * e for t, e in zip(true, estimated, strict=True))
            cosines.append(1 - product / (math.hypot(*true) * math.hypot(*estimated)))
    assert len(cosines) == N - 1
    assert float(arl_intensity_loss(logits, intensity, WEIGHTS)) == pytest.approx(squares / N)
    assert float(cosine_loss(logits, intensity)) == pytest.approx(np.mean(cosines))
    total = squares / N + 0.5 * np.mean(cosines)
    assert float(iarl_loss(logits, intensity, WEIGHTS)) == pytest.approx(total)
    nothing = torch.zeros((2, A))
    assert float(cosine_loss(logits[:2], nothing)) == 0.0


def test_energies_are_added(logits: torch.Tensor, occurrence: torch.Tensor, intensity: torch.Tensor) -> None:
    energies = [torch.full((N,), 2.0), torch.arange(N).double()]
    without, more = arl_loss(logits, occurrence, WEIGHTS), arl_loss(logits, occurrence, WEIGHTS, energies)
    assert float(more - without) == pytest.approx(2 + 2.5)
    more = iarl_loss(logits, intensity, WEIGHTS, energies) - iarl_loss(logits, intensity, WEIGHTS)
    assert float(more) == pytest.approx(2 + 2.5)


def energy_by_loops(
    p1: np.ndarray, features: np.ndarray, mu: np.ndarray, labels: dict[tuple[int, int], int]
) -> float:
    """Eq. 3 of one labelling; Eq. 4's kernels over their sums. Both sides of a pair have sums of their own,
    so a pair costs the mean of the two."""
    pixels = list(labels)

    def kernels(j: tuple[int, int], k: tuple[int, int]) -> tuple[float, float]:
        apart = (j[0] - k[0]) ** 2 + (j[1] - k[1]) ** 2
        unlike = sum((f[j] - f[k]) ** 2 for f in features)
        return math.exp(-apart / (2 * 160**2) - unlike / 18), math.exp(-apart / 18)

    norms = {j: [sum(kernels(j, k)[m] for k in pixels if k != j) for m in (0, 1)] for j in pixels}
    energy = 0.0
    for j in pixels:
        energy -= math.log(p1[j] if labels[j] else 1 - p1[j])
        for k in pixels:
            if k != j:
                first, second = kernels(j, k)
                cost = 5 * first / norms[j][0] + 3 * second / norms[j][1]
                energy += mu[labels[j], labels[k]] * cost / 2
    return energy


@pytest.mark.parametrize("mu", [[[0.0, 1.0], [1.0, 0.0]], [[0.3, 0.9], [1.2, -0.1]]])
def test_energy_is_equation_3(mu: list[list[float]], rng: np.random.Generator) -> None:
    """Of whole labels it is their energy, of probabilities the mean over all 2⁶ labellings."""
    crf = FullyConnectedCRF(2, 3).double()
    crf.compatibility.data = torch.tensor(mu, dtype=torch.float64)
    z, features, q = rng.normal(0, 1, (2, 3)), rng.normal(0, 2, (2, 2, 3)), rng.uniform(0, 1, (2, 3))
    pixels = list(itertools.product(range(2), range(3)))

    def energy(attended: np.ndarray) -> float:
        maps = (torch.from_numpy(a[None, None]) for a in (z, attended))
        logit, ones = maps
        return float(crf_energy(crf, logit, torch.from_numpy(features[None]), ones).detach())

    mean = 0.0
    for choice in itertools.product((0, 1), repeat=6):
        labels = dict(zip(pixels, choice, strict=True))
        expected = energy_by_loops(1 / (1 + np.exp(-z)), features, np.array(mu), labels)
        assert energy(np.array(choice, float).reshape(2, 3)) == pytest.approx(expected)
        mean += expected * math.prod(q[at] if label else 1 - q[at] for at, label in labels.items())
    assert energy(q) == pytest.approx(mean)


def test_eacnet_loss_is_its_equation_3(logits: torch.Tensor, occurrence: torch.Tensor) -> None:
    expected = 0.0
    for n, a, label in cells(occurrence):
        p = sigmoid(float(logits[n, a]))
        expected -= label * math.log((p + 0.05) / 1.05) + (1 - label) * math.log((1.05 - p) / 1.05)
    assert float(eacnet_loss(logits, occurrence)) == pytest.approx(expected / N)
    worst = eacnet_loss(torch.tensor([[-1e4]]), torch.tensor([[1]], dtype=torch.uint8))
    assert float(worst) == pytest.approx(math.log(21), rel=1e-5)


def test_tranet_loss_sums_its_branches(logits: torch.Tensor, occurrence: torch.Tensor) -> None:
    regions = ("upper", "lower", "upper", "middle")
    expected = 0.0
    for region in ("upper", "middle", "lower"):
        terms = []
        for n, a, label in cells(occurrence):
            if regions[a] == region:
                p = sigmoid(float(logits[n, a]))
                terms.append(-math.log(p if label else 1 - p))
        expected += np.mean(terms)
    assert float(tranet_loss(logits, occurrence, regions)) == pytest.approx(expected)


def test_unknown_labels_carry_no_gradient(occurrence: torch.Tensor, intensity: torch.Tensor) -> None:
    regions = ("upper", "lower", "upper", "middle")
    losses = (
        lambda x: arl_loss(x, occurrence, WEIGHTS),
        lambda x: eacnet_loss(x, occurrence),
        lambda x: tranet_loss(x, occurrence, regions),
        lambda x: iarl_loss(x, intensity, WEIGHTS),
    )
    for loss in losses:
        x = torch.zeros((N, A), dtype=torch.float64, requires_grad=True)
        loss(x).backward()
        assert x.grad is not None
        assert x.grad[1, 2] == 0
        assert x.grad[0].abs().min() > 0
