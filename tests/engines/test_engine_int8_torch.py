"""INT8 in PyTorch's graph, which only TensorRT computes fast: where its roundings are, and what they say."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._inductor.constant_folding import ConstantFolder

from engines import int8
from engines.__main__ import main
from engines.backends.fixed import Call, FixedBackend, Shapes, empty_inputs, mixed
from engines.backends.onnxruntime import Model as File
from engines.build import INT8_AGREES, int8_disagreement, parity_inputs
from engines.bundle import resolve
from engines.export import ExportedEngine, Mixed
from engines.int8_layers import Layer
from engines.int8_torch import ROUND8, round_layers
from engines.weights import load_network
from pipeline.errors import EngineError

ONLY_IN_SWEEP = pytest.mark.skipif(
    os.environ.get("AUSTREAM_SWEEP") != "all", reason="sixteen windows at a time; AUSTREAM_SWEEP=all runs it"
)


class Two(nn.Module):
    """Convolution with normalisation, ReLU, a product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
        nn.init.normal_(self.norm.weight)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 6, 6) → (B, 5)."""
        hidden: Tensor = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        result: Tensor = self.fc(hidden)
        return result


def by_output(weights: np.ndarray) -> np.ndarray:
    """Rounded by hand, the largest of each output being 127."""
    scale = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True) / 127
    return np.rint(weights / scale) * scale


def rounded(x: Tensor, largest: float) -> Tensor:
    """By hand: to one of 255 levels around zero."""
    return torch.clamp(torch.round(x * (127 / largest)), -128, 127) * (largest / 127)


@pytest.fixture
def two() -> Two:
    torch.manual_seed(3)
    return Two().eval()


def test_roundings_are_those_made_by_hand(two: Two) -> None:
    x = torch.randn(7, 3, 6, 6)
    folded = two.conv.weight * (two.norm.weight / torch.sqrt(two.norm.running_var + two.norm.eps)).view(
        -1, 1, 1, 1
    )
    wanted = [
        Layer("fc", two.fc.weight.detach().numpy(), 0.7),
        Layer("conv", folded.detach().numpy(), 2.5),
    ]
    got = round_layers(two, {"x": x}, wanted, "here")(x=x)
    with torch.no_grad():
        for layer in (two.conv, two.fc):
            layer.weight.copy_(torch.from_numpy(by_output(layer.weight.numpy())))
        hidden = torch.relu(two.norm(two.conv(rounded(x, 2.5)))).mean((2, 3))
        assert torch.allclose(got, two.fc(rounded(hidden, 0.7)), atol=1e-5)
        assert not torch.allclose(got, two(x), atol=1e-3)


def test_a_layer_that_is_not_there_is_refused(two: Two) -> None:
    other = Layer("late/Convolution", np.random.default_rng(0).normal(size=(8, 3, 3, 3)), 1.0)
    with pytest.raises(EngineError, match=r"here: .* no layer with the weights of late/Convolution; calibr"):
        round_layers(two, {"x": torch.zeros(2, 3, 6, 6)}, [other], "here")


def test_compilers_do_not_round_weights_beforehand(two: Two) -> None:
    """By the class that Torch-TensorRT's constant folding is made of: a layer whose weights are plain floats
    when TensorRT sees them is no INT8 layer."""
    wanted = [Layer("fc", two.fc.weight.detach().numpy(), 0.7)]
    inputs = {"x": torch.zeros(2, 3, 6, 6)}
    graph_module: Any = round_layers(Mixed(two, "cpu", torch.float16), inputs, wanted, "here")
    folder = ConstantFolder(graph_module)
    folder.run()
    folded = {node.target for node in folder.node_replacements}
    assert torch.ops.aten._to_copy.default in folded  # the halves of the weights are computed beforehand
    assert ROUND8 not in folded
    assert sum(node.target is ROUND8 for node in graph_module.graph.nodes) == 2


class Traced(FixedBackend):
    """Everything that the TensorRT backend does but TensorRT: the graph as it would be handed over, computed
    by PyTorch."""

    name, precisions, suffix = "traced", ("int8",), ".pt2"
    beside = "fp32"  # halves take minutes on a CPU that has none

    def examples(self, shapes: Shapes, device: str) -> dict[str, Tensor]:
        """As TensorRT has it."""
        return {name: tensor.float() for name, tensor in empty_inputs(shapes, device).items()}

    def compile(self, module: nn.Module, shapes: Shapes, precision: str, device: str, path: Path) -> None:
        """Save the program."""
        module = mixed(module, precision, device)
        torch.export.save(torch.export.export(module, (), self.examples(shapes, device), strict=False), path)

    def load(self, path: Path, shapes: Shapes, device: str) -> Call:  # noqa: ARG002
        """Load the program."""
        module: Any = torch.export.load(path).module(check_guards=False)
        return lambda **inputs: module(**{name: tensor.float() for name, tensor in inputs.items()})


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def make(name: str) -> Path:
        bundle, folder = resolve(name), tmp_path_factory.mktemp(name)
        engine = ExportedEngine(bundle.spec, load_network(bundle))
        Traced().export_int8(engine, bundle.spec, int8.load(bundle)[0], folder)
        return folder

    return make


@pytest.mark.parametrize("name", ["delta", "cednn", "satnet"])
def test_every_layer_named_is_rounded(name: str, traced: Callable[[str], Path]) -> None:
    """Weights and inputs; of SAT-Net in the graphs of its parts."""
    form = int8.load(resolve(name))[0]
    roundings = 0
    for path in traced(name).glob("*.pt2"):
        graph = torch.export.load(path).graph
        calls = [node for node in graph.nodes if node.op == "call_function"]
        into = [node for node in calls if "conv" in str(node.target) or "linear" in str(node.target)]
        ops = [[a.target is ROUND8 for a in node.args[:2]] for node in into]
        assert all(inputs == weights for inputs, weights in ops)
        roundings += sum(map(sum, ops))
    named = sum(len(graph.weights) for graph in form.graphs.values())
    assert 1.6 * named <= roundings <= 2 * named


@pytest.mark.parametrize("name", ["delta", "cednn", pytest.param("satnet", marks=ONLY_IN_SWEEP)])
def test_the_graph_says_what_openvinos_int8_says(name: str, traced: Callable[[str], Path]) -> None:
    bundle = resolve(name)
    session = Traced().open(traced(name), bundle.spec, None)
    assert int8_disagreement(session, bundle.spec, int8.load(bundle)[0]) < INT8_AGREES


def test_deltas_graph_is_the_onnx_files(traced: Callable[[str], Path], tmp_path: Path) -> None:
    """The same roundings by another program, beside float32 instead of fp16."""
    path = tmp_path / "delta.onnx"
    assert main(["build", "delta", "--backend", "onnx", "--precision", "int8", "--out", str(path)]) == 0
    file, spec = File(path, None, 1), resolve("delta").spec
    mine = Traced().open(traced("delta"), spec, None)
    faces = [inputs for _name, inputs in parity_inputs(spec, seed=5)]
    off = np.concatenate([np.abs(mine.run(one) - file.infer(one)) for one in faces])
    assert np.percentile(off, 95) < 0.02
