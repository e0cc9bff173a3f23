"""Thresholds per AU, chosen on validation, with an eye on faces at rest.

The threshold of the best F1 belongs to the validation frames, which show far more expressions than a face
does in front of a camera. There it would call AUs on people who do nothing. So F1 chooses, but the threshold
is at least so high that each AU is quiet on all but 2% of the calm frames: those that show no AU, and where
it is known that this one does not show. A trace, or an eye half closed, is no false alarm.
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
    """Of the AU that has most."""
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


def calm(occurrence: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(n, A) → (n, A): where an AU is known not to show, in frames that are not known to show any other."""
    return (occurrence == 0) & ~(occurrence == 1).any(axis=1, keepdims=True)


def calm_alarms(
    probability: NDArray[np.floating], thresholds: NDArray[np.floating], occurrence: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """(A,): share of each AU's calm frames on which it is called; NaN without any.

    Args:
        probability: (n, A).
        thresholds: (A,).
        occurrence: (n, A), 0, 1 or 9 for unknown.
    """
    quiet = calm(occurrence)
    called = (quiet & (probability >= thresholds)).sum(axis=0)
    return np.where(quiet.any(axis=0), called / np.maximum(quiet.sum(axis=0), 1), np.nan)


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
    rule = "best F1 on validation"
    quiet = calm(occurrence)
    for a, (p, there) in enumerate(zip(probability.T.astype(np.float64), quiet.T, strict=True)):
        if there.sum() >= FEWEST_CALM:
            may_ring = int(CALM_ALARMS * there.sum())
            values[a] = max(values[a], np.nextafter(np.sort(p[there])[::-1][may_ring], 1))
    if quiet.sum(axis=0).max() >= FEWEST_CALM:
        rule += f", each AU called on at most {CALM_ALARMS:.0%} of its calm frames"
        if (values > HIGHEST).any():
            rule += f", or at {HIGHEST} at the latest"
    values = np.clip(np.ceil(values * 1e4) / 1e4, LOWEST, HIGHEST)
    return _told(values, rule, probability, occurrence)


def kept(
    values: Sequence[float], probability: NDArray[np.floating], occurrence: NDArray[np.uint8]
) -> Thresholds:
    """Those of the papers, where nobody is there to choose by but those who are tested.

    Args:
        values: (A,).
        probability: (n, A).
        occurrence: (n, A), 0, 1 or 9 for unknown.
    """
    return _told(np.array(values), "the papers', not chosen", probability, occurrence)


def _told(
    values: NDArray[np.float64],
    rule: str,
    probability: NDArray[np.floating],
    occurrence: NDArray[np.uint8],
) -> Thresholds:
    return Thresholds(
        values=tuple(map(float, values)),
        rule=rule,
        calm_frames=int(calm(occurrence).sum(axis=0).max()),
        calm_alarms=tuple(round(float(a), 4) for a in calm_alarms(probability, values, occurrence)),
    )
