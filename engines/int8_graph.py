"""INT8 in OpenVINO's graphs: operations by names that last, roundings put in by `engines.int8`, and read back
from what NNCF made.

OpenVINO computes an operation in INT8 where its inputs come out of FakeQuantize: round(x) to one of so many
levels between low and high. Weights are stored as int8 and multiplied by their channel's scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from openvino import Model, Type
from openvino import opset13 as ops

from engines.int8 import GraphInt8, Place, Rounding
from pipeline.errors import EngineError

WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
"""Operations that have weights."""
WEIGHT_LEVELS = 127
"""Of either sign."""
PASSED_THROUGH = ("Relu", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat")
"""Operations that give out what they were given, so that a rounding before them is one after them."""


def name_operations(model: Model) -> dict[str, Any]:
    """Give every operation a name that a new conversion of the same network repeats: the module's path, the
    kind, and a count where a module has several.

    The converter numbers what it makes itself, such as a convolution with its normalisation folded in, and
    counts on from conversion to conversion; such an operation goes by what is made of its output.
    """
    ordered = model.get_ordered_ops()
    place = {op.get_friendly_name(): i for i, op in enumerate(ordered)}
    paths: list[str] = [""] * len(ordered)
    named: dict[str, Any] = {}
    for i in range(len(ordered) - 1, -1, -1):
        op = ordered[i]
        readers = [
            place[t.get_node().get_friendly_name()] for out in op.outputs() for t in out.get_target_inputs()
        ]
        own = _path(op.get_friendly_name())
        paths[i] = own or (paths[min(readers)] if readers else "output")
    counts: dict[str, int] = {}
    for op, path in zip(ordered, paths, strict=True):
        kind = op.get_type_name()
        if kind in ("Parameter", "Result", "Constant"):
            continue
        name = f"{path}/{kind}"
        counts[name] = counts.get(name, 0) + 1
        if counts[name] > 1:
            name += f"#{counts[name]}"
        named[name] = op
    for name, op in named.items():
        op.set_friendly_name(name)
    return named


def _path(name: str) -> str:
    """The module within the network: `__module.model.network.stem.0/aten::…` → `stem.0`; "" without one."""
    if not name.startswith("__module"):
        return ""
    parts = name.split("/")[0].split(".")[1:]
    if "network" not in parts:
        return "outside"
    return ".".join(parts[parts.index("network") + 1 :]) or "network"


def weight_ports(op: Any) -> list[int]:
    """Inputs of an operation that are constant weights."""
    if op.get_type_name() not in WEIGHTED:
        return []
    ports = (0, 1) if op.get_type_name() == "MatMul" else (1,)
    return [p for p in ports if constant_of(op.input_value(p).get_node()) is not None]


def constant_of(node: Any) -> Any:
    """The constant that a node is or only passes on, as FakeQuantize does; None where there is none."""
    while node.get_type_name() in ("FakeQuantize", "Convert", "Reshape"):
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


def quantise_weights(
    weights: NDArray[np.float32], per: tuple[int, ...]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights as int8, and the scales that they are multiplied by, one for each index along the axes `per`:
    the largest becomes ±127."""
    others = tuple(a for a in range(weights.ndim) if a not in per)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scale = (np.where(largest > 0, largest, 1) / WEIGHT_LEVELS).astype(np.float32)
    return np.rint(weights / scale).clip(-WEIGHT_LEVELS, WEIGHT_LEVELS).astype(np.int8), scale


def _channels(op: Any, port: int) -> tuple[int, ...]:
    """Axes of the weights that number the outputs."""
    kind = op.get_type_name()
    if kind != "MatMul":
        return (0, 1) if kind == "GroupConvolution" else (0,)
    rank = len(op.input_value(port).get_shape())
    transposed = op.get_attributes()["transpose_b" if port else "transpose_a"]
    return (rank - 2,) if transposed == bool(port) else (rank - 1,)


def apply(model: Model, int8: GraphInt8, origin: str) -> None:
    """Put roundings and int8 weights into a float graph.

    Args:
        model: freshly converted; changed.
        int8: of the same network.
        origin: the file, for messages.

    Raises:
        EngineError: the graph has no such operation.
    """
    named = name_operations(model)

    def find(place: Place) -> Any:
        name, port = place
        op = named.get(name)
        if op is None or port >= op.get_input_size():
            raise EngineError(
                f"{origin}: names input {port} of {name}, which the network does not have; it was made by "
                "another version of austream or OpenVINO, calibrate again"
            )
        return op

    for rounding in int8.activations:
        readers = [(find(place), place[1]) for place in rounding.places]
        source = readers[0][0].input_value(readers[0][1])
        low, high = (_bounds(v, source, origin) for v in (rounding.low, rounding.high))
        rounded = ops.fake_quantize(source, low, high, low, high, rounding.levels)
        for op, port in readers:
            op.input(port).replace_source_output(rounded.output(0))
    for place in int8.weights:
        op, port = find(place), place[1]
        constant = constant_of(op.input_value(port).get_node()) if port in weight_ports(op) else None
        if constant is None:
            raise EngineError(f"{origin}: input {port} of {place[0]} is no constant; calibrate again")
        shape = tuple(op.input_value(port).get_shape())
        stored, scale = quantise_weights(
            constant.get_data().reshape(shape).astype(np.float32), _channels(op, port)
        )
        scaled = ops.multiply(ops.convert(ops.constant(stored, Type.i8), Type.f32), ops.constant(scale))
        op.input(port).replace_source_output(scaled.output(0))


def _bounds(values: tuple[float, ...], source: Any, origin: str) -> Any:
    """A constant that fits the tensor: a number, or one to a channel."""
    array = np.array(values, np.float32)
    if array.size == 1:
        return ops.constant(array.reshape(()))
    shape = source.get_partial_shape()
    if len(shape) < 2 or shape[1].get_length() != array.size:
        raise EngineError(f"{origin}: {array.size} ranges for a tensor {shape}; calibrate again")
    return ops.constant(array.reshape(1, -1, *[1] * (len(shape) - 2)))


def extract(quantised: Model, named: dict[str, Any]) -> GraphInt8:
    """What NNCF did to a graph whose operations had been named before.

    Args:
        quantised: weights still in float, behind FakeQuantize.
        named: the graph's operations as `name_operations` gave them, before quantisation.
    """
    activations: list[Rounding] = []
    weights: list[Place] = []
    for op in quantised.get_ordered_ops():
        if op.get_type_name() != "FakeQuantize":
            continue
        readers = sorted(
            (t.get_node().get_friendly_name(), t.get_index()) for t in op.output(0).get_target_inputs()
        )
        if constant_of(op.input_value(0).get_node()) is not None:
            weights += readers
            continue
        unknown = [name for name, _ in readers if name not in named]
        if unknown:
            raise AssertionError(f"rounded before {unknown[0]}, which NNCF added")
        low, high = (op.input_value(k).get_node().get_data().ravel() for k in (1, 2))
        activations.append(
            Rounding(
                tuple(readers), tuple(map(float, low)), tuple(map(float, high)), op.get_attributes()["levels"]
            )
        )
    whole = [name for name, op in named.items() if weight_ports(op)]
    in_int8 = {name for name, _ in weights}
    return GraphInt8(tuple(activations), tuple(weights), tuple(n for n in whole if n not in in_int8))
