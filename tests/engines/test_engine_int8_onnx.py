"""INT8 as an ONNX file: where its roundings are, and what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.__main__ import main
from engines.backends.onnxruntime import Model as File
from engines.build import parity_inputs
from engines.bundle import resolve
from engines.int8_onnx import Layer, round_layers
from engines.runtime import load_engine
from pipeline.errors import EngineError


def two_layers(first: np.ndarray, second: np.ndarray) -> onnx.ModelProto:
    """x → Gemm → Relu → MatMul; the ReLU's output is also added at the end."""
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "second"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    stored = [numpy_helper.from_array(w, n) for w, n in ((first, "first"), (second, "second"))]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["faces", 6]) for n in "xy"]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def rounded(x: np.ndarray, largest: float) -> np.ndarray:
    """By hand: to one of 255 levels around zero."""
    scale = np.float32(largest / 127)
    return np.clip(np.rint(x / scale), -128, 127) * scale


def by_channel(weights: np.ndarray) -> np.ndarray:
    """(outputs, inputs), the largest of each output ±127."""
    scale = np.abs(weights).max(axis=1, keepdims=True) / 127
    return np.rint(weights / scale) * scale


def test_roundings_are_numpys(rng: np.random.Generator) -> None:
    first, second = (rng.normal(size=(6, 6)).astype(np.float32) for _ in range(2))
    x = rng.normal(0, 2, (9, 6)).astype(np.float32)
    model = two_layers(first, second)
    round_layers(model, [Layer("late", second.T, 3.0), Layer("early", first, 2.5)], "here")
    onnx.checker.check_model(model, full_check=True)
    got = File(model.SerializeToString(), None, 1).infer({"x": x})
    hidden = np.maximum(rounded(x, 2.5) @ by_channel(first).T, 0)
    wanted = hidden + rounded(hidden, 3.0) @ by_channel(second.T).T
    # A value between two levels may go to either by the last bit of a sum.
    assert np.median(np.abs(got - wanted)) < 1e-5
    assert np.abs(got - wanted).max() < 3.0 / 127 * np.abs(second).max() * 2


def test_a_layer_left_out_stays_as_it_is(rng: np.random.Generator) -> None:
    first, second = (rng.normal(size=(6, 6)).astype(np.float32) for _ in range(2))
    model = two_layers(first, second)
    round_layers(model, [Layer("early", first, 2.5)], "here")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "Gemm",
        "Relu",
        "MatMul",
        "Add",
    ]
    assert {w.name for w in model.graph.initializer if w.data_type == TensorProto.FLOAT and w.dims} == {
        "second",
        "first:scale",
    }


def test_weights_that_are_not_there_are_refused(rng: np.random.Generator) -> None:
    first, second, other = (rng.normal(size=(6, 6)).astype(np.float32) for _ in range(3))
    with pytest.raises(
        EngineError, match=r"here: .* no layer with the weights of fc/MatMul; calibrate again"
    ):
        round_layers(two_layers(first, second), [Layer("fc/MatMul", other, 1.0)], "here")


@pytest.fixture(scope="module")
def delta_int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "delta.onnx"
    assert main(["build", "delta", "--backend", "onnx", "--precision", "int8", "--out", str(path)]) == 0
    return path


def test_deltas_file_is_one_that_tensorrt_takes(delta_int8: Path) -> None:
    """Explicit roundings around zero to signed bytes, and every layer's weights stored as such."""
    model = onnx.load(delta_int8)
    onnx.checker.check_model(model, full_check=True)
    stored = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    roundings = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(
        stored[node.input[2]].dtype == np.int8 and not stored[node.input[2]].any() for node in roundings
    )
    made = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    whole = [n for n in layers if all(made.get(i) in roundings for i in n.input[:2])]
    assert len(whole) >= 0.8 * len(layers)
    assert {p.key for p in model.metadata_props} >= {
        "austream.aus",
        "austream.thresholds",
        "austream.trained",
    }


def test_deltas_file_says_what_openvinos_int8_says(delta_int8: Path) -> None:
    file, engine = File(delta_int8, None, 1), load_engine("delta", "openvino", "int8")
    faces = [inputs for _name, inputs in parity_inputs(resolve("delta").spec, seed=5)]
    wanted = np.concatenate([engine.run(**one) for one in faces])
    together = {name: np.concatenate([one[name] for one in faces]) for name in faces[0]}
    got = file.infer(together)
    assert np.percentile(np.abs(got - wanted), 95) < 0.05
    assert np.abs(got - wanted).max() > 1e-6  # it is another way of computing, not the same file


def test_what_cannot_be_handed_out_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "x.onnx")
    for asked, said in (
        (["satnet"], "INT8 of a temporal engine is computed in parts"),
        (["igc"], "no INT8 form"),
    ):
        assert main(["build", *asked, "--backend", "onnx", "--precision", "int8", "--out", path]) in (1, 2)
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
