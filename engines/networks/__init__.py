"""The networks, one paper and one file each. Importing this package does not import PyTorch."""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from typing import TYPE_CHECKING

from engines.spec import EngineSpec
from pipeline.errors import EngineError, UsageError, first_line

if TYPE_CHECKING:
    from engines.networks.base import AUNetwork

NETWORKS = {
    "cednn": "cednn.CEDNN",
    "igc": "cednn.IGC",
    "satnet": "satnet.SATNet",
    "arl": "arl.ARL",
    "eacnet": "eacnet.EACNet",
    "tranet": "tranet.TRANet",
    "delta": "delta.Delta",
}
"""Name → module in this package and class."""


def build_network(spec: EngineSpec) -> AUNetwork:
    """The network of a spec with fresh weights, in evaluation mode; it returns logits.

    Raises:
        EngineError: the spec names no network here, or contradicts the network.
    """
    if spec.network not in NETWORKS:
        raise EngineError(
            f"{spec.name}: unknown network {spec.network!r}, expected one of {', '.join(NETWORKS)}"
        )
    module, class_name = NETWORKS[spec.network].split(".")
    network_class = getattr(import_module(f"{__name__}.{module}"), class_name)
    known = list(inspect.signature(network_class).parameters)[1:]
    if unknown := sorted(set(spec.variant) - set(known)):
        raise EngineError(f"{spec.name}: unknown variant fields {unknown}, {spec.network} has {known}")
    try:
        network: AUNetwork = network_class(len(spec.aus), **spec.variant)
    except UsageError as error:
        raise EngineError(f"{spec.name}: {error}") from None
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # a number where a list belongs
        variant = json.dumps(dict(spec.variant))
        raise EngineError(
            f"{spec.name}: variant {variant} is none of {spec.network}: {first_line(error)}"
        ) from None
    for name in ("level_map", "au_centers", "neutral", "landmarks"):
        if getattr(spec, name) != getattr(network, f"reads_{name}"):
            raise EngineError(
                f"{spec.name}: {name} is {getattr(spec, name)}, its network {spec.network} needs the opposite"
            )
    if (spec.window > 1) != network.temporal:
        wanted = "more than 1 frame" if network.temporal else "1 frame"
        raise EngineError(f"{spec.name}: window is {spec.window}, its network {spec.network} reads {wanted}")
    if spec.crop.size_px != network.input_px:
        raise EngineError(
            f"{spec.name}: crop is {spec.crop.size_px} px, its network reads {network.input_px} px"
        )
    network.eval()
    return network
