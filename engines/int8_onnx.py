"""INT8 in an ONNX file: QuantizeLinear and DequantizeLinear where `engines.int8` rounds, for TensorRT to
compute in INT8 what lies between them.

The layers are those of `engines.int8_layers`, found again by their weights, which this graph too holds with
the normalisations folded in. ONNX Runtime computes the same file, without being faster for it: so what it
says can be held to what OpenVINO's INT8 says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from engines.bundle import Bundle
from engines.int8 import load
from engines.int8_graph import quantise_weights
from engines.int8_layers import Layer, layers
from pipeline.errors import EngineError, UsageError
from pipeline.whole import write_whole

_SAME = 1e-5
"""Weights are the same within this share of the largest: normalisations are folded in by two programs."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What a file was found to be."""

    layers: int
    """In INT8."""
    floating_point: tuple[str, ...]
    off: float
    """99th percentile of how far it is from OpenVINO's INT8, over the parity inputs."""
    apart: float
    """How far a probability moves when several faces go in together."""
    origin: str
    """Of its ranges."""


def hand_out(bundle: Bundle, path: Path) -> Handed:
    """Write the ONNX file of a bundle in INT8, any number of faces at a time.

    Raises:
        UsageError: a temporal engine, whose INT8 is in parts.
        EngineError: the bundle has no INT8 form, or the file says something else than OpenVINO's INT8.
        OutputError: the file cannot be written.
    """
    from engines.backends.onnxruntime import Model as File
    from engines.backends.openvino import BACKEND, deployed
    from engines.build import INT8_AGREES, parity_inputs
    from engines.export import ExportedEngine
    from engines.onnx_file import checked, exported, moved_by_company, require_alike, with_metadata
    from engines.weights import load_network

    spec = bundle.spec
    if spec.window > 1:
        raise UsageError(
            f"{spec.name}: INT8 of a temporal engine is computed in parts, an ONNX file is whole; use fp16"
        )
    int8, origin = load(bundle)
    engine = ExportedEngine(spec, load_network(bundle))
    about = f"{spec.name}'s INT8 form"
    wanted = layers(BACKEND.graphs(engine, spec)["model"], int8.graphs["model"], about)
    with deployed(engine, winograd=False):
        model = exported(engine, spec.inputs(2), folded=True)
    round_layers(model, wanted, about)
    content = with_metadata(checked(model), spec)
    file = File(content, None, 1)
    faces = [inputs for _name, inputs in parity_inputs(spec)]
    found = np.concatenate([file.infer(one) for one in faces])
    off = float(np.percentile(np.nan_to_num(np.abs(found - int8.expected), nan=np.inf), 99))
    if not off <= INT8_AGREES:
        raise EngineError(
            f"{spec.name} (onnx, int8): 99th percentile {off:.3f} away from where its INT8 form was made "
            f"(tolerance {INT8_AGREES}): ranges around zero are too coarse for it; use --precision fp16"
        )
    apart = moved_by_company(file, faces[:2])
    require_alike(apart, INT8_AGREES, f"{spec.name} (onnx, int8)")
    write_whole(path, content)
    names = {layer.name for layer in wanted}
    floating = (*int8.floating_point, *(n for n, _ in int8.graphs["model"].weights if n not in names))
    return Handed(len(wanted), floating, off, apart, origin)


def round_layers(model: onnx.ModelProto, wanted: Sequence[Layer], origin: str) -> None:
    """Put the roundings of layers into an ONNX graph.

    Args:
        model: with normalisations folded into their layers; changed.
        wanted: of the same network.
        origin: the file, for messages.

    Raises:
        EngineError: a layer is not there.
    """
    graph = model.graph
    stored = {one.name: one for one in graph.initializer}
    free = [
        node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in stored
    ]
    rounding = _Rounding(graph)
    for layer in wanted:
        node = next((n for n in free if _holds(n, numpy_helper.to_array(stored[n.input[1]]), layer)), None)
        if node is None:
            raise EngineError(
                f"{origin}: the ONNX graph has no layer with the weights of {layer.name}; calibrate again"
            )
        free.remove(node)
        rounding.add(node, numpy_helper.to_array(stored[node.input[1]]), layer)
    rounding.finish()


def _axis(node: onnx.NodeProto) -> int:
    """Of a layer's weights, the axis that numbers the outputs."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def _holds(node: onnx.NodeProto, weights: NDArray[np.float32], layer: Layer) -> bool:
    if weights.ndim != layer.weights.ndim:
        return False
    turned = np.moveaxis(weights, _axis(node), 0)
    limit = _SAME * float(np.abs(layer.weights).max())
    return turned.shape == layer.weights.shape and bool(np.abs(turned - layer.weights).max() <= limit)


class _Rounding:
    """Collects what a graph gets; one rounding of a tensor serves all that read it over the same range."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._before: dict[str, list[onnx.NodeProto]] = {}
        """New operations, by the first output of the layer that they go before."""
        self._rounded: dict[tuple[str, float], str] = {}

    def add(self, node: onnx.NodeProto, weights: NDArray[np.float32], layer: Layer) -> None:
        """Round what a layer reads, and store its weights as int8."""
        new = self._before.setdefault(node.output[0], [])
        key = node.input[0], layer.largest
        if key not in self._rounded:
            tensor = f"{node.input[0]}:{len(self._rounded)}"
            scale = self._constant(f"{tensor}:scale", np.array(layer.largest / 127, np.float32))
            zero = self._constant(f"{tensor}:zero", np.array(0, np.int8))
            new.append(helper.make_node("QuantizeLinear", [node.input[0], scale, zero], [f"{tensor}:int8"]))
            new.append(
                helper.make_node("DequantizeLinear", [f"{tensor}:int8", scale, zero], [f"{tensor}:rounded"])
            )
            self._rounded[key] = f"{tensor}:rounded"
        name, axis = node.input[1], _axis(node)
        values, scales = quantise_weights(weights, (axis,))
        parts = [
            self._constant(f"{name}:int8", values),
            self._constant(f"{name}:scale", scales.ravel()),
            self._constant(f"{name}:zero", np.zeros(scales.size, np.int8)),
        ]
        new.append(helper.make_node("DequantizeLinear", parts, [f"{name}:rounded"], axis=axis))
        node.input[0], node.input[1] = self._rounded[key], f"{name}:rounded"

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def finish(self) -> None:
        """Write the new operations in order, and leave out the weights that nobody reads any more."""
        nodes = [n for node in self._graph.node for n in (*self._before.get(node.output[0], ()), node)]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        kept = [one for one in self._graph.initializer if one.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
