"""Sheets to look at: each action unit at several intensities on several people, and people at random."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import OutputError
from train.synth.figure import Acting
from train.synth.pose import Pose
from train.synth.script import LABELLED
from train.synth.studio import Studio, plain

_TILE_PX = 200
_LEVELS = (0, 2, 3, 5)
_COMBINATIONS: tuple[tuple[int, ...], ...] = (
    (1, 2, 5, 25, 26),
    (6, 12, 25),
    (4, 7, 9, 10),
    (1, 4, 15, 17),
    (20, 25),
    (4, 6, 7, 43),
    (12, 14),
    (1, 4, 43),
    (1, 2, 4, 5, 20, 25),
    (9, 10, 25),
    (25, 27),
    (17, 24),
)


def write_sheet(path: Path, seed: int) -> None:
    """One PNG: AU by AU at intensities 0, 2, 3, 5 on three people, combinations, then people as they come.

    Raises:
        OutputError: the picture cannot be written.
    """
    people = [Studio(seed, number) for number in range(6)]
    rows = []
    for k, au in enumerate(LABELLED):
        cast = [people[(k + i) % len(people)] for i in range(3)]
        rows.append(np.hstack([_levels(studio, au) for studio in cast]))
    shown = [{f"AU{n:02d}": 0.9 for n in numbers} for numbers in _COMBINATIONS]
    rows += [_fit([_tile(studio, state) for state in shown]) for studio in people[:3]]
    for number in range(100, 108):
        studio = Studio(seed, number)
        shots = [studio.still(k) for k in range(3 * len(_LEVELS) - 1)]
        tiles = [_labelled(shot.picture_bgr, _words(shot.intensity)) for shot in shots]
        rows.append(_fit([_labelled(studio.neutral(False)[0], "neutral"), *tiles]))
    if not cv2.imwrite(str(path), np.vstack(rows)):
        raise OutputError(f"the sheet cannot be written to {path}")


def _levels(studio: Studio, au: str) -> NDArray[np.uint8]:
    return np.hstack([_tile(studio, {au: level / 5}) for level in _LEVELS])


def _tile(studio: Studio, state: Mapping[str, float]) -> NDArray[np.uint8]:
    both = {au: (share, share) for au, share in state.items()}
    if "AU27" in both:
        both["AU26"] = (min(1.0, 0.5 + state["AU27"]),) * 2 if state["AU27"] else (0.0, 0.0)
    words = "+".join(f"{au[2:].lstrip('0')}" for au in state) + f" at {5 * max(state.values()):.0f}"
    picture = plain(studio.figure, Acting(both), Pose(), 2 * _TILE_PX)
    edge = round(0.26 * _TILE_PX)
    return _labelled(picture[edge:-edge, edge:-edge], f"AU {words}")


def _words(intensity: NDArray[np.float32]) -> str:
    strong = [
        f"{au[2:].lstrip('0')}:{value:.0f}"
        for au, value in zip(LABELLED, intensity, strict=True)
        if value >= 1
    ]
    return " ".join(strong) or "-"


def _labelled(picture: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    tile = np.asarray(cv2.resize(picture, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_AREA), np.uint8)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(tile, words, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, thickness, cv2.LINE_AA)
    return tile


def _fit(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Tiles side by side, as many as a row of the sheet has."""
    wanted = 3 * len(_LEVELS)
    row = list(tiles[:wanted]) + [np.zeros_like(tiles[0])] * (wanted - len(tiles))
    return np.hstack(row)
