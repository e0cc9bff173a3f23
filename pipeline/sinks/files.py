"""Files that appear under their own name only when they are whole, and the names of files per stream."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.errors import OutputError

LOG = logging.getLogger(__name__)

_MEDIA_SUFFIX = re.compile(
    r"\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|ts|m2ts|wmv|flv|gif|jpe?g|png|bmp|tiff?|webp)$", re.I
)
_LONGEST_NAME = 100
# Windows refuses these, with any ending.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.I)


class PartFile:
    """A file that is written as NAME.part and takes its name in `commit`; an earlier NAME stays until then.

    Made before the run, when it checks that the .part can be written. Every OSError becomes an OutputError.
    """

    def __init__(self, target: Path) -> None:
        self.part = part_of(target)
        self.target = self.part.with_suffix("")
        self._done = False
        self.rows = 0
        """What has been written, for `abort` to decide whether the .part is worth keeping."""
        self._file: IO[bytes] | None = None
        with self.errors("cannot be written"):
            self.part.open("wb").close()

    @property
    def file(self) -> IO[bytes]:
        """The .part, open for writing: from its first use, for a run may have more outputs than handles."""
        if self._file is None:
            with self.errors("cannot be written"):
                self._file = self.part.open("wb", buffering=1 << 16)
        return self._file

    @contextmanager
    def errors(self, what: str = "could not be written to the end") -> Iterator[None]:
        """Turns what the system or a library reports into one line about this file."""
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"{self.target}: {what}: {_reason(error)}") from error

    def write(self, data: bytes) -> None:
        with self.errors():
            self.file.write(data)

    def flush(self) -> None:
        with self.errors():
            self.file.flush()

    def close(self) -> None:
        """Closes the .part, should it be open; what was buffered is on its way to the disk afterwards."""
        if self._file is not None and not self._file.closed:
            with self.errors():
                self._file.close()

    def commit(self) -> Path:
        """Closes the file and gives it its name."""
        self.close()
        with self.errors("could not take the place of its .part file"):
            self.part.replace(self.target)
        self._done = True
        return self.target

    def discard(self) -> None:
        """Closes and removes the .part, unless it has its name already. Does not raise."""
        if self._done:
            return
        self._done = True
        with suppress(OSError):
            self.close()
        with suppress(OSError):
            self.part.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Closes the .part after a failed run: removes it when it has no rows, otherwise says where it is.

        Does not raise.
        """
        if self.rows == 0:
            self.discard()
        if self._done:
            return
        self._done = True
        with suppress(OSError):
            self.close()
        LOG.warning("%s: incomplete, %d frames, for it was not closed in order", self.part, self.rows)


def part_of(target: Path) -> Path:
    """Where a file is written until it is whole."""
    # A link keeps pointing to its file, which is replaced where it really lies.
    target = target.resolve() if target.is_symlink() else target
    return target.with_name(target.name + ".part")


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full; free some space or choose another place with --out"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "the folder or file may not be written; choose another place with --out"
        case errno.EMFILE | errno.ENFILE:
            return "too many open files; raise the limit (ulimit -n) or write fewer outputs at once"
    return f"{error.strerror or error}; choose another place with --out"


def safe_name(stream: str) -> str:
    """A stream's name as part of a file name, valid on every system; never empty, not unique.

    >>> safe_name("rtsp://host:554/cam 1")
    'rtsp_host_554_cam_1'
    """
    name = re.sub(r"[^\w.\-]+", "_", stream).strip("._-")
    while len(name.encode()) > _LONGEST_NAME:
        name = name[:-1]
    name = name.rstrip("._-") or "stream"
    return f"_{name}" if _RESERVED.match(name) else name


def file_names(streams: Sequence[str]) -> dict[str, str]:
    """By stream: its part of a file name, unique without regard to case.

    A file's ending goes (`clip.mp4` → `clip`) unless two streams would then share a name; what is equal even
    so gets a number.
    """
    short = {stream: safe_name(_MEDIA_SUFFIX.sub("", stream)) for stream in streams}
    folded = [name.casefold() for name in short.values()]
    names: dict[str, str] = {}
    taken: set[str] = set()
    for stream, name in short.items():
        wanted = name if folded.count(name.casefold()) == 1 else safe_name(stream)
        unique, number = wanted, 1
        while unique.casefold() in taken or (unique != name and unique.casefold() in folded):
            number += 1
            unique = f"{wanted}-{number}"
        taken.add(unique.casefold())
        names[stream] = unique
    return names


def named(path: Path, *parts: str) -> Path:
    """`faces.csv` with the parts `clip` and `cednn`: `faces.clip.cednn.csv`."""
    return path.with_name(".".join([path.stem, *parts]) + path.suffix)
