"""Published starting weights: read from safetensors, checked name by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import EngineError


def counts(name: str) -> bool:
    """Whether a tensor matters: batch normalisation's step counter carries nothing at inference."""
    return not name.endswith("num_batches_tracked")


def read_published(path: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a file, step counters left out.

    Args:
        path: safetensors.
        what: whose weights are expected, for the message.

    Raises:
        EngineError: it cannot be read.
    """
    try:
        return {name: tensor for name, tensor in load_file(path).items() if counts(name)}
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise EngineError(
            f"{path}: expected {what} weights as safetensors, cannot read it: {reason}"
        ) from None


def fill_published(
    network: nn.Module,
    found: Mapping[str, Tensor],
    names: Mapping[str, str],
    left_out: Collection[str],
    origin: str,
) -> None:
    """Take published tensors over into a network; what it has beside them keeps its weights.

    Args:
        network: its state dict is written.
        found: by public name.
        names: public name → name in the network, of all that must be there.
        left_out: public names that may be there and are not taken.
        origin: the file and what was expected of it, for the message.

    Raises:
        EngineError: names are missing or unexpected, shapes differ, or numbers are none; it names them.
    """
    wanted = network.state_dict()
    problems = {
        "missing": sorted(set(names) - set(found)),
        "unexpected": sorted(set(found) - set(names) - set(left_out)),
        "wrong shape": [
            f"{public} {tuple(found[public].shape)} for {tuple(wanted[own].shape)}"
            for public, own in sorted(names.items())
            if public in found and found[public].shape != wanted[own].shape
        ],
        "not finite": [n for n in sorted(names) if n in found and not torch.isfinite(found[n]).all()],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys)
        raise EngineError(f"{origin}; {listed}")
    network.load_state_dict({own: found[public] for public, own in names.items()}, strict=False)
