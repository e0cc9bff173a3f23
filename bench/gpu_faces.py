"""Candidates for a face stage on the GPU, in plain PyTorch: alignment and level map of many faces."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.diffmap import THRESHOLDS


def warp_faces(frames_bgr: Tensor, transforms: Tensor, size_px: int) -> Tensor:
    """`pipeline.mesh.warp` for shrinking by less than two: bilinear, the frame's border repeated.

    Args:
        frames_bgr: uint8 (B, H, W, 3).
        transforms: float32 (B, 2, 3), similarities from the frame's pixels to the crop's.
        size_px: of the crops.

    Returns:
        uint8 (B, size_px, size_px, 3).
    """
    height, width = frames_bgr.shape[1:3]
    square, shift = transforms[:, :, :2], transforms[:, :, 2:]
    back = torch.linalg.inv(square)
    at = torch.arange(size_px, dtype=torch.float32, device=frames_bgr.device)
    y, x = torch.meshgrid(at, at, indexing="ij")
    pixels = torch.stack((x.flatten(), y.flatten())).expand(len(frames_bgr), -1, -1)
    sources = (back @ (pixels - shift)).transpose(1, 2).unflatten(1, (size_px, size_px))
    size = torch.tensor([width - 1, height - 1], dtype=torch.float32, device=frames_bgr.device)
    planes = frames_bgr.permute(0, 3, 1, 2).float()
    crops = functional.grid_sample(
        planes, 2 * sources / size - 1, mode="bilinear", padding_mode="border", align_corners=True
    )
    return crops.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def level_maps(crops_bgr: Tensor, neutrals_bgr: Tensor, masks: Tensor) -> Tensor:
    """`pipeline.diffmap.level_map` of many faces, bit for bit.

    Args:
        crops_bgr: uint8 (B, S, S, 3).
        neutrals_bgr: like these.
        masks: uint8 (B, S, S), 0 outside the face.

    Returns:
        uint8 (B, S, S), 0–5.
    """
    apart = (crops_bgr.int() - neutrals_bgr.int()).abs()
    weighted = 3735 * apart[..., 0] + 19235 * apart[..., 1] + 9798 * apart[..., 2]
    grey = torch.where(masks > 0, (weighted + (1 << 14)) >> 15, 0)
    thresholds = torch.tensor(THRESHOLDS, device=grey.device)
    return (grey.unsqueeze(-1) >= thresholds).sum(dim=-1).to(torch.uint8)
