"""Parquet: one flat table for all streams, the header and the ledgers in the file's metadata."""

# ruff: noqa: ARG002  (the methods of Sink take more than one kind of output needs)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engines.spec import EngineSpec
from pipeline.messages import AUResult, Frame, Geometry, Ledger, LevelShares, Quality, StreamInfo
from pipeline.sinks.encode import json_line
from pipeline.sinks.files import LOG, PartFile

ROWS_PER_GROUP = 2048
"""Rows held in memory before they are written: about a minute of one face at 30 fps."""
LATENCY_STAGES = ("capture", "face", "infer", "total")
HEADER_KEY, LEDGERS_KEY = "austream.header", "austream.ledgers"

_GEOMETRY = tuple(Geometry.__dataclass_fields__)
_QUALITY = tuple(Quality.__dataclass_fields__)
_SHARES = tuple(LevelShares.__dataclass_fields__)


def table_schema(engines: Sequence[EngineSpec]) -> pa.Schema:
    """The columns; everything about a face is null in the row of a frame without one."""
    small = pa.float32()
    columns: list[tuple[str, pa.DataType]] = [
        ("stream", pa.string()),
        ("epoch", pa.int32()),
        ("frame", pa.int64()),
        ("stride", pa.int32()),
        ("pts_seconds", pa.float64()),
        ("wall", pa.timestamp("ms", tz="UTC")),
        ("face", pa.int32()),
        *((name, small) for name in ("x1", "y1", "x2", "y2", "confidence", "yaw", "pitch", "roll")),
        *((name, pa.bool_() if name == "frontal" else small) for name in _QUALITY),
        *((name, small) for name in _GEOMETRY),
        ("neutral", pa.string()),
        ("exposure_gain", small),
        ("exposure_offset", small),
        *((f"level_share_{name}", small) for name in _SHARES),
    ]
    for engine in engines:
        columns += [(f"{engine.name}.{au}", small) for au in engine.aus]
        columns.append((f"{engine.name}.active", pa.list_(pa.string())))
        columns.append((f"{engine.name}.intensity", pa.map_(pa.string(), small)))
    columns += [
        ("window_state", pa.string()),
        ("window_first_pts_seconds", pa.float64()),
        ("window_last_pts_seconds", pa.float64()),
        ("window_every", pa.int32()),
        *((f"latency_{stage}_ms", small) for stage in LATENCY_STAGES),
    ]
    return pa.schema(columns)


def table_row(result: AUResult, engines: Sequence[EngineSpec]) -> dict[str, Any]:
    """One row by column; a column that is absent is null."""
    stamp, crop = result.stamp, result.crop
    row: dict[str, Any] = {
        "stream": stamp.stream,
        "epoch": stamp.epoch,
        "frame": stamp.seq,
        "stride": result.stride,
        "pts_seconds": stamp.pts_seconds,
        "wall": datetime.fromtimestamp(stamp.captured_wall_seconds, UTC),
    }
    row |= {f"latency_{stage}_ms": result.latency_ms.get(stage) for stage in LATENCY_STAGES}
    if crop is None:
        return row
    row |= dict(zip(("x1", "y1", "x2", "y2"), crop.bbox_xyxy, strict=True))
    row |= {
        "face": crop.face,
        "confidence": crop.confidence,
        "yaw": crop.pose.yaw,
        "pitch": crop.pose.pitch,
        "roll": crop.pose.roll,
        "neutral": crop.neutral,
        "exposure_gain": crop.exposure_gain,
        "exposure_offset": crop.exposure_offset,
    }
    row |= {name: getattr(crop.quality, name) for name in _QUALITY}
    row |= {name: getattr(crop.geometry, name) for name in _GEOMETRY}
    if crop.level_shares is not None:
        row |= {f"level_share_{name}": getattr(crop.level_shares, name) for name in _SHARES}
    for engine in engines:
        row |= {f"{engine.name}.{au}": value for au, value in result.aus.get(engine.name, {}).items()}
        if engine.name in result.active:
            row[f"{engine.name}.active"] = list(result.active[engine.name])
        if engine.name in result.intensity:
            row[f"{engine.name}.intensity"] = list(result.intensity[engine.name].items())
    if result.window is not None:
        row |= {f"window_{name}": value for name, value in result.window.row().items()}
    return row


class ParquetSink:
    """One file for all its streams, written in row groups."""

    lossless = True

    def __init__(self, path: Path, header: Mapping[str, Any], engines: Sequence[EngineSpec]) -> None:
        self._engines = tuple(engines)
        self._schema = table_schema(engines).with_metadata({HEADER_KEY: json_line(header)})
        self._rows: list[dict[str, Any]] = []
        self._ledgers: list[Ledger] = []
        self._writer: pq.ParquetWriter | None = None
        self._ended = self._readable = False
        self._part = PartFile(path)

    def open_stream(self, info: StreamInfo) -> None:
        """Nothing to do: the rows say which stream they belong to."""

    def write(self, frame: Frame, results: Sequence[AUResult]) -> None:
        self._rows += [table_row(result, self._engines) for result in results]
        self._part.rows += 1
        if len(self._rows) >= ROWS_PER_GROUP:
            self._write_group()

    def close_stream(self, ledger: Ledger) -> None:
        self._ledgers.append(ledger)

    def finish(self) -> list[Path]:
        self._end()
        return [self._part.commit()]

    def abort(self) -> None:
        # With its footer the .part can be read; without it nothing in it is worth keeping.
        with suppress(Exception):  # what ended the run is said elsewhere
            self._end()
        if self._readable:
            self._part.abandon()
        else:
            with suppress(Exception):  # otherwise it complains when it is collected
                if self._writer is not None:
                    self._writer.close()
            frames = self._part.rows
            LOG.warning("%s: removed: the end of its %d frames could not be written", self._part.part, frames)
            self._part.discard()

    def _write_group(self) -> None:
        with self._part.errors():
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._part.file, self._schema, compression="zstd")
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._part.flush()  # so that --rotate sees how large it is
        self._rows.clear()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._write_group()
        assert self._writer is not None
        with self._part.errors():
            ledgers = "[" + ",".join(json_line(ledger.row()) for ledger in self._ledgers) + "]"
            self._writer.add_key_value_metadata({LEDGERS_KEY: ledgers})
            self._writer.close()
        self._part.close()
        self._readable = True
