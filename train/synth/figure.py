"""One rendered person: shape, skin, eyes and teeth together, ready to be posed, lit and photographed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from train.synth import landmarks as lm
from train.synth.actions import JOINT
from train.synth.complexion import paint_skin
from train.synth.hair import hair_colour, paint_hair
from train.synth.head import MOUTH, TEXTURE_PX, Head, to_texture_px
from train.synth.person import Person, lid_openings
from train.synth.pose import Pose
from train.synth.relief import LID_FOLD, Relief, slopes
from train.synth.shader import Eyes, Lamps, Mouth, shade
from train.synth.surface import cover, seen_by_lamp, smooth_normals

_PIVOT = np.array([0.0, 0.45, 0.60])  # where the neck turns the head
_BALL = 0.129  # radius of an eyeball, face units
_NARROWEST = 0.24  # of the resting opening: what squinting leaves between the lids
_CLOSED_GAP = 0.004
_LIDS = (
    (lm.RIGHT_LID_UPPER, lm.RIGHT_LID_LOWER),
    (lm.LEFT_LID_UPPER, lm.LEFT_LID_LOWER),
)
_RELIEF_DEPTH = 0.036


@dataclass(frozen=True)
class Acting:
    """What a face does.

    intensities: {"AU01": (right, left), …}, 0–1 of the person's full strength
    gaze_deg: to the image's right, and up, against the head
    jaw_aside: face units to the image's right
    """

    intensities: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    gaze_deg: tuple[float, float] = (0.0, 0.0)
    jaw_aside: float = 0.0


@dataclass(frozen=True)
class View:
    """Where the head is in the picture.

    centre_px: of the point between the eyes, at pose 0; unit_px: of a face unit there
    distance: of the camera, face units (a face unit is about 93 mm)
    """

    pose: Pose
    centre_px: tuple[float, float]
    unit_px: float
    distance: float

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 3) face units → (N, 3): pixels, and depth in pixels."""
        turned = (points - _PIVOT) @ self.pose.rotation().T + _PIVOT
        scale = self.unit_px * self.distance / (self.distance + turned[:, 2:])
        flat = turned[:, :2] * scale + np.array(self.centre_px)
        return np.concatenate([flat, turned[:, 2:] * self.unit_px], axis=1)


@dataclass(frozen=True)
class Truth:
    """What the rendered geometry shows, whatever was asked for.

    lip_gap: widest, face units; lids_open: (right, left), share of the person's opening at rest
    points_px: (468, 2) float64, the mesh in the picture
    hidden: parts of the face (hand.PARTS) that something covers
    """

    lip_gap: float
    lids_open: tuple[float, float]
    points_px: NDArray[np.float64]
    hidden: frozenset[str] = frozenset()


class Figure:
    """A person with everything that is painted once."""

    def __init__(self, person: Person, head: Head, detail: NDArray[np.float32] | None) -> None:
        rng = np.random.default_rng([person.seed, 2])
        self.person, self.head = person, head
        self.complexion = paint_skin(person, head, rng, detail)
        self.hair_bgr = hair_colour(person, self.complexion, rng)
        paint_hair(self.complexion, self.hair_bgr, person, head, rng)
        self.relief = Relief(head, rng, person.age)
        self._index = {name: k for k, name in enumerate(person.aus)}
        self._texture = to_texture_px(head.texture_xy) / TEXTURE_PX + 0.5 / TEXTURE_PX
        self._iris_bgr = _iris(self.complexion.tone_bgr, rng)
        self._sclera_bgr = np.clip(np.array([0.73, 0.76, 0.80]) * rng.uniform(0.8, 1.05), 0, 1)
        self._iris, self._pupil = rng.uniform(0.44, 0.52), rng.uniform(0.15, 0.26)
        white = rng.uniform(0.72, 0.95)
        self._tooth_bgr = white * np.array([rng.uniform(0.78, 0.96), rng.uniform(0.92, 0.98), 1.0])
        self._teeth_at = rng.uniform(-0.005, 0.045)
        self._crowded = rng.random()
        self._gum_bgr = np.array([0.42, 0.40, 0.68]) * rng.uniform(0.7, 1.1)
        self._lip_line = points_mean(person.points, (13, 14))

    def geometry(self, acting: Acting) -> NDArray[np.float64]:
        """(V, 3) float64: the head in this expression, face units, looking straight ahead."""
        person, points = self.person, self.person.points.copy()
        left = self.head.left[:, None]
        closing = (0.0, 0.0)
        for name, (right_share, left_share) in acting.intensities.items():
            if not (right_share or left_share):
                continue
            strength = right_share + (left_share - right_share) * left
            if name == "AU43":
                closing = (right_share, left_share)
                openings = person.lid_opening / 0.096
                strength = strength * (openings[0] + (openings[1] - openings[0]) * left)
                move = strength * person.fields[self._index[name]]
                move[[i for pair in _LIDS for lids in pair for i in lids]] = 0
                points += move
            else:
                points += strength * person.fields[self._index[name]]
        for one, other in JOINT:
            shares = zip(*(acting.intensities.get(au, (0.0, 0.0)) for au in (one, other)), strict=True)
            right_share, left_share = (a * b for a, b in shares)
            if right_share or left_share:
                strength = right_share + (left_share - right_share) * left
                points += strength * person.fields[self._index[f"{one}+{other}"]]
        if acting.jaw_aside:
            points[:, 0] += acting.jaw_aside * np.clip((person.points[:, 1] - 0.5) / 0.3, 0, 1)
        for side, (upper, lower) in enumerate(_LIDS):
            least = _NARROWEST * (person.points[list(lower), 1] - person.points[list(upper), 1])
            _keep_apart(points, upper, lower, least[1:-1])
            _close(points, upper, lower, closing[side])
        count = len(lm.UPPER_LIP_INNER)
        taper = np.sin(np.pi * np.arange(1, count - 1) / (count - 1)) ** 0.5
        _keep_apart(points, lm.UPPER_LIP_INNER, lm.LOWER_LIP_INNER, 0.6 * _CLOSED_GAP * taper)
        return points

    def render(
        self,
        picture: NDArray[np.uint8],
        acting: Acting,
        view: View,
        lamps: Lamps,
        gain: float = 1.0,
        offset: float = 0.0,
    ) -> Truth:
        """Draws the head over picture (H, W, 3 uint8 BGR), in place."""
        head = self.head
        points = self.geometry(acting)
        turn = view.pose.rotation()
        projected = view.project(points)
        height, width = picture.shape[:2]
        index, weights = cover(projected, head.triangles, (width, height))
        normals = smooth_normals(points, head.triangles, head.kinds) @ turn.T
        in_map, shadow_map = seen_by_lamp(points @ turn.T, head.triangles, lamps.key_to)
        columns = [self._texture, normals, head.across[:, None], in_map]
        attributes = np.concatenate(columns, axis=1).astype(np.float32)
        opened = np.clip(lid_openings(points) / self.person.lid_opening, 0, 1.2)
        marks = {name: sides for name, sides in acting.intensities.items() if any(sides)}
        marks[LID_FOLD] = (float(opened[0] ** 0.7), float(opened[1] ** 0.7))
        relief = slopes(self.relief.at(marks))
        gap = float((points[list(lm.LOWER_LIP_INNER), 1] - points[list(lm.UPPER_LIP_INNER), 1]).max())
        shade(
            picture,
            index,
            weights,
            head.triangles,
            head.kinds,
            attributes,
            self.complexion.bgr,
            relief,
            shadow_map,
            turn,
            _RELIEF_DEPTH,
            self.complexion.gloss,
            lamps,
            self._eyes(acting, view, turn),
            self._mouth(points, view, gap),
            gain,
            offset,
        )
        return Truth(gap, (float(opened[0]), float(opened[1])), projected[:468, :2])

    def _eyes(self, acting: Acting, view: View, turn: NDArray[np.float64]) -> Eyes:
        points = self.person.points
        centres = np.array([points[[*upper, *lower]].mean(axis=0) for upper, lower in _LIDS])
        middle = np.array([points[[upper[4], lower[4]]].mean(axis=0) for upper, lower in _LIDS])
        centres[:, 2] = middle[:, 2] + _BALL + 0.004
        yaw, pitch = np.radians(acting.gaze_deg)
        gaze = np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), -np.cos(yaw) * np.cos(pitch)])
        # Eyes converge a little on what is near.
        inward = np.array([0.02, 0.0, 0.0])
        both = np.stack([gaze + inward, gaze - inward]) @ turn.T
        both /= np.linalg.norm(both, axis=1, keepdims=True)
        at = view.project(centres)
        radius = (
            _BALL * view.unit_px * view.distance / (view.distance + float(at[:, 2].mean()) / view.unit_px)
        )
        return Eyes(at[:, :2].copy(), radius, both, self._iris_bgr, self._sclera_bgr, self._iris, self._pupil)

    def _mouth(self, points: NDArray[np.float64], view: View, gap: float) -> Mouth:
        line = self._lip_line
        corner = np.array([line[0], line[1], line[2] + 0.07])
        frame = corner + np.array([[0, 0, 0], [0.2, 0, 0], [0, 0.2, 0]])
        at = view.project(frame)[:, :2].astype(np.float32)
        to_face = cv2.getAffineTransform(at, np.array([[0, 0], [0.2, 0], [0, 0.2]], np.float32))
        jaw = float(points[lm.CHIN, 1] - self.person.points[lm.CHIN, 1])
        return Mouth(
            to_face,
            self._teeth_at,
            self._teeth_at - 0.010 + max(jaw, 0.0),
            gap,
            self._tooth_bgr,
            self._gum_bgr,
            np.array([0.45, 0.42, 0.68]),
            self._crowded,
        )


def points_mean(points: NDArray[np.float64], indices: tuple[int, ...]) -> NDArray[np.float64]:
    return np.asarray(points[list(indices)].mean(axis=0), np.float64)


def _iris(tone_bgr: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    browns = np.array([(0.10, 0.16, 0.26), (0.14, 0.24, 0.38), (0.22, 0.34, 0.44)])
    lights = np.array([(0.58, 0.50, 0.40), (0.62, 0.56, 0.46), (0.36, 0.46, 0.42)])
    pool = np.concatenate([browns, lights]) if tone_bgr[2] > 0.68 else browns[:2]
    return np.asarray(np.clip(pool[rng.integers(len(pool))] * rng.lognormal(0, 0.15), 0.03, 0.8), np.float64)


def _keep_apart(
    points: NDArray[np.float64], upper: tuple[int, ...], lower: tuple[int, ...], least: NDArray[np.float64]
) -> None:
    """Where less than that is left between two edges, both give way. Corners are shared and stay."""
    above, below = np.array(upper[1:-1]), np.array(lower[1:-1])
    lacking = np.maximum(least - (points[below, 1] - points[above, 1]), 0)
    points[above, 1] -= lacking / 2
    points[below, 1] += lacking / 2


def _close(points: NDArray[np.float64], upper: tuple[int, ...], lower: tuple[int, ...], share: float) -> None:
    """The upper lid comes down to the lower one, which rises a little."""
    above, below = np.array(upper[1:-1]), np.array(lower[1:-1])
    opening = points[below] - points[above]
    points[above] += 0.92 * share * opening
    points[below] -= 0.06 * share * opening


__all__ = ["MOUTH", "Acting", "Figure", "Truth", "View"]
