"""Photos: streams of one frame."""

from __future__ import annotations

import io
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.address import printable
from pipeline.errors import SourceError
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_RATE_HZ = 25.0
"""A photo has no rate; this is what windows reckon with."""
_WEBP_TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: lambda image: cv2.transpose(image),
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""By EXIF orientation; OpenCV itself turns the other formats."""

cv2.setLogLevel(0)  # OpenCV's own chatter; what is wrong is said here, in one line


def read_photo(path: Path) -> NDArray[np.uint8]:
    """A photo as upright H×W×3 BGR; grey and 16-bit pictures are converted, transparency is ignored.

    Raises:
        SourceError: it cannot be read, is no picture, is damaged, or larger than any camera's.
    """
    shown = printable(str(path))
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{shown}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    orientation = _check_whole(encoded, shown)
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    except cv2.error:
        image = None
    if image is None:
        raise SourceError(
            f"{shown}: not a picture that can be decoded; expected JPEG, PNG, WebP, BMP or TIFF"
        )
    return np.asarray(_WEBP_TURNS.get(orientation, lambda upright: upright)(image), np.uint8)


def _check_whole(encoded: bytes, shown: str) -> int:
    """See that the picture can be read to its end, which OpenCV does not tell from an unknown format.

    Returns:
        The EXIF orientation where OpenCV leaves it to us (WebP), 1 otherwise.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow finds merely odd
            with Image.open(io.BytesIO(encoded)) as picture:
                picture.load()
                return (
                    int(picture.getexif().get(ExifTags.Base.Orientation, 1))
                    if picture.format == "WEBP"
                    else 1
                )
    except UnidentifiedImageError:
        return 1  # OpenCV reads some that Pillow does not, such as 16-bit colour TIFF
    except Image.DecompressionBombError:
        raise SourceError(
            f"{shown}: too large; expected at most {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} megapixels"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = str(error).split("\n")[0]
        raise SourceError(f"{shown}: a damaged picture ({reason}); copy or export it again") from None


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
