"""Sample folders whose labels a network can learn from plain colours: no faces, no renderer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.samples import SampleWriter

PX = 224
CROPS = ("five_point_224", "box_224")


def shard(
    n: int,
    aus: int,
    seed: int = 0,
    *,
    subject: np.ndarray | None = None,
    sequence: np.ndarray | None = None,
    frame: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Arrays of one shard: each AU present paints its own bar brightly, into the crops and the level map.

    Half of the samples have a neutral, and the level map shows the bars in these alone.
    """
    rng = np.random.default_rng(seed)
    occurrence = rng.integers(0, 2, (n, aus)).astype(np.uint8)
    intensity = (occurrence * rng.integers(1, 6, (n, aus))).astype(np.float32)
    neutral = np.where(np.arange(n) % 2, np.arange(n) % 3, -1).astype(np.int32)
    picture = rng.integers(0, 60, (n, PX, PX, 3), dtype=np.uint8)
    level_map = np.zeros((n, PX, PX), np.uint8)
    height = PX // aus
    for i, row in enumerate(occurrence):
        for a in np.flatnonzero(row):
            bar = slice(a * height, (a + 1) * height)
            picture[i, bar] += np.uint8(150)
            if neutral[i] >= 0:
                level_map[i, bar] = 4
    return {
        "five_point_224": picture,
        "box_224": picture[:, ::-1].copy(),
        "level_map": level_map,
        "neutral": neutral,
        "neutrals": rng.integers(0, 255, (3, PX, PX, 3), dtype=np.uint8),
        "neutral_points": rng.uniform(0, 200, (3, 478, 3)).astype(np.float32),
        "points": rng.uniform(0, 200, (n, 478, 3)).astype(np.float32),
        "intensity": intensity,
        "occurrence": occurrence,
        "subject": (np.arange(n) // 4 if subject is None else subject).astype(np.int32),
        "sequence": (np.full(n, -1) if sequence is None else sequence).astype(np.int32),
        "frame": (np.zeros(n) if frame is None else frame).astype(np.int32),
        "pts_seconds": np.arange(n, dtype=np.float64) / 25,
        "pose_deg": np.zeros((n, 3), np.float32),
        "exposure": np.tile(np.float32([1, 0]), (n, 1)),
    }


def writer(folder: Path, aus: tuple[str, ...], seed: int = 0) -> SampleWriter:
    return SampleWriter(
        folder,
        source="synthetic",
        aus=aus,
        crops=CROPS,
        rate_hz=25.0,
        provenance={"seed": seed, "what": "bars"},
    )


def stills(folder: Path, n: int, aus: tuple[str, ...] = ("AU01", "AU12"), shards: int = 2) -> Path:
    """n stills of n/4 subjects, in so many shards."""
    made = writer(folder, aus)
    for k, rows in enumerate(np.array_split(np.arange(n), shards)):
        made.write_shard(f"s{k}", shard(len(rows), len(aus), seed=k, subject=rows // 4))
    made.finish()
    return folder


def clips(folder: Path, lengths: list[int], aus: tuple[str, ...] = ("AU01", "AU12")) -> Path:
    """One clip and subject a length; AUs change every 4 frames."""
    made = writer(folder, aus)
    for k, length in enumerate(lengths):
        full = np.full(length, k)
        arrays = shard(length, len(aus), seed=k, subject=full, sequence=full, frame=np.arange(length))
        hold = np.arange(length) // 4 * 4
        held = ("five_point_224", "box_224", "level_map", "neutral", "occurrence", "intensity")
        arrays |= {name: arrays[name][hold] for name in held}
        made.write_shard(f"c{k}", arrays)
    made.finish()
    return folder
