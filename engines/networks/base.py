"""What the rest of austream may ask of any network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pipeline.errors import EngineError


class AUNetwork(nn.Module):
    """A network that returns one logit per AU, (B, n_aus); `forward` is its own."""

    input_px: int
    """Side of its square input."""
    pixel_mean: tuple[float, float, float]
    """RGB, of pixels scaled to 0–1: taken off before `forward`."""
    pixel_std: tuple[float, float, float]
    """RGB: divided by afterwards."""
    takes_any_px: bool = False
    """Whether it can be trained on pictures of another side too, beside `input_px`."""
    temporal: bool = False
    """Whether it reads a window of frames, (B, T, 3, px, px), instead of one."""
    reads_level_map: bool = False
    """Whether it reads the level map too, (B, px, px)."""
    reads_au_centers: bool = False
    """Whether it reads the AU centres too, (B, 20, 2): see `EngineSpec.au_centers`."""
    reads_neutral: bool = False
    """Whether it reads the neutral face too, scaled like the picture: see `EngineSpec.neutral`."""
    reads_landmarks: bool = False
    """Whether it reads the mesh points too, (B, 2, 468, 3): see `EngineSpec.landmarks`."""
    frozen: tuple[str, ...] = ()
    """How the names of the parameters begin that its paper leaves at their published values in training."""
    winograd_from: int | None = None
    """From how many channels on its 3×3 convolutions may be computed by Winograd's method when compiled for a
    CPU; None: never."""

    floating: tuple[str, ...] = ()
    """How the names of the layers begin, in its deployed form, that INT8 leaves in floating point."""

    def load_published(self, path: Path) -> None:
        """Take its paper's starting weights over from a file in their public names; the rest stays as it is.

        Args:
            path: safetensors.

        Raises:
            EngineError: the paper begins with none, the file cannot be read, or it is not what is expected;
                names the keys.
        """
        raise EngineError(f"{path}: {type(self).__name__} begins with no published weights; leave them out")

    def settle(self) -> None:
        """Set what new weights must not leave to chance; called again after a seed's draw."""

    def deployed(self) -> AUNetwork:
        """The same function of the same inputs in evaluation, in a form that CPUs compute faster."""
        return self

    @property
    def classifier(self) -> nn.Module:
        """The layer, or the layers, that give the logits."""
        raise NotImplementedError

    def rows_of_aus(self) -> dict[str, list[int]]:
        """Parameters with a row for each of some AUs: by name, the number of every row's AU."""
        last = {id(p) for p in self.classifier.parameters()}
        return {name: list(range(len(p))) for name, p in self.named_parameters() if id(p) in last}
