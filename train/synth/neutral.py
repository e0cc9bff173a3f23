"""From a smiling portrait to a face at rest: lips closed, mouth corners narrower and level, folds filled.

What is taken away here is kept: it is the donor's own AU12 (geometry and skin) and AU25.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.donor import Donor
from train.synth.drawing import blur, hull, line, polygon, shrink, to_uint8
from train.synth.skin import Skin

_MOUTH_WIDTH = 0.585  # at rest, in face units
_LIP_LINE = 0.60  # of the way from the smile's upper lip edge to its lower one
_SMILE_LINE = 0.25  # where closed lips would meet within the smile
_LIP_FULLNESS = 1.06


@dataclass(frozen=True)
class Rest:
    """A donor at rest, and the way back to his photograph.

    points_px: (V, 2) float64, the mesh at rest
    smile: (V, 2) float64, rest → smile with closed lips, in face units
    parting: (V, 2) float64, closed smile → the photograph, in face units
    picture_bgr: (H, W, 3) uint8, the photograph without the folds that the smile puts on the cheeks
    """

    points_px: NDArray[np.float64]
    smile: NDArray[np.float64]
    parting: NDArray[np.float64]
    picture_bgr: NDArray[np.uint8]


def at_rest(donor: Donor, skin: Skin) -> Rest:
    frame = donor.frame
    photo = frame.to_face(donor.points_px)
    closing = skin.spread(_closing(photo))
    relaxing = skin.spread(_relaxing(photo))
    rest = photo + relaxing
    return Rest(frame.to_px(rest), photo + closing - rest, -closing, _without_folds(donor))


def _edges(photo: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return photo[list(lm.UPPER_LIP_INNER)], photo[list(lm.LOWER_LIP_INNER)]


def _closing(photo: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    """Upper and lower lip meet at a line between them; corners stay."""
    upper, lower = _edges(photo)
    line = upper + _SMILE_LINE * (lower - upper)
    handles = {}
    for k in range(len(line)):
        for loop in (lm.UPPER_LIP_INNER, *lm.UPPER_LIP_LOOPS):
            handles[loop[k]] = line[k] - upper[k]
        for loop in (lm.LOWER_LIP_INNER, *lm.LOWER_LIP_LOOPS):
            if k not in (0, len(line) - 1):
                handles[loop[k]] = line[k] - lower[k]
    return handles | {point: np.zeros(2) for point in (2, 98, 327, 152, 148, 377, 199, 164)}


def _relaxing(photo: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    """Photograph → rest: the lips' loops keep their thickness around a narrower, level line."""
    upper, lower = _edges(photo)
    middle = len(upper) // 2
    centre = upper[middle] + _LIP_LINE * (lower[middle] - upper[middle])
    corners = photo[list(lm.MOUTH_CORNERS)]
    mid_x = corners[:, 0].mean()
    narrow = _MOUTH_WIDTH / np.ptp(corners[:, 0])
    along = np.linspace(-1, 1, len(upper))
    bow = 0.005 * (np.cos(2 * np.pi * along) - 1) + 0.012 * along**2  # a shallow M, its ends a little low

    def line_at(k: int, x: float) -> NDArray[np.float64]:
        return np.array([mid_x + narrow * (x - mid_x), centre[1] + bow[k]])

    handles = {}
    for edge, loops in (
        (lm.UPPER_LIP_INNER, (lm.UPPER_LIP_INNER, *lm.UPPER_LIP_LOOPS)),
        (lm.LOWER_LIP_INNER, (lm.LOWER_LIP_INNER, *lm.LOWER_LIP_LOOPS)),
    ):
        for k, edge_point in enumerate(edge):
            for loop in loops:
                point = photo[loop[k]]
                thickness = _LIP_FULLNESS * (point[1] - photo[edge_point][1])
                if k in (0, len(edge) - 1):
                    thickness = 0.3 * thickness
                x = (upper[k][0] + lower[k][0]) / 2 + point[0] - photo[edge_point][0]
                home = line_at(k, x) + np.array([0, thickness])
                handles[loop[k]] = home - point
    still = (2, 98, 327, 64, 294, 152, 148, 377, 50, 280, 129, 358)
    lids = {point: np.array([0, 0.006]) for point in (144, 145, 153, 373, 374, 380)}
    return handles | {point: np.zeros(2) for point in still} | lids


def _without_folds(donor: Donor) -> NDArray[np.uint8]:
    """(H, W, 3): the cheeks' folds filled from the skin around them, a little of the fine grain kept."""
    points, unit_px, picture = donor.points_px[:, :2], donor.frame.unit_px, donor.picture_bgr
    folds, skin = np.zeros(picture.shape[:2], np.float32), np.ones(picture.shape[:2], np.float32)
    for fold in ((129, 203, 206, 216, 212, 202), (358, 423, 426, 436, 432, 422)):
        folds = np.maximum(folds, line(picture.shape, points[list(fold)], round(0.15 * unit_px)))
    for feature in ((*lm.UPPER_LIP_LOOPS[-1], *lm.LOWER_LIP_LOOPS[-1]), (129, 98, 2, 327, 358, 5)):
        skin = np.minimum(skin, 1 - polygon(picture.shape, hull(points[list(feature)])))
    skin = shrink(skin, 5)
    around = (skin * (1 - folds))[..., None]
    reach = 0.08 * unit_px
    filled = blur(picture * around, reach) / (blur(around, reach)[..., None] + 1e-3)
    grain = picture - blur(picture, 1.2)
    where = (blur(folds, 0.03 * unit_px) * blur(skin, 1.5))[..., None]
    return to_uint8(picture + where * (filled + 0.25 * grain - picture))
