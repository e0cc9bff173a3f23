"""Made-up subjects in every dataset's own layout. Frame k is a tiny picture whose grey tells k."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np

DISFA_AUS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
BP4D_AUS = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
BP4D_LEVELS = (6, 10, 12, 14, 17)
FERA17_AUS = (1, 4, 6, 7, 10, 12, 14, 15, 17, 23)
FERA17_LEVELS = (1, 4, 6, 10, 12, 14, 17)


def grey(number: int) -> int:
    """What frame `number` looks like; 18 different greys."""
    return 16 + 12 * (number % 18)


def shot(number: int) -> np.ndarray:
    return np.full((32, 48, 3), grey(number), np.uint8)


def looks_like(picture_bgr: np.ndarray, number: int) -> bool:
    """Whether a decoded picture is frame `number`, or one 18 away."""
    return abs(float(picture_bgr.mean()) - grey(number)) < 5


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@cache
def encoded(number: int, suffix: str) -> bytes:
    return cv2.imencode(suffix, shot(number))[1].tobytes()


def pictures(folder: Path, numbers: Iterable[int], name: Callable[[int], str]) -> None:
    for number in numbers:
        put(folder / name(number), encoded(number, Path(name(number)).suffix))


def video(path: Path, count: int, rate: float, codec: str = "mpeg4") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for k in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shot(k), "bgr24")))
        container.mux(stream.encode(None))


def disfa(root: Path, subject: str, levels: Mapping[int, Sequence[int]], frames: int) -> None:
    """`levels`: AU → intensity of frames 1, 2, …; `frames`: of the video."""
    video(root / "Videos_LeftCamera" / f"LeftVideo{subject}_comp.avi", frames, 20)
    for au, column in levels.items():
        rows = "".join(f"{k},{level}\r\n" for k, level in enumerate(column, start=1))
        put(root / "ActionUnit_Labels" / subject / f"{subject}_au{au}.txt", rows)
    for k in range(frames + 1):  # one more than there are frames
        put(root / "Landmark_Points" / subject / "frame_lm" / f"{subject}_{k:04d}_lm.mat", b"")


def disfaplus(
    root: Path, subject: str, trial: str, levels: Mapping[int, Sequence[int]], *, nested: bool = False
) -> None:
    """`levels`: AU → intensity of pictures 0, 1, …"""
    inner = Path(subject) / subject if nested else Path(subject)
    count = len(next(iter(levels.values())))
    pictures(root / "Images" / inner / trial, range(count), lambda k: f"{k:03d}.jpg")
    put(root / "Images" / inner / trial / "TimeStamp.txt", "0 0\n")
    for au, column in levels.items():
        rows = "".join(f"{k:03d}.jpg     {level}\n" for k, level in enumerate(column))
        put(root / "Labels" / inner / trial / f"AU{au}.txt", f"AU{au} of {trial}\n12 = heading\n{rows}")


def occurrence_table(aus: Sequence[int], rows: np.ndarray, first: int) -> str:
    """AUs backwards, others between them, an occlusion flag at the end."""
    order = list(range(len(aus)))[::-1]
    heading = ["0", "5", "note", *(str(aus[a]) for a in order), "39", "occ"]
    lines = [
        [str(first + k), "9", "1", *(str(row[a]) for a in order), "1", "0"] for k, row in enumerate(rows)
    ]
    return "".join(",".join(line) + "\n" for line in [heading, *lines]) + "\n"


def bp4d(
    root: Path,
    subject: str,
    task: str,
    first: int,
    occurrence: np.ndarray,
    levels: np.ndarray | None = None,
    *,
    padding: int = 4,
    older: bool = False,
    archive: bool = False,
    pictures_of: str = "BP4D-training",
) -> None:
    """`occurrence` (n, 12) and `levels` (n, 5) of frames `first`, …; 2 more pictures on either side."""
    coding = root / "AUCoding"
    table = occurrence_table(BP4D_AUS, occurrence, first)
    put((coding if older else coding / "AU_OCC") / f"{subject}_{task}.csv", table)
    intensities = root / "AU Intensity Codes3.0" if older else coding / "AU_INT"
    for a, au in enumerate(BP4D_LEVELS if levels is not None else ()):
        rows = "".join(f"{first + k},{level}\n" for k, level in enumerate(levels[:, a]))
        put(intensities / f"AU{au:02d}" / f"{subject}_{task}_AU{au:02d}.csv", rows)
    numbers = range(first - 2, first + len(occurrence) + 2)
    place = root / pictures_of
    if not archive:
        pictures(place / subject / task, numbers, lambda k: f"{k:0{padding}d}.jpg")
        return
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place / f"{subject}.zip", "a") as opened:
        for k in numbers:
            opened.writestr(f"{task}/{k:0{padding}d}.jpg", encoded(k, ".jpg"))


def ckplus(root: Path, subject: str, sequence: str, count: int, coded: Mapping[int, int]) -> None:
    """`coded`: AU → intensity of the last frame, 0 where none was given."""
    stem = f"{subject}_{sequence}"
    folder = root / "cohn-kanade-images" / subject
    pictures(folder / sequence, range(1, count + 1), lambda k: f"{stem}_{k:08d}.png")
    put(folder / ".DS_Store", b"\0")
    put(folder / sequence / ".DS_Store", b"\0")
    rows = "".join(f"   {au:.7e}   {level:.7e}\n" for au, level in coded.items())
    put(root / "FACS" / subject / sequence / f"{stem}_{count:08d}_facs.txt", rows)


def fera2017(
    root: Path,
    part: str,
    subject: str,
    task: str,
    occurrence: np.ndarray,
    levels: np.ndarray,
    views: Sequence[int] = (6,),
    first: int = 1,
) -> None:
    """`occurrence` (n, 10) and `levels` (n, 7) of all frames; `first`: what the frame column begins with."""
    stem = f"FERA17_{part}_{subject}_{task}"
    for view in views:
        video(root / "ims" / f"{stem}_{view}.mp4", len(occurrence), 25, "libx264")
    put(root / "occ" / f"{stem}.csv", occurrence_table(FERA17_AUS, occurrence, first))
    for a, au in enumerate(FERA17_LEVELS):
        rows = "".join(f"{first + k},{level}\n" for k, level in enumerate(levels[:, a]))
        put(root / "int" / f"{stem}_AU{au:02d}_Int.csv", rows)
