"""The learning rate as a function of the step alone, so that nothing of it needs saving."""

from __future__ import annotations

import math

from train.recipe import PhaseTable


def learning_rate(phase: PhaseTable, step: int, steps_per_epoch: int) -> float:
    """For optimiser step `step`, counted from 0 within the phase.

    Warm-up is a straight line up to the first step after it; the schedule goes on beneath it.
    """
    total = phase.epochs * steps_per_epoch
    rate = phase.lr
    if phase.schedule == "step":
        rate *= phase.step_factor ** (step // (phase.step_epochs * steps_per_epoch))
    elif phase.schedule == "cosine":
        done = max(step - phase.warmup_steps, 0) / max(total - phase.warmup_steps, 1)
        rate *= phase.final_share + (1 - phase.final_share) * (1 + math.cos(math.pi * min(done, 1))) / 2
    return rate * min((step + 1) / (phase.warmup_steps + 1), 1)
