"""The layers that INT8 computes in 8 bits, for programs that have a graph of their own of the same network.

`int8.json` names operations of OpenVINO's graph. What others need of it are the layers, by their weights, and
the range of what each reads. TensorRT rounds around zero alone, so every range becomes ±its larger end, at
the price of a bit after a ReLU. Sums of two branches, which OpenVINO rounds too, are left to TensorRT.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openvino import Model

from engines.int8 import GraphInt8
from engines.int8_graph import PASSED_THROUGH, apply, constant_of, weight_ports


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer that goes to INT8."""

    name: str
    weights: NDArray[np.float32]
    """(outputs, inputs, …)."""
    largest: float
    """Of its activations, of either sign."""


def layers(model: Model, int8: GraphInt8, origin: str) -> list[Layer]:
    """The layers that INT8 of a graph computes in 8 bits.

    Args:
        model: of OpenVINO, freshly converted; changed.
        int8: of the same network.
        origin: the file, for messages.

    Raises:
        EngineError: the graph has no such operation.
    """
    weighted = [(op, port) for op in model.get_ordered_ops() for port in weight_ports(op)]
    weights = [_outputs_first(op, port) for op, port in weighted]
    apply(model, int8, origin)
    rounded = {tuple(place) for place in int8.weights}
    found = []
    for (op, port), values in zip(weighted, weights, strict=True):
        name = op.get_friendly_name()
        ends = list(_ends(op.input_value(1 - port).get_node())) if (name, port) in rounded else []
        if ends and None not in ends:
            found.append(Layer(name, values, max(end for end in ends if end is not None)))
    return found


def _outputs_first(op: Any, port: int) -> NDArray[np.float32]:
    """A layer's weights as ONNX has them: (outputs, inputs, …), groups one after another."""
    weights = (
        constant_of(op.input_value(port).get_node())
        .get_data()
        .reshape(tuple(op.input_value(port).get_shape()))
        .astype(np.float32)
    )
    kind = op.get_type_name()
    if kind == "GroupConvolution":
        return weights.reshape(-1, *weights.shape[2:])
    if kind == "MatMul":
        weights = weights.reshape(weights.shape[-2:])
        transposed = op.get_attributes()["transpose_b" if port else "transpose_a"]
        return weights if transposed == bool(port) else weights.T
    return weights


def _ends(node: Any) -> Iterator[float | None]:
    """The larger end of every rounding that a tensor went through last; None for a tensor without."""
    if node.get_type_name() == "FakeQuantize":
        yield max(float(np.abs(node.input_value(k).get_node().get_data()).max()) for k in (1, 2))
    elif node.get_type_name() in PASSED_THROUGH:
        sources = node.get_input_size() if node.get_type_name() == "Concat" else 1
        for k in range(sources):
            yield from _ends(node.input_value(k).get_node())
    else:
        yield None
