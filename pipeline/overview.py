"""A run at one moment: what its processes have said so far, put together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.messages import Ledger
from pipeline.snapshot import EngineSnapshot, Histogram, StageSnapshot, StreamSnapshot
from pipeline.sources import SourceSpec
from pipeline.stageprocess import StageProcess
from pipeline.stages.wiring import STAGES, ends_of


def streams_of(
    specs: Sequence[SourceSpec],
    by_capture: Mapping[str, Ledger],
    sink: StageProcess,
    connected: Mapping[str, bool],
) -> tuple[StreamSnapshot, ...]:
    """All streams. Of a ledger capture knows the beginning and the sink the rest."""
    streams = []
    for spec in specs:
        name = spec.stream
        mine, here = by_capture.get(name, Ledger(name)), sink.ledgers.get(name, Ledger(name))
        seen, ended = sink.seen.get(name), bool(mine.ended) and name in by_capture
        dropped = dict(mine.dropped)
        for key, frames in here.dropped.items():
            dropped[key] = max(dropped.get(key, 0), frames)
        streams.append(
            StreamSnapshot(
                name,
                connected=not ended and connected.get(name, not spec.feed),
                ended=ended,
                epoch=seen.epoch if seen else 0,
                captured=max(mine.captured, here.captured),
                delivered=here.delivered,
                dropped=dropped,
                faces=seen.faces if seen else 0,
                reconnects=mine.reconnects,
            )
        )
    return tuple(streams)


def stages_of(
    processes: Mapping[str, StageProcess], links: Collection[str], capture_lives: int
) -> tuple[StageSnapshot, ...]:
    """The stages; what several capture processes say is added up.

    Args:
        capture_lives: restarts of capture processes that are not there any more.
    """
    # How many wait before a stage only the one before it knows.
    passed_on = dict.fromkeys(STAGES, 0)
    for link in links:
        sender, receiver = ends_of(link)
        passed_on[receiver] += processes[sender].passed_on
    stages = []
    for stage in STAGES:
        mine = [process for process in processes.values() if process.stage == stage]
        stages.append(
            StageSnapshot(
                stage,
                any(p.alive and p.started for p in mine) and not any(p.failed or p.comes_back for p in mine),
                sum(process.life for process in mine) + (capture_lives if stage == "capture" else 0),
                sum(process.waiting for process in mine) + passed_on[stage],
                processes["sink"].timings.get((stage, ""), Histogram()),
            )
        )
    return tuple(stages)


def engines_of(
    engines: Sequence[Mapping[str, Any]], processes: Mapping[str, StageProcess]
) -> tuple[EngineSnapshot, ...]:
    """The engines, by the header's entries."""
    timings = processes["sink"].timings
    return tuple(
        EngineSnapshot(
            *(entry["name"], entry["backend"], entry["precision"], entry["trained"]),
            timings.get(("infer", entry["name"]), Histogram()),
        )
        for entry in engines
    )


def listed(stream: StreamSnapshot) -> dict[str, Any]:
    """A line of `ctl list`."""
    state = "ended" if stream.ended else "connected" if stream.connected else "not connected"
    return {
        "stream": stream.stream,
        "state": state,
        "captured": stream.captured,
        "delivered": stream.delivered,
        "dropped": sum(stream.dropped.values()),
        "faces": stream.faces,
        "epoch": stream.epoch,
        "reconnects": stream.reconnects,
    }
