"""What each loss name of a recipe minimises, against the papers' formulas on the network's own outputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.networks.arl import FullyConnectedCRF
from engines.spec import CropSpec, EngineSpec
from pipeline.errors import UsageError
from train.batches import Batch
from train.losses import linear_loss
from train.networks import Learner
from train.objective import Objective
from train.paper_losses import crf_energy
from train.recipe import PhaseTable
from train.tables import from_table

AUS = ("AU01", "AU06", "AU12")
CROPS = {"arl": CropSpec("level_eyes", 176), "tranet": CropSpec("nose_center", 224)}
REGIONS = ("upper", "lower", "upper")


def spec_of(network: str, **fields: Any) -> EngineSpec:
    aus = fields.pop("aus", AUS)
    return EngineSpec(
        name=network,
        network=network,
        variant=fields.pop("variant", {}),
        crop=CROPS[network],
        level_map=False,
        window=1,
        rate_hz=None,
        aus=aus,
        thresholds=(0.5,) * len(aus),
        provenance={"trained": "in training"},
        **fields,
    )


def phase(loss: str, **fields: Any) -> PhaseTable:
    return from_table(PhaseTable, {"name": "all", "epochs": 1, "lr": 0.1, "loss": loss} | fields, "phase")


LOGITS = torch.tensor([[0.3, -1.2, 2.0], [-0.4, 0.1, -3.0]])
OCCURRENCE = torch.tensor([[1, 0, 9], [0, 1, 1]], dtype=torch.uint8)
INTENSITY = torch.tensor([[3.0, 0.0, math.nan], [0.0, 2.0, 5.0]])
TRAINING = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1], [0, 9, 0]], np.uint8)
TRAINING_INTENSITY = np.array([[5, 0, 1], [0, 4, 3], [0, 0, 3], [0, np.nan, 0]], np.float32)


def batch_of(pictures: Tensor | None = None, beside: dict[str, Tensor] | None = None) -> Batch:
    nothing = torch.zeros((2, 1, 1, 3), dtype=torch.uint8)
    return Batch(nothing if pictures is None else pictures, beside or {}, OCCURRENCE, INTENSITY)


class Said(torch.nn.Module):
    """A learner that always answers `LOGITS`."""

    def forward(self, batch: Batch) -> Tensor:  # noqa: ARG002
        return LOGITS


def loss_of(one: PhaseTable, spec: EngineSpec, network: Any = None) -> float:
    objective = Objective.of(one, spec, TRAINING, TRAINING_INTENSITY)
    answer = objective.answer(Said(), batch_of())  # type: ignore[arg-type]
    return float(objective.loss(network, answer, batch_of()))


def cells() -> list[tuple[int, int, int, float]]:
    """Sample, AU, label and p of every known label."""
    p = torch.sigmoid(LOGITS.double()).tolist()
    labels = OCCURRENCE.tolist()
    return [(n, a, labels[n][a], p[n][a]) for n in range(2) for a in range(3) if labels[n][a] != 9]


RATES = [1 / 4, 1 / 3, 3 / 4]
"""Of `TRAINING`, unknown labels left out."""


def test_arl_is_equation_8_with_inverse_rates() -> None:
    total = sum(1 / r for r in RATES)
    weights = [1 / r / total for r in RATES]
    expected = {"inverse_rate": 0.0, "equal": 0.0}
    for _n, a, label, p in cells():
        term = -math.log(p if label else 1 - p) / 2
        expected["inverse_rate"] += weights[a] * term
        expected["equal"] += term
    for kind, value in expected.items():
        assert loss_of(phase("arl", arl={"weights": kind}), spec_of("arl")) == pytest.approx(value, rel=1e-5)
    assert loss_of(phase("bce"), spec_of("arl")) == pytest.approx(expected["equal"], rel=1e-5)


def test_iarl_is_equation_13_with_rates_of_strong_intensities() -> None:
    rates = [1 / 4, 1 / 3, 2 / 4]  # 3 and more, of the known
    total = sum(1 / r for r in rates)
    p = torch.sigmoid(LOGITS.double()).tolist()
    expected = 0.0
    for n, a, _label, _p in cells():
        expected += (1 / rates[a] / total) * (float(INTENSITY[n, a]) - 5 * p[n][a]) ** 2 / 2 / 2
    cosines = []
    for n, known in ((0, [0, 1]), (1, [0, 1, 2])):
        true, estimated = [float(INTENSITY[n, a]) for a in known], [p[n][a] for a in known]
        product = sum(t * e for t, e in zip(true, estimated, strict=True))
        cosines.append(1 - product / math.hypot(*true) / math.hypot(*estimated))
    spec = spec_of("arl", max_intensity=5.0)
    for share in (0.5, 0.0):
        found = loss_of(phase("arl", arl={"cosine": share}), spec)
        assert found == pytest.approx(expected + share * sum(cosines) / 2, rel=1e-5)


def test_eacnet_linear_and_tranet_follow_their_formulas() -> None:
    eacnet = linear = 0.0
    of_branch: dict[str, list[float]] = {"upper": [], "lower": []}
    for n, a, label, p in cells():
        right = p if label else 1 - p
        eacnet -= math.log((right + 0.05) / 1.05) / 2
        linear += (float(LOGITS[n, a]) + 0.5 - label) ** 2 / 2 / 2
        of_branch[REGIONS[a]].append(-math.log(right))
    spec = spec_of("tranet", variant={"regions": REGIONS})
    assert loss_of(phase("eacnet"), spec) == pytest.approx(eacnet, rel=1e-5)
    assert loss_of(phase("linear"), spec) == pytest.approx(linear, rel=1e-5)
    network = Learner(spec).network
    expected = sum(sum(terms) / len(terms) for terms in of_branch.values())
    assert loss_of(phase("tranet"), spec, network) == pytest.approx(expected, rel=1e-5)
    cbam = Learner(spec_of("tranet", variant={"variant": "cbam"})).network
    every = [-math.log(p if label else 1 - p) for _n, _a, label, p in cells()]
    found = loss_of(phase("tranet"), spec, cbam)
    assert found == pytest.approx(sum(every) / len(every), rel=1e-5)


def test_a_linear_layer_so_trained_is_the_linear_regression() -> None:
    rng = np.random.default_rng(1)
    features = torch.from_numpy(rng.normal(0, 1, (40, 3)))
    labels = torch.from_numpy((rng.uniform(size=(40, 1)) < 0.3).astype(np.uint8))
    design = np.column_stack((features.numpy(), np.ones(40)))
    solution = np.linalg.lstsq(design, labels[:, 0].double().numpy(), rcond=None)[0]
    layer = torch.nn.Linear(3, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[0] = torch.from_numpy(solution[:3])
        layer.bias[0] = solution[3] - 0.5
    linear_loss(layer(features), labels).backward()  # convex, so its minimum is where the gradient is 0
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-12


@pytest.fixture(scope="module")
def arl() -> tuple[Learner, Batch]:
    torch.manual_seed(0)
    learner = Learner(spec_of("arl", aus=AUS[:2], variant={"variant": "wcsp"})).train()
    pictures = torch.randint(0, 256, (2, 176, 176, 3), dtype=torch.uint8)
    occurrence = torch.tensor([[1, 0], [0, 9]], dtype=torch.uint8)
    return learner, Batch(pictures, {}, occurrence, torch.full((2, 2), math.nan))


def test_the_energy_of_every_crf_is_added(arl: tuple[Learner, Batch]) -> None:
    """Eq. 9 put together by hand from the maps that the CRFs get and give."""
    learner, batch = arl
    seen: list[tuple[FullyConnectedCRF, Tensor, Tensor, Tensor]] = []
    hooks = [
        branch.crf.register_forward_hook(lambda crf, maps, out: seen.append((crf, *maps, out)))
        for branch in learner.network.branches
    ]
    plain, with_energy = phase("arl"), phase("arl", arl={"energy": 0.25})
    labels = (np.array([[1, 0], [1, 1]], np.uint8), np.zeros((2, 2), np.float32))
    found = []
    for one in (plain, with_energy):
        objective = Objective.of(one, spec_of("arl", aus=AUS[:2]), *labels)
        found.append(objective.loss(learner.network, objective.answer(learner, batch), batch))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 4  # two branches, two passes
    energies = [float(crf_energy(*maps).mean().detach()) for maps in seen[2:]]
    assert float((found[1] - found[0]).detach()) == pytest.approx(0.25 * sum(energies), rel=1e-5)
    learner.zero_grad()
    found[1].backward()
    assert all(bool(branch.crf.compatibility.grad.abs().sum() > 0) for branch in learner.network.branches)


def test_an_au_without_weight_is_named() -> None:
    weak = TRAINING_INTENSITY.copy()
    weak[:, 2] = 2.0
    spec = spec_of("arl", max_intensity=5.0)
    with pytest.raises(UsageError, match="AU12 never reaches half of its greatest intensity"):
        Objective.of(phase("arl"), spec, TRAINING, weak)
    Objective.of(phase("arl", arl={"weights": "equal"}), spec, TRAINING, weak)
