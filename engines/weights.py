"""Weights of a bundle: checked when read, written as safetensors, or drawn from a seed."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from engines.bundle import WEIGHTS_FILE, Bundle, read_bundle, write_spec
from engines.networks import build_network
from engines.networks.base import AUNetwork
from engines.spec import AU_CENTERS, LANDMARKS, EngineSpec
from pipeline.errors import EngineError, first_line

LOGIT_SPREAD = 1.5
"""Standard deviation that random weights aim at: probabilities of about 0.1 to 0.9."""


_READ = (torch.float32, torch.float16)
"""Types of a file's weights."""


def expected_weights(network: nn.Module) -> dict[str, Tensor]:
    """What a weights file holds: the state dict without batch normalisation's step counters."""
    return {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def fill(network: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Put weights into the network as float32, if they are exactly what it needs.

    Raises:
        EngineError: names the tensors that are missing, unknown, of a wrong shape or type, or not finite.
    """
    wanted = expected_weights(network)
    given = {name: t for name, t in weights.items() if not name.endswith("num_batches_tracked")}
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "wrong shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(t.shape)}"
            for name, t in wanted.items()
            if name in given and given[name].shape != t.shape
        ],
        "neither float32 nor float16": [
            f"{name} {t.dtype}" for name, t in given.items() if t.dtype not in _READ
        ],
        "not finite": [name for name, t in given.items() if t.dtype in _READ and not torch.isfinite(t).all()],
    }
    found = [f"{kind}: {_some(names)}" for kind, names in problems.items() if names]
    if found:
        raise EngineError(
            f"{origin}: the weights do not fit the network that engine.json names; {'; '.join(found)}"
        )
    network.load_state_dict({name: t.to(torch.float32) for name, t in given.items()}, strict=False)


def _some(names: list[str]) -> str:
    """The first few; a file for another network would name hundreds."""
    shown = ", ".join(sorted(names)[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def load_network(bundle: Bundle) -> AUNetwork:
    """The bundle's network with its weights, in evaluation mode.

    Raises:
        EngineError: the weights are missing, damaged or do not fit.
    """
    network = build_network(bundle.spec)
    if bundle.random_seed is not None:
        randomise(network, bundle.random_seed)
        return network
    bundle.verify()
    path = bundle.weights_path
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
        raise EngineError(f"{path}: expected a whole safetensors file: {reason}; export it again") from None
    fill(network, weights, str(path))
    return network


def save_bundle(folder: Path, spec: EngineSpec, weights: Mapping[str, Tensor], half: bool = False) -> Bundle:
    """Write a bundle that `load_network` reads.

    Args:
        folder: made if need be; a bundle in it is replaced.
        spec: goes into engine.json.
        weights: state dict of the spec's network.
        half: store float16; it is computed with as float32 again.

    Raises:
        EngineError: the weights do not fit the spec, or exceed float16.
        OSError: the folder cannot be written.
    """
    dtype = torch.float16 if half else torch.float32
    network = build_network(spec)
    fill(network, weights, str(folder))
    stored = {name: t.to(dtype).contiguous() for name, t in expected_weights(network).items()}
    fill(network, stored, f"{folder} ({dtype})")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{WEIGHTS_FILE}.part"
    content = save(stored)  # not save_file, which makes a file that only its owner can read
    part.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    os.replace(part, folder / WEIGHTS_FILE)
    write_spec(folder, spec, digest)
    return read_bundle(folder)


def randomise(network: AUNetwork, seed: int) -> None:
    """Draw weights that make an untrained network behave like one: outputs spread, and change with the input.

    He-initialised filters without a mean (otherwise a deep network answers mostly to the picture's average
    brightness), batch normalisation off its neutral values, and the classifier scaled by a power of two to
    logits of about `LOGIT_SPREAD`. A power of two, because the scale comes from a forward pass, whose last
    bits differ between machines; so the weights do not.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, std: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * std

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.inference_mode():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = normal(module.weight, math.sqrt(2 / module.weight[0].numel()))
                if weight[0].numel() > 1:
                    weight -= weight.flatten(1).mean(1).view(-1, *[1] * (weight.ndim - 1))
                module.weight.copy_(weight)
                if module.bias is not None:
                    module.bias.copy_(normal(module.bias, 0.05))
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(uniform(module.weight, 0.8, 1.2))
                module.bias.copy_(normal(module.bias, 0.1))
                module.get_buffer("running_mean").copy_(normal(module.bias, 0.1))
                module.get_buffer("running_var").copy_(uniform(module.bias, 0.7, 1.3))
        network.settle()
        spread = _logits(network.eval(), generator).std().item()
        gain = 2.0 ** round(math.log2(LOGIT_SPREAD / spread))
        for parameter in network.classifier.parameters():
            parameter.mul_(gain)


def _logits(network: AUNetwork, generator: torch.Generator) -> Tensor:
    """Logits for two smooth random pictures (windows of two frames for a temporal network)."""
    frames = 4 if network.temporal else 2
    coarse = torch.rand((frames, 3, 8, 8), generator=generator)
    image = nn.functional.interpolate(coarse, size=(network.input_px,) * 2, mode="bilinear")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.pixel_mean, network.pixel_std))
    image = (image - mean) / std
    if network.temporal:
        return network(image.unflatten(0, (2, 2)))
    beside: dict[str, Tensor] = {}
    if network.reads_au_centers:
        beside["au_centers"] = torch.rand((frames, AU_CENTERS, 2), generator=generator)
    if network.reads_level_map:
        beside["level_map"] = torch.full((frames, *image.shape[2:]), 3, dtype=torch.uint8)
    if network.reads_neutral:
        beside["neutral"] = image.flip(0)
    if network.reads_landmarks:
        beside["landmarks"] = torch.randn((frames, 2, LANDMARKS, 3), generator=generator)
    return network(image, **beside)
