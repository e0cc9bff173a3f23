"""From `--out`, `--publish` and `--window` to sinks: what can be refused is refused before the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engines.spec import EngineSpec
from pipeline.errors import OutputError, UsageError
from pipeline.rotation import Rotation, parse_rotation
from pipeline.sinks.base import Sink, Taken
from pipeline.sinks.csv import CsvSink
from pipeline.sinks.files import file_names, named
from pipeline.sinks.jsonl import JsonlSink
from pipeline.sinks.numbered import go_on
from pipeline.sinks.rotate import Make, RotatingSink
from pipeline.sinks.split import StreamSplitter

SUFFIXES = (".jsonl", ".csv", ".parquet", ".mp4")
_EXPECTED = f"expected {', '.join(SUFFIXES)} or a folder"
_FOLDER_KINDS = (".jsonl", ".csv", ".parquet")
"""What a folder gets per stream. No pixels: they are never written unasked."""
_SOURCE = "(a source)"


def open_sinks(
    outs: Sequence[str],
    publish: str | None,
    window: bool,
    header: Mapping[str, Any],
    engines: Sequence[EngineSpec],
    streams: Sequence[str],
    sources: Sequence[Path],
    rotate: str | None = None,
    keys: str | None = None,
    before_closing: Callable[[], object] = lambda: None,
    after: Mapping[str, Taken] | None = None,
) -> list[Sink]:
    """All sinks of a run, ready for their first stream.

    `outs`, `publish`, `window`, `rotate` and `keys` are the flags of the same names; `header` is the first
    row. `streams` names all streams that will be opened; `sources` are the files that are read, which no
    output may overwrite. `before_closing` is told when a file is about to be made whole during the run.
    `after` is given where sinks of this run have died: by stream, what they had taken. Their files stay as
    they are, and every output goes on in its next numbered one.
    Raises UsageError for what can never work and OutputError for what the system refuses; nothing is left
    behind then.
    """
    rotation = parse_rotation(rotate) if rotate else None
    builder = _Builder(header, engines, streams, sources, rotation, before_closing, after)
    plans = [builder.plan(out) for out in outs]
    makers: list[Callable[[], Sink]] = []
    # Modules with heavy imports come in where they are used.
    if publish is not None:
        from pipeline.keys import server_keys
        from pipeline.sinks.publish import PublishSink

        sent = {stream: taken.rows for stream, taken in (after or {}).items()}
        makers.append(partial(PublishSink, publish, header, server_keys(Path(keys)) if keys else None, sent))
    if window:
        from pipeline.sinks.window import WindowSink

        makers.append(partial(WindowSink, engines))
    return _all_or_none([*makers, *(partial(builder.make, plan) for plan in plans)])


def _all_or_none(makers: Iterable[Callable[[], Sink]]) -> list[Sink]:
    """The sinks, unless one cannot be made: then the others are aborted, and its error goes on."""
    sinks: list[Sink] = []
    try:
        for make in makers:
            sinks.append(make())  # noqa: PERF401  (those made so far are needed when one fails)
    except BaseException:
        for sink in sinks:
            sink.abort()
        raise
    return sinks


@dataclass(frozen=True, slots=True)
class _Plan:
    """One checked --out."""

    path: Path
    kind: str
    """One of SUFFIXES, or `folder`."""


class _Builder:
    def __init__(
        self,
        header: Mapping[str, Any],
        engines: Sequence[EngineSpec],
        streams: Sequence[str],
        sources: Sequence[Path],
        rotation: Rotation | None = None,
        before_closing: Callable[[], object] = lambda: None,
        after: Mapping[str, Taken] | None = None,
    ) -> None:
        self._header, self._engines, self._streams = header, engines, streams
        self._rotation, self._before_closing, self._after = rotation, before_closing, after
        self._names = file_names(streams)
        self._claimed: dict[Path, str] = {path.resolve(): _SOURCE for path in sources}

    def plan(self, out: str) -> _Plan:
        """Checks one --out and claims the files that it will write; UsageError when it cannot be."""
        path = Path(out)
        suffix = path.suffix.lower()
        if out in ("", "-"):
            raise UsageError(f"--out {out!r}: not a file; {_EXPECTED}")
        if out.endswith(("/", os.sep)) or not suffix or (suffix not in SUFFIXES and path.is_dir()):
            suffix = "folder"
            if path.exists() and not path.is_dir():
                raise UsageError(f"--out {out}: it has no ending and is not a folder; {_EXPECTED}")
        elif suffix not in SUFFIXES:
            raise UsageError(f"--out {out}: unknown ending {path.suffix!r}; {_EXPECTED}")
        elif path.is_dir():
            raise UsageError(
                f"--out {out}: it is a folder; write {out}/ for a set of files in it, or another name"
            )
        if not path.absolute().parent.is_dir():
            raise UsageError(
                f"--out {out}: the folder {path.parent} does not exist; make it first (mkdir -p)"
            )
        for file in self._files(path, suffix):
            self._claim(out, file)
        return _Plan(path, suffix)

    def make(self, plan: _Plan) -> Sink:
        path = plan.path
        match plan.kind:
            case ".jsonl":
                return self._jsonl(path)
            case ".parquet":
                return self._parquet(path)
            case ".csv":
                return StreamSplitter(
                    self._streams, lambda stream: self._csvs(self._per_stream(path, stream), stream)
                )
            case ".mp4":
                return StreamSplitter(
                    self._streams, lambda stream: [self._video(self._per_stream(path, stream), stream)]
                )
        return self._folder(path)

    def _rotating(self, path: Path, make: Make, stream: str | None = None) -> Sink:
        """The sink of one output: one file, or with --rotate several; of all streams or of one."""
        first, continues = path, None
        if self._after is not None and (stream is None or stream in {*self._streams, *self._after}):
            frames = sum(t.frames for name, t in self._after.items() if stream in (None, name))
            # With --rotate some of them are in files that were closed before, and nobody has counted.
            first, continues = go_on(path, frames if self._rotation is None else None)
        if self._rotation is None:
            return make(first, continues)
        return RotatingSink(
            path, make, self._rotation, before_closing=self._before_closing, continues=continues
        )

    def _continuing(self, continues: str | None) -> Mapping[str, Any]:
        """The header of a file."""
        return {**self._header, "continues": continues} if continues else self._header

    def _jsonl(self, path: Path, stream: str | None = None) -> Sink:
        return self._rotating(path, lambda path, last: JsonlSink(path, self._continuing(last)), stream)

    def _video(self, path: Path, stream: str) -> Sink:
        from pipeline.overlay import Overlay
        from pipeline.sinks.video import VideoSink

        overlay = Overlay(self._engines)
        return self._rotating(path, lambda path, last: VideoSink(path, overlay, bool(last)), stream)

    def _folder(self, folder: Path) -> Sink:
        made = not folder.exists()
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"--out {folder}: cannot be made: {error.strerror}; choose another folder"
            ) from error
        return StreamSplitter(
            self._streams, lambda stream: self._set(folder, stream), removable=folder if made else None
        )

    def _set(self, folder: Path, stream: str) -> list[Sink]:
        jsonl, csv, parquet = (folder / f"{self._name(stream)}{kind}" for kind in _FOLDER_KINDS)
        return _all_or_none(
            [
                lambda: self._jsonl(jsonl, stream),
                lambda: StreamSplitter([stream], lambda _: self._csvs(csv, stream)),
                lambda: self._parquet(parquet, stream),
            ]
        )

    def _csvs(self, path: Path, stream: str) -> list[Sink]:
        paths = self._per_engine(path)
        both = zip(paths, self._engines, strict=True)
        return _all_or_none(partial(self._csv, path, engine, stream) for path, engine in both)

    def _csv(self, path: Path, engine: EngineSpec, stream: str) -> Sink:
        return self._rotating(path, lambda path, _: CsvSink(path, engine), stream)

    def _parquet(self, path: Path, stream: str | None = None) -> Sink:
        try:
            from pipeline.sinks.parquet import ParquetSink
        except ImportError as error:
            raise UsageError(
                f"--out {path}: pyarrow cannot be used ({error}); install the versions of constraints.txt, "
                "or choose .jsonl or .csv"
            ) from error
        return self._rotating(
            path, lambda path, last: ParquetSink(path, self._continuing(last), self._engines), stream
        )

    def _files(self, path: Path, kind: str) -> list[Path]:
        """What will be written for `path`."""
        if kind == "folder":
            files = [path / f"{name}{suffix}" for name in self._names.values() for suffix in _FOLDER_KINDS]
        elif kind in (".csv", ".mp4"):
            files = [self._per_stream(path, stream) for stream in self._streams]
        else:
            files = [path]
        return [
            f for file in files for f in (self._per_engine(file) if file.suffix.lower() == ".csv" else [file])
        ]

    def _per_stream(self, path: Path, stream: str) -> Path:
        alone = list(self._streams) == [stream]
        return path if alone else named(path, self._name(stream))

    def _name(self, stream: str) -> str:
        """A stream's part of a file name; that of one that joins during the run is none of the others'."""
        if stream not in self._names:
            name, number = file_names([*self._names, stream])[stream], 1
            taken = {other.casefold() for other in self._names.values()}
            while (name if number == 1 else f"{name}-{number}").casefold() in taken:
                number += 1
            self._names[stream] = name if number == 1 else f"{name}-{number}"
        return self._names[stream]

    def _per_engine(self, path: Path) -> list[Path]:
        if len(self._engines) == 1:
            return [path]
        return [named(path, engine.name) for engine in self._engines]

    def _claim(self, out: str, file: Path) -> None:
        for path in (file, file.with_name(file.name + ".part")):
            owner = self._claimed.get(path.resolve())
            if owner == _SOURCE:
                raise UsageError(
                    f"--out {out}: {path} is one of the sources, and would be lost; choose another name"
                )
            if owner is not None:
                twice = "named twice" if owner == out else f"written by --out {owner} already"
                raise UsageError(f"--out {out}: {path} is {twice}; choose another name")
            self._claimed[path.resolve()] = out
        if file.exists() and not file.is_file():
            raise UsageError(f"--out {out}: {file} is there and not a regular file; choose another name")
