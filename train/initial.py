"""Weights that a run begins with, AU by AU where another engine has other AUs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engines.networks.base import AUNetwork
from pipeline.errors import SourceError, UsageError
from train.recipe import Recipe

BRANCH = re.compile(r"branches\.(\d+)\.(.+)")
"""ARL has a branch for each AU, in their order."""


def initial_weights(path: Path, network: AUNetwork, recipe: Recipe) -> Mapping[str, Tensor]:
    """The tensors of `recipe.initial`, those of each AU in the place of ours.

    Raises:
        SourceError: no safetensors there.
        UsageError: `initial_aus` names an AU that the file does not have, or it does not say its AUs.
    """
    weights, theirs = _read(path)
    ours, begin_as = recipe.engine.aus, recipe.initial_aus
    if theirs is None:
        if begin_as:
            raise UsageError(f"initial_aus: {path} does not say its AUs; begin with a run of `train fit`")
        return weights
    for au, source in begin_as.items():
        if au not in ours or source not in theirs:
            raise UsageError(
                f"initial_aus: {au} = {source!r}: expected one of {', '.join(ours)} to begin as one of "
                f"{', '.join(theirs)}"
            )
    sources = [begin_as.get(au, au) for au in ours]
    return weights if sources == list(theirs) else by_au(weights, network, theirs, sources)


def by_au(
    weights: Mapping[str, Tensor], network: AUNetwork, theirs: Sequence[str], sources: Sequence[str]
) -> dict[str, Tensor]:
    """Weights of another set of AUs, put into the order of ours.

    Args:
        weights: of a network of the same kind for `theirs`.
        network: ours; AUs of which there is no source keep its weights.
        theirs: AUs of the weights.
        sources: for each of our AUs, which of theirs it begins as.
    """
    number = [theirs.index(au) if au in theirs else None for au in sources]
    classifiers = {name for name, module in network.named_modules() if module is network.classifier}
    found = {}
    for name, mine in network.state_dict().items():
        branch = BRANCH.fullmatch(name)
        if branch is not None:
            source = number[int(branch[1])]
            if source is not None:
                found[name] = weights[f"branches.{source}.{branch[2]}"]
        elif name.rpartition(".")[0] in classifiers:
            if name in weights and len(weights[name]) == len(theirs):
                rows = [own if k is None else weights[name][k] for own, k in zip(mine, number, strict=True)]
                found[name] = torch.stack(rows)
        elif name in weights:
            found[name] = weights[name]
    return found


def _read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Tensors of any safetensors file, and the AUs of a run of `train fit`."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise SourceError(f"initial: {path}: cannot read it: {str(error).splitlines()[0]}") from None
    aus = facts.get("recipe", {}).get("engine", {}).get("aus")
    return tensors, None if aus is None else tuple(aus)
