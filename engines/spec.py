"""What an engine is, apart from its weights: the part of a bundle that `engine.json` holds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

CropKind = Literal["five_point", "box", "level_eyes", "level_eyes_whole", "nose_center"]

AU_CENTERS = 20
"""The places on a face that `EngineSpec.au_centers` speaks of."""

LANDMARKS = 468
"""Points of the face mesh without the irises."""


LONGEST_WINDOW = 1024
"""Frames that a temporal engine may look at; a bundle that asks for more is damaged."""


@dataclass(frozen=True, slots=True)
class CropSpec:
    """Which picture of a face an engine wants."""

    kind: CropKind
    """`five_point`: aligned by eye corners and nose base (CEDNN). `box`: the face's box, upright as in the
    frame. `level_eyes`: eyes level, a square around eyes, nose and mouth corners, of which the middle 88 %
    (ARL's 176 of 200 px). `level_eyes_whole`: all of that square, which ARL's training cuts at random.
    `nose_center`: the middle of the nose's ridge in the centre, the chin near the lower edge (TRA-Net)."""
    size_px: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(CropKind):
            raise ValueError(
                f"crop: expected a kind among {', '.join(get_args(CropKind))}, got {self.kind!r}"
            )
        if self.size_px < 1:
            raise ValueError(f"crop: expected a size_px of 1 or more, got {self.size_px}")

    @property
    def name(self) -> str:
        """The key under which the face stage hands the crop over, e.g. `five_point_224`."""
        return f"{self.kind}_{self.size_px}"

    @staticmethod
    def named(name: str) -> CropSpec:
        """`five_point_224` → the crop.

        Raises:
            ValueError: it is no crop's name.
        """
        kind, _, size = name.rpartition("_")
        if kind not in get_args(CropKind) or not size.isdigit() or not int(size):
            kinds = ", ".join(get_args(CropKind))
            raise ValueError(
                f"crop: expected a name like five_point_224, of a kind among {kinds}, got {name!r}"
            )
        return CropSpec(kind, int(size))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Network, input, AUs, thresholds and provenance of one engine."""

    name: str
    """Lower-case letters, digits, `.`, `_` and `-`: it names folders and output files."""
    network: str
    """A key of `engines.networks.NETWORKS`: `cednn`, `satnet`, …"""
    variant: Mapping[str, Any]
    """Keyword arguments of the network's constructor, AU count excluded."""
    crop: CropSpec
    level_map: bool
    """Whether the network also reads the level map (224×224, 0–5)."""
    window: int
    """Frames per output: 1, or 16 for a temporal network."""
    rate_hz: float | None
    """Frames a second of the training footage; None where no rate matters."""
    aus: tuple[str, ...]
    """Names in the order of the outputs: `AU01`, `AU02`, …"""
    thresholds: tuple[float, ...]
    """Probability from which each AU counts as active."""
    provenance: Mapping[str, Any]
    """At least `trained`: `untrained`, or what it was trained on."""
    au_centers: bool = False
    """Whether the network also reads where its crop shows the 20 AU centres of EAC-Net's Table I."""
    neutral: bool = False
    """Whether the network also reads the person's neutral face, aligned and exposed like the frame; black
    where there is none."""
    landmarks: bool = False
    """Whether the network also reads the mesh points of the face and of its neutral, as seen from straight
    ahead: `pipeline.geometry.frontal_points`; zeros where there is no neutral."""
    max_intensity: float | None = None
    """For a network that estimates intensities: its output times this is one; None for probabilities."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.name):
            raise ValueError(
                f"name: expected lower-case letters, digits, '.', '_' and '-', got {self.name!r}"
            )
        if len(self.aus) != len(self.thresholds):
            raise ValueError(f"thresholds: expected {len(self.aus)} (one per AU), got {len(self.thresholds)}")
        if len(set(self.aus)) != len(self.aus) or not self.aus:
            raise ValueError(f"aus: expected distinct names, at least one, got {list(self.aus)}")
        for au in self.aus:
            if not (len(au) == 4 and au.startswith("AU") and au[2:].isdigit()):
                raise ValueError(f"aus: expected names like AU01, got {au!r}")
        if not all(0.0 < t < 1.0 for t in self.thresholds):
            raise ValueError(f"thresholds: expected numbers between 0 and 1, got {list(self.thresholds)}")
        if self.neutral and self.crop.name != "five_point_224":
            raise ValueError(f"neutral: expected a five_point_224 crop beside it, got {self.crop.name}")
        if not 1 <= self.window <= LONGEST_WINDOW:
            raise ValueError(f"window: expected 1 to {LONGEST_WINDOW} frames, got {self.window}")
        if self.rate_hz is not None and not (0.0 < self.rate_hz < math.inf):
            raise ValueError(f"rate_hz: expected frames per second above 0, or null, got {self.rate_hz}")
        if self.max_intensity is not None and not (0.0 < self.max_intensity < math.inf):
            raise ValueError(f"max_intensity: expected a number above 0, or none, got {self.max_intensity}")
        if not self.provenance.get("trained"):
            raise ValueError("provenance: expected a `trained` entry that says on what, or `untrained`")

    @property
    def trained(self) -> str:
        """One word or phrase for headers and overlays: `untrained`, `synthetic-trained`, …"""
        return str(self.provenance["trained"])

    def crops_shape(self, faces: int) -> tuple[int, ...]:
        """Shape of the uint8 BGR crops of so many faces: (B, px, px, 3), or (B, window, px, px, 3)."""
        frames = () if self.window == 1 else (self.window,)
        return (faces, *frames, self.crop.size_px, self.crop.size_px, 3)

    def inputs(self, faces: int) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and dtype of everything that the network reads of so many faces, by name.

        crops: uint8 BGR, see `crops_shape`. level_map: uint8 (B, px, px), 0–5. au_centers: float32
        (B, 20, 2), x and y as shares of the crop's side. neutral: uint8 BGR (B, px, px, 3). landmarks:
        float32 (B, 2, 468, 3), the face and its neutral.
        """
        px = self.crop.size_px
        beside: dict[str, tuple[tuple[int, ...], type]] = {
            "level_map": ((faces, px, px), np.uint8),
            "au_centers": ((faces, AU_CENTERS, 2), np.float32),
            "neutral": ((faces, px, px, 3), np.uint8),
            "landmarks": ((faces, 2, LANDMARKS, 3), np.float32),
        }
        read = {name: layout for name, layout in beside.items() if getattr(self, name)}
        return {"crops": (self.crops_shape(faces), np.uint8)} | read
