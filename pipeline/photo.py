"""Photos: streams of one frame."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_RATE_HZ = 25.0
"""A photo has no rate; this is what windows reckon with."""


def read_photo(path: Path) -> NDArray[np.uint8]:
    """A photo as upright H×W×3 BGR; grey and 16-bit pictures are converted.

    Raises:
        SourceError: it cannot be read or is no picture.
    """
    try:
        encoded = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if len(encoded) else None
    if image is None:
        raise SourceError(f"{path}: not a picture that can be decoded; expected JPEG, PNG, WebP, BMP or TIFF")
    return np.asarray(image, np.uint8)


class PhotoSource:
    """A photo: a stream of one frame."""

    def __init__(self, path: Path, stream: str) -> None:
        self._image = read_photo(path)
        height, width = self._image.shape[:2]
        self.info = StreamInfo(stream, (width, height), _RATE_HZ, 1, live=False)

    def frames(self, ledger: Ledger, epoch: int = 0, first_seq: int = 0) -> Iterator[Frame]:
        ledger.captured += 1
        yield Frame(
            Stamp(self.info.stream, epoch, first_seq, 0.0, time.monotonic(), time.time()), self._image
        )

    def close(self) -> None:
        pass
