"""Shards of a sample folder: which arrays they hold, and files that are whole or absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from engines.spec import CropSpec
from pipeline.errors import SourceError, first_line

UNKNOWN = 9
"""An occurrence that nobody knows, as in BP4D's files."""

Array = NDArray[Any]

ARRAYS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "level_map": ("uint8", ("n", 224, 224)),
    "neutral": ("int32", ("n",)),
    "neutrals": ("uint8", ("m", 224, 224, 3)),
    "neutral_points": ("float32", ("m", 478, 3)),
    "points": ("float32", ("n", 478, 3)),
    "intensity": ("float32", ("n", "A")),
    "occurrence": ("uint8", ("n", "A")),
    "subject": ("int32", ("n",)),
    "sequence": ("int32", ("n",)),
    "frame": ("int32", ("n",)),
    "pts_seconds": ("float64", ("n",)),
    "pose_deg": ("float32", ("n", 3)),
    "exposure": ("float32", ("n", 2)),
}
"""What a shard holds beside its crops: dtype and shape, n samples, m neutrals, A AUs.

level_map: 0–5, all 0 where there is no neutral. neutral: index into this shard's neutrals, −1 for none.
points and neutral_points: pixels of their own frame, as the streaming mesh found them. intensity: 0–5, NaN
unknown. occurrence: 0, 1 or 9 for unknown. sequence: frames of one clip, numbered through the whole folder;
−1 for a still. frame: position in the clip, steps of 1. pose_deg: yaw, pitch, roll. exposure: gain and offset
that matched the neutral to the frame, 1 and 0 without.
"""


def crop_layout(crop: str) -> tuple[str, tuple[str | int, ...]]:
    """dtype and shape of a crop's array, from its name: `box_224` → uint8 (n, 224, 224, 3), BGR.

    Raises:
        ValueError: it is no `CropSpec.name`.
    """
    px = CropSpec.named(crop).size_px
    return "uint8", ("n", px, px, 3)


def check_shard(arrays: Mapping[str, Array], aus: Sequence[str], crops: Sequence[str]) -> None:
    """Refuse arrays that are not what a shard holds.

    Raises:
        ValueError: names the array, what was expected and what was given.
    """
    wanted = ARRAYS | {crop: crop_layout(crop) for crop in crops}
    if set(arrays) != set(wanted):
        missing, extra = sorted(set(wanted) - set(arrays)), sorted(set(arrays) - set(wanted))
        raise ValueError(f"shard: missing arrays {missing}, unknown arrays {extra}")
    sizes = {"n": len(arrays["subject"]), "m": len(arrays["neutrals"]), "A": len(aus)}
    for name, (dtype, layout) in wanted.items():
        shape = tuple(sizes[size] if isinstance(size, str) else size for size in layout)
        got = arrays[name]
        if got.shape != shape or got.dtype != dtype:
            raise ValueError(f"{name}: expected {shape} {dtype}, got {got.shape} {got.dtype}")
    if sizes["n"] == 0:
        raise ValueError("shard: expected at least one sample, got none")
    _check_values(arrays, sizes["m"])


def _check_values(arrays: Mapping[str, Array], neutrals: int) -> None:
    if not np.isin(arrays["occurrence"], (0, 1, UNKNOWN)).all():
        raise ValueError(f"occurrence: expected 0, 1 or {UNKNOWN} for unknown, got other values")
    intensity = arrays["intensity"]
    if not (np.isnan(intensity) | ((intensity >= 0) & (intensity <= 5))).all():
        raise ValueError("intensity: expected 0 to 5, or NaN for unknown, got other values")
    if arrays["level_map"].max() > 5:
        raise ValueError(f"level_map: expected 0 to 5, got {arrays['level_map'].max()}")
    index = arrays["neutral"]
    if index.min() < -1 or index.max() >= neutrals:
        raise ValueError(
            f"neutral: expected −1 or an index below {neutrals}, got {index.min()} to {index.max()}"
        )
    if arrays["level_map"][index < 0].any():
        raise ValueError("level_map: expected all 0 where neutral is −1, got levels")
    for name in ("points", "neutral_points", "pts_seconds", "pose_deg", "exposure"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def check_header(file: Any, path: Path, index: Mapping[str, Any], count: int) -> None:
    """Names and shapes as samples.json says, without reading a picture.

    Raises:
        SourceError: they are not.
    """
    layouts = ARRAYS | {crop: crop_layout(crop) for crop in index["crops"]}
    if set(file.keys()) != set(layouts):
        raise SourceError(f"{path}: expected arrays {sorted(layouts)}, got {sorted(file.keys())}")
    sizes = {"n": count, "m": file.get_slice("neutrals").get_shape()[0], "A": len(index["aus"])}
    for name, (_dtype, layout) in layouts.items():
        shape = [sizes[size] if isinstance(size, str) else size for size in layout]
        got = file.get_slice(name).get_shape()
        if got != shape:
            raise SourceError(f"{path}: {name}: expected {shape}, got {got}; prepare the samples again")


def open_shard(path: Path) -> Any:
    """Map a shard; `get_tensor` and `get_slice` give its arrays.

    Raises:
        SourceError: it is missing or damaged.
    """
    try:
        return safe_open(path, framework="np")
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
        raise SourceError(
            f"{path}: expected a shard of samples, cannot read it: {reason}; make it again"
        ) from None
