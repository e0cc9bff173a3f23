"""`--source demo`: a clip that the project makes itself, from a public-domain portrait and a script.

python -m train.synth.demo --sheet out.png writes one picture of every segment's apex beside the neutral face.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import platformdirs
from numba import njit
from numpy.typing import NDArray
from skimage.data import astronaut

from pipeline.errors import AustreamError, OutputError
from train.synth.donor import SIZE_WH, load_donor
from train.synth.render import Renderer
from train.synth.timeline import (
    FRAMES,
    FRAMES_PER_SECOND,
    SEGMENTS,
    Event,
    events,
    light_at,
    pose_at,
    timeline_at,
)

__all__ = ["Event", "ensure_clip", "events", "frame_at", "frames", "timeline_at"]

_SEED = 20
_NOISE_LEVELS = 1.6  # standard deviation of the sensor noise, in grey levels
_X264 = {"crf": "16", "preset": "veryfast"}


def frames() -> Iterator[NDArray[np.uint8]]:
    """The clip, one (H, W, 3) uint8 BGR picture after another, FRAMES of them at FRAMES_PER_SECOND."""
    renderer = Renderer(load_donor())
    for index in range(FRAMES):
        yield frame_at(renderer, index)


def frame_at(renderer: Renderer, index: int) -> NDArray[np.uint8]:
    """One frame of the script, (H, W, 3) uint8 BGR; the same whenever it is asked for."""
    seconds = index / FRAMES_PER_SECOND
    picture = renderer.render(timeline_at(seconds), pose_at(seconds), light_at(seconds))
    add_noise(picture, _NOISE_LEVELS, np.uint32(_SEED + 7919 * index))
    return picture


def ensure_clip(progress: Callable[[int, int], None] | None = None) -> Path:
    """The clip, an H.264 file in the user's cache; the first call renders it and reports (done, total)."""
    folder = _cache_root() / "demo"
    path = folder / f"demo-{fingerprint()}.mp4"
    if path.exists():
        return path
    temporary: str | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(suffix=".mp4", prefix=".rendering-", dir=folder)
        os.close(handle)
        _encode(Path(temporary), progress)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"the demo clip cannot be written to {folder}: {error}; set AUSTREAM_CACHE_DIR"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path


def _cache_root() -> Path:
    return Path(os.environ.get("AUSTREAM_CACHE_DIR") or platformdirs.user_cache_dir("austream"))


def fingerprint() -> str:
    """Sixteen hex digits of what the clip depends on in this tree: the renderer's sources and the donor."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    digest.update(astronaut().tobytes())
    return digest.hexdigest()[:16]


def _encode(path: Path, progress: Callable[[int, int], None] | None) -> None:
    width, height = SIZE_WH
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=_X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, FRAMES_PER_SECOND)
        for index, picture in enumerate(frames()):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_SECOND)
            container.mux(stream.encode(frame))
            if progress:
                progress(index + 1, FRAMES)
        container.mux(stream.encode(None))


@njit(cache=True)
def add_noise(picture, levels, seed):  # type: ignore[no-untyped-def]
    """Adds noise in place: one draw a pixel for all channels, since a sensor's grain is mostly grey."""
    state = np.uint32(seed * np.uint32(2654435761) + np.uint32(1))
    for y in range(picture.shape[0]):
        for x in range(picture.shape[1]):
            # xorshift; the four bytes of one draw add up to something close to a normal variate.
            state ^= np.uint32(state << np.uint32(13))
            state ^= np.uint32(state >> np.uint32(17))
            state ^= np.uint32(state << np.uint32(5))
            total = (state & 255) + ((state >> 8) & 255) + ((state >> 16) & 255) + ((state >> 24) & 255)
            noise = levels * (np.float32(total) - 510.0) / 147.8
            for k in range(3):
                picture[y, x, k] = np.uint8(min(max(picture[y, x, k] + noise + 0.5, 0.0), 255.0))


def _sheet() -> NDArray[np.uint8]:
    """Every segment's apex, labelled, four a row."""
    renderer = Renderer(load_donor())
    tiles = []
    for segment in SEGMENTS:
        tile = frame_at(renderer, round(segment.look * FRAMES_PER_SECOND))[20:450, 110:530].copy()
        label = f"{segment.name}  {segment.look:.2f} s"
        for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            cv2.putText(tile, label, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.65, colour, thickness, cv2.LINE_AA)
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
    return np.vstack([np.hstack(tiles[k : k + 4]) for k in range(0, len(tiles), 4)])


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m train.synth.demo", description="The demo clip.")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write a contact sheet instead of the clip")
    arguments = parser.parse_args()
    if arguments.sheet:
        if not cv2.imwrite(str(arguments.sheet), _sheet()):
            raise OutputError(f"the contact sheet cannot be written to {arguments.sheet}")
    else:
        print(ensure_clip(lambda done, total: print(f"\r{done}/{total}", end="", file=sys.stderr)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(_main())
    except AustreamError as error:
        sys.exit(f"error: {error}")
