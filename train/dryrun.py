"""A recipe without data: every phase is built and takes one step on two samples of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from engines.spec import EngineSpec
from train.batches import Batch
from train.objective import Objective
from train.phase import PhaseRun
from train.recipe import PUBLISHED, PhaseTable, Recipe
from train.schedule import learning_rate

SAMPLES = 2
"""As few as batch normalisation takes."""
FEATURES = (128, 28, 28)
"""Of SAT-Net's first half, which a phase on features reads."""


def noise(spec: EngineSpec, phase: PhaseTable) -> Batch:
    """Two samples of everything that a phase reads; every AU is present in one of them, strongly."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, (shape, kind) in spec.inputs(SAMPLES).items():
        whole = rng.integers(0, 6 if name == "level_map" else 256, shape).astype(np.uint8)
        arrays[name] = torch.from_numpy(whole if kind is np.uint8 else rng.uniform(0, 1, shape).astype(kind))
    pictures = arrays.pop("crops")
    if phase.reads == "features":
        pictures = torch.zeros((SAMPLES, spec.window, *FEATURES), dtype=torch.float16)
    present = torch.zeros((SAMPLES, len(spec.aus)), dtype=torch.uint8)
    present[0] = 1
    return Batch(pictures, arrays, present, 4 * present.float())


def dry_run(recipe: Recipe, device: str = "cpu") -> str:
    """Build network, loss, optimiser and schedule of all phases, and take a step; a line each.

    Args:
        recipe: whose phases.
        device: `cpu`; `meta` goes through the same step with shapes alone, without a number.

    Raises:
        AustreamError: something of it does not go together.
    """
    lines = [f"{recipe.engine.name}: {len(recipe.engine.aus)} AUs, crop {recipe.engine.crop}"]
    start = recipe.initial.removeprefix(PUBLISHED)
    if start:
        lines.append(
            f"begins with {recipe.initial}{'' if Path(start).exists() else ' (not there: noise instead)'}"
        )
    for index, phase in enumerate(recipe.phase):
        lines.append(_phase(recipe, index, phase, torch.device(device)))
    return "\n".join(lines)


def _phase(recipe: Recipe, index: int, phase: PhaseTable, device: torch.device) -> str:
    spec = recipe.spec(phase)
    batch = noise(spec, phase)
    objective = Objective.of(phase, spec, batch.occurrence.numpy(), batch.intensity.numpy())
    steps = phase.steps_per_epoch or 100
    with device:
        run = PhaseRun(recipe, index, steps, objective, device)
    result = f"{run.take_step([batch]):.3f}" if device.type != "meta" else _step_of_shapes(run, batch)
    weights = list(run.learner.parameters())
    trained = sum(w.numel() for w in weights if w.requires_grad) / 1e6
    rates = [learning_rate(phase, step, steps) for step in (0, run.total - 1)]
    return (
        f"phase {phase.name}: {spec.network} {dict(spec.variant)}, {trained:.2f} of "
        f"{sum(w.numel() for w in weights) / 1e6:.2f} M weights trained; {phase.epochs} epochs of batches of "
        f"{phase.batch_size}, {phase.optimiser}, rate {rates[0]:.3g} to {rates[1]:.3g}, loss {phase.loss} "
        f"{result} on noise"
    )


def _step_of_shapes(run: PhaseRun, batch: Batch) -> str:
    """What `PhaseRun.take_step` does, where nothing has a value."""
    assert run.objective is not None
    run.learner.train()
    there = batch.to(run.device)
    loss = run.objective.loss(run.learner.network, run.objective.answer(run.learner, there), there)
    loss.backward()
    run.optimiser.step()
    return f"of shape {tuple(loss.shape)}"
