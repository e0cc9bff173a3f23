"""What becomes of one feed, or of a stage that all share, costs the other feeds next to nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from live_runs import live_run, rows_of, until
from servers import rtsp

from bench.faults import IN_FLIGHT
from bench.feeds import playing


@pytest.fixture(scope="module")
def options(real_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a feed so slow that even a busy machine keeps up."""
    return playing(real_clip, tmp_path_factory.mktemp("pictures"), "320x180", 4, 10)


def test_the_other_feed_loses_at_most_what_was_in_flight(options: list[str], tmp_path: Path) -> None:
    blows = [("capture", signal.SIGKILL), ("face", signal.SIGKILL), ("infer", signal.SIGKILL)]
    blows += [("sink", signal.SIGKILL), ("capture", signal.SIGSTOP), ("face", signal.SIGSTOP)]
    with rtsp(*options) as first, rtsp(*options) as second:
        sources = ["--source", first.address, "--source", second.address, "--max-faces", "1"]
        with live_run(tmp_path / "r.jsonl", *sources) as run:
            for number, (stage, blow) in enumerate(blows, 1):
                assert until(lambda: {"spare face", "spare infer", "spare sink"} <= run.workers().keys()), (
                    run.errors
                )
                spares = {name: pid for name, pid in run.workers().items() if name.startswith("spare")}
                assert run.goes_on(), run.errors
                before, dead = run.results(second.address), run.workers()[stage]
                os.kill(dead, blow)
                assert until(lambda n=number: run.said("is at work again") == n), run.errors
                assert until(lambda n=before: run.results(second.address) > n + 8), run.errors
                assert run.goes_on(), run.errors
                now = run.workers()
                assert now["capture-1"]
                assert now[stage] != dead
                if stage != "capture":
                    assert now[stage] == spares[f"spare {stage}"]
            assert run.stop() == 130, run.errors
    broken, other = (run.ledgers()[server.address] for server in (first, second))
    assert broken["balanced"]
    assert other["balanced"]
    shared = {"face": 2, "infer": 1, "sink": 1}
    assert broken["restarts"] == shared | {"capture": 2}
    assert other["restarts"] == shared  # the death of a capture is its own feed's
    assert other["reconnects"] == 0
    lost = {(entry["stage"], entry["reason"]): entry["frames"] for entry in other["dropped"]}
    assert lost.keys() <= {(stage, "restarted") for stage in shared} | {("capture", "starting")}, lost
    assert max(lost.get((stage, "restarted"), 0) for stage in shared) <= IN_FLIGHT  # by the credits
    assert sum(lost.values()) <= 4 * IN_FLIGHT
    rows = [row for path in run.files() for row in rows_of(path) if row.get("stream") == second.address]
    frames = [row["frame"] for row in rows if row["type"] == "result"]
    assert frames == sorted(set(frames))
    assert len(frames) >= other["delivered"]


def test_a_spare_that_dies_is_said_and_the_stage_begins_from_nothing(
    options: list[str], tmp_path: Path
) -> None:
    with rtsp(*options) as server, live_run(tmp_path / "r.jsonl", "--source", server.address) as run:
        assert until(lambda: "spare face" in run.workers()), run.errors
        os.kill(run.workers()["spare face"], signal.SIGKILL)
        assert until(lambda: run.said("no spare for the face stage: it died (killed by signal 9)") == 1), (
            run.errors
        )
        os.kill(run.workers()["face"], signal.SIGKILL)
        assert until(lambda: run.said("is at work again") == 1), run.errors
        assert run.goes_on(), run.errors
        assert run.stop() == 130, run.errors
    (ledger,) = run.ledgers().values()
    assert ledger["balanced"]
    assert ledger["restarts"] == {"face": 1}
