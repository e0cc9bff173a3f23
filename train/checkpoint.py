"""Tensors and facts of a run in one safetensors file, written whole; nothing in it can be code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.errors import SourceError, first_line
from pipeline.whole import write_whole

Facts = Mapping[str, Any]

_TRIES = 3


def write(path: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Write or replace a checkpoint; a kill leaves the old one or the new one.

    Raises:
        OutputError: it cannot be written, e.g. the disk is full.
    """
    stored = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_whole(path, save(stored, {"facts": json.dumps(facts)}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts.

    Raises:
        SourceError: missing, damaged, or no checkpoint of `train fit`.
    """
    for attempt in range(_TRIES):
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            # A run that goes on puts a new file in its place; safetensors opens it twice, and may get both.
            if isinstance(error, RuntimeError) and attempt + 1 < _TRIES:
                continue
            reason = first_line(error)
            raise SourceError(
                f"{path}: expected a checkpoint of `train fit`, cannot read it: {reason}"
            ) from None
    raise AssertionError("unreachable")


def read_facts(path: Path) -> dict[str, Any]:
    """The facts alone.

    Raises:
        SourceError: as `read`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["facts"])
            return facts
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = first_line(error)
        raise SourceError(f"{path}: expected a checkpoint of `train fit`, cannot read it: {reason}") from None


def digest(path: Path) -> str:
    """SHA-256 of a file, its first 16 digits.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise SourceError(f"{path}: cannot read it: {error.strerror}") from None


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named `prefix.…`, without the prefix."""
    return {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(prefix + ".")}


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as `prefix.…`."""
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's memory, `number.what`."""
    state = optimiser.state_dict()["state"]
    return {
        f"{i}.{key}": value for i, slot in state.items() for key, value in slot.items() if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put it back into a new optimiser over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def take(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Copy the tensors that fit by name and shape; returns the names that the network keeps as they were."""
    own = network.state_dict()
    fitting = {name: t for name, t in weights.items() if name in own and own[name].shape == t.shape}
    network.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting and not name.endswith("num_batches_tracked")]
