"""The demo's script: which action unit is how strong when, how the head moves, what the light does."""

from dataclasses import dataclass

import numpy as np

from train.synth.pose import Pose
from train.synth.render import Light

FRAMES_PER_SECOND = 25
FRAMES = 575
SECONDS = FRAMES / FRAMES_PER_SECOND


@dataclass(frozen=True)
class Event:
    """One action unit, once.

    onset, apex, offset, end: seconds at which it begins to rise, is there, begins to fall, is gone
    intensity: at the apex, in (0, 1]
    """

    au: str
    onset: float
    apex: float
    offset: float
    end: float
    intensity: float

    def __post_init__(self) -> None:
        if not 0 <= self.onset < self.apex <= self.offset < self.end:
            got = f"{self.onset}, {self.apex}, {self.offset}, {self.end}"
            raise ValueError(f"expected onset < apex ≤ offset < end, got {got}")
        if not 0 < self.intensity <= 1:
            raise ValueError(f"expected an intensity in (0, 1], got {self.intensity}")

    def at(self, seconds: float) -> float:
        """Intensity at a moment; exactly 0 outside onset and end."""
        rise = _ease((seconds - self.onset) / (self.apex - self.onset))
        fall = _ease((self.end - seconds) / (self.end - self.offset))
        return self.intensity * min(rise, fall)


@dataclass(frozen=True)
class Segment:
    """A named stretch of the script: begin, end and the moment to look at, in seconds."""

    name: str
    begin: float
    end: float
    look: float


def _ease(t: float) -> float:
    """0 up to 0, 1 from 1 on, between them a curve without corners."""
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)


def _blink(at: float) -> Event:
    return Event("AU43", at, at + 0.10, at + 0.14, at + 0.30, 1.0)


_EVENTS = (
    _blink(1.30),
    Event("AU01", 3.20, 3.60, 4.30, 4.70, 1.0),
    Event("AU02", 3.20, 3.60, 4.30, 4.70, 0.9),
    _blink(4.85),
    Event("AU04", 5.30, 5.70, 6.40, 6.80, 1.0),
    Event("AU06", 7.30, 7.75, 8.60, 9.10, 1.0),
    Event("AU12", 7.20, 7.70, 8.65, 9.20, 1.0),
    Event("AU25", 7.45, 7.85, 8.50, 8.90, 0.9),
    Event("AU25", 9.70, 10.00, 10.50, 10.80, 0.7),
    Event("AU25", 11.20, 11.60, 12.20, 12.60, 1.0),
    Event("AU26", 11.20, 11.60, 12.20, 12.60, 1.0),
    _blink(12.75),
    Event("AU09", 13.20, 13.60, 14.20, 14.60, 1.0),
    Event("AU15", 15.10, 15.50, 16.10, 16.50, 1.0),
    Event("AU17", 15.10, 15.50, 16.10, 16.50, 1.0),
    Event("AU20", 16.90, 17.20, 17.70, 18.00, 1.0),
    Event("AU43", 18.20, 18.38, 18.95, 19.15, 1.0),
    _blink(20.10),
)

SEGMENTS = (
    Segment("neutral", 0.00, 3.20, 0.60),
    Segment("AU1+2", 3.20, 4.70, 3.95),
    Segment("AU04", 5.30, 6.80, 6.05),
    Segment("AU6+12+25", 7.20, 9.20, 8.20),
    Segment("AU25", 9.70, 10.80, 10.25),
    Segment("AU25+26", 11.20, 12.60, 11.90),
    Segment("AU09", 13.20, 14.60, 13.90),
    Segment("AU15+17", 15.10, 16.50, 15.80),
    Segment("AU20", 16.90, 18.00, 17.45),
    Segment("AU43", 18.20, 19.15, 18.70),
    Segment("head motion", 19.15, 20.45, 19.70),
    Segment("light", 20.80, 22.60, 21.70),
)


def events() -> tuple[Event, ...]:
    """Every event of the script, blinks included, in order of onset."""
    return tuple(sorted(_EVENTS, key=lambda event: event.onset))


def timeline_at(seconds: float) -> dict[str, float]:
    """{"AU01": intensity in [0, 1], …} for every action unit of the script; all exactly 0 at rest."""
    state = {event.au: 0.0 for event in _EVENTS}
    for event in _EVENTS:
        state[event.au] = max(state[event.au], event.at(seconds))
    return state


# Through these the head turns when it alone moves: seconds, then yaw, pitch and roll in degrees.
_TURNS = np.array(
    [
        (19.05, 0.0, 0.0, 0.0),
        (19.35, 10.0, 0.0, 0.0),
        (19.65, 0.0, -8.0, 4.0),
        (19.95, -10.0, 0.0, -6.0),
        (20.20, 0.0, 7.0, 0.0),
        (20.45, 0.0, 0.0, 0.0),
    ]
)


def pose_at(seconds: float) -> Pose:
    """Slow sway all the time, and larger turns in the stretch of head motion."""
    yaw = 1.6 * np.sin(0.9 * seconds) + 0.5 * np.sin(2.3 * seconds + 1)
    pitch = -1.1 * np.sin(0.7 * seconds + 0.5) - 0.4 * np.sin(1.9 * seconds)
    roll = 0.9 * np.sin(0.55 * seconds + 2)
    knots = _TURNS
    k = int(np.clip(np.searchsorted(knots[:, 0], seconds, side="right") - 1, 0, len(knots) - 2))
    mix = _ease((seconds - knots[k, 0]) / (knots[k + 1, 0] - knots[k, 0]))
    turn = knots[k, 1:] + mix * (knots[k + 1, 1:] - knots[k, 1:])
    shift = (0.025 * np.sin(0.6 * seconds), 0.012 * np.sin(0.8 * seconds + 1))
    scale = 1 + 0.008 * np.sin(0.45 * seconds)
    return Pose(float(yaw + turn[0]), float(pitch + turn[1]), float(roll + turn[2]), shift, float(scale))


def light_at(seconds: float) -> Light:
    """A slow drift of the light, and one step of the camera's auto-gain near the end."""
    step = min(_ease((seconds - 20.85) / 0.12), _ease((22.58 - seconds) / 0.10))
    drift = 0.015 * np.sin(0.5 * seconds) + 0.035 * np.sin(0.21 * seconds)
    toward = (-0.25 + 0.12 * np.sin(0.3 * seconds), -0.35, -0.9)
    return Light(float((1 + drift) * (1 + 0.25 * step)), 4.0 * step, toward)
