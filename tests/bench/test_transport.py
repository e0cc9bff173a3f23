from __future__ import annotations

from bench.transport import OURS, TRANSPORTS, measure


def test_every_candidate_hands_over_the_right_pixels() -> None:
    rows = measure((640, 360), rounds=1, frames=6)
    assert [row["transport"] for row in rows] == list(TRANSPORTS)
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["ms_per_frame"] > 0
    assert next(row for row in rows if row["transport"] == OURS)["latency_vs_queue"] > 1
