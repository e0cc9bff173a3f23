"""Who is who: faces followed from frame to frame under an id that is never handed to somebody else.

How it is decided, for every kept frame:

1. *Following.* Each face is looked for where it was. It is the same person if the mesh finds a face there
   (presence ≥ 0.5) that has neither jumped nor changed size, and whose appearance resembles that of the frame
   before or one of the person's kept appearances. A cut to somebody else at the same place fails the last
   test.
2. *Dissolves.* One shot that fades into another changes a face so slowly that every step passes. What gives
   it away: the picture there, some frames ago, is the sum of those from twice as long ago and of now, which
   resemble each other little. A face that dissolved into another is over and does not return.
3. *Two meshes on one face.* When two tracks land on one face, it stays with the one whose kept appearances it
   resembles more; the other is lost.
4. *Checking.* Step by step a mesh can also slide from a face onto the one that slowly passes before it. So
   every 8th frame is searched afresh, and a face that every find in its place contradicts is lost.
5. *Beginning.* A detected face counts once looking at it again finds the same. While somebody is missing,
   none begins that stands half behind another: it is not known yet who that is.
6. *Returning.* A lost face keeps its id for one second. A newly detected face takes it up only where and as
   large as the lost one could be by then, and only if it resembles the lost face's kept appearances clearly,
   and clearly more than those of anybody else.
7. In every other case the face is somebody new: ids count up, and none is used twice in a stream.

Doubt costs an id, never an identity. Appearance is the grey 32×32 five-point-aligned face with its local mean
and contrast taken out, compared by cosine. On the footage in LOG.md (2026-11-21) one person's neighbouring
frames stay above 0.68, hand in front of the face included; different people stay below 0.50 in 97 % of pairs.

What this cannot tell: a face replaced, out of sight or by a cut, by one that resembles it above the threshold
(0.3 % of the pairs among scikit-image's 100 faces of LFW, 25 px small), and a dissolve much longer than 64
kept frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import align, mesh
from pipeline.mesh import Region

PRESENCE_TO_FOLLOW = 0.5
PRESENCE_TO_BEGIN = 0.99
SAME_AS_BEFORE = 0.6
SAME_PERSON = 0.62
CLEARLY_MORE = 0.08
LOST_AFTER_SECONDS = 1.0
SETTLED = 0.95
"""Likeness from which on a second look has found the same as the first. By the third look faces in clear view
reach 0.97 and more; half-covered ones mostly stay below 0.9."""
_LOOKS = 4
DETECT_EVERY = 8
"""The picture is searched on every 8th kept frame; with a place free also on every frame while nobody is in
view or somebody has just been lost."""
SEARCH_EVERY = 32
"""On every 32nd kept frame it is searched for small faces too, which takes six times as long."""
MIN_FACE_PX = 32.0
"""Below, patterns begin to pass for faces, and a face has too few pixels to show an action unit."""
DISSOLVE_FRAMES = (4, 8, 16, 32, 64)
"""Numbers of kept frames over which dissolves are looked for."""
DISSOLVE_APART = 0.45
"""A dissolve's ends resemble each other less than this (cosine of their detail)."""
DISSOLVE_EXPLAINED = 0.87
"""Share of the middle's detail that the sum of the ends must explain; one person's movements reach 0.79."""
_DISSOLVE_WIDTH_PX = 320
_OVERLAP = 0.1
"""Share of the smaller box from which on one face may cover a part of the other."""
_GALLERY = 6
_JUMP = 0.6
"""Farthest that a face moves from one kept frame to the next, in sides of its box."""


class Observation(NamedTuple):
    """One face in one frame."""

    points: NDArray[np.float32]
    """478×3, pixels of the frame."""
    presence: float
    aligned_bgr: NDArray[np.uint8]
    """224×224×3, five-point aligned."""
    appearance: NDArray[np.float32]
    """1024 values, unit length."""
    bbox_xyxy: tuple[float, float, float, float]
    """The box around the points."""


@dataclass(eq=False)
class Track:
    """A person in view, or out of view for less than a second."""

    face: int
    seen: Observation
    seen_pts_seconds: float
    length: int = 1
    """Kept frames since the track began, this one included."""
    gallery: list[NDArray[np.float32]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gallery = [self.seen.appearance]

    def likeness(self, observation: Observation) -> float:
        """Cosine to the most similar of the person's kept appearances."""
        return float(max(kept @ observation.appearance for kept in self.gallery))

    def see(self, observation: Observation, pts_seconds: float) -> None:
        # A new look is kept when it differs from those kept; the first stays, the oldest other goes.
        if self.likeness(observation) < 0.8:
            self.gallery.append(observation.appearance)
            if len(self.gallery) > _GALLERY:
                del self.gallery[1]
        self.seen, self.seen_pts_seconds = observation, pts_seconds
        self.length += 1


class FaceTracker:
    """Finds up to `max_faces` people in each frame of one stream and says who they are."""

    def __init__(self, max_faces: int) -> None:
        self._max_faces = max_faces
        self._detector = mesh.FaceDetector()
        self._mesh = mesh.FaceMesh()
        self._next_face = 0
        self.reset()

    def reset(self) -> None:
        """Continuity ended (a new epoch): everybody is new. Ids go on counting."""
        self._present: list[Track] = []
        self._lost: list[Track] = []
        self._frames = 0
        self._past: deque[_Past] = deque(maxlen=max(DISSOLVE_FRAMES) + 1)

    def close(self) -> None:
        self._detector.close()
        self._mesh.close()

    def update(self, image_bgr: NDArray[np.uint8], pts_seconds: float) -> list[Track]:
        """The people in this frame (H×W×3 uint8), by id; each track's `seen` is this frame's observation."""
        self._lost = [t for t in self._lost if pts_seconds - t.seen_pts_seconds <= LOST_AFTER_SECONDS]
        self._follow(image_bgr, pts_seconds)
        dissolved = self._end_dissolved(image_bgr)
        checking = self._frames % DETECT_EVERY == 0
        thorough = self._frames % SEARCH_EVERY == 0
        wanted = not self._present or self._lost or dissolved
        if checking or (wanted and len(self._present) < self._max_faces):
            regions = self._search(image_bgr, thorough)
            if checking:
                self._check(image_bgr, regions)
            self._find_new(image_bgr, pts_seconds, regions)
        self._frames += 1
        self._present.sort(key=lambda track: track.face)
        return list(self._present)

    def _search(self, image_bgr: NDArray[np.uint8], thorough: bool) -> list[Region]:
        """Where faces may be. With no place free, those in view are enough."""
        found = self._detector.near(image_bgr)
        full = len(self._present) == self._max_faces
        in_view = all(any(_inside(r.center_xy, t.seen) for _, r in found) for t in self._present)
        if not (full and in_view):
            found += self._detector.far(image_bgr, thorough and not full)
        return mesh.by_score(found)

    def _observe(self, image_bgr: NDArray[np.uint8], region: Region) -> Observation:
        points, presence = self._mesh(image_bgr, region)
        aligned = mesh.warp(image_bgr, align.five_point_transform(points), align.ALIGNED_PX)
        return Observation(points, presence, aligned, appearance(aligned), align.box_around(points))

    def _follow(self, image_bgr: NDArray[np.uint8], pts_seconds: float) -> None:
        followed: list[tuple[Track, Observation]] = []
        for track in self._present:
            observation = self._observe(image_bgr, mesh.region_of(track.seen.points))
            if _continues(track, observation):
                followed.append((track, observation))
            else:
                self._lost.append(track)
        # Best first, so that of two meshes on one face the one that resembles its person more stays.
        followed.sort(key=lambda pair: -pair[0].likeness(pair[1]))
        self._present = []
        taken: list[Observation] = []
        for track, observation in followed:
            if any(_same_place(observation, other) for other in taken):
                self._lost.append(track)
            else:
                taken.append(observation)
                track.see(observation, pts_seconds)
                self._present.append(track)

    def _end_dissolved(self, image_bgr: NDArray[np.uint8]) -> bool:
        """Forget those whose face has become another's by a dissolve; whether there were any."""
        height, width = image_bgr.shape[:2]
        scale = min(1.0, _DISSOLVE_WIDTH_PX / max(height, width))
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        self._past.append(_Past(grey, _detail(grey)))
        # The whole picture shows a dissolve best, unless both shots share what lies behind the face.
        whole = self._dissolves(lambda past: past.detail) if self._present else ()
        ended = []
        for track in self._present:
            box = [round(value * scale) for value in track.seen.bbox_xyxy]
            dissolves = (*whole, *self._dissolves(lambda past, box=box: _detail(_cut(past.grey, box))))  # type: ignore[misc]
            if any(frames < track.length for frames in dissolves):
                ended.append(track)
        self._present = [track for track in self._present if track not in ended]
        return bool(ended)

    def _dissolves(self, detail: Callable[[_Past], NDArray[np.float32]]) -> tuple[int, ...]:
        """The members of DISSOLVE_FRAMES over which that detail of the picture went over into another."""
        now = detail(self._past[-1])
        found = []
        for frames in DISSOLVE_FRAMES:
            if frames >= len(self._past):
                break
            if self._frames % max(1, frames // 8):
                continue  # a long dissolve shows as well a little later
            before = detail(self._past[-1 - frames])
            if now @ before < DISSOLVE_APART * np.linalg.norm(now) * np.linalg.norm(before):
                middle = detail(self._past[-1 - frames // 2])
                if _is_sum(middle, before, now):
                    found.append(frames)
        return tuple(found)

    def _check(self, image_bgr: NDArray[np.uint8], regions: Sequence[Region]) -> None:
        """Lose those in whose place only other faces are found; where nothing is found, nothing is known."""
        for track in list(self._present):
            found = (
                self._settle(image_bgr, r, track.seen) for r in regions if _inside(r.center_xy, track.seen)
            )
            contradicted = False
            for face in found:
                if face is None or not _same_place(face, track.seen):
                    continue
                contradicted = float(face.appearance @ track.seen.appearance) < SAME_AS_BEFORE
                if not contradicted:
                    break
            if contradicted:
                self._present.remove(track)
                self._lost.append(track)

    def _find_new(self, image_bgr: NDArray[np.uint8], pts_seconds: float, regions: Sequence[Region]) -> None:
        free = self._max_faces - len(self._present)
        taken = [track.seen for track in self._present]
        for region in regions:
            if free == 0:
                return
            if any(_inside(region.center_xy, seen) for seen in taken):
                continue
            found = self._settle(image_bgr, region)
            if found is None or _side(found) < MIN_FACE_PX or any(_same_place(found, seen) for seen in taken):
                continue
            missing = any(_could_be_here(track, found, pts_seconds) for track in self._lost)
            if missing and any(_overlap(found, seen) > _OVERLAP for seen in taken):
                continue
            self._present.append(self._identify(found, pts_seconds))
            taken.append(found)
            free -= 1

    def _settle(
        self, image_bgr: NDArray[np.uint8], region: Region, expected: Observation | None = None
    ) -> Observation | None:
        """The face near a region: looked at again and again, from where it was found, until it stays.

        A face in clear view is found again in the same place; one that is half covered or half outside of the
        picture, or a pattern that resembles a face, is found elsewhere by each look. Where the first look
        finds what is expected, it is enough.
        """
        found = self._observe(image_bgr, region)
        if expected and _same_place(found, expected) and found.appearance @ expected.appearance >= SETTLED:
            return found
        for _ in range(_LOOKS - 1):
            before, found = found, self._observe(image_bgr, mesh.region_of(found.points))
            if found.presence >= PRESENCE_TO_BEGIN and before.appearance @ found.appearance >= SETTLED:
                return found
        return None

    def _identify(self, found: Observation, pts_seconds: float) -> Track:
        ranked = sorted(self._lost, key=lambda track: -track.likeness(found))
        if ranked:
            best = ranked[0]
            others = [track.likeness(found) for track in ranked[1:] + self._present]
            clear = all(best.likeness(found) >= other + CLEARLY_MORE for other in others)
            if best.likeness(found) >= SAME_PERSON and clear and _could_be_here(best, found, pts_seconds):
                self._lost.remove(best)
                best.see(found, pts_seconds)
                return best
        track = Track(self._next_face, found, pts_seconds)
        self._next_face += 1
        return track


def appearance(aligned_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
    """1024 float32 of unit length that tell one aligned face (224×224×3) from another."""
    middle = aligned_bgr[28:215, 37:187]
    grey = cv2.cvtColor(cv2.resize(middle, (32, 32), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    values = grey.astype(np.float32)
    centered = values - cv2.GaussianBlur(values, (0, 0), 4)
    contrast = np.sqrt(cv2.GaussianBlur(centered * centered, (0, 0), 4)) + 4.0
    flat = (centered / contrast).ravel()
    flat -= flat.mean()
    return flat / max(float(np.linalg.norm(flat)), 1e-6)


def _continues(track: Track, observation: Observation) -> bool:
    before = track.seen
    size = _side(observation) / _side(before)
    moved = np.hypot(*np.subtract(_center(observation), _center(before))) / _side(before)
    if observation.presence < PRESENCE_TO_FOLLOW or not 0.6 <= size <= 1.7 or moved > _JUMP:
        return False
    alike = float(before.appearance @ observation.appearance)
    return alike >= SAME_AS_BEFORE or track.likeness(observation) >= SAME_PERSON


def _could_be_here(track: Track, found: Observation, pts_seconds: float) -> bool:
    away = max(0.0, pts_seconds - track.seen_pts_seconds)
    moved = np.hypot(*np.subtract(_center(found), _center(track.seen))) / _side(track.seen)
    size = _side(found) / _side(track.seen)
    return bool(moved <= _JUMP + 3.0 * away and 0.5 <= size <= 2.0)


def _center(observation: Observation) -> tuple[float, float]:
    x0, y0, x1, y1 = observation.bbox_xyxy
    return (x0 + x1) / 2, (y0 + y1) / 2


def _side(observation: Observation) -> float:
    x0, y0, x1, y1 = observation.bbox_xyxy
    return max(float(np.sqrt((x1 - x0) * (y1 - y0))), 1.0)


def _inside(center_xy: tuple[float, float], seen: Observation) -> bool:
    x0, y0, x1, y1 = seen.bbox_xyxy
    return x0 <= center_xy[0] <= x1 and y0 <= center_xy[1] <= y1


def _is_sum(middle: NDArray[np.float32], before: NDArray[np.float32], now: NDArray[np.float32]) -> bool:
    """Whether a picture is two others laid over each other, each of 1024 values.

    The weights of a dissolve add up to 1. A pattern that moves also resembles the sum of where it was and
    where it is, but these cancel in part, and the weights come out larger.
    """
    ends = np.column_stack([before, now]).astype(np.float64)
    weights = np.linalg.lstsq(ends, middle.astype(np.float64), rcond=None)[0]
    rest = middle - ends @ weights
    explained = 1.0 - float(rest @ rest) / max(float(middle @ middle), 1e-6)
    return bool(weights.min() > 0.25 and weights.sum() < 1.02 and explained >= DISSOLVE_EXPLAINED)


def _same_place(one: Observation, other: Observation) -> bool:
    """Boxes that share more than a third of their union: one face, not two."""
    shared = _shared_px(one, other)
    return shared > (_side(one) ** 2 + _side(other) ** 2 - shared) / 3


def _overlap(one: Observation, other: Observation) -> float:
    """What two boxes share, as a part of the smaller one."""
    return _shared_px(one, other) / min(_side(one), _side(other)) ** 2


def _shared_px(one: Observation, other: Observation) -> float:
    a, b = one.bbox_xyxy, other.bbox_xyxy
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


class _Past(NamedTuple):
    """What is kept of a frame to notice dissolves."""

    grey: NDArray[np.uint8]
    """Reduced to at most 320 pixels."""
    detail: NDArray[np.float32]
    """Of the whole of it."""


def _cut(grey: NDArray[np.uint8], box_xyxy: Sequence[int]) -> NDArray[np.uint8]:
    """What is inside a box, at least one pixel."""
    height, width = grey.shape
    x0, y0 = min(max(box_xyxy[0], 0), width - 1), min(max(box_xyxy[1], 0), height - 1)
    return grey[y0 : max(box_xyxy[3], y0 + 1), x0 : max(box_xyxy[2], x0 + 1)]


def _detail(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """1024 values: the fine structure of a grey picture."""
    values = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Linear throughout, so that the detail of a sum is the sum of the details.
    detail = (values - cv2.GaussianBlur(values, (0, 0), 4)).ravel()
    return detail - detail.mean()
