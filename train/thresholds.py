"""Thresholds per AU, chosen on validation, with an eye on faces at rest.

The threshold of the best F1 belongs to the validation frames, which show far more expressions than a face
does in front of a camera. There it would call AUs on people who do nothing. So F1 chooses, but the threshold
is at least so high that each AU is quiet on all but 2% of the calm frames, those that show no AU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train import metrics

CALM_ALARMS = 0.02
"""Share of calm frames on which an AU may be called."""
FEWEST_CALM = 50
"""With fewer calm frames their 2% say nothing, and F1 alone chooses."""
LOWEST, HIGHEST = 0.05, 0.95


@dataclass(frozen=True, slots=True)
class Thresholds:
    """One threshold an AU, and how it was come by."""

    values: tuple[float, ...]
    rule: str
    calm_frames: int
    calm_alarms: tuple[float, ...]
    """Share of calm frames with each AU called; NaN without any."""


def best_f1(probability: NDArray[np.floating], present: NDArray[np.bool_]) -> float:
    """The threshold of the highest F1, halfway between two probabilities; 0.5 where nothing is present.

    Args:
        probability: (n,).
        present: (n,).
    """
    if not present.any():
        return 0.5
    order = np.argsort(-probability, kind="stable")
    p, hits = probability[order], np.cumsum(present[order])
    f1 = 2 * hits / (np.arange(1, len(p) + 1) + present.sum())
    cuts = np.append(p[:-1] > p[1:], True)  # equal probabilities are called together
    best = int(np.argmax(np.where(cuts, f1, -1)))
    below = p[best + 1] if best + 1 < len(p) else 0.0
    return float(p[best] + below) / 2


def calm_rows(occurrence: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(n, A) → (n,): frames known to show nothing; unknown AUs do not count, all unknown is not calm."""
    return ~(occurrence == 1).any(axis=1) & (occurrence == 0).any(axis=1)


def choose(probability: NDArray[np.floating], occurrence: NDArray[np.uint8]) -> Thresholds:
    """A threshold for every AU.

    Args:
        probability: (n, A), of validation frames.
        occurrence: (n, A), 0, 1 or 9 for unknown.
    """
    known = occurrence != metrics.UNKNOWN
    values = np.array(
        [best_f1(p[k], o[k] == 1) for p, o, k in zip(probability.T, occurrence.T, known.T, strict=True)]
    )
    calm = probability[calm_rows(occurrence)].astype(np.float64)
    rule = "best F1 on validation"
    if len(calm) >= FEWEST_CALM:
        loudest = np.sort(calm, axis=0)[::-1][int(CALM_ALARMS * len(calm))]  # the first that must stay quiet
        values = np.maximum(values, np.nextafter(loudest, 1))
        rule += f", at most {CALM_ALARMS:.0%} of calm frames called"
    values = np.clip(np.ceil(values * 1e4) / 1e4, LOWEST, HIGHEST)
    return _told(values, rule, calm)


def kept(
    values: Sequence[float], probability: NDArray[np.floating], occurrence: NDArray[np.uint8]
) -> Thresholds:
    """Those of the papers, where nobody is there to choose by but those who are tested.

    Args:
        values: (A,).
        probability: (n, A).
        occurrence: (n, A), 0, 1 or 9 for unknown.
    """
    return _told(np.array(values), "the papers', not chosen", probability[calm_rows(occurrence)])


def _told(values: NDArray[np.float64], rule: str, calm: NDArray[np.floating]) -> Thresholds:
    alarms = (calm >= values).mean(axis=0) if len(calm) else np.full(len(values), np.nan)
    return Thresholds(
        values=tuple(map(float, values)),
        rule=rule,
        calm_frames=len(calm),
        calm_alarms=tuple(round(float(alarm), 4) for alarm in alarms),
    )
