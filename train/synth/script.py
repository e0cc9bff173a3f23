"""What rendered people do: expressions at random for stills, and with onset, apex and offset for clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from train.synth.figure import Acting

LABELLED = (
    *("AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU09", "AU10", "AU12", "AU14", "AU15", "AU17", "AU20"),
    *("AU23", "AU24", "AU25", "AU26", "AU27", "AU28", "AU43"),
)
_LIDS_FOLLOW = 0.019
"""Share of a closing for each degree that the eyes look down."""
_DISTRACTORS = ("AU16", "AU18", "AU22", "AU33")

_TOGETHER: tuple[tuple[float, tuple[int, ...]], ...] = (
    (3, (6, 12)),
    (4, (6, 12, 25)),
    (2, (12, 25)),
    (2, (12,)),
    (2, (6, 12, 25, 26)),
    (1, (6, 7, 12, 25, 26)),
    (1, (12, 25, 26)),
    (3, (1, 2)),
    (2, (1, 2, 5)),
    (3, (1, 2, 5, 25, 26)),
    (2, (1, 2, 5, 25, 27)),
    (1, (1, 2, 25)),
    (1, (1, 2, 12, 25)),
    (1, (1, 2, 6, 12, 25)),
    (2, (4, 7)),
    (1, (4, 5, 7)),
    (1, (4, 5, 7, 23)),
    (1, (4, 7, 24)),
    (1, (4, 5, 7, 25, 26)),
    (2, (4, 9, 10)),
    (1, (9, 10, 17)),
    (1, (4, 7, 9, 10, 25)),
    (1, (9, 10, 25)),
    (2, (1, 4)),
    (2, (1, 4, 15)),
    (2, (1, 4, 15, 17)),
    (1, (1, 4, 6, 15, 17)),
    (2, (15, 17)),
    (1, (17, 24)),
    (1, (17, 23)),
    (1, (14, 17)),
    (1, (12, 14)),
    (2, (20, 25)),
    (1, (1, 2, 4, 5, 20, 25)),
    (1, (1, 2, 4, 5, 7, 20, 25, 26)),
    (1, (1, 4, 20, 25)),
    (1, (10, 25)),
    (1, (2, 10)),
    (2, (43,)),
    (1, (6, 12, 25, 43)),
    (1, (4, 43)),
    (1, (4, 6, 7, 9, 10, 43)),
    (1, (4, 6, 7, 10, 25, 43)),
    (1, (4, 6, 7, 10, 20, 25)),
    (1, (1, 4, 6, 7, 15, 17)),
    (1, (1, 4, 7, 15, 17, 43)),
    (1, (4, 6, 7, 17, 24, 43)),
    (1, (4, 6, 7, 9, 20, 25)),
    (1, (25, 27, 43)),
    (2, (25, 26)),
    (1, (25, 27)),
    (1, (28,)),
    (1, (24,)),
    (1, (23,)),
    (1, (4, 17)),
    (1, (6, 7)),
)
"""Weights and numbers of action units that occur together."""

_CAST_DOWN = 0.3
"""How often the eyes of an imperfect neutral face look down, with lids that follow."""
_NEARLY_AT_REST: tuple[Mapping[str, float], ...] = (
    {"AU12": 0.4},
    {"AU43": 0.6},
    {"AU01": 0.3, "AU02": 0.3},
    {"AU04": 0.35},
    {"AU01": 0.35, "AU04": 0.35},
    {"AU25": 0.5},
    {"AU06": 0.3},
)
"""What faces taken for neutral ones do all the same, and how much at most."""

_ALONE = {"AU01": 3, "AU02": 3, "AU04": 3, "AU05": 2, "AU09": 2, "AU12": 2, "AU26": 2, "AU43": 2}
"""How often a unit stands alone, where not once."""
_BROAD_SMILE = 0.5
"""Share of AU12 from which on the smile itself lifts the cheeks of most people."""
_CHEEKS_RISE = 0.75
"""How often it does: in spontaneous smiles AU06 and AU12 seldom part."""
_CHEEKS_SMILE = 0.5
"""How often raised cheeks that are there by chance come with a smile after all."""
_EXCLUDE = (
    ({"AU24", "AU28", "AU23"}, {"AU25", "AU26", "AU27", "AU10", "AU16", "AU20", "AU22"}),
    ({"AU24"}, {"AU28", "AU23", "AU18"}),
    ({"AU28"}, {"AU18", "AU23", "AU17"}),
    ({"AU12", "AU20", "AU14"}, {"AU18", "AU22", "AU33"}),
    ({"AU15"}, {"AU12", "AU27"}),
    ({"AU05"}, {"AU43"}),
    ({"AU17"}, {"AU26", "AU27", "AU16"}),
    ({"AU33"}, {"AU25", "AU26", "AU27"}),
)


@dataclass(frozen=True)
class Event:
    """Action units that come and go together.

    peaks: {"AU12": (right, left)}; onset, apex, offset, end: seconds; lags: {"AU12": seconds}
    """

    peaks: Mapping[str, tuple[float, float]]
    onset: float
    apex: float
    offset: float
    end: float
    lags: Mapping[str, float]

    def at(self, au: str, seconds: float) -> float:
        """Share of the peak at a moment, 0–1."""
        t = seconds - self.lags.get(au, 0.0)
        return min(
            _ease((t - self.onset) / (self.apex - self.onset)),
            _ease((self.end - t) / (self.end - self.offset)),
        )


def draw_still(rng: np.random.Generator) -> Acting:
    """One expression at random, with what goes on in a face besides."""
    peaks = draw_expression(rng)
    _twitch(peaks, rng, 0.07)
    if rng.random() < 0.10:
        _speak(peaks, rng)
    gaze = _draw_gaze(rng)
    lids = _lids_by_chance(rng, gaze)
    if lids > peaks.get("AU43", (0.0, 0.0))[0]:
        peaks["AU43"] = (lids, lids)
    _resolve(peaks)
    return Acting(peaks, gaze, float(rng.normal(0, 0.006)))


def draw_neutral(rng: np.random.Generator, imperfect: bool) -> Acting:
    """A face at rest with small residual movement; imperfect: a slight smile, a half blink, raised, drawn or
    grieving brows, parted lips, or eyes cast down."""
    peaks: dict[str, tuple[float, float]] = {}
    _twitch(peaks, rng, 0.04)
    if imperfect:
        chosen = _NEARLY_AT_REST[rng.integers(len(_NEARLY_AT_REST))]
        share = rng.uniform(0.3, 1.0)
        peaks |= {au: (share * most, share * most) for au, most in chosen.items()}
    down = float(rng.normal(0, 3))
    if imperfect and rng.random() < _CAST_DOWN:
        down = float(rng.uniform(8, 24))
        lids = max(peaks.get("AU43", (0.0, 0.0))[0], down * _LIDS_FOLLOW)
        peaks["AU43"] = (lids, lids)
    return Acting(peaks, (float(rng.normal(0, 3)), -down), 0.0)


def draw_expression(rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """{"AU06": (right, left), …}: nothing, one unit, units that go together, or any that can."""
    kind = rng.choice(4, p=(0.06, 0.22, 0.42, 0.30))
    chosen: list[str] = []
    if kind == 1:
        weights = np.array([_ALONE.get(au, 1) for au in LABELLED], np.float64)
        chosen = [LABELLED[rng.choice(len(LABELLED), p=weights / weights.sum())]]
        if chosen[0] == "AU27":
            chosen.append("AU25")
    elif kind == 2:
        weights = np.array([weight for weight, _ in _TOGETHER])
        numbers = _TOGETHER[rng.choice(len(_TOGETHER), p=weights / weights.sum())][1]
        chosen = [f"AU{n:02d}" for n in numbers if len(numbers) < 3 or rng.random() < 0.92]
    elif kind == 3:
        chosen = _compatible(list(rng.permutation(LABELLED)), int(rng.integers(2, 6)))
    if rng.random() < 0.22:
        chosen = _compatible([*chosen, str(rng.choice(_DISTRACTORS))], len(chosen) + 1)
    level = rng.uniform(0.7, 1.2)
    if kind in (1, 3) and "AU06" in chosen and rng.random() < _CHEEKS_SMILE:
        chosen = _compatible(["AU12", *(au for au in chosen if au != "AU12")], len(chosen) + 1)
    peaks = {au: _sides(au, float(np.clip(level * _draw_strength(rng), 0.05, 1.0)), rng) for au in chosen}
    _raise_cheeks(peaks, rng)
    if "AU27" in peaks:  # a stretched mouth has a jaw that hangs
        jaw = min(1.0, 0.5 + peaks["AU27"][0])
        peaks["AU26"] = (jaw, jaw)
    return peaks


def _raise_cheeks(peaks: dict[str, tuple[float, float]], rng: np.random.Generator) -> None:
    """A broad smile lifts the cheeks in its own measure, on each side."""
    right, left = peaks.get("AU12", (0.0, 0.0))
    if max(right, left) < _BROAD_SMILE or rng.random() >= _CHEEKS_RISE:
        return
    share = float(rng.uniform(0.6, 1.1))
    before = peaks.get("AU06", (0.0, 0.0))
    peaks["AU06"] = (max(before[0], min(share * right, 1.0)), max(before[1], min(share * left, 1.0)))


def draw_events(rng: np.random.Generator, seconds: float) -> list[Event]:
    """Expressions, speech and blinks over one clip."""
    events: list[Event] = []
    at = float(rng.uniform(-0.6, 0.8))
    while at < seconds:
        rise, hold, fall = rng.uniform(0.12, 0.7), rng.exponential(0.9), rng.uniform(0.15, 0.9)
        peaks = draw_expression(rng)
        lags = {au: float(rng.normal(0, 0.06)) for au in peaks}
        events.append(Event(peaks, at, at + rise, at + rise + hold, at + rise + hold + fall, lags))
        at += rise + hold + fall * rng.uniform(0.5, 1.2) + rng.exponential(0.35)
    at = float(rng.exponential(1.5))
    while at < seconds:  # blinks
        depth = float(rng.choice((1.0, rng.uniform(0.4, 0.9)), p=(0.8, 0.2)))
        shut = at + rng.uniform(0.06, 0.12)
        hold = shut + rng.choice((0.04, rng.uniform(0.1, 0.8)), p=(0.8, 0.2))
        events.append(Event({"AU43": (depth, depth)}, at, shut, hold, hold + rng.uniform(0.1, 0.2), {}))
        at += 0.4 + rng.exponential(2.0)
    if rng.random() < 0.25:  # speech
        at, until = sorted(rng.uniform(0, seconds, 2))
        while at < until:
            peaks = {}
            _speak(peaks, rng)
            step = rng.uniform(0.08, 0.2)
            events.append(Event(peaks, at, at + step, at + 1.2 * step, at + 2.2 * step, {}))
            at += step * 1.4
    return events


def acting_at(
    events: Sequence[Event], seconds: float, restless: Acting, gaze_deg: tuple[float, float]
) -> Acting:
    """What the face does at a moment; restless: small movement that is there all the time."""
    state = dict(restless.intensities)
    for event in events:
        for au, peak in event.peaks.items():
            if share := event.at(au, seconds):
                before = state.get(au, (0.0, 0.0))
                state[au] = (max(before[0], share * peak[0]), max(before[1], share * peak[1]))
    follow = max(-gaze_deg[1], 0.0) * _LIDS_FOLLOW
    before = state.get("AU43", (0.0, 0.0))
    state["AU43"] = (max(before[0], follow), max(before[1], follow))
    _resolve(state)
    return Acting(state, gaze_deg, restless.jaw_aside)


def gaze_path(rng: np.random.Generator, frames: int) -> list[tuple[float, float]]:
    """Degrees to the right and up for each frame: rests and jumps."""
    path, here = [], _draw_gaze(rng)
    for _ in range(frames):
        if rng.random() < 0.04:
            here = _draw_gaze(rng)
        path.append((here[0] + float(rng.normal(0, 0.2)), here[1] + float(rng.normal(0, 0.2))))
    return path


def _draw_strength(rng: np.random.Generator) -> float:
    return float(0.12 + 0.93 * rng.beta(1.5, 1.3))


def _draw_gaze(rng: np.random.Generator) -> tuple[float, float]:
    wide = 14.0 if rng.random() < 0.25 else 5.0
    return float(np.clip(rng.normal(0, wide), -28, 28)), float(
        np.clip(rng.normal(-0.15 * wide, 0.8 * wide), -32, 18)
    )


def _lids_by_chance(rng: np.random.Generator, gaze: tuple[float, float]) -> float:
    """Lids that follow the gaze down, half blinks, blinks."""
    follow = max(-gaze[1], 0.0) * _LIDS_FOLLOW
    chance = rng.random()
    if chance < 0.06:
        return 1.0
    if chance < 0.12:
        return float(rng.uniform(0.15, 0.75))
    return follow


def _sides(au: str, share: float, rng: np.random.Generator) -> tuple[float, float]:
    tilt = float(rng.normal(0, 0.07))
    right, left = share * (1 + tilt), share * (1 - tilt)
    if au in ("AU02", "AU10", "AU12", "AU14", "AU15", "AU06") and rng.random() < 0.06:
        weak = float(rng.uniform(0.0, 0.4))
        right, left = (right, left * weak) if rng.random() < 0.5 else (right * weak, left)
    if au in ("AU26", "AU27", "AU43", "AU17", "AU28"):
        right = left = share
    return float(np.clip(right, 0, 1)), float(np.clip(left, 0, 1))


def _compatible(candidates: Sequence[str], most: int) -> list[str]:
    chosen: list[str] = []
    for au in candidates:
        if len(chosen) < most and not any(excludes(au, other) for other in chosen):
            chosen.append(str(au))
    return chosen


def excludes(one: str, other: str) -> bool:
    """Whether a face cannot do both."""
    return any((one in a and other in b) or (one in b and other in a) for a, b in _EXCLUDE)


def _resolve(state: dict[str, tuple[float, float]]) -> None:
    """Where two overlap that exclude each other, the weaker gives way as far as the other is there."""
    for one in list(state):
        for other in list(state):
            if one < other and excludes(one, other):
                weaker, stronger = sorted((one, other), key=lambda au: max(state[au]))
                left = 1 - max(state[stronger])
                state[weaker] = (state[weaker][0] * left, state[weaker][1] * left)


def _twitch(peaks: dict[str, tuple[float, float]], rng: np.random.Generator, most: float) -> None:
    for au in (*LABELLED, *_DISTRACTORS):
        if au not in peaks and au not in ("AU25", "AU26", "AU27") and rng.random() < 0.4:
            share = float(abs(rng.normal(0, most)))
            peaks[au] = (share, share * float(rng.uniform(0.6, 1.0)))
    _resolve(peaks)


def _speak(peaks: dict[str, tuple[float, float]], rng: np.random.Generator) -> None:
    """The mouth as in some sound."""
    for au, most, often in (
        ("AU25", 0.8, 0.8),
        ("AU26", 0.6, 0.7),
        ("AU22", 0.6, 0.3),
        ("AU18", 0.6, 0.2),
        ("AU20", 0.4, 0.2),
        ("AU16", 0.6, 0.3),
    ):
        if rng.random() < often:
            share = float(rng.uniform(0.05, most))
            before = peaks.get(au, (0.0, 0.0))
            peaks[au] = (max(before[0], share), max(before[1], share))
    _resolve(peaks)


def _ease(t: float) -> float:
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)
