from __future__ import annotations

import pytest

from pipeline.sinks.rate import RateMeter


def test_the_rate_follows_the_last_seconds() -> None:
    meter = RateMeter(window_seconds=2.0)
    assert [meter.tick(i / 10) for i in range(4)] == [None] * 4
    for i in range(4, 100):
        steady = meter.tick(i / 10)
    assert steady == pytest.approx(10.0)
    for i in range(100):
        faster = meter.tick(10 + i / 40)
    assert faster == pytest.approx(40.0, rel=0.02)
