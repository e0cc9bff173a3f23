"""Neutral profiles: a person's neutral face in a file, a NumPy archive without pickle."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.spec import LANDMARKS
from pipeline.align import ALIGNED_PX
from pipeline.errors import OutputError, SourceError
from pipeline.neutral import Neutral
from pipeline.whole import whole

_VERSION = 2
_LARGEST_BYTES = 1 << 18
"""Of an array; the picture has 150,528."""


def save_profile(path: Path, neutral: Neutral) -> None:
    """Write a neutral face as a profile: a NumPy archive without pickle.

    Raises:
        OutputError: the file cannot be written.
    """
    about = json.dumps({"format": "austream-neutral", "version": _VERSION, "alignment": "five_point"})
    with whole(path) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            image_bgr=neutral.image_bgr,
            landmarks=neutral.landmarks,
            about=np.frombuffer(about.encode(), np.uint8),
        )


def load_profile(path: Path) -> Neutral:
    """Read a neutral profile.

    Raises:
        SourceError: not a profile, damaged, or written by a later version.
    """
    wrong = f"{path}: not a neutral profile of austream; expected a .npz written by --save-neutral"
    try:
        with zipfile.ZipFile(path) as archive:
            about: dict[str, Any] = json.loads(_member(archive, "about").tobytes())
            image = np.ascontiguousarray(_member(archive, "image_bgr"))
            # Asked for by name first: a profile of another version is to be called that.
            landmarks = _member(archive, "landmarks") if about.get("version") == _VERSION else np.zeros(0)
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror or 'damaged'}); expected a neutral profile"
        ) from error
    except Exception as error:  # zipfile, zlib, json and numpy each raise their own on damage
        raise SourceError(f"{wrong} ({type(error).__name__})") from error
    if about.get("format") != "austream-neutral":
        raise SourceError(wrong)
    if about.get("version") != _VERSION:
        raise SourceError(
            f"{path}: profile version {about.get('version')}, expected {_VERSION}; save it again"
        )
    if image.shape != (ALIGNED_PX, ALIGNED_PX, 3) or image.dtype != np.uint8:
        raise SourceError(wrong)
    if landmarks.shape != (LANDMARKS, 3) or landmarks.dtype.kind != "f" or not np.isfinite(landmarks).all():
        raise SourceError(wrong)
    return Neutral(image, "given", landmarks.astype(np.float32))


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of the archive; ValueError when it says that it is larger than any in a profile."""
    with archive.open(f"{name}.npy") as file:
        data = io.BytesIO(file.read(_LARGEST_BYTES))
    if np.lib.format.read_magic(data) != (1, 0):
        raise ValueError("another version of NumPy's format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(data)
    if math.prod(shape) * dtype.itemsize > _LARGEST_BYTES:
        raise ValueError(f"an array of {shape}")
    data.seek(0)
    return np.asarray(np.lib.format.read_array(data, allow_pickle=False))


def save_main_neutral(target: str, held: Neutral | None) -> None:
    """Save the neutral of the face that was longest in view, where --save-neutral says.

    Raises:
        OutputError: there is none, or it cannot be written.
    """
    if held is None:
        raise OutputError(
            f"--save-neutral {target}: no neutral was gathered: look at the camera at rest for a second, "
            "or use --neutral first:2"
        )
    save_profile(Path(target), held)


def check_target(path: Path) -> None:
    """OutputError when --save-neutral could not write there."""
    if not path.parent.is_dir():
        raise OutputError(f"--save-neutral {path}: there is no folder {path.parent}; make it first")
    if path.suffix != ".npz":
        raise OutputError(f"--save-neutral {path}: expected a name that ends in .npz")
