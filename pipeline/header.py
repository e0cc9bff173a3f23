"""The header row: what a run reads, with which engines, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from engines.runtime import Engine
from engines.sliding import SlidingEngine
from pipeline.config import RunConfig
from pipeline.inference import CPU_HOP
from pipeline.messages import SCHEMA_VERSION, StreamInfo
from pipeline.sources import SourceSpec
from pipeline.video import without_credentials


def header_row(
    config: RunConfig,
    specs: Sequence[SourceSpec],
    infos: Mapping[str, StreamInfo],
    engines: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The first row of every file; `engines` as `engine_entry` gives them.

    Of a live source that is not yet there `infos` lacks the entry, by stream, and the row has nulls.
    """
    return {
        "type": "header",
        "schema": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "sources": [
            {
                "stream": spec.stream,
                "source": without_credentials(spec.uri),
                "size_wh": list(info.size_wh) if info else None,
                "rate_hz": round(info.rate_hz, 6) if info else None,
                "frames": info.frames if info else None,
                "live": info.live if info else True,
            }
            for spec in specs
            for info in [infos.get(spec.stream)]
        ],
        "engines": list(engines),
        "options": {
            "neutral": config.neutral,
            "exposure_compensation": config.exposure_compensation,
            "hop": config.hop or CPU_HOP,
            "max_faces": config.max_faces,
            "frames": config.frames,
            "duration": config.duration,
            "loop": config.loop,
        },
    }


def engine_entry(engine: Engine | SlidingEngine) -> dict[str, Any]:
    """An engine as the header names it."""
    spec = engine.spec
    return {
        "name": spec.name,
        "network": spec.network,
        "variant": dict(spec.variant),
        "trained": spec.trained,
        "provenance": dict(spec.provenance),
        "aus": list(spec.aus),
        "thresholds": dict(zip(spec.aus, spec.thresholds, strict=True)),
        "window": spec.window,
        "sliding": isinstance(engine, SlidingEngine),
        "rate_hz": spec.rate_hz,
        "backend": engine.backend,
        "precision": engine.precision,
        "chosen_because": engine.reason,
    }
