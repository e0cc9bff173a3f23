"""Weights that a run begins with, AU by AU where another engine has other AUs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engines.networks import build_network
from engines.networks.base import AUNetwork
from engines.spec import EngineSpec
from pipeline.errors import EngineError, SourceError, UsageError, first_line
from train.recipe import Recipe

BRANCH = re.compile(r"branches\.(\d+)\.(.+)")
"""ARL has a branch for each AU, in their order."""


def initial_weights(path: Path, network: AUNetwork, recipe: Recipe) -> Mapping[str, Tensor]:
    """The tensors of `recipe.initial`, those of each AU in the place of ours.

    Raises:
        SourceError: no safetensors there.
        UsageError: `initial_aus` names an AU that the file does not have, or it does not say its AUs.
    """
    weights, theirs, regions = _read(path)
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
    rows = _their_rows(recipe.spec(recipe.phase[0]), theirs, regions)
    if sources == list(theirs) and rows == network.rows_of_aus():
        return weights
    return by_au(weights, network, rows, theirs, sources)


def by_au(
    weights: Mapping[str, Tensor],
    network: AUNetwork,
    rows: Mapping[str, Sequence[int]],
    theirs: Sequence[str],
    sources: Sequence[str],
) -> dict[str, Tensor]:
    """Weights of another set of AUs, put into the order of ours.

    Args:
        weights: of a network of the same kind for `theirs`.
        network: ours; AUs of which there is no source keep its weights.
        rows: `rows_of_aus` of the weights' network.
        theirs: AUs of the weights.
        sources: for each of our AUs, which of theirs it begins as.
    """
    number = [theirs.index(au) if au in theirs else None for au in sources]
    own_rows = network.rows_of_aus()
    found = {}
    for name, mine in network.state_dict().items():
        if branch := BRANCH.fullmatch(name):
            source = f"branches.{number[int(branch[1])]}.{branch[2]}"
            if source in weights:
                found[name] = weights[source]
        elif name not in weights:
            continue
        elif name in own_rows:
            row_of = {au: row for row, au in enumerate(rows.get(name, ()))}
            wanted = [row_of.get(number[au]) for au in own_rows[name]]  # type: ignore[arg-type]
            pairs = zip(mine, wanted, strict=True)
            found[name] = torch.stack([own if row is None else weights[name][row] for own, row in pairs])
        else:
            found[name] = weights[name]
    return found


def _their_rows(spec: EngineSpec, theirs: Sequence[str], regions: object) -> Mapping[str, Sequence[int]]:
    """Rows of a network like ours for their AUs; none where it cannot be one, so that such rows stay new."""
    variant = {key: value for key, value in spec.variant.items() if key != "regions"}
    variant |= {} if regions is None else {"regions": regions}
    twin = replace(spec, aus=tuple(theirs), thresholds=(0.5,) * len(theirs), variant=variant)
    try:
        with torch.device("meta"):
            return build_network(twin).rows_of_aus()
    except EngineError:
        return {}


def _read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None, object]:
    """Tensors of any safetensors file; of a run of `train fit` its AUs, and of TRA-Net their regions."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise SourceError(f"initial: {path}: cannot read it: {first_line(error)}") from None
    engine = facts.get("recipe", {}).get("engine", {})
    aus = engine.get("aus")
    return tensors, None if aus is None else tuple(aus), engine.get("variant", {}).get("regions")
