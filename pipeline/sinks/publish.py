"""The rows as they come, over ZeroMQ: one JSON message a row.

`{"type":"header",…}` at the start and again whenever somebody joins; then results, and a ledger when a stream
ends. Results and ledgers carry `sequence`, which counts the messages of their stream from 0, so that a
subscriber sees what it has missed.
"""

# ruff: noqa: ARG002  (the methods of Sink take more than one kind of output needs)

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.keys import ServerKeys
from pipeline.messages import AUResult, Frame, Ledger, StreamInfo
from pipeline.sinks.encode import json_line
from pipeline.sockets import Publisher


class PublishSink:
    """A lossy viewer: it never holds up the run."""

    lossless = False

    def __init__(
        self,
        address: str,
        header: Mapping[str, Any],
        keys: ServerKeys | None = None,
        sent: Mapping[str, int] | None = None,
    ) -> None:
        """`sent`: how many rows of each stream a publisher that died has sent: numbers go on from there."""
        self._publisher = Publisher(address, keys)
        self._header = json_line(header)
        self._sequence = Counter(sent)

    @property
    def address(self) -> str:
        """Where it publishes, with the real port."""
        return self._publisher.address

    def open_stream(self, info: StreamInfo) -> None:
        self._publisher.joined()
        self._publisher.send(self._header)

    def write(self, frame: Frame, results: Sequence[AUResult]) -> None:
        self._greet()
        for result in results:
            self._send(result.stamp.stream, result.row())

    def close_stream(self, ledger: Ledger) -> None:
        self._greet()
        self._send(ledger.stream, ledger.row())

    def finish(self) -> list[Path]:
        self._publisher.close()
        return []

    def abort(self) -> None:
        self._publisher.close(linger_ms=100)

    def _greet(self) -> None:
        if self._publisher.joined():
            self._publisher.send(self._header)

    def _send(self, stream: str, row: dict[str, Any]) -> None:
        self._publisher.send(json_line(row | {"sequence": self._sequence[stream]}))
        self._sequence[stream] += 1
