"""One person before the camera: neutral pictures, stills and clips, with their labels.

Everything about a person is drawn from the run's seed and the person's number, whichever process renders it.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from train.synth.camera import Camera, draw_camera, photograph, recorded
from train.synth.figure import Acting, Figure, Truth, View
from train.synth.hand import Hand, draw_hand, hidden_parts, lay_hand
from train.synth.head import mean_head
from train.synth.labels import labels
from train.synth.person import make_person
from train.synth.photograph import donor_detail, donor_face
from train.synth.pose import Pose
from train.synth.scene import Setting, draw_behind, draw_in_front, draw_lamps, draw_setting, lit_skin, stirred
from train.synth.script import acting_at, draw_events, draw_neutral, draw_still, gaze_path
from train.synth.shader import Lamps

_FACE_UNITS = 1.52  # width of the mean face
_WITH_DETAIL = 0.6  # share of people whose skin has the photographed donor's grain
_HAND = 0.06
"""Chance that a hand is before the face in a still; in a clip twice that."""
_ELSEWHERE = 0.35
"""Chance that a recording has another light and another camera than the neutral."""
_FINE_UNIT_PX = 130.0
"""Face units smaller than this are drawn twice as fine and averaged, which smooths their edges."""


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture with its labels; see train.samples for the arrays."""

    picture_bgr: NDArray[np.uint8]
    intensity: NDArray[np.float32]
    occurrence: NDArray[np.uint8]
    truth: Truth


@dataclass(frozen=True)
class Shoot:
    """The circumstances of one recording.

    face_px: width of the face; centre: of the point between the eyes, pixels
    distance: of the camera, face units; gain, offset: of the exposure
    """

    size_wh: tuple[int, int]
    face_px: float
    centre: tuple[float, float]
    distance: float
    camera: Camera
    lamps: Lamps
    setting: Setting
    gain: float
    offset: float
    hand: Hand | None = None


class Studio:
    """One person and all pictures of them."""

    def __init__(self, seed: int, number: int) -> None:
        self._seeds = [seed, number]
        own_seed = int(np.random.SeedSequence(self._seeds).generate_state(1)[0])
        person = make_person(own_seed, mean_head(), donor_face())
        rng = self._rng(0)
        detail = None
        if rng.random() < _WITH_DETAIL:
            detail = donor_detail()[:, :: 1 if rng.random() < 0.5 else -1]
        self.figure = Figure(person, mean_head(), detail)

    def neutral(self, imperfect: bool) -> list[NDArray[np.uint8]]:
        """Pictures of the person at rest, of one moment: one, or three with some movement between them; of
        another day, as a photo or a profile is."""
        rng = self._rng(1 + imperfect)
        shoot = self._shoot(rng, moving=False, elsewhere=0.3 if imperfect else 0.0)
        return self._at_rest(rng, shoot, imperfect)

    def rest_in(self, number: int, of_clip: bool, imperfect: bool) -> list[NDArray[np.uint8]]:
        """The same within a recording, before its camera and in its light, as a stream's own neutral is."""
        stream = 100_000 + number if of_clip else 100 + number
        shoot = self._shoot(self._rng(stream), moving=of_clip, elsewhere=_ELSEWHERE)
        return self._at_rest(self._rng(200_000 + 2 * stream + imperfect), shoot, imperfect)

    def _at_rest(self, rng: np.random.Generator, shoot: Shoot, imperfect: bool) -> list[NDArray[np.uint8]]:
        spread = 7.0 if imperfect else 2.5
        pose, acting = rng.normal(0, (spread, spread, 2.5)), draw_neutral(rng, imperfect)
        pictures = []
        for _ in range(3 if rng.random() < 0.4 else 1):
            yaw, pitch, roll = (float(v) for v in pose + rng.normal(0, 0.6, 3))
            picture, _ = take(self.figure, acting, Pose(yaw, pitch, roll), shoot)
            pictures.append(photograph(picture, shoot.camera, int(rng.integers(1, 2**31))))
        return pictures

    def still(self, number: int) -> Shot:
        """One expression in a pose of its own, mostly where the neutral was taken."""
        rng = self._rng(100 + number)
        shoot = self._shoot(rng, moving=False, elsewhere=_ELSEWHERE)
        if rng.random() < _HAND:
            shoot = replace(shoot, hand=draw_hand(rng))
        acting = draw_still(rng)
        picture, truth = take(self.figure, acting, _draw_pose(rng), shoot)
        picture = photograph(picture, shoot.camera, int(rng.integers(1, 2**31)))
        return Shot(picture, *labels(acting, truth), truth)

    def clip(self, number: int, frames: int, rate_hz: int) -> list[Shot]:
        """Expressions that come and go in one place, while head, gaze and light move."""
        rng = self._rng(100_000 + number)
        shoot = self._shoot(rng, moving=True, elsewhere=_ELSEWHERE)
        events, restless = draw_events(rng, frames / rate_hz), draw_neutral(rng, False)
        poses = _sway(rng, frames, rate_hz)
        drift = 1 + 0.03 * np.sin(rng.uniform(0, 6) + np.arange(frames) * rng.uniform(0, 0.1))
        if rng.random() < 0.2:  # auto-gain steps
            drift[rng.integers(frames) :] *= rng.uniform(0.75, 1.3)
        hand, comes, goes = None, *sorted(rng.integers(-frames // 2, frames + frames // 2, 2))
        if rng.random() < 2 * _HAND:
            hand = draw_hand(rng)
        shots = []
        for k, gaze in enumerate(gaze_path(rng, frames)):
            acting = acting_at(events, k / rate_hz, restless, gaze)
            now = replace(shoot, gain=shoot.gain * float(drift[k]))
            if hand is not None and comes <= k <= goes:
                away = 1.2 * max(0.0, 1 - min(k - comes, goes - k) / 6)  # in and out within a quarter second
                now = replace(now, hand=replace(hand, tip_xy=(hand.tip_xy[0], hand.tip_xy[1] + away)))
            picture, truth = take(self.figure, acting, poses[k], now)
            picture = photograph(picture, shoot.camera, int(rng.integers(1, 2**31)))
            shots.append(Shot(picture, *labels(acting, truth), truth))
        if shoot.camera.crf is not None:
            decoded = recorded([shot.picture_bgr for shot in shots], shoot.camera.crf, rate_hz)
            shots = [replace(shot, picture_bgr=picture) for shot, picture in zip(shots, decoded, strict=True)]
        return shots

    def sitting(self, size_wh: tuple[int, int], face_px: float) -> Shoot:
        """A laboratory's circumstances, the same for every recording: the person's usual light, a good camera
        that stands still, the face in the middle."""
        rng = self._rng(4)
        shoot = self._shoot(rng, moving=False, elsewhere=0.0)
        centre = (size_wh[0] / 2, size_wh[1] / 2 - 0.27 * face_px / _FACE_UNITS)
        camera = Camera(0.0, 0.8, None, None, shoot.camera.tone)
        setting = draw_setting(self.figure, size_wh, rng)
        return replace(
            shoot,
            size_wh=size_wh,
            face_px=face_px,
            centre=centre,
            camera=camera,
            setting=setting,
            distance=12.0,
        )

    def _shoot(self, rng: np.random.Generator, moving: bool, elsewhere: float) -> Shoot:
        """elsewhere: chance of another light and camera than the person's usual ones."""
        own = self._rng(3)
        usual, lamps = draw_camera(own, moving=False), draw_lamps(own)
        gain, offset, face_px = own.lognormal(0, 0.22), own.normal(0, 5), _draw_face_px(own)
        if rng.random() < elsewhere:
            camera, lamps = draw_camera(rng, moving), draw_lamps(rng)
            gain, offset, face_px = rng.lognormal(0, 0.22), rng.normal(0, 5), _draw_face_px(rng)
        else:
            camera, lamps = draw_camera(rng, moving), stirred(lamps, rng)
            camera = replace(camera, tone=usual.tone, noise_levels=usual.noise_levels)
            gain, offset = gain * rng.lognormal(0, 0.06), offset + rng.normal(0, 1.5)
            face_px = float(np.clip(face_px * rng.lognormal(0, 0.12), 60, 300))
        gain *= self._auto_exposure(lamps, rng.uniform(0.14, 0.36))
        side, centre = _draw_frame(face_px, rng)
        return Shoot(
            size_wh=(side, side),
            face_px=face_px,
            centre=centre,
            distance=float(np.exp(rng.uniform(np.log(4.5), np.log(20)))),
            camera=camera,
            lamps=lamps,
            setting=draw_setting(self.figure, (side, side), rng),
            gain=float(gain),
            offset=float(offset),
        )

    def _auto_exposure(self, lamps: Lamps, wanted: float) -> float:
        """Gain that brings the skin most of the way to the wanted share of full light."""
        skin = float(np.square(self.figure.complexion.tone_bgr).mean())
        light = 0.6 * lamps.sky_bgr + 0.4 * lamps.ground_bgr + 0.6 * lamps.key_bgr + 0.4 * lamps.fill_bgr
        return float((wanted / (skin * light.mean())) ** 0.55)

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([*self._seeds, stream])


def take(figure: Figure, acting: Acting, pose: Pose, shoot: Shoot) -> tuple[NDArray[np.uint8], Truth]:
    """One exposure, (H, W, 3) uint8 BGR without blur or noise."""
    unit_px = shoot.face_px / _FACE_UNITS
    fine = 2 if unit_px < _FINE_UNIT_PX else 1
    width, height = (fine * n for n in shoot.size_wh)
    view = View(pose, (shoot.centre[0] * fine, shoot.centre[1] * fine), unit_px * fine, shoot.distance)
    setting = shoot.setting
    if fine > 1:
        large = cv2.resize(setting.backdrop_bgr, (width, height), interpolation=cv2.INTER_LINEAR)
        setting = replace(setting, backdrop_bgr=large)
    picture = draw_behind(figure, setting, view, shoot.lamps, shoot.gain)
    truth = figure.render(picture, acting, view, shoot.lamps, shoot.gain, shoot.offset)
    draw_in_front(picture, setting, view, shoot.lamps, shoot.gain)
    if shoot.hand is not None:
        skin = lit_skin(figure, shoot.lamps, shoot.gain)
        mask = lay_hand(picture, shoot.hand, view, skin)
        truth = replace(truth, hidden=hidden_parts(mask, truth.points_px))
    if fine > 1:
        picture = np.asarray(cv2.resize(picture, shoot.size_wh, interpolation=cv2.INTER_AREA), np.uint8)
        truth = replace(truth, points_px=truth.points_px / fine)
    return picture, truth


def _draw_face_px(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(60), np.log(300))))


def _draw_frame(face_px: float, rng: np.random.Generator) -> tuple[int, tuple[float, float]]:
    """Side of the picture and place of the face in it; now and then the picture's edge cuts the face."""
    side = 2 * round(max(face_px * rng.uniform(1.7, 2.6), 112) / 2)
    slack = max((side - 1.30 * face_px) / 2, 0) * 0.8
    shift = rng.uniform(-slack, slack, 2)
    if rng.random() < 0.05:
        shift += rng.choice((-1, 1), 2) * 0.12 * face_px
    centre = side / 2 + shift - (0, 0.27 * face_px / _FACE_UNITS)
    return side, (float(centre[0]), float(centre[1]))


def _draw_pose(rng: np.random.Generator) -> Pose:
    """Most look near the camera; some are turned by up to 40° and nod by up to 25°."""
    wide = rng.random() < 0.25
    yaw = np.clip(rng.normal(0, 20 if wide else 7), -40, 40)
    pitch = np.clip(rng.normal(0, 11 if wide else 5), -25, 25)
    return Pose(float(yaw), float(pitch), float(np.clip(rng.normal(0, 6), -25, 25)))


def _sway(rng: np.random.Generator, frames: int, rate_hz: int) -> list[Pose]:
    """A head that sways, turns and nods smoothly."""
    seconds = np.arange(frames) / rate_hz
    start = _draw_pose(rng)
    paths = []
    for middle, most in ((start.yaw_deg, 9.0), (start.pitch_deg, 6.0), (start.roll_deg, 4.0)):
        amount, speed = rng.exponential(most / 2.5), rng.uniform(0.3, 2.0)
        path = amount * np.sin(speed * seconds + rng.uniform(0, 6.3))
        paths.append(np.clip(middle + path + 0.25 * amount * np.sin(2.7 * speed * seconds), -40, 40))
    return [Pose(float(yaw), float(pitch), float(roll)) for yaw, pitch, roll in zip(*paths, strict=True)]


def plain(figure: Figure, acting: Acting, pose: Pose, side_px: int) -> NDArray[np.uint8]:
    """(side_px, side_px, 3) uint8: the person in plain light before grey, for sheets and tests."""
    lamps = Lamps(
        sky_bgr=np.full(3, 0.55),
        ground_bgr=np.full(3, 0.30),
        key_to=np.array([-0.38, -0.48, -0.79]),
        key_bgr=np.full(3, 0.55),
        fill_to=np.array([0.6, 0.0, -0.8]),
        fill_bgr=np.full(3, 0.10),
        wrap=0.25,
        shadow=np.zeros(5),
    )
    grey = np.full((side_px, side_px, 3), 140, np.uint8)
    shoot = Shoot(
        size_wh=(side_px, side_px),
        face_px=side_px * 0.62,
        centre=(side_px / 2, side_px * 0.42),
        distance=9.0,
        camera=Camera(0.0, 0.0, None, None),
        lamps=lamps,
        setting=Setting(grey, np.array([0.3, 0.25, 0.2]), 0.0, 1.0, None),
        gain=1.0,
        offset=0.0,
    )
    return take(figure, acting, pose, shoot)[0]
