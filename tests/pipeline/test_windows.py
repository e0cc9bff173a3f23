"""Windows against a list that is simply cut: which frames, when, and never across a gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.windows import FaceWindow, spacing


@pytest.mark.parametrize(
    ("rate", "trained", "every"),
    [
        (25, 25, 1),
        (24, 25, 1),
        (30, 25, 1),
        (50, 25, 2),
        (60, 25, 2),
        (120, 25, 5),
        (12, 25, 1),
        (20, 20, 1),
        (240, 20, 12),
    ],
)
def test_spacing_comes_nearest_to_the_training_rate(rate: float, trained: float, every: int) -> None:
    assert spacing(rate, trained) == every


@given(st.floats(1, 240), st.floats(10, 60))
def test_no_other_spacing_is_nearer(rate: float, trained: float) -> None:
    def off(n: int) -> float:
        return abs(np.log(rate / n / trained))

    assert off(spacing(rate, trained)) <= min(off(n) for n in range(1, 300)) + 1e-9


@settings(max_examples=60, deadline=None)
@given(
    every=st.integers(1, 4),
    hop=st.integers(1, 20),
    stride=st.integers(1, 3),
    breaks=st.lists(st.integers(1, 150), max_size=4),
    new_epoch=st.booleans(),
)
def test_windows_are_what_a_list_cut_at_the_breaks_gives(
    every: int, hop: int, stride: int, breaks: list[int], new_epoch: bool
) -> None:
    window = FaceWindow(16, every, hop)
    epoch, seq, unbroken = 0, 0, []
    for index in range(160):
        if index in breaks:
            unbroken = []
            epoch, seq = (epoch + 1, seq + stride) if new_epoch else (epoch, seq + stride + 1)
        else:
            seq += stride
        unbroken.append(index)
        crop = np.full((2, 2, 3), index, np.uint8)
        state, pixels = window.push(crop, epoch, seq, stride, index, index / 25)
        expected = unbroken[-((16 - 1) * every + 1) :: every] if len(unbroken) > 15 * every else None
        if expected is None:
            assert state.state == "warming"
        elif (index + 1) % hop:
            assert state.state == "off_hop"
        else:
            assert state.state == "ready"
            assert pixels is not None
            assert pixels[:, 0, 0, 0].tolist() == expected
            assert (state.first_pts_seconds, state.last_pts_seconds) == (expected[0] / 25, expected[-1] / 25)
        if state.state != "ready":
            assert pixels is None
            assert state.first_pts_seconds is None
