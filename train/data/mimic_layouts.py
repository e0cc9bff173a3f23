"""Writing rendered recordings in each dataset's own layout; what each is like is told in its loader."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Protocol, cast

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from train.data import bp4d, ckplus, disfa, fera2015, fera2017
from train.data.folds import PUBLISHED
from train.synth.script import LABELLED

_POSED_HZ = 20.0
"""Of DISFA+ and CK+, whose rates are not published."""
_MARGIN = 2
"""Pictures of a BP4D task before and after those that are coded."""
_FIRST = 41
"""Number of the first coded picture of a BP4D task."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A rendered recording of n frames."""

    pictures_bgr: list[NDArray[np.uint8]]
    intensity: NDArray[np.float32]
    """(n, 20): 0–5, columns as `LABELLED`."""
    occurrence: NDArray[np.uint8]
    """(n, 20): 0, 1, 9."""
    aus: tuple[str, ...]
    """What was to be shown, in order."""

    def levels(self, aus: Sequence[str]) -> NDArray[np.int64]:
        """(n, A): whole intensities."""
        chosen = self.intensity[:, [LABELLED.index(au) for au in aus]]
        return np.floor(chosen + 0.5).astype(np.int64)

    def present(self, aus: Sequence[str]) -> NDArray[np.uint8]:
        """(n, A): 0, 1, 9."""
        return self.occurrence[:, [LABELLED.index(au) for au in aus]]


class Record(Protocol):
    """`Sitter.record`"""

    def __call__(self, frames: int, rate_hz: float, to_peak: bool = ..., yaw_deg: float = ...) -> Shown: ...


@dataclass(frozen=True)
class Layout:
    """How to write one dataset."""

    name: str
    title: str
    aus: tuple[str, ...]
    """That people shall show."""
    subjects: tuple[str, ...]
    """Who is rendered first, so that few people are spread over the published parts."""
    write: Callable[[Path, str, Record, float], None]
    """(root, subject, record, seconds): render and write one person."""


def spread(dataset: str) -> tuple[str, ...]:
    """A dataset's subjects, one of each published part after the other."""
    rounds = zip_longest(*PUBLISHED[dataset].values())
    return tuple(name for name in chain.from_iterable(rounds) if name is not None)


def put(path: Path, content: str | bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def packed(picture_bgr: NDArray[np.uint8], suffix: str) -> bytes:
    """A picture as the bytes of a `.jpg` or `.png` file."""
    return cv2.imencode(suffix, picture_bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _pictures(folder: Path, pictures: Iterable[NDArray[np.uint8]], name: Callable[[int], str]) -> None:
    for k, picture in enumerate(pictures):
        put(folder / name(k), packed(picture, Path(name(k)).suffix))


def _video(path: Path, pictures: Sequence[NDArray[np.uint8]], rate_hz: float, codec: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures[0].shape[:2]
    best = {"crf": "14", "preset": "veryfast", "threads": "1"} if codec == "libx264" else {"qscale": "2"}
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=Fraction(rate_hz), options=best))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode(None))


def number_of(au: str) -> int:
    """`AU06` → 6"""
    return int(au[2:])


def _frames(seconds: float, rate_hz: float) -> int:
    return max(round(seconds * rate_hz), 6)


def disfa_person(root: Path, subject: str, record: Record, seconds: float) -> None:
    """One video and 12 files of intensities; no landmark files, as no loader reads them."""
    shown = record(_frames(seconds, disfa.RATE_HZ), disfa.RATE_HZ)
    _video(
        root / "Videos_LeftCamera" / f"LeftVideo{subject}_comp.avi",
        shown.pictures_bgr,
        disfa.RATE_HZ,
        "mpeg4",
    )
    for au, column in zip(disfa.AUS, shown.levels(disfa.AUS).T, strict=True):
        rows = "".join(f"{k},{level}\r\n" for k, level in enumerate(column, start=1))
        put(root / "ActionUnit_Labels" / subject / f"{subject}_au{number_of(au)}.txt", rows)


def disfaplus_person(root: Path, subject: str, record: Record, seconds: float) -> None:
    """Trials of one expression each."""
    count = max(round(seconds / 1.2), 1)
    for trial in range(count):
        shown = record(_frames(seconds / count, _POSED_HZ), _POSED_HZ)
        name = f"A{trial + 1}_AU{number_of(shown.aus[0])}_TrailNo_1"
        folder = root / "Images" / subject / name
        _pictures(folder, shown.pictures_bgr, lambda k: f"{k:03d}.jpg")
        put(
            folder / "TimeStamp.txt",
            "\n".join(f"{k / _POSED_HZ:.3f}" for k in range(len(shown.pictures_bgr))),
        )
        for au, column in zip(disfa.AUS, shown.levels(disfa.AUS).T, strict=True):
            rows = "".join(f"{k:03d}.jpg     {level}\n" for k, level in enumerate(column))
            heading = f"AU{number_of(au)} {name}\nframe     intensity\n"
            put(root / "Labels" / subject / name / f"AU{number_of(au)}.txt", heading + rows)


def _occurrence(aus: Sequence[str], rows: NDArray[np.uint8], first: int) -> str:
    heading = ",".join(["0", *(str(number_of(au)) for au in aus)])
    return "\n".join([heading, *(",".join(map(str, (first + k, *row))) for k, row in enumerate(rows))]) + "\n"


def bp4d_person(
    kind: bp4d.Kind, archive: bool, root: Path, subject: str, record: Record, seconds: float
) -> None:
    """All tasks, each with a few pictures more than are coded."""
    coding, part = root / "AUCoding", slice(_MARGIN, -_MARGIN)
    for task in kind.tasks:
        if f"{subject}/{task}" in kind.left_out:
            continue
        count = _frames(seconds / len(kind.tasks), bp4d.RATE_HZ) + 2 * _MARGIN
        shown = record(count, bp4d.RATE_HZ)
        table = _occurrence(kind.aus, shown.present(kind.aus)[part], _FIRST)
        put(coding / "AU_OCC" / f"{subject}_{task}.csv", table)
        for au, column in zip(kind.intensity_aus, shown.levels(kind.intensity_aus)[part].T, strict=True):
            rows = "".join(f"{_FIRST + k},{level}\n" for k, level in enumerate(column))
            put(coding / "AU_INT" / au / f"{subject}_{task}_{au}.csv", rows)
        name = partial("{:04d}.jpg".format)
        numbers = range(_FIRST - _MARGIN, _FIRST - _MARGIN + count)
        if not archive:
            folder = root / "BP4D-training" / subject / task
            for number, picture in zip(numbers, shown.pictures_bgr, strict=True):
                put(folder / name(number), packed(picture, ".jpg"))
            continue
        (root / "2D+3D").mkdir(exist_ok=True)
        with zipfile.ZipFile(root / "2D+3D" / f"{subject}.zip", "a") as opened:
            for number, picture in zip(numbers, shown.pictures_bgr, strict=True):
                opened.writestr(f"{task}/{name(number)}", packed(picture, ".jpg"))


def ckplus_person(root: Path, subject: str, record: Record, seconds: float) -> None:
    """Sequences of half a second from neutral to the peak, whose last picture is coded."""
    for sequence in range(1, max(round(seconds / 0.5), 1) + 1):
        shown = record(10, _POSED_HZ, to_peak=True)
        stem = f"{subject}_{sequence:03d}"
        folder = root / "cohn-kanade-images" / subject / f"{sequence:03d}"
        _pictures(folder, shown.pictures_bgr, lambda k, stem=stem: f"{stem}_{k + 1:08d}.png")  # type: ignore[misc]
        coded = {
            number_of(au): int(level)
            for au, level, present in zip(
                ckplus.AUS, shown.levels(ckplus.AUS)[-1], shown.present(ckplus.AUS)[-1], strict=True
            )
            if present == 1
        }
        rows = "".join(f"   {au:.7e}   {level:.7e}\n" for au, level in coded.items())
        put(root / "FACS" / subject / f"{sequence:03d}" / f"{stem}_{10:08d}_facs.txt", rows)


VIEWS: Mapping[int, float] = {6: 0.0, 3: 25.0}
"""FERA 2017's views that are rendered, and how far the head is turned there."""


def fera2017_person(root: Path, subject: str, record: Record, seconds: float) -> None:
    """A task from each view, each with acting and labels of its own."""
    for task, (view, yaw_deg) in enumerate(VIEWS.items(), start=1):
        shown = record(_frames(seconds / len(VIEWS), bp4d.RATE_HZ), bp4d.RATE_HZ, yaw_deg=yaw_deg)
        stem = f"FERA17_{subject}_T{task}"
        _video(root / "ims" / f"{stem}_{view}.mp4", shown.pictures_bgr, bp4d.RATE_HZ, "libx264")
        put(root / "occ" / f"{stem}.csv", _occurrence(fera2017.AUS, shown.present(fera2017.AUS), 1))
        for au, column in zip(fera2017.INTENSITY_AUS, shown.levels(fera2017.INTENSITY_AUS).T, strict=True):
            rows = "".join(f"{1 + k},{level}\n" for k, level in enumerate(column))
            put(root / "int" / f"{stem}_{au}_Int.csv", rows)


DATASETS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("disfaplus", "DISFA+", disfa.AUS, spread("disfaplus"), disfaplus_person),
        Layout("disfa", "DISFA", disfa.AUS, spread("disfa"), disfa_person),
        Layout("bp4d", "BP4D", bp4d.AUS, spread("bp4d"), partial(bp4d_person, bp4d.KIND, False)),
        Layout("bp4dplus", "BP4D+", bp4d.AUS, bp4d.PLUS_SUBJECTS, partial(bp4d_person, bp4d.PLUS_KIND, True)),
        Layout("ckplus", "CK+", ckplus.AUS, tuple(f"S{n:03d}" for n in range(10, 133)), ckplus_person),
        Layout(
            "fera2015",
            "FERA 2015",
            fera2015.AUS,
            spread("fera2015"),
            partial(bp4d_person, fera2015.KIND, False),
        ),
        Layout(
            "fera2017",
            "FERA 2017",
            fera2017.AUS,
            tuple(chain(*((f"TR_F{n:03d}", f"VA_F{n:03d}") for n in range(1, 21)))),
            fera2017_person,
        ),
    )
}
