"""Where a recording's frames are: numbered pictures in a folder or an archive, or a video. Nothing is decoded
before `frames` is asked, and then one frame at a time."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import av
import av.error
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.address import printable
from pipeline.errors import SourceError
from pipeline.messages import Ledger
from pipeline.photo import read_photo
from pipeline.video import VideoSource

NumberedFrame = tuple[int, NDArray[np.uint8]]
"""A frame's number as in `Media.numbers`, and its upright H×W×3 BGR pixels."""


class Media(Protocol):
    """The frames of one recording."""

    @property
    def shown(self) -> str:
        """Its path, for messages."""
        ...

    @property
    def numbers(self) -> Sequence[int]:
        """The frames that are there, rising."""
        ...

    def frames(self, wanted: Collection[int] | None = None) -> Iterator[NumberedFrame]:
        """Decode frame by frame, in order; only those wanted, or all.

        Raises:
            SourceError: one cannot be read.
        """
        ...


@dataclass(frozen=True)
class Pictures:
    """Picture files whose names end in their number, however it is padded."""

    place: Path
    """The folder, or the zip archive."""
    names: Mapping[int, str] = field(repr=False)
    """File (or entry of the archive) of each number, rising."""

    @property
    def shown(self) -> str:
        return printable(str(self.place))

    @property
    def numbers(self) -> Sequence[int]:
        return tuple(self.names)

    def path(self, number: int) -> Path:
        """Of one picture in a folder."""
        return self.place / self.names[number]

    def frames(self, wanted: Collection[int] | None = None) -> Iterator[NumberedFrame]:
        numbers = [n for n in self.names if wanted is None or n in wanted]
        if self.place.suffix.lower() == ".zip":
            yield from self._unzipped(numbers)
            return
        for number in numbers:
            yield number, read_photo(self.path(number))

    def _unzipped(self, numbers: Sequence[int]) -> Iterator[NumberedFrame]:
        with _open_zip(self.place) as archive:
            for number in numbers:
                name = self.names[number]
                try:
                    encoded = np.frombuffer(archive.read(name), np.uint8)
                except (OSError, zipfile.BadZipFile) as error:
                    raise SourceError(f"{self.shown}: {name}: damaged ({error}); copy it again") from None
                image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
                if image is None:
                    raise SourceError(f"{self.shown}: {name}: not a picture that can be decoded")
                yield number, np.asarray(image, np.uint8)


@dataclass(frozen=True)
class Video:
    """A video file; frames are numbered from 0."""

    path: Path
    count: int
    """Frames that its container states, or that were counted where it states none."""
    rate_hz: float | None

    @property
    def shown(self) -> str:
        return printable(str(self.path))

    @property
    def numbers(self) -> Sequence[int]:
        return range(self.count)

    def frames(self, wanted: Collection[int] | None = None) -> Iterator[NumberedFrame]:
        if wanted is not None and not wanted:
            return
        source, ledger = VideoSource(str(self.path), self.path.stem), Ledger(self.path.stem)
        try:
            for frame in source.frames(
                ledger
            ):  # to its end: where a frame is lost, those behind it are misnumbered
                if wanted is None or frame.stamp.seq in wanted:
                    yield frame.stamp.seq, frame.image_bgr
        finally:
            source.close()
        if ledger.captured < self.count:
            raise SourceError(
                f"{self.shown}: only {ledger.captured} of {self.count} frames can be decoded; copy it again"
            )


NOTHING: Media = Pictures(Path("(none)"), {})
"""Of a recording whose frames are missing."""


def numbered(names: Collection[str], pattern: str, where: str) -> dict[int, str]:
    """Number → name of those names that match, rising; group 1 is the number.

    Raises:
        SourceError: two names have the same number, e.g. `7.jpg` and `007.jpg`.
    """
    found: dict[int, str] = {}
    for name in sorted(names):
        match = re.fullmatch(pattern, name, re.IGNORECASE)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise SourceError(f"{where}: {found[number]} and {name} have the same number; remove one")
        found[number] = name
    return dict(sorted(found.items()))


def pictures_in(folder: Path, pattern: str = r"(\d+)\.(?:jpe?g|png|bmp)") -> Media:
    """The pictures of a folder; NOTHING where there is none.

    Raises:
        SourceError: two have the same number, or the folder cannot be listed.
    """
    try:
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    found = numbered(names, pattern, str(folder))
    return Pictures(folder, found) if found else NOTHING


def pictures_zipped(archive: Path, task: str) -> Media:
    """The pictures of one task in a subject's archive (`T1/0001.jpg`, perhaps within a folder).

    Raises:
        SourceError: it is no archive, cut off, or has two pictures of one number.
    """
    with _open_zip(archive) as opened:
        names = opened.namelist()
    found = numbered(names, rf"(?:.*/)?{re.escape(task)}/(\d+)\.(?:jpe?g|png)", str(archive))
    return Pictures(archive, found) if found else NOTHING


def video(path: Path) -> Media:
    """A video, with the number of its frames.

    Raises:
        SourceError: it cannot be opened.
    """
    try:
        with av.open(f"file:{path}") as container:
            stream = next((s for s in container.streams if s.type == "video"), None)
            if stream is None:
                raise SourceError(f"{printable(str(path))}: no video stream in it; expected a video")
            count = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
            rate = stream.average_rate
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise SourceError(
            f"{printable(str(path))}: not a video that can be opened ({reason}); copy it again"
        ) from None
    return Video(path, count, float(rate) if rate else None)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: not a zip archive that can be opened ({error}); copy it again") from None
