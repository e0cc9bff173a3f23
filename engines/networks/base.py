"""What the rest of austream may ask of any network."""

from __future__ import annotations

from torch import nn


class AUNetwork(nn.Module):
    """A network that returns one logit per AU, (B, n_aus); `forward` is its own."""

    input_px: int
    """Side of its square input."""
    pixel_mean: tuple[float, float, float]
    """RGB, of pixels scaled to 0–1: taken off before `forward`."""
    pixel_std: tuple[float, float, float]
    """RGB: divided by afterwards."""
    temporal: bool
    """Whether it reads a window of frames, (B, T, 3, px, px), instead of one."""
    reads_level_map: bool
    """Whether it reads the level map too, (B, px, px)."""

    @property
    def classifier(self) -> nn.Conv2d | nn.Linear:
        """The layer that gives the logits."""
        raise NotImplementedError
