"""One set of sinks per stream, where a file cannot hold several streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.messages import AUResult, Frame, Ledger, StreamInfo
from pipeline.sinks.base import Sink


class StreamSplitter:
    """Hands every stream to sinks of its own, which one that joins during the run gets then; `removable` is a
    folder that was made for them, if any."""

    lossless = True

    def __init__(
        self, streams: Sequence[str], make: Callable[[str], Sequence[Sink]], removable: Path | None = None
    ) -> None:
        self._make, self._removable = make, removable
        self._opened: set[str] = set()
        self._sinks: dict[str, Sequence[Sink]] = {}
        try:
            for stream in streams:
                self._sinks[stream] = make(stream)
        except BaseException:
            self.abort()
            raise

    def open_stream(self, info: StreamInfo) -> None:
        self._opened.add(info.stream)
        if info.stream not in self._sinks:
            self._sinks[info.stream] = self._make(info.stream)
        for sink in self._sinks[info.stream]:
            sink.open_stream(info)

    def write(self, frame: Frame, results: Sequence[AUResult]) -> None:
        for sink in self._sinks[frame.stamp.stream]:
            sink.write(frame, results)

    def close_stream(self, ledger: Ledger) -> None:
        for sink in self._sinks.get(ledger.stream, ()):
            sink.close_stream(ledger)

    def finish(self) -> list[Path]:
        paths: list[Path] = []
        for stream, sinks in self._sinks.items():
            for sink in sinks:
                if stream in self._opened:
                    paths += sink.finish()
                else:  # the run ended before it came to this stream
                    sink.abort()
        return paths

    def abort(self) -> None:
        for sinks in self._sinks.values():
            for sink in sinks:
                sink.abort()
        if self._removable is not None:
            with suppress(OSError):  # only an empty folder can be removed, and only that is meant
                self._removable.rmdir()
