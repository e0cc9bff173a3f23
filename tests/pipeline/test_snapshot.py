"""A run seen from outside, while it goes on and when it has ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_runs import slowed_sink

from pipeline.config import RunConfig
from pipeline.lanes import WAITING
from pipeline.snapshot import LATENCY_BOUNDS_MS, Histogram, RunSnapshot
from pipeline.stages.wiring import LINKS, STAGES
from pipeline.streams import HAND_OVERS
from pipeline.supervisor import StreamedRun


@given(st.lists(st.floats(0.0, 1e5) | st.sampled_from(LATENCY_BOUNDS_MS), max_size=40))
def test_a_histogram_counts_what_lies_between_its_bounds(latencies: list[float]) -> None:
    histogram = Histogram()
    for latency in latencies:
        histogram = histogram.plus(latency)
    bounds = (-np.inf, *LATENCY_BOUNDS_MS, np.inf)
    values = np.array(latencies)
    expected = [int(((values > low) & (values <= high)).sum()) for low, high in zip(bounds, bounds[1:])]  # noqa: B905, RUF007
    assert list(histogram.counts) == expected
    assert np.isclose(histogram.sum_ms, sum(latencies))
    assert histogram.last_ms == (latencies[-1] if latencies else 0.0)


def test_a_run_tells_how_it_stands(real_clip: Path, tmp_path: Path) -> None:
    clip = str(real_clip)
    config = RunConfig(source=(clip,), engine=("cednn",), frames=24, out=(str(tmp_path / "r.jsonl"),))
    run = StreamedRun(config)
    seen: list[RunSnapshot] = []
    run.wait(lambda _: seen.append(run.snapshot()))
    (ledger,) = run.ledgers
    uptimes = [snapshot.uptime_seconds for snapshot in seen]
    assert uptimes == sorted(uptimes)
    assert any(snapshot.ready for snapshot in seen)
    delivered = [snapshot.streams[0].delivered for snapshot in seen if snapshot.streams]
    assert delivered == sorted(delivered)
    for snapshot in seen:
        for stream in snapshot.streams:
            assert stream.stream == real_clip.name
            assert 0 <= stream.in_flight <= 24
            assert stream.captured <= ledger.captured
            assert stream.delivered <= ledger.delivered
    last = seen[-1]
    assert [stage.stage for stage in last.stages] == list(STAGES)
    assert all(stage.restarts == 0 for stage in last.stages)
    for stage in last.stages:
        assert sum(stage.latency.counts) <= 24


def test_a_slow_sink_shows_in_every_queue_before_it(
    real_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed_sink(tmp_path, "write", 0.2, monkeypatch)
    out = str(tmp_path / "r.jsonl")
    longest = dict.fromkeys(STAGES, 0)

    def show(run: RunSnapshot) -> None:
        for stage in run.stages:
            longest[stage.stage] = max(longest[stage.stage], stage.queued)

    run = StreamedRun(
        RunConfig(source=(str(real_clip),), engine=("cednn",), frames=40, out=(out,)), show=show
    )
    run.wait()
    # As many as may be on the way between two stages, by the table of hand-overs, and in capture's lane.
    expected = {receiver: HAND_OVERS[link].credits for link, (_, receiver) in LINKS.items()}
    assert longest == expected | {"capture": WAITING}
