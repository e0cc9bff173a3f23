"""One phase of a training run: network, optimiser, moving average, and the steps taken so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import RunError, SourceError, first_line
from train import checkpoint
from train.batches import Batch
from train.networks import Learner
from train.objective import Objective
from train.predict import autocast
from train.recipe import PhaseTable, Recipe
from train.schedule import learning_rate


class PhaseRun:
    """Everything of a phase that a step changes; `tensors` and `facts` hold all of it."""

    def __init__(
        self,
        recipe: Recipe,
        index: int,
        steps_per_epoch: int,
        objective: Objective | None,
        device: torch.device,
    ) -> None:
        """A phase before its first step.

        Args:
            recipe: whose phase it is.
            index: of the phase.
            steps_per_epoch: optimiser steps.
            objective: what its steps minimise; None where none will be taken.
            device: where to compute.

        Raises:
            UsageError: a frozen part does not exist.
        """
        self.recipe, self.phase, self.device = recipe, recipe.phase[index], device
        self.index, self.steps_per_epoch = index, steps_per_epoch
        torch.manual_seed(recipe.seed * 1000 + index)
        spec, freeze = recipe.spec(self.phase), self.phase.freeze
        self.learner = Learner(spec, freeze).to(device)
        if recipe.channels_last:
            self.learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average: Learner | None = None
        if self.phase.ema_decay:
            self.average = Learner(spec, freeze).to(device).eval()
            self._average_anew()
        self.optimiser = _optimiser(self.learner, self.phase)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.objective = None if objective is None else objective.to(device)
        self.step = 0
        self.loss_sum = 0.0
        """Of the steps of this epoch."""
        self.best = -math.inf
        self.best_step = 0

    @property
    def total(self) -> int:
        """Steps of the whole phase."""
        return self.phase.epochs * self.steps_per_epoch

    @property
    def seen(self) -> Learner:
        """The network that is validated and kept: the moving average where there is one."""
        return self.average or self.learner

    def begin_with(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Take what fits of these weights; returns the names that stay new."""
        fresh = checkpoint.take(self.learner.network, weights)
        self._average_anew()
        return fresh

    def begin_published(self, path: Path) -> None:
        """Take the paper's published starting weights; the rest stays new.

        Raises:
            EngineError: the file cannot be read, or its names or shapes are not those; it names them.
        """
        self.learner.network.load_published(path)
        self._average_anew()

    def _average_anew(self) -> None:
        if self.average is not None:
            self.average.network.load_state_dict(self.learner.network.state_dict())

    def take_step(self, batches: list[Batch]) -> float:
        """One step of the optimiser over so many batches; returns their mean loss.

        Raises:
            RunError: the loss is not a number.
        """
        assert self.objective is not None
        self.learner.train()
        rate = learning_rate(self.phase, self.step, self.steps_per_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            with autocast(self.device, self.recipe.precision):
                answer = self.objective.answer(self.learner, batch.to(self.device))
            loss = self.objective.loss(self.learner.network, answer, batch.to(self.device)) / len(batches)
            self.scaler.scale(loss).backward()
            total += loss.item()
        if not math.isfinite(total):
            raise RunError(
                f"phase {self.phase.name}: the loss became {total} at step {self.step + 1}; "
                "lower lr, lengthen warmup_steps or set clip_norm, and begin in a new --out"
            )
        if self.phase.clip_norm:
            self.scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(self.learner.parameters(), self.phase.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        self.loss_sum += total
        self._follow()
        return total

    def _follow(self) -> None:
        """Move the average on; quickly in the first steps, when it still holds what training began with."""
        if self.average is None:
            return
        decay = min(self.phase.ema_decay, (1 + self.step) / (10 + self.step))
        mine, current = self.average.network.state_dict(), self.learner.network.state_dict()
        floating = [name for name, t in mine.items() if t.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_(
                [mine[name] for name in floating], [current[name] for name in floating], 1 - decay
            )

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        state = checkpoint.named("network", self.learner.network.state_dict())
        state |= checkpoint.named("optimiser", checkpoint.optimiser_tensors(self.optimiser))
        if self.average is not None:
            state |= checkpoint.named("average", self.average.network.state_dict())
        state["random"] = torch.get_rng_state()
        if self.device.type == "cuda":  # where its dropout is drawn
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def facts(self) -> dict[str, Any]:
        """The rest of it, as JSON."""
        return {
            "phase": self.index,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "best": self.best if math.isfinite(self.best) else None,
            "best_step": self.best_step,
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            SourceError: it is of another network.
        """
        try:
            self.learner.network.load_state_dict(checkpoint.under("network", tensors))
            if self.average is not None:
                self.average.network.load_state_dict(checkpoint.under("average", tensors))
            checkpoint.restore_optimiser(self.optimiser, checkpoint.under("optimiser", tensors))
        except (RuntimeError, KeyError, ValueError) as error:
            reason = first_line(error)
            raise SourceError(f"the checkpoint does not fit the network any more: {reason}") from None
        torch.set_rng_state(tensors["random"])
        if self.device.type == "cuda" and "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random_cuda"], self.device)
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.step, self.loss_sum = facts["step"], facts["loss_sum"]
        self.best = -math.inf if facts["best"] is None else facts["best"]
        self.best_step = facts["best_step"]


def _optimiser(learner: Learner, phase: PhaseTable) -> torch.optim.Optimizer:
    """Over the parts that are not frozen; biases and norms decay as everything does, as in the papers."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    if phase.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, phase.lr, phase.momentum, weight_decay=phase.weight_decay, nesterov=phase.nesterov
        )
    kind = torch.optim.AdamW if phase.optimiser == "adamw" else torch.optim.Adam
    return kind(parameters, phase.lr, weight_decay=phase.weight_decay)
