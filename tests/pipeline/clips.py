"""Small videos with known pixels and times, and a way to read them back."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.messages import Frame, Ledger, StreamInfo
from pipeline.sources import open_source, resolve_sources

RED, GREEN, BLUE, GREY = (40, 40, 200), (60, 180, 50), (200, 80, 40), (120, 120, 120)
"""BGR of the quadrants: top left, top right, bottom left, bottom right."""


def quadrants(width: int = 64, height: int = 48, shade: int = 0) -> NDArray[np.uint8]:
    """Four colours, and in the middle a grey field that tells the frames apart."""
    image = np.empty((height, width, 3), np.uint8)
    rows, columns = height // 2, width // 2
    image[:rows, :columns], image[:rows, columns:] = RED, GREEN
    image[rows:, :columns], image[rows:, columns:] = BLUE, GREY
    image[rows - rows // 3 : rows + rows // 3, columns - columns // 3 : columns + columns // 3] = shade
    return image


def corners(image: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """Mean colours of the four corners, in the order of `quadrants`."""
    h, w = image.shape[0] // 5, image.shape[1] // 5
    parts = image[:h, :w], image[:h, -w:], image[-h:, :w], image[-h:, -w:]
    return [np.rint(part.reshape(-1, 3).mean(0)).astype(int) for part in parts]


def shows(image: NDArray[np.uint8], colours: Sequence[tuple[int, int, int]], within: int = 6) -> bool:
    return all(
        np.abs(found - np.array(want)).max() <= within
        for found, want in zip(corners(image), colours, strict=True)
    )


def write_clip(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = 20,
    size_wh: tuple[int, int] = (64, 48),
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    gop: int | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    rotation: tuple[int, bool, bool] | None = None,
    picture: Callable[[int], NDArray[np.uint8]] | None = None,
    mode: str | None = None,
) -> Path:
    """Encode `picture(0)`, `picture(1)`, … (the quadrants when none is given) with PyAV."""
    width, height = size_wh
    with av.open(str(path), "w", options=container or {}, format=mode) as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = stream.time_base = time_base
        if gop is not None:
            stream.codec_context.gop_size = gop
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        for i in range(frames):
            image = picture(i) if picture else quadrants(width, height, 10 * i % 250)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = (pts[i] if pts else i), time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def busy(i: int, width: int = 160, height: int = 120) -> NDArray[np.uint8]:
    """Pictures that take many bytes, so that a cut or a damaged stretch hits something."""
    moving = np.random.default_rng(7).integers(0, 256, (height // 4, width // 4 + 64, 3), np.uint8)
    return np.repeat(np.repeat(moving[:, i : i + width // 4], 4, 0), 4, 1).copy()


def read(source: str | Path) -> tuple[StreamInfo, list[Frame], Ledger]:
    """Every frame of a source, as a run would get it."""
    spec = resolve_sources([str(source)], [])[0]
    ledger = Ledger(spec.stream)
    opened = open_source(spec)
    try:
        return opened.info, list(opened.frames(ledger)), ledger
    finally:
        opened.close()


def need(program: str, package: str) -> str:
    """The program's path; the test is skipped where the Debian package is missing."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}: apt-get install {package}")
    return found


def ffprobe_pts(path: Path) -> list[float]:
    """PTS in seconds of every frame of the video, by FFmpeg's own program."""
    command = [
        *(need("ffprobe", "ffmpeg"), "-v", "error", "-select_streams", "v:0"),
        *("-show_entries", "frame=best_effort_timestamp_time", "-of", "csv=p=0", str(path)),
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(line.strip(",")) for line in output.split() if line.strip(",")]
