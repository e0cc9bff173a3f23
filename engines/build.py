"""Compile a bundle for a backend, and hold what comes out against PyTorch eager."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from engines.backends.base import Backend, InParts, Session
from engines.backends.torch import TorchSession
from engines.bundle import Bundle
from engines.cache import Parity
from engines.export import ExportedEngine
from engines.int8 import Int8, command, load
from engines.spec import AU_CENTERS, LANDMARKS, EngineSpec
from engines.weights import load_network
from pipeline.errors import EngineError

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2, "int8": 5e-2}
"""How far a probability may lie from PyTorch eager in float32, by precision. Weights rounded to float16 move
the random engines by up to 0.0095."""

SLIDING_TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2, "bf16": 5e-2, "int8": 5e-2}
"""The same for an engine in parts. Of the 5e-6 measured in fp32 the recurrence makes 1e-6; the rest is how
PyTorch and OpenVINO round the convolutions before and after it (LOG.md, 2026-11-21)."""


def parity_inputs(spec: EngineSpec, seed: int = 0) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Named inputs of one face: noise, gradients, black and white; what else is read is random, with some AU
    centres outside the crop and one neutral face missing."""
    rng = np.random.default_rng(seed)
    shape = spec.crops_shape(1)
    px = spec.crop.size_px

    def gradients() -> np.ndarray:
        """Another slope for every frame and colour."""
        slopes = rng.uniform(-1, 1, (2, *shape[:-3], 1, 1, 3))
        across = np.linspace(-1, 1, px)
        plane = slopes[0] * across[:, None, None] + slopes[1] * across[None, :, None]
        return np.round(127.5 + 63.5 * plane).astype(np.uint8)

    def blobs() -> np.ndarray:
        """Level maps as they come: coherent areas, most of the picture 0."""
        coarse = np.clip(rng.integers(-6, 6, (1, 8, 8)), 0, 5)
        return np.kron(coarse, np.ones((1, -(-px // 8), -(-px // 8)), int))[:, :px, :px].astype(np.uint8)

    crops = {
        "noise": rng.integers(0, 256, shape, dtype=np.uint8),
        "gradients": gradients(),
        "more gradients": gradients(),
        "black": np.zeros(shape, np.uint8),
        "white": np.full(shape, 255, np.uint8),
    }
    for name, crop in crops.items():
        scatter = rng.integers(0, 6, (1, px, px), dtype=np.uint8)
        neutral = np.zeros((1, px, px, 3), np.uint8) if name == "black" else crops["gradients"]
        landmarks = rng.normal(0, 0.5, (1, 2, LANDMARKS, 3)).astype(np.float32)
        landmarks[:, 1] *= name != "black"
        centers = rng.uniform(-0.1, 1.1, (1, AU_CENTERS, 2)).astype(np.float32)
        centers[0, 0] = -0.05, 1.05
        beside = {
            "level_map": scatter if name == "noise" else blobs(),
            "au_centers": centers,
            "neutral": neutral,
            "landmarks": landmarks,
        }
        yield name, {"crops": crop} | {name: beside[name] for name in spec.inputs(1) if name in beside}


def compare(
    session: Session,
    reference: Session,
    spec: EngineSpec,
    precision: str,
    tolerance: Mapping[str, float] = TOLERANCE,
    batch: int = 1,
) -> Parity:
    """Run both over the parity inputs; the session also with all of them in one batch, once in every place of
    it: what is right in the first may be wrong in the others.

    Args:
        batch: faces that the session computes at a time.
    """
    faces = [inputs for _name, inputs in parity_inputs(spec)]
    wanted = np.concatenate([reference.run(inputs) for inputs in faces]).astype(np.float64)
    got = np.concatenate([session.run(inputs) for inputs in faces]).astype(np.float64)
    if batch > 1:
        order = np.arange(batch + len(faces)) % len(faces)
        filled = [np.concatenate([faces[i][name] for i in order]) for name in faces[0]]
        together = dict(zip(faces[0], filled, strict=True))
        got, wanted = np.concatenate([got, session.run(together)]), np.concatenate([wanted, wanted[order]])
    difference = np.abs(got - wanted)
    thresholds = np.asarray(spec.thresholds)
    return Parity(
        max_abs=float(np.nan_to_num(difference, nan=np.inf).max()),
        mean_abs=float(np.nan_to_num(difference, nan=np.inf).mean()),
        decisions_changed=int(((got >= thresholds) != (wanted >= thresholds)).sum()),
        decisions=got.size,
        tolerance=tolerance[precision],
    )


def require(parity: Parity, what: str) -> None:
    """Refuse an engine that computes something else.

    Raises:
        EngineError: beyond the tolerance; with the figures.
    """
    if not parity.holds:
        raise EngineError(
            f"{what}: the compiled engine differs from PyTorch eager: {parity}; "
            "choose another precision or --backend torch"
        )


def build(bundle: Bundle, backend: Backend, precision: str, folder: Path) -> Parity:
    """Compile into an empty folder and check what was written, loaded again from there.

    Raises:
        EngineError: the weights are wrong, the backend cannot compile them, or parity does not hold.
    """
    spec = bundle.spec
    if precision == "int8":
        return _build_int8(bundle, backend, folder)
    engine = ExportedEngine(spec, load_network(bundle))
    backend.export(engine, spec, precision, folder)
    session = backend.open(folder, spec, None)
    parity = compare(session, TorchSession(engine), spec, precision, batch=backend.batch)
    require(parity, f"{spec.name} ({backend.name}, {precision})")
    return parity


def build_sliding(bundle: Bundle, backend: Backend, precision: str, folder: Path) -> Parity:
    """`build` of a temporal engine in parts, held against the whole network on full windows.

    Raises:
        EngineError: like `build`.
    """
    spec = bundle.spec
    if precision == "int8":
        return _build_int8(bundle, backend, folder)
    engine = ExportedEngine(spec, load_network(bundle))
    backend.export_sliding(engine, spec, precision, folder)
    session = InParts(backend.open_sliding(folder, spec, None))
    parity = compare(session, TorchSession(engine), spec, precision, SLIDING_TOLERANCE, backend.batch)
    require(parity, f"{spec.name}, sliding ({backend.name}, {precision})")
    return parity


INT8_AGREES = 0.05
"""How far a probability may lie from what INT8 gave where its form was made. Other kernels round other sums;
processors without 8-bit dot products cut sums off, which this finds."""


def _build_int8(bundle: Bundle, backend: Backend, folder: Path) -> Parity:
    """INT8 as `engines.int8` says. Its figures are of the faces that it was judged on where it was made;
    here it is checked to answer as it did there."""
    int8, origin = load(bundle)
    backend.export_int8(ExportedEngine(bundle.spec, load_network(bundle)), bundle.spec, int8, folder)
    off = int8_disagreement(backend.open(folder, bundle.spec, None), bundle.spec, int8)
    if not off <= INT8_AGREES:
        raise EngineError(
            f"{bundle.spec.name} ({backend.name}, int8): probabilities differ by up to {off:.3f} from where "
            f"its INT8 form was made (tolerance {INT8_AGREES}): this processor computes INT8 otherwise, or "
            f"the network has changed; use --precision fp32, or calibrate here: {command(bundle)}"
        )
    require(int8.parity, f"{bundle.spec.name} ({backend.name}, int8)")
    kept = ", ".join(int8.floating_point) or "nothing"
    note = f"{int8.parity.note}; {origin}; in floating point: {kept}"
    if backend.name != "openvino":
        note += f"; so openvino, from whose answers those of {backend.name} are up to {off:.3f} away"
    return replace(int8.parity, note=note)


def int8_disagreement(session: Session, spec: EngineSpec, int8: Int8) -> float:
    """Largest difference between what a session answers to the parity inputs and what the file expects."""
    got = np.concatenate([session.run(inputs) for _name, inputs in parity_inputs(spec)])
    return float(np.nan_to_num(np.abs(got - int8.expected), nan=np.inf).max())
