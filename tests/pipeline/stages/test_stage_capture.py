"""The clock by which a file is played as if it were live."""

from __future__ import annotations

import pytest

from pipeline.messages import Stamp
from pipeline.stages.capture import _Clock


def test_frames_are_due_by_their_pts_and_loops_follow_each_other_one_interval_apart() -> None:
    clock = _Clock(rate_hz=25.0)
    script = [(0, 7.00), (0, 7.04), (0, 7.20), (1, 7.00), (1, 7.04), (2, 7.00)]
    due = [clock.due(Stamp("clip", epoch, seq, pts, 0.0, 0.0)) for seq, (epoch, pts) in enumerate(script)]
    assert [d - due[0] for d in due] == pytest.approx([0.0, 0.04, 0.20, 0.24, 0.28, 0.32])


def test_asking_again_for_a_frame_changes_nothing() -> None:
    clock = _Clock(rate_hz=25.0)
    stamps = [Stamp("clip", 0, seq, seq / 25, 0.0, 0.0) for seq in range(3)]
    first = clock.due(stamps[0])
    assert [clock.due(stamp) for stamp in (stamps[0], stamps[1], stamps[1], stamps[2])] == pytest.approx(
        [first, first + 0.04, first + 0.04, first + 0.08]
    )
