"""The neutral face of each person: gathered from what is seen, or given.

CEDNN compares a face with the same person's neutral face. Whoever streams has none at first, so `auto`
gathers one: frames that are near-frontal, sharp and uncovered and whose *mesh geometry* is near rest in
absolute terms, lips closed, eyes open, mouth corners and brows near an average face's proportions. What is
held for long is therefore no more neutral than what is held for a moment, and a smile from the first frame on
stays a smile. The neutral is the pixel-wise median of the three to nine frames nearest to rest; better frames
replace worse ones, and frames older than ten minutes go when newer ones are there, so that daylight may
change.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.messages import Geometry, HeadPose, NeutralState, Quality

REST_LIMITS: dict[str, tuple[float, float, float]] = {
    "lip_gap": (0.0, 0.01, 0.035),
    "corner_lift": (-0.05, 0.0, 0.035),
    "mouth_width": (0.44, 0.55, 0.63),
    "brow_raise": (0.19, 0.265, 0.34),
    "eye_opening": (0.15, 0.30, 0.48),
}
"""Least, average and most of each measure on a face at rest, in `Geometry`'s units (LOG.md, 2026-11-21).

Lids halfway down are no rest, though a face that reads or looks down holds them there for long: beside such a
neutral closed eyes have hardly changed, and are not seen."""
REST_POSE_DEG = 15.0
_POSE_SCALE_DEG = 8.0
"""A head turned so far is as far from rest as a measure at its limit: a turn misaligns the whole face."""
REST_BLUR = 0.85
REST_SYMMETRY = 0.5

_FEWEST, _MOST = 3, 9
_APART_SECONDS = 0.1
_REFRESH_SECONDS = 0.5
_MAX_AGE_SECONDS = 600.0
_BUTTON_SECONDS = 1.0
"""How long the people in view are looked at when somebody says that they look neutral now."""


@dataclass(frozen=True, slots=True, eq=False)
class Neutral:
    """A person's neutral face in the five-point alignment."""

    image_bgr: NDArray[np.uint8]
    """224×224×3."""
    state: NeutralState
    """`automatic` or `given`."""
    landmarks: NDArray[np.float32]
    """468×3: `geometry.frontal_points` of the neutral face."""


@dataclass(frozen=True, slots=True)
class NeutralPolicy:
    """Where neutral faces come from: `--neutral`."""

    kind: str
    """`auto`, `first`, `given` or `none`."""
    first_seconds: float = 0.0
    given: Neutral | None = None
    everybody: bool = False
    """Of a given one: whoever is seen, under whatever id, is that person (a recording of one subject)."""

    @property
    def description(self) -> str:
        return f"first:{self.first_seconds:g}" if self.kind == "first" else self.kind


def rest_distance(geometry: Geometry, pose: HeadPose, quality: Quality) -> float | None:
    """How far a face is from rest, 0 at an average face at rest; None where it cannot count as neutral."""
    if abs(pose.yaw) > REST_POSE_DEG or abs(pose.pitch) > REST_POSE_DEG:
        return None
    if quality.blur > REST_BLUR or quality.symmetry < REST_SYMMETRY:
        return None
    distance = (pose.yaw / _POSE_SCALE_DEG) ** 2 + (pose.pitch / _POSE_SCALE_DEG) ** 2
    for name, (least, average, most) in REST_LIMITS.items():
        value = getattr(geometry, name)
        if not least <= value <= most:
            return None
        distance += ((value - average) / (most - average if value > average else average - least)) ** 2
    return float(distance)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    distance: float
    pts_seconds: float
    image_bgr: NDArray[np.uint8]
    landmarks: NDArray[np.float32]


@dataclass(eq=False)
class _Gathering:
    """What is known of one person's neutral so far."""

    began_pts_seconds: float
    candidates: list[_Candidate] = field(default_factory=list)
    neutral: Neutral | None = None
    changed: bool = False
    settled_pts_seconds: float = -np.inf
    closed: bool = False


class NeutralKeeper:
    """The neutral of every person in one stream."""

    def __init__(self, policy: NeutralPolicy) -> None:
        self._policy = policy
        self._people: dict[int, _Gathering] = {}
        self._given_to: int | None = None
        self._pressed = False
        self._pressed_pts_seconds = 0.0
        self._button: dict[int, _Gathering] = {}

    def update(
        self,
        face: int,
        largest: bool,
        pts_seconds: float,
        aligned_bgr: NDArray[np.uint8],
        landmarks: NDArray[np.float32],
        geometry: Geometry,
        pose: HeadPose,
        quality: Quality,
    ) -> tuple[NeutralState, Neutral | None]:
        """Take one observed face into account; its state and the neutral to compare it with.

        Args:
            face: id of the person. largest: whether it is the largest face of the frame.
            aligned_bgr: 224×224×3 uint8, five-point aligned.
            landmarks: 468×3 float32, `geometry.frontal_points`.
        """
        if self._policy.kind == "none":
            return "none", None
        if self._pressed:
            self._look(face, _Candidate(quality.blur, pts_seconds, aligned_bgr, landmarks))
        if (person := self._people.get(face)) is not None and person.closed and person.neutral is not None:
            return person.neutral.state, person.neutral
        if self._policy.kind == "given":
            if self._policy.everybody:
                return "given", self._policy.given
            if self._given_to is None and largest:
                self._given_to = face
            return ("given", self._policy.given) if face == self._given_to else ("none", None)
        person = self._people.setdefault(face, _Gathering(pts_seconds))
        if self._policy.kind == "first":
            self._gather_first(person, _Candidate(quality.blur, pts_seconds, aligned_bgr, landmarks))
        else:
            distance = rest_distance(geometry, pose, quality)
            at_rest = None if distance is None else _Candidate(distance, pts_seconds, aligned_bgr, landmarks)
            self._gather_rest(person, pts_seconds, at_rest)
        return (person.neutral.state, person.neutral) if person.neutral else ("estimating", None)

    def neutral_of(self, face: int) -> Neutral | None:
        """What the keeper holds for a person now."""
        person = self._people.get(face)
        if self._policy.kind == "given" and person is None:
            return self._policy.given if face == self._given_to else None
        return person.neutral if person else None

    def take_now(self) -> None:
        """Whoever is in view during the next second looks neutral."""
        self._pressed, self._button = True, {}

    def new_epoch(self) -> None:
        """Everybody is new; a neutral that was given is again that of the largest face."""
        self._given_to, self._pressed = None, False

    def carry(self, old: int, new: int, shift_seconds: float) -> None:
        """Face `new` is the person who was `old`, whose times were `shift_seconds` less than they would be
        now: a neutral that was found goes on, and is refined as before."""
        person = self._people.get(old)
        if person is not None and person.neutral is not None:
            self._people[new] = replace(
                person,
                candidates=[replace(c, pts_seconds=c.pts_seconds + shift_seconds) for c in person.candidates],
                settled_pts_seconds=person.settled_pts_seconds + shift_seconds,
            )

    def _look(self, face: int, candidate: _Candidate) -> None:
        """Gather while the button holds; then what was gathered is given."""
        if not self._button:
            self._pressed_pts_seconds = candidate.pts_seconds
        if candidate.pts_seconds - self._pressed_pts_seconds < _BUTTON_SECONDS:
            _keep_best(self._button.setdefault(face, _Gathering(candidate.pts_seconds)), candidate)
            return
        self._pressed = False
        for seen, gathered in self._button.items():
            given = _median(gathered.candidates, "given")
            self._people[seen] = _Gathering(gathered.began_pts_seconds, neutral=given, closed=True)

    def forget(self, faces_in_use: set[int]) -> None:
        """Drop the people whose ids cannot return."""
        self._people = {face: person for face, person in self._people.items() if face in faces_in_use}

    def _gather_first(self, person: _Gathering, candidate: _Candidate) -> None:
        """The first seconds of a track are neutral because the user says so; the sharpest frames serve."""
        if person.closed:
            return
        if candidate.pts_seconds - person.began_pts_seconds < self._policy.first_seconds:
            _keep_best(person, candidate)
            return
        person.closed = True
        if person.candidates:
            person.neutral = _median(person.candidates, "given")
            person.candidates.clear()

    def _gather_rest(self, person: _Gathering, pts_seconds: float, at_rest: _Candidate | None) -> None:
        if at_rest is not None:
            _keep_best(person, at_rest)
        enough = len(person.candidates) >= _FEWEST
        if enough and person.changed and pts_seconds - person.settled_pts_seconds >= _REFRESH_SECONDS:
            person.neutral = _median(person.candidates, "automatic")
            person.settled_pts_seconds, person.changed = pts_seconds, False


def _keep_best(person: _Gathering, candidate: _Candidate) -> None:
    """Keep the nine nearest to rest, a tenth of a second apart, the aged ones leaving first."""
    kept = person.candidates
    for i, other in enumerate(kept):
        if abs(candidate.pts_seconds - other.pts_seconds) < _APART_SECONDS:
            if candidate.distance < other.distance:
                kept[i], person.changed = candidate, True
            return
    kept.append(candidate)
    person.changed = True
    if len(kept) > _MOST:
        aged = [c for c in kept if candidate.pts_seconds - c.pts_seconds > _MAX_AGE_SECONDS]
        leaving = aged[0] if aged else max(kept, key=lambda c: c.distance)
        kept.remove(leaving)
        person.changed = leaving is not candidate


def _median(candidates: list[_Candidate], state: NeutralState) -> Neutral:
    stack = np.stack([c.image_bgr for c in candidates])
    middle = len(stack) // 2
    image = np.ascontiguousarray(np.partition(stack, middle, axis=0)[middle])
    landmarks = np.median([c.landmarks for c in candidates], axis=0).astype(np.float32)
    return Neutral(image, state, landmarks)


def parse_policy(text: str) -> NeutralPolicy | Path:
    """`--neutral` as a policy, or the path of the photo or profile to make one from.

    Raises:
        UsageError: neither auto, none, first:SECONDS nor an existing file.
    """
    if text in ("auto", "none"):
        return NeutralPolicy(text)
    if text.startswith("first:"):
        try:
            seconds = float(text.removeprefix("first:"))
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds < np.inf:
            raise UsageError(
                f"--neutral {text}: expected first:SECONDS with a number above 0, such as first:2"
            )
        return NeutralPolicy("first", first_seconds=seconds)
    path = Path(text)
    if not path.is_file():
        raise UsageError(
            f"--neutral {text}: no such file; expected auto, none, first:SECONDS, a photo or a profile (.npz)"
        )
    return path


def given(neutral: Neutral, everybody: bool = False) -> NeutralPolicy:
    return NeutralPolicy("given", given=replace(neutral, state="given"), everybody=everybody)
