"""What a network's attention looks like: maps by title, painted over the crop that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from engines.networks import delta
from engines.spec import EngineSpec
from train.batches import Batch
from train.networks import Learner
from train.pictures import WARN, Heading, save, start

Map = NDArray[np.float32]
"""(H, W)"""
LEAST_RANGE = 0.05
"""A column whose values differ by less is not stretched further: a flat map shall look flat."""


def _per_block(found: Any, _spec: EngineSpec) -> dict[str, Map]:
    return {f"block {i + 1}": _plain(maps.sum(dim=1)) for i, maps in enumerate(found)}


def _per_au(found: Any, spec: EngineSpec) -> dict[str, Map]:
    return {au: _plain(found[:, a]) for a, au in enumerate(spec.aus)}


def _per_au_of_middle(found: Any, spec: EngineSpec) -> dict[str, Map]:
    """Delta's maps sum to 1 and cover a part of the crop; around it they are 0."""
    cells = found.shape[2] * found.shape[3]
    whole = torch.zeros((*found.shape[:2], spec.crop.size_px, spec.crop.size_px))
    part = whole[:, :, delta.ROWS, delta.COLUMNS]
    part.copy_(functional.interpolate(found * cells, size=part.shape[2:]))
    return _per_au(whole, spec)


def _per_branch(found: Any, spec: EngineSpec) -> dict[str, Map]:
    pairs = zip(spec.aus, found, strict=True)
    return {au: _plain(one.refined[:, 0]) for au, one in pairs if one.refined is not None}


def _per_group(found: Any, _spec: EngineSpec) -> dict[str, Map]:
    return {f"group {i + 3}": _plain(maps[:, 0]) for i, maps in enumerate(found or ())}


def _per_region(found: Any, _spec: EngineSpec) -> dict[str, Map]:
    return {f"{name} {i + 1}": _plain(m[:, 0]) for name, maps in found.items() for i, m in enumerate(maps)}


def _plain(maps: torch.Tensor) -> Map:
    array: Map = maps[0].numpy()
    return array


SHOWN: dict[str, Callable[[Any, EngineSpec], dict[str, Map]]] = {
    "cednn": _per_block,
    "satnet": _per_au,
    "delta": _per_au_of_middle,
    "arl": _per_branch,
    "eacnet": _per_group,
    "tranet": _per_region,
}
"""By network: its attention as maps with titles."""
FIXED_RANGE = {"cednn": (0.0, 5.0)}
"""By network: what its maps range over, where that is known beforehand."""


def heat(crop_bgr: NDArray[np.uint8], values: Map, low: float, high: float) -> NDArray[np.uint8]:
    """A map over its crop, px×px×3 RGB: grey where it is least, red to yellow where it is most."""
    import matplotlib

    px = crop_bgr.shape[0]
    smooth = cv2.INTER_NEAREST if values.shape[0] >= px // 4 else cv2.INTER_CUBIC
    stretched = np.clip((cv2.resize(values, (px, px), interpolation=smooth) - low) / (high - low), 0, 1)
    grey = cv2.cvtColor(crop_bgr, cv2.COLOR_BGR2GRAY)[:, :, None].astype(np.float32)
    colour = 255 * matplotlib.colormaps["inferno"](0.25 + 0.65 * stretched)[:, :, :3]
    share = 0.75 * stretched[:, :, None]
    painted: NDArray[np.uint8] = np.round((1 - share) * grey + share * colour).astype(np.uint8)
    return painted


def shows(spec: EngineSpec) -> bool:
    """Whether a network has attention to show: T-Net, ResNet-18, B-Net and FVGG have none."""
    without = {"satnet": ("tnet", "resnet18"), "arl": ("b", "wc"), "eacnet": ("fvgg",)}
    without["tranet"] = ("no_spatial", "masks", "senet50")
    if spec.network == "cednn":
        return spec.level_map
    return spec.network in SHOWN and spec.variant.get("variant") not in without.get(spec.network, ())


@torch.inference_mode()
def look(learner: Learner, batch: Batch, spec: EngineSpec) -> list[dict[str, Map]]:
    """The maps of each sample of a batch, by title."""
    learner = learner.eval().to("cpu")
    found = []
    for i in range(len(batch.pictures)):
        beside = {name: tensor[i : i + 1] for name, tensor in batch.beside.items()}
        if "neutral" in beside:
            beside["neutral"] = learner.engine.images(beside["neutral"])
        images = learner.engine.images(batch.pictures[i : i + 1])
        found.append(SHOWN[spec.network](learner.network(images, return_attention=True, **beside)[1], spec))
    return found


def draw(
    path: Path, heading: Heading, batch: Batch, maps: Sequence[Mapping[str, Map]], spec: EngineSpec
) -> Path:
    """Samples down; crop and maps across. A frame in orange: the sample is labelled with that AU."""
    titles = list(maps[0])
    width, height = 1.05 * (len(titles) + 1) + 0.3, 1.12 * len(maps) + 1.2
    figure = start(max(width, 6.5), height, heading, "attention on tested subjects")
    pictures = batch.pictures if spec.window == 1 else batch.pictures[:, -1]
    scales = [_range(title, maps, spec) for title in titles]
    for row, (picture, shown) in enumerate(zip(pictures.numpy(), maps, strict=True)):
        labelled = {au for au, o in zip(spec.aus, batch.occurrence[row].tolist(), strict=True) if o == 1}
        y = 1 - (0.85 + 1.12 * (row + 1)) / height
        panels = [("face", picture[:, :, ::-1])]
        panels += [(t, heat(picture, shown[t], *s)) for t, s in zip(titles, scales, strict=True)]
        for k, (title, image) in enumerate(panels):
            size = (max(width, 6.5), height)
            axes = figure.add_axes(((0.15 + 1.05 * k) / size[0], y, 1.0 / size[0], 1.0 / size[1]))
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=title in labelled, color=WARN, linewidth=1.8)
            if not row:
                axes.set_title(title, fontsize=7.5, pad=3)
    words = "Grey: least attention of its column, or all the same. Yellow: most."
    words += " Framed: labelled with that AU." if set(titles) & set(spec.aus) else ""
    figure.text(0.15 / max(width, 6.5), 0.16 / height, words, fontsize=7.5, color="#555555")
    return save(figure, path, dpi=130)


def _range(title: str, maps: Sequence[Mapping[str, Map]], spec: EngineSpec) -> tuple[float, float]:
    if spec.network in FIXED_RANGE:
        return FIXED_RANGE[spec.network]
    low = min(float(shown[title].min()) for shown in maps)
    return low, max(max(float(shown[title].max()) for shown in maps), low + LEAST_RANGE)
