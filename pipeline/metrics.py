"""A snapshot as Prometheus reads it: names, labels, base units (seconds)."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pipeline.messages import SCHEMA_VERSION
from pipeline.snapshot import LATENCY_BOUNDS_MS, Histogram, RunSnapshot, StageSnapshot, StreamSnapshot

Values = Iterable[tuple[tuple[str, ...], float]]
"""(labels, value)."""


class RunCollector(Collector):
    """Makes the metrics from the latest snapshot whenever somebody asks."""

    def __init__(self, latest: Callable[[], RunSnapshot | None]) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        yield _info(
            "build",
            "Which austream this is.",
            [{"version": _version(), "schema": str(SCHEMA_VERSION), "python": platform.python_version()}],
        )
        run = self._latest()
        if run is None:
            return
        yield _gauge("ready", "Whether all stages are at work.", (), [((), float(run.ready))])
        yield _gauge("uptime_seconds", "Since the run began.", (), [((), run.uptime_seconds)])
        yield from _streams(run.streams)
        yield from _stages(run.stages)
        yield _info(
            "engine",
            "Engines in use: `trained` says on what.",
            [
                {"engine": e.name, "backend": e.backend, "precision": e.precision, "trained": e.trained}
                for e in run.engines
            ],
        )
        yield _histogram(
            "engine_compute_seconds",
            "What an engine computed for a frame with faces, over all of them and all threads.",
            ("engine",),
            [((e.name,), e.compute) for e in run.engines],
        )


_STREAM_COUNTERS = (
    ("frames_captured", "captured", "Frames decoded."),
    ("frames_delivered", "delivered", "Frames whose rows reached every output."),
    ("reconnects", "reconnects", "How often the source came back."),
)
_STREAM_GAUGES = (
    ("frames_in_flight", "in_flight", "Frames captured, neither delivered nor dropped yet."),
    ("faces", "faces", "Faces in the frame delivered last."),
    ("stream_connected", "connected", "Whether the source gives frames."),
    ("stream_ended", "ended", "Whether the stream has ended."),
    ("stream_epoch", "epoch", "Counts up whenever continuity ends."),
)


def _streams(streams: Iterable[StreamSnapshot]) -> Iterator[Metric]:
    label = ("stream",)
    for name, field, about in _STREAM_COUNTERS:
        yield _counter(name, about, label, [((s.stream,), float(getattr(s, field))) for s in streams])
    yield _counter(
        "frames_dropped",
        "Frames dropped, by stage and reason.",
        ("stream", "stage", "reason"),
        [((s.stream, *why), float(count)) for s in streams for why, count in s.dropped.items()],
    )
    for name, field, about in _STREAM_GAUGES:
        yield _gauge(name, about, label, [((s.stream,), float(getattr(s, field))) for s in streams])


def _stages(stages: Iterable[StageSnapshot]) -> Iterator[Metric]:
    label = ("stage",)
    running = [((s.stage,), float(s.running)) for s in stages]
    yield _gauge("stage_running", "Whether the stage's process is at work.", label, running)
    restarts = [((s.stage,), float(s.restarts)) for s in stages]
    yield _counter("stage_restarts", "How often the stage was started anew.", label, restarts)
    queued = [((s.stage,), float(s.queued)) for s in stages]
    yield _gauge("stage_queue_length", "Frames that wait at the stage or are in work.", label, queued)
    yield _histogram(
        "stage_latency_seconds",
        "What a stage took for a delivered frame.",
        label,
        [((s.stage,), s.latency) for s in stages if s.stage != "sink"],
    )
    yield _histogram(
        "frame_latency_seconds",
        "From the beginning of a frame's capture to its results.",
        (),
        [((), s.latency) for s in stages if s.stage == "sink"],
    )


def _info(name: str, about: str, entries: Iterable[dict[str, str]]) -> Metric:
    family = InfoMetricFamily(f"austream_{name}", about)
    for entry in entries:
        family.add_metric([], entry)
    return family


def _gauge(name: str, about: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = GaugeMetricFamily(f"austream_{name}", about, labels=labels)
    for names, value in values:
        family.add_metric(names, value)
    return family


def _counter(name: str, about: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = CounterMetricFamily(f"austream_{name}", about, labels=labels)
    for names, value in values:
        family.add_metric(names, value)
    return family


def _histogram(
    name: str, about: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    """Prometheus sums its buckets up; `Histogram` does not."""
    family = HistogramMetricFamily(f"austream_{name}", about, labels=labels)
    bounds = [*(f"{bound / 1e3:g}" for bound in LATENCY_BOUNDS_MS), "+Inf"]
    for names, histogram in values:
        up_to, buckets = 0, []
        for bound, count in zip(bounds, histogram.counts, strict=True):
            up_to += count
            buckets.append((bound, float(up_to)))
        family.add_metric(names, buckets, histogram.sum_ms / 1e3)
    return family


def _version() -> str:
    try:
        return metadata.version("austream")
    except metadata.PackageNotFoundError:  # run from its folder, not installed
        return "unknown"
