"""The action units of a photographed donor: the table of pulls spread over his skin.

Intensities run from 0 to 1 and add up; afterwards lids and lips are kept from passing through each other.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.actions import ACTIONS, Pull, both_halves
from train.synth.donor import Donor
from train.synth.neutral import Rest
from train.synth.skin import Skin

CLOSED_GAP = 0.007  # between closed lips, in face units: the dark line that one sees there
_BROWS = (107, 55, 66, 65, 105, 52, 63, 53, 70, 46)


class Expressions:
    """The action units of one donor, as displacements of his mesh."""

    def __init__(self, donor: Donor, rest: Rest, skin: Skin) -> None:
        frame = donor.frame
        self._rest_face = frame.to_face(rest.points_px)
        self._fields = {name: skin.spread(_flat(both_halves(pulls))) for name, pulls in ACTIONS.items()}
        # The donor's own smile, lip gap and lids say where these lead.
        self._fields["AU12"] = rest.smile
        self._fields["AU25"] = rest.parting
        self._fields["AU43"] = skin.spread(_lid_closure(self._rest_face))
        self._frame = frame

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._fields, key=lambda name: int(name[2:])))

    def displacement(self, intensities: Mapping[str, float]) -> NDArray[np.float64]:
        """{"AU12": 0.8, …} → (V, 2) float64 displacement of every point from rest, in face units."""
        total = np.zeros_like(self._rest_face)
        for name, intensity in intensities.items():
            total += intensity * self._fields[name]
        _keep_apart(total, self._rest_face, lm.UPPER_LIP_INNER, lm.LOWER_LIP_INNER, CLOSED_GAP)
        _keep_apart(total, self._rest_face, lm.RIGHT_LID_UPPER, lm.RIGHT_LID_LOWER, 0.002)
        _keep_apart(total, self._rest_face, lm.LEFT_LID_UPPER, lm.LEFT_LID_LOWER, 0.002)
        return total

    def points_px(self, intensities: Mapping[str, float]) -> NDArray[np.float64]:
        """(V, 2) float64: the mesh in the picture, before the head moves."""
        return self._frame.to_px(self._rest_face + self.displacement(intensities))


def _flat(handles: dict[int, NDArray[np.float64]]) -> dict[int, NDArray[np.float64]]:
    return {point: displacement[:2] for point, displacement in handles.items()}


def _lid_closure(rest_face: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    """The upper lid comes down to the lower one, which rises a little; the fold above unrolls behind it."""
    handles = {}
    for upper, lower, fold in (
        (lm.RIGHT_LID_UPPER, lm.RIGHT_LID_LOWER, lm.RIGHT_LID_FOLD),
        (lm.LEFT_LID_UPPER, lm.LEFT_LID_LOWER, lm.LEFT_LID_FOLD),
    ):
        for k, (above, below) in enumerate(zip(upper, lower, strict=True)):
            opening = rest_face[below] - rest_face[above]
            handles[above], handles[below] = 0.9 * opening, -0.1 * opening
            if 0 < k < len(upper) - 1:
                handles[fold[k - 1]] = 0.42 * opening
    return handles | _flat(both_halves((Pull(_BROWS, 0, 0), Pull((23, 22, 24, 26, 110), 0, -0.002))))


def _keep_apart(
    displacement: NDArray[np.float64],
    rest_face: NDArray[np.float64],
    upper: tuple[int, ...],
    lower: tuple[int, ...],
    least: float,
) -> None:
    """Where the lower edge would rise above the upper one, both meet halfway. Corners are shared and stay."""
    above, below = np.array(upper[1:-1]), np.array(lower[1:-1])
    taper = np.sin(np.pi * np.arange(1, len(upper) - 1) / (len(upper) - 1)) ** 0.5
    gap = (rest_face[below] + displacement[below] - rest_face[above] - displacement[above])[:, 1]
    lacking = np.maximum(least * taper - gap, 0)
    displacement[above, 1] -= lacking / 2
    displacement[below, 1] += lacking / 2
