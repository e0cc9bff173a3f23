"""What each action unit does to the mesh: a table of pulls in face units, spread over the skin.

A face unit is the distance between the outer eye corners; axes turn with the face. Intensities run from 0
to 1 and add up; afterwards lids and lips are kept from passing through each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.donor import Donor
from train.synth.neutral import Rest
from train.synth.skin import Skin

CLOSED_GAP = 0.007  # between closed lips, in face units: the dark line that one sees there


@dataclass(frozen=True)
class Pull:
    """A pull on points of the subject's right half; the other half mirrors it.

    points: mesh points, on the right half or on the midline
    outward, down: displacement in face units at full intensity
    """

    points: tuple[int, ...]
    outward: float
    down: float

    def __post_init__(self) -> None:
        if self.outward and any(point not in lm.MIRROR for point in self.points):
            raise ValueError(f"points on the midline cannot move outward, got {self.points}")


_BROW_INNER, _BROW_MIDDLE, _BROW_OUTER = (107, 55), (66, 65), (105, 52, 63, 53, 70, 46)
_HAIRLINE = (10, 109, 67, 103, 54, 21)
_EYE = (33, 133, *lm.RIGHT_LID_UPPER, *lm.RIGHT_LID_LOWER)
_STILL_BROWS = Pull((*_BROW_INNER, *_BROW_MIDDLE, *_BROW_OUTER), 0, 0)
_STILL_EYES = Pull(_EYE, 0, 0)
_STILL_NOSE = Pull((2, 1, 4, 5, 195, 98, 64, 129), 0, 0)
_STILL_CHIN = Pull((152, 175, 199, 148, 176), 0, 0)

ACTIONS: dict[str, tuple[Pull, ...]] = {
    "AU1": (
        Pull(_BROW_INNER, 0.010, -0.105),
        Pull(_BROW_MIDDLE, 0.005, -0.075),
        Pull((105, 52), 0, -0.028),
        Pull((63, 53, 70, 46), 0, 0),
        Pull((9,), 0, -0.060),
        Pull((108, 151), 0, -0.045),
        Pull((56, 28, 221, 222), 0, -0.014),
        Pull(_HAIRLINE, 0, -0.004),
        _STILL_EYES,
    ),
    "AU2": (
        Pull(_BROW_INNER, 0, -0.022),
        Pull(_BROW_MIDDLE, 0, -0.045),
        Pull((105, 52), 0, -0.085),
        Pull((63, 53), 0.004, -0.092),
        Pull((70, 46), 0.004, -0.075),
        Pull((104, 69, 68), 0, -0.035),
        Pull((30, 29, 27), 0, -0.012),
        Pull((224, 225), 0, -0.035),
        Pull(_HAIRLINE, 0, -0.004),
        _STILL_EYES,
    ),
    "AU4": (
        Pull(_BROW_INNER, -0.046, 0.070),
        Pull(_BROW_MIDDLE, -0.042, 0.064),
        Pull((105, 52), -0.022, 0.044),
        Pull((63, 53), -0.008, 0.020),
        Pull((70, 46), 0, 0.006),
        Pull((9, 8), 0, 0.034),
        Pull((221, 222, 223), -0.008, 0.030),
        Pull((28, 56, 27), 0, 0.012),
        Pull(_HAIRLINE, 0, 0.002),
        _STILL_EYES,
    ),
    "AU6": (
        Pull((50, 101, 117, 118), 0.004, -0.048),
        Pull((36, 205, 119), 0.006, -0.040),
        Pull((229, 230, 231, 228), 0, -0.026),
        Pull((23, 24, 22, 110), 0, -0.022),
        Pull((163, 144, 145, 153, 154), 0, -0.019),
        Pull((33, 133), 0, 0),
        Pull((226, 35, 31), 0, -0.010),
        Pull((46, 53, 70), 0, 0.010),
        Pull((161, 160, 159, 158, 30, 29, 27), 0, 0.005),
        Pull((78, 61), 0.004, -0.008),
        _STILL_NOSE,
    ),
    "AU9": (
        Pull((64, 98, 48, 102), 0.012, -0.036),
        Pull((129, 49, 209), 0.008, -0.042),
        Pull((2, 97), 0, -0.016),
        Pull((1, 4), 0, -0.020),
        Pull((193, 122, 188, 174), 0, -0.022),
        Pull((6, 197), 0, -0.014),
        Pull((203, 36, 142), 0.004, -0.034),
        Pull((206, 165, 92), 0, -0.024),
        Pull((37, 39, 0), 0, -0.020),
        Pull((82, 81, 13, 38, 41, 12), 0, -0.004),
        Pull(_BROW_INNER, -0.024, 0.040),
        Pull(_BROW_MIDDLE, -0.018, 0.034),
        Pull((9, 8), 0, 0.026),
        Pull((23, 22, 24, 26), 0, -0.014),
        Pull((144, 145, 153), 0, -0.012),
        Pull((33, 133), 0, 0),
        Pull((159, 158, 160), 0, 0.006),
    ),
    "AU15": (
        Pull((61,), 0.010, 0.078),
        Pull((76, 62), 0.010, 0.070),
        Pull((78,), 0.008, 0.060),
        Pull((185, 146, 184, 77, 183, 96, 191, 95), 0.006, 0.040),
        Pull((40, 91, 74, 90, 42, 89, 80, 88), 0.002, 0.016),
        Pull((13, 14, 0, 17, 82, 87, 37, 84), 0, -0.004),
        Pull((57, 43, 212), 0.006, 0.042),
        Pull((202,), 0.004, 0.030),
        _STILL_NOSE,
        _STILL_CHIN,
    ),
    "AU17": (
        Pull((199, 200, 201, 208), 0, -0.052),
        Pull((18, 83), 0, -0.050),
        Pull((17, 84, 181), 0, -0.044),
        Pull((16, 85, 180), 0, -0.040),
        Pull((14, 15, 87, 86, 178, 179), 0, -0.032),
        Pull((13, 82, 81, 12, 38, 41), 0, -0.026),
        Pull((0, 37, 39, 11, 72, 73), 0, -0.018),
        Pull((78, 61), 0, 0.006),
        Pull((152, 148, 175, 171), 0, -0.022),
        _STILL_NOSE,
    ),
    "AU20": (
        Pull((61, 76, 62, 78), 0.078, 0.012),
        Pull((57, 43), 0.070, 0.014),
        Pull((212, 202, 186), 0.050, 0.010),
        Pull((185, 146, 184, 77, 183, 96, 191, 95), 0.060, 0.006),
        Pull((40, 91, 74, 90, 42, 89, 80, 88), 0.038, 0.002),
        Pull((39, 73, 41, 81), 0.020, 0.004),
        Pull((181, 180, 179, 178), 0.022, -0.006),
        Pull((0, 37), 0, 0.006),
        Pull((17, 84), 0, -0.012),
        Pull((204, 194), 0.030, 0.006),
        _STILL_NOSE,
        _STILL_CHIN,
    ),
    "AU26": (
        Pull((14, 15, 16, 17), 0, 0.150),
        Pull((87, 86, 85, 84), 0, 0.146),
        Pull((178, 179, 180, 181), 0, 0.126),
        Pull((88, 89, 90, 91), -0.004, 0.090),
        Pull((95, 96, 77, 146), -0.010, 0.052),
        Pull((78, 62, 76, 61), -0.016, 0.024),
        Pull((191, 183, 184, 185), -0.010, 0.010),
        Pull((80, 42, 74, 40), -0.004, 0.002),
        Pull((13, 82, 81, 12, 38, 41, 0, 37, 39, 11, 72, 73), 0, -0.006),
        Pull((18, 83, 200, 201, 199, 208, 175, 171), 0, 0.152),
        Pull((152, 148, 176, 140), 0, 0.150),
        Pull((149, 150, 170, 32), 0, 0.125),
        Pull((136, 169), -0.004, 0.092),
        Pull((172, 135), -0.006, 0.058),
        Pull((58, 138), -0.004, 0.028),
        Pull((132,), 0, 0.008),
        Pull((43, 57, 202), -0.008, 0.052),
        Pull((211, 204, 194), 0, 0.110),
        Pull((205, 206, 36, 187), 0, 0.008),
        _STILL_NOSE,
    ),
}
"""AU12, AU25 and AU43 are absent: the donor's own smile, lip gap and lids say where these lead."""


class Expressions:
    """The action units of one donor, as displacements of his mesh."""

    def __init__(self, donor: Donor, rest: Rest, skin: Skin) -> None:
        frame = donor.frame
        self._rest_face = frame.to_face(rest.points_px)
        self._fields = {name: skin.spread(_both_halves(pulls)) for name, pulls in ACTIONS.items()}
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


def _both_halves(pulls: tuple[Pull, ...]) -> dict[int, NDArray[np.float64]]:
    handles = {}
    for pull in pulls:
        for point in pull.points:
            handles[point] = np.array([-pull.outward, pull.down])
            if point in lm.MIRROR:
                handles[lm.MIRROR[point]] = np.array([pull.outward, pull.down])
    return handles


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
    return handles | _both_halves((_STILL_BROWS, Pull((23, 22, 24, 26, 110), 0, -0.002)))


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
