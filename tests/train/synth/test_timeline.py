from itertools import pairwise

import numpy as np
import pytest

from train.synth.actions import ACTIONS
from train.synth.timeline import (
    FRAMES,
    FRAMES_PER_SECOND,
    SEGMENTS,
    Event,
    events,
    light_at,
    pose_at,
    timeline_at,
)

ASKED = {"AU01", "AU02", "AU04", "AU06", "AU09", "AU12", "AU15", "AU17", "AU20", "AU25", "AU26", "AU43"}
SECONDS = np.arange(FRAMES) / FRAMES_PER_SECOND


def test_every_action_unit_has_its_turn_and_a_place_in_the_renderer() -> None:
    assert {event.au for event in events()} == ASKED
    assert set(timeline_at(0)) == ASKED
    assert set(ACTIONS) >= ASKED


@pytest.mark.parametrize("event", events(), ids=lambda event: f"{event.au}@{event.onset}")
def test_an_event_rises_holds_and_falls(event: Event) -> None:
    rise = [event.at(t) for t in np.linspace(event.onset, event.apex, 30)]
    fall = [event.at(t) for t in np.linspace(event.offset, event.end, 30)]
    assert (np.diff(rise) > 0).all()
    assert (np.diff(fall) < 0).all()
    assert event.at((event.apex + event.offset) / 2) == event.intensity
    assert event.at(event.onset) == event.at(event.end) == 0
    assert event.at(event.onset - 1e-6) == event.at(event.end + 1e-6) == 0


def test_the_first_three_seconds_are_neutral_but_for_a_blink() -> None:
    for seconds in SECONDS[SECONDS < 3]:
        assert not any(value for au, value in timeline_at(seconds).items() if au != "AU43")
    blinks = [event for event in events() if event.au == "AU43" and event.onset < 3]
    assert len(blinks) == 1


def test_rests_lie_between_segments_and_are_exactly_zero() -> None:
    acting = [segment for segment in SEGMENTS if segment.name.startswith("AU")]
    assert len(acting) == 9
    for before, after in pairwise(acting):
        rest = (before.end + after.begin) / 2
        values = timeline_at(rest)
        assert after.begin > before.end
        assert not any(value for au, value in values.items() if au != "AU43"), rest


def test_a_segment_shows_what_its_name_says() -> None:
    for segment in SEGMENTS:
        strong = {au for au, value in timeline_at(segment.look).items() if value > 0.5}
        numbers = segment.name.removeprefix("AU").split("+") if segment.name.startswith("AU") else []
        assert strong == {f"AU{int(number):02d}" for number in numbers}, segment


def test_only_the_light_changes_in_its_segment() -> None:
    light = next(segment for segment in SEGMENTS if segment.name == "light")
    inside = SECONDS[(light.begin <= SECONDS) & (light.end >= SECONDS)]
    assert not any(any(timeline_at(t).values()) for t in inside)
    gains = np.array([light_at(t).gain for t in SECONDS])
    held = (gains > 1.18).sum() / FRAMES_PER_SECOND
    assert 1.4 <= held <= 1.8
    assert np.abs(gains[light.begin > SECONDS] - 1).max() < 0.06


def test_the_head_sways_a_little_and_turns_far_once() -> None:
    yaw = np.array([pose_at(t).yaw_deg for t in SECONDS])
    turning = next(segment for segment in SEGMENTS if segment.name == "head motion")
    during = (turning.begin <= SECONDS) & (turning.end >= SECONDS)
    assert np.abs(yaw[~during]).max() < 3
    assert yaw[during].max() > 8
    assert yaw[during].min() < -8
    for t in SECONDS:
        pose = pose_at(t)
        assert max(abs(pose.yaw_deg), abs(pose.pitch_deg)) <= 12
        assert abs(pose.roll_deg) <= 8


def test_contradictory_events_are_refused() -> None:
    with pytest.raises(ValueError, match="onset < apex"):
        Event("AU01", 1.0, 0.5, 2.0, 3.0, 1.0)
    with pytest.raises(ValueError, match="intensity"):
        Event("AU01", 1.0, 1.5, 2.0, 3.0, 1.2)
