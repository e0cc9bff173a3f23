"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import OutputError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; moved there in the end, unless the block raised.

    Raises:
        OutputError: it cannot be written; nothing of it stays.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        if part.is_file():
            part.unlink()
        if isinstance(error, OSError):
            raise OutputError(
                f"{path}: cannot write it: {error.strerror or error}; free space or choose another place"
            ) from None
        raise


def write_whole(path: Path, content: bytes) -> None:
    """A whole file of some bytes.

    Raises:
        OutputError: it cannot be written; nothing of it stays.
    """
    with whole(path) as part:
        part.write_bytes(content)
