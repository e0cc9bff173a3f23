"""INT8 in PyTorch's graph, for Torch-TensorRT: roundings before the layers of `engines.int8_layers`.

`austream::round8` is what TensorRT's backend turns into QuantizeLinear and DequantizeLinear. PyTorch computes
it as well: so what the graph says can be held to what OpenVINO's INT8 says.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from engines.int8_layers import Layer
from pipeline.errors import EngineError

_SAME = 1e-4
"""A layer's weights are the same within this share of an output's largest, up to a factor for each output: in
this graph the normalisation that follows a layer is not folded into it."""
_LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype)
"""What stands between stored weights and their layer where it computes in another precision."""


# Called random, which it is not, as compilers do not compute constants by such operations beforehand: weights
# that were rounded then would be plain floats to TensorRT, and their layer no INT8 layer.
@torch.library.custom_op("austream::round8", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def round8(x: Tensor, largest: Tensor) -> Tensor:
    """Round to one of 256 levels, zero among them.

    Args:
        x: any shape, a floating point type.
        largest: float32 (), what becomes 127; or (outputs, 1, …) for each of x's first axis.

    Returns:
        Of x's shape and type.
    """
    return (torch.clamp(torch.round(x.float() * (127 / largest)), -128, 127) * (largest / 127)).to(x.dtype)


@round8.register_fake
def _like(x: Tensor, largest: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


ROUND8 = torch.ops.austream.round8.default


def round_layers(
    module: nn.Module, inputs: Mapping[str, Tensor], wanted: Sequence[Layer], origin: str
) -> nn.Module:
    """A module with roundings before the layers that INT8 computes in 8 bits.

    Args:
        module: takes its inputs by name; unchanged.
        inputs: of the shapes and types that it will be given.
        wanted: of the same network.
        origin: the file, for messages.

    Raises:
        EngineError: a layer is not there.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # Nothing is taken apart, but what autocast does becomes operations: a rounding goes after its casts.
        traced = torch.export.export(module, (), dict(inputs), strict=False).run_decompositions({})
        graph_module: fx.GraphModule = traced.module(check_guards=False)
    layers = [node for node in graph_module.graph.nodes if node.target in _LAYERS]
    weights_of = ((node, _stored(graph_module, node.args[1])) for node in layers)
    free = {node: w.float().cpu().numpy() for node, w in weights_of if w is not None}
    for number, layer in enumerate(wanted):
        node = next((n for n, w in free.items() if _holds(w, layer)), None)
        if node is None:
            raise EngineError(
                f"{origin}: the graph has no layer with the weights of {layer.name}; calibrate again"
            )
        weights = free.pop(node)
        by_output = np.abs(weights).reshape(len(weights), -1).max(axis=1)
        _round(graph_module, node, 0, np.array(layer.largest), f"int8_{number}_input")
        _round(
            graph_module, node, 1, by_output.reshape(-1, *[1] * (weights.ndim - 1)), f"int8_{number}_weights"
        )
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def _round(module: fx.GraphModule, node: fx.Node, port: int, largest: NDArray[Any], name: str) -> None:
    """Put a rounding before one input of an operation; `name` is that of the buffer for its scale."""
    # TensorRT wants scales above zero, and a single one without axes.
    largest = np.where(largest > 0, largest, 1).reshape(() if largest.size == 1 else largest.shape)
    device = next(tensor.device for tensor in (*module.parameters(), *module.buffers()))
    module.register_buffer(name, torch.from_numpy(largest.astype(np.float32)).to(device))
    with module.graph.inserting_before(node):
        rounded = module.graph.call_function(ROUND8, (node.args[port], module.graph.get_attr(name)))
    node.update_arg(port, rounded)


def _stored(module: fx.GraphModule, node: Any) -> Tensor | None:
    """A layer's weights, (outputs, inputs, …), as they are stored but for their shape; None where they are
    computed from what the module is given."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        found: Any = module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return cast(Tensor, found.detach())
    if node.op != "call_function" or len(node.all_input_nodes) != 1:
        return None
    inner = _stored(module, node.args[0])
    if inner is None or node.target in _COPIES:
        return inner
    return cast(Tensor, cast(Callable[..., Any], node.target)(inner, *node.args[1:], **node.kwargs))


def _holds(weights: NDArray[np.float32], layer: Layer) -> bool:
    if weights.shape != layer.weights.shape:
        return False
    mine, theirs = (w.reshape(len(w), -1).astype(np.float64) for w in (weights, layer.weights))
    squares = (mine * mine).sum(axis=1)
    factors = (mine * theirs).sum(axis=1) / np.where(squares > 0, squares, 1)
    off = np.abs(mine * factors[:, None] - theirs).max(axis=1)
    return bool((off <= _SAME * np.abs(theirs).max(axis=1)).all())
