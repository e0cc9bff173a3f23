"""`python -m bench attention --source CLIP --out PNG`: what engines look at, drawn over faces of a clip.

A row for each frame; beside the aligned face, for each engine, its attention over the crop that it reads,
computed by PyTorch from the bundle's weights:

    cednn           the level map as each block meets it: how many of the five difference maps are on (0 to 5)
    satnet          the self-attention of each AU, 7×7
    delta           the attention of each AU, 20×20 over the part that it reads, as a multiple of even
    arl             the spatial attention of each AU's branch, 44×44, refined by its CRF where it has one
    eacnet          the map around the AU centres, as each enhanced group of layers meets it
    tranet          the spatial attention of each region's branch, from its first module to its last

Learnt maps are drawn from the least to the greatest value in their column, which stand above it. AUs that the
engine calls on a frame stand below its row, and their maps are framed. Attention says where a network takes
features from, not why it calls an AU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.plots import save_figure
from engines.bundle import resolve
from engines.export import ExportedEngine
from engines.spec import EngineSpec
from engines.weights import load_network
from pipeline import align, mesh, sources
from pipeline.config import DEFAULT_ENGINES
from pipeline.errors import SourceError, UsageError
from pipeline.faces import FaceStage, Wanted
from pipeline.messages import FaceCrop, Ledger, Stamp
from pipeline.neutral import NeutralPolicy
from pipeline.windows import FaceWindow, spacing
from train.attention import FIXED_RANGE, LEAST_RANGE, SHOWN, Map, heat

FRAMES = 6
"""Frames shown where none are named."""
GAP = 0.35
"""Between two engines, in panels."""


@dataclass(frozen=True, slots=True)
class Look:
    """One engine on one frame."""

    crop_bgr: NDArray[np.uint8]
    """px×px×3, what it read."""
    maps: Mapping[str, Map]
    """By title; of any size, over the whole crop."""
    called: Mapping[str, float]
    """Probability of the AUs that reach their thresholds."""


@dataclass(frozen=True, slots=True)
class Looked:
    """One frame."""

    seq: int
    pts_seconds: float
    aligned_bgr: NDArray[np.uint8]
    looks: tuple[Look, ...]
    """In the order of the engines."""


class Looker:
    """An engine that shows its attention, on one stream."""

    def __init__(self, name: str, rate_hz: float) -> None:
        """Loads it.

        Raises:
            UsageError: no such engine, or one without attention.
            EngineError: the bundle is damaged.
        """
        bundle = resolve(name)
        self.spec = bundle.spec
        network = load_network(bundle)
        attends = getattr(network, "attends", True)  # T-Net and ResNet-18 are SAT-Net without
        if self.spec.network not in SHOWN or not attends:
            raise UsageError(f"--engine {name}: {self.spec.network} shows no attention; leave it out")
        self._engine = ExportedEngine(self.spec, network)
        self._every = spacing(rate_hz, self.spec.rate_hz or rate_hz)
        self._face: int | None = None
        self._window = self._new_window()

    def _new_window(self) -> FaceWindow:
        return FaceWindow(self.spec.window, self._every, hop=1)

    def push(self, stamp: Stamp, crop: FaceCrop) -> NDArray[np.uint8] | None:
        """Take the newest frame; the pixels to answer for, (window, px, px, 3), once there are enough."""
        if crop.face != self._face:
            self._face, self._window = crop.face, self._new_window()
        pixels = crop.crops_bgr[self.spec.crop.name]
        return self._window.push(pixels, stamp.epoch, stamp.seq, 1, crop.track_index, stamp.pts_seconds)[1]

    @torch.inference_mode()
    def look(self, window: NDArray[np.uint8], crop: FaceCrop) -> Look:
        """Answer for the newest frame."""
        spec = self.spec
        beside: dict[str, NDArray[Any] | None] = {
            "level_map": crop.level_map,
            "au_centers": align.au_centers_in_crop(spec.crop, crop.landmarks_px, crop.bbox_xyxy),
            "neutral": crop.neutral_bgr,
            "landmarks": crop.landmarks,
        }
        read = {
            name: torch.from_numpy(np.asarray(beside[name])[None])
            for name in spec.inputs(1)
            if name in beside
        }
        if "neutral" in read:
            read["neutral"] = self._engine.images(read["neutral"])
        pictures = torch.from_numpy(window if spec.window == 1 else window[None])
        logits, found = self._engine.network(self._engine.images(pictures), return_attention=True, **read)
        chances = torch.sigmoid(logits)[0].tolist()
        rows = zip(spec.aus, chances, spec.thresholds, strict=True)
        called = {au: chance for au, chance, threshold in rows if chance >= threshold}
        maps = SHOWN[spec.network](found, spec)
        if not maps:
            raise UsageError(f"--engine {spec.name}: this variant of {spec.network} has no map; leave it out")
        return Look(window[-1], maps, called)


def look_at(
    source: str, engines: Sequence[str], wanted: Sequence[int]
) -> tuple[list[Looked], list[EngineSpec]]:
    """Every wanted frame on which all engines have an answer, and the engines' specs.

    Args:
        source: a clip.
        engines: names or folders of bundles.
        wanted: numbers of frames; none for `FRAMES` spread evenly.

    Raises:
        UsageError: more than one source, or an engine without attention.
        SourceError: the clip cannot be read, has an answer on none of the frames, or none is named and it
            does not say how long it is.
    """
    streams = sources.resolve_sources([source], [])
    if len(streams) != 1:
        raise UsageError(f"--source {source}: {len(streams)} files; give one clip")
    stream = sources.open_source(streams[0])
    stage = None
    found: list[Looked] = []
    try:
        lookers = [Looker(name, stream.info.rate_hz) for name in engines]
        remaining = sorted(set(wanted or evenly(stream.info.frames, source)))
        stage = FaceStage(Wanted.by([looker.spec for looker in lookers]), NeutralPolicy("auto"), max_faces=1)
        for frame in stream.frames(Ledger(stream.info.stream)):
            crops = stage(frame)
            windows = [looker.push(frame.stamp, crops[0]) for looker in lookers] if crops else [None]
            if frame.stamp.seq != remaining[0]:
                continue
            remaining.pop(0)
            ready = [window for window in windows if window is not None]
            if len(ready) < len(lookers):
                print(f"frame {frame.stamp.seq}: left out, no face or not yet a full window")
            else:
                pairs = zip(lookers, ready, strict=True)
                looks = tuple(looker.look(window, crops[0]) for looker, window in pairs)
                transform = align.five_point_transform(crops[0].landmarks_px)
                aligned = mesh.warp(frame.image_bgr, transform, align.ALIGNED_PX)
                found.append(Looked(frame.stamp.seq, frame.stamp.pts_seconds, aligned, looks))
            if not remaining:
                break
    finally:
        stream.close()
        if stage is not None:
            stage.close()
    if not found:
        raise SourceError(f"{source}: no frame to show; name others with --frames, after the first window")
    return found, [looker.spec for looker in lookers]


def evenly(frames: int | None, source: str) -> list[int]:
    """Numbers of `FRAMES` frames spread over a clip.

    Raises:
        SourceError: its length is unknown.
    """
    if not frames:
        raise SourceError(f"{source}: does not say how many frames it has; name some with --frames")
    return [int((i + 0.5) / FRAMES * frames) for i in range(FRAMES)]


def ranges(looks: Sequence[Look], spec: EngineSpec) -> dict[str, tuple[float, float]]:
    """What each column of one engine is drawn from and to."""
    if spec.network in FIXED_RANGE:
        return dict.fromkeys(looks[0].maps, FIXED_RANGE[spec.network])
    found = {}
    for title in looks[0].maps:
        low = min(float(look.maps[title].min()) for look in looks)
        high = max(float(look.maps[title].max()) for look in looks)
        found[title] = (low, max(high, low + LEAST_RANGE))
    return found


def draw(path: Path, title: str, frames: Sequence[Looked], specs: Sequence[EngineSpec]) -> None:
    """Frames down, engines and their maps across."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scales = [ranges([frame.looks[e] for frame in frames], spec) for e, spec in enumerate(specs)]
    columns = 1 + sum(len(scale) + GAP for scale in scales)
    width, height = 0.55 + 1.02 * columns, 0.95 + 1.28 * len(frames)
    figure = plt.figure(figsize=(width, height))

    def panel(left: float, row: int, picture: NDArray[np.uint8]) -> Any:
        x, y = (0.5 + 1.02 * left) / width, 1 - (0.85 + 1.28 * row + 1.0) / height
        axes = figure.add_axes((x, y, 1.0 / width, 1.0 / height))
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    for row, frame in enumerate(frames):
        axes = panel(0, row, frame.aligned_bgr[:, :, ::-1])
        axes.set_ylabel(f"{frame.pts_seconds:.2f} s\nframe {frame.seq}", fontsize=8)
        left = 1 + GAP
        for e, spec in enumerate(specs):
            _draw_look(panel, left, row, frame.looks[e], scales[e], f"{spec.name} ({spec.trained})")
            left += len(scales[e]) + GAP
    figure.text(0.12 / width, 1 - 0.14 / height, title, va="center", fontsize=10)
    save_figure(figure, path, dpi=150)
    plt.close(figure)


def _draw_look(
    panel: Callable[[float, int, NDArray[np.uint8]], Any],
    left: float,
    row: int,
    look: Look,
    scale: Mapping[str, tuple[float, float]],
    name: str,
) -> None:
    """One engine's panels of one frame."""
    for m, (title, values) in enumerate(look.maps.items()):
        low, high = scale[title]
        axes = panel(left + m, row, heat(look.crop_bgr, values, low, high))
        if title in look.called:
            axes.spines[:].set(visible=True, color="#d55e00", linewidth=1.6)
        if row == 0:
            axes.set_title(f"{title}\n{_short(low)} – {_short(high)}", fontsize=7, pad=3)
        if m == 0:
            if row == 0:
                axes.text(0, 1.36, name, fontsize=9, weight="bold", transform=axes.transAxes)
            called = [f"{au} {chance:.2f}" for au, chance in look.called.items()] or ["calls nothing"]
            a_line = max(2 * len(look.maps), 1)
            words = "\n".join("  ".join(called[i : i + a_line]) for i in range(0, len(called), a_line))
            axes.text(0, -0.03, words, va="top", fontsize=6, color="#d55e00", transform=axes.transAxes)


def _short(value: float) -> str:
    value = max(value, 0.0) + 0.0  # no minus before a zero
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.2f}"


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers of frames such as 40,120, got {text!r}") from None


def main(argv: list[str]) -> int:
    """Draw one picture."""
    parser = argparse.ArgumentParser(
        prog="python -m bench attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--engine", default=",".join(DEFAULT_ENGINES), help="names or folders of bundles")
    parser.add_argument("--source", required=True, metavar="CLIP", help="a file, or demo")
    parser.add_argument(
        "--frames", type=_numbers, default=[], metavar="N,N,…", help=f"{FRAMES} spread evenly"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    arguments = parser.parse_args(argv)
    frames, specs = look_at(arguments.source, arguments.engine.split(","), arguments.frames)
    draw(arguments.out, f"Attention on {Path(arguments.source).name}", frames, specs)
    print(f"plot: {arguments.out}, frames {', '.join(str(frame.seq) for frame in frames)}")
    return 0
