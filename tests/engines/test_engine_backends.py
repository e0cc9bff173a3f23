"""ONNX Runtime, AOTInductor and TensorRT: what each writes, refuses and computes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from engines import onnx_file
from engines.__main__ import main
from engines.backends import get
from engines.backends.fixed import Fixed, FixedSlidingSession, empty_inputs, mixed, sliding_parts
from engines.build import build, compare, parity_inputs
from engines.bundle import Bundle, resolve
from engines.cache import Parity
from engines.export import ExportedEngine, Mixed
from engines.gpu import GPU
from engines.networks import build_network
from engines.runtime import Engine, load_engine
from engines.sliding import SlidingEngine, load_sliding
from engines.weights import load_network, randomise, save_bundle
from pipeline.errors import EngineError, UsageError

ALL = os.environ.get("AUSTREAM_SWEEP") == "all"
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="no C++ compiler, which AOTInductor builds with",
)


# ONNX.


@pytest.fixture(scope="session")
def delta_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "delta.onnx"
    assert main(["build", "delta", "--backend", "onnx", "--out", str(path)]) == 0
    return path


def test_an_onnx_file_is_valid_whole_and_open_in_its_batch(delta_onnx: Path) -> None:
    model = onnx.load(delta_onnx)
    onnx.checker.check_model(model, full_check=True)
    spec = resolve("delta").spec
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input
    }
    assert shapes == {name: ["faces", *shape[1:]] for name, (shape, _) in spec.inputs(1).items()}
    [output] = model.graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["faces", len(spec.aus)]
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["austream.aus"]) == list(spec.aus)
    assert json.loads(said["austream.thresholds"]) == list(spec.thresholds)
    assert said["austream.trained"] == spec.trained
    assert [p.name for p in delta_onnx.parent.iterdir()] == ["delta.onnx"]  # no data beside it, no .part


def test_any_number_of_faces_is_pytorchs(delta_onnx: Path) -> None:
    bundle = resolve("delta")
    together = [inputs for _, inputs in parity_inputs(bundle.spec)]
    stacked = {name: np.concatenate([one[name] for one in together]) for name in together[0]}
    session = onnxruntime.InferenceSession(delta_onnx, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        eager = ExportedEngine(bundle.spec, load_network(bundle))(
            **{name: torch.from_numpy(array) for name, array in stacked.items()}
        ).numpy()
    for count in (1, 3, 5):
        [got] = session.run(None, {name: array[:count] for name, array in stacked.items()})
        np.testing.assert_allclose(got, eager[:count], atol=1e-5)


def test_the_figures_are_printed(
    delta_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["build", "delta", "--backend", "onnx", "--json", "rows.json"]) == 0
    said = capsys.readouterr()
    assert "parity of ONNX Runtime with PyTorch eager: max" in said.out
    assert "compiling" not in said.err
    assert (tmp_path / "delta.onnx").read_bytes() == delta_onnx.read_bytes()
    [row] = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["parity"]["max_abs"] < 1e-4
    assert row["batch_max_abs"] < 1e-5


def test_out_is_for_files_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "delta", "--out", "x.onnx"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


class Doubled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(100, 100))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class ForTwo(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class Sorted(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("not in this world")


INPUTS = {"x": ((2, 100), np.float32)}


def test_half_weights_take_half_the_space_and_are_rounded_once() -> None:
    torch.manual_seed(0)
    module = Doubled()
    whole, half = (onnx_file.to_onnx(module, INPUTS, precision) for precision in ("fp32", "fp16"))
    assert 0.4 < len(half) / len(whole) < 0.6
    x = np.random.default_rng(0).normal(size=(7, 100)).astype(np.float32)
    [got] = onnxruntime.InferenceSession(half).run(None, {"x": x})
    rounded = module.weight.detach().half().float().numpy()
    np.testing.assert_allclose(got, x @ rounded, atol=1e-4)
    with torch.no_grad():
        module.weight[0, 0] = 1e6
    with pytest.raises(EngineError, match="exceeds float16"):
        onnx_file.to_onnx(module, INPUTS, "fp16")


@pytest.mark.parametrize("module", [ForTwo(), Sorted()])
def test_what_onnx_cannot_hold_is_one_line(module: torch.nn.Module) -> None:
    with pytest.raises(EngineError, match=r"ONNX|fixed the batch") as error:
        onnx_file.to_onnx(module, INPUTS)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("delta_onnx")
def test_onnx_runtime_needs_no_torch_when_the_cache_is_warm() -> None:
    code = """
import sys
import numpy as np
from engines.runtime import load_engine
engine = load_engine("delta", "onnxruntime")
inputs = {n: np.zeros(s, d) for n, (s, d) in engine.spec.inputs(3).items()}
print(engine.run(**inputs).shape, "torch" in sys.modules, "onnx" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"(3, {len(resolve('delta').spec.aus)}) False False"


@pytest.mark.usefixtures("delta_onnx")
def test_lanes_and_threads_change_little() -> None:
    engines = [load_engine("delta", "onnxruntime", threads=t, lanes=n) for t, n in ((1, 1), (2, 1), (2, 2))]
    for _, inputs in parity_inputs(engines[0].spec):
        first, *others = [engine.run(**inputs) for engine in engines]
        for other in others:
            np.testing.assert_allclose(other, first, atol=1e-6)


@pytest.mark.usefixtures("delta_onnx")
@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_file_onnx_runtime_refuses_is_one_line(tmp_path: Path, damage: bytes | None) -> None:
    """Behind the cache's checksums; None: the first half of the real one."""
    engine = load_engine("delta", "onnxruntime")
    content = (engine.folder / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(EngineError, match="ONNX Runtime cannot load") as error:
        get("onnxruntime").open(tmp_path, engine.spec, None)
    assert "\n" not in str(error.value)


# Other precisions, and the parts of a temporal engine: PyTorch's own, uncompiled.


@pytest.mark.parametrize("name", ["delta", "cednn", "arl", "tranet", "eacnet"])
def test_half_precision_in_products_alone_stays_near(name: str) -> None:
    """What inductor and tensorrt compile, on the CPU: one input, as half of it is slow there."""
    if name in ("arl", "tranet", "eacnet") and not ALL:
        pytest.skip("half precision takes a minute on a CPU; AUSTREAM_SWEEP=all runs it")
    bundle = resolve(name)
    engine = ExportedEngine(bundle.spec, load_network(bundle))
    _, inputs = list(parity_inputs(bundle.spec))[1]
    tensors = {n: torch.from_numpy(a) for n, a in inputs.items()}
    with torch.inference_mode():
        got, wanted = Mixed(engine, "cpu", torch.float16)(**tensors), engine(**tensors)
    assert got.dtype == torch.float32
    assert 0 < float((got - wanted).abs().max()) < 2e-2


def test_sliding_by_fixed_batches_is_the_full_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's own doing, with PyTorch's modules instead of compiled ones: two faces, a batch of two.
    Of windows only two at a time, so that they go in turns."""
    monkeypatch.setattr("engines.backends.fixed.WINDOWS", 1)
    bundle = resolve("satnet")
    whole = ExportedEngine(bundle.spec, load_network(bundle))
    fixed = {
        name: Fixed(module.eval(), shapes, "cpu")
        for name, (module, shapes) in sliding_parts(whole, 2).items()
    }
    session = FixedSlidingSession(fixed, 2)
    entry: Any = type("Entry", (), {"folder": Path(), "parity": Parity(0, 0, 0, 1, 1)})
    engine = SlidingEngine(bundle.spec, session, "inductor", "fp32", "test", entry, 2)
    coarse = np.random.default_rng(5).integers(0, 256, (18, 14, 14, 3), dtype=np.uint8)
    crops = coarse.repeat(16, 1).repeat(16, 2)
    tracks = [engine.track(1, 8), engine.track(1, 8)]
    for n in range(17):
        outputs = engine.push([(track, crops[n + i], n, False) for i, track in enumerate(tracks)])
        if n == 15:
            at_15 = outputs
    assert outputs == [None, None]
    for i, output in enumerate(at_15):
        with torch.inference_mode():
            wanted = whole(torch.from_numpy(crops[i : i + 16])[None])[0].numpy()
        np.testing.assert_allclose(output, wanted, atol=1e-5)
    np.testing.assert_allclose(session.features(crops[0]), session.features_of(crops[:1])[0], atol=1e-5)


# AOTInductor.


@pytest.fixture(scope="module")
def landmarks_alone(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Delta without its pixel part: the quickest to compile."""
    spec = replace(resolve("delta").spec, name="ways", variant={"pixels": False}, neutral=False)
    network = build_network(spec)
    randomise(network, 0)
    return save_bundle(tmp_path_factory.mktemp("bundle"), spec, network.state_dict())


@needs_compiler
def test_inductor_compiles_for_a_cpu_as_well(landmarks_alone: Bundle) -> None:
    engine = load_engine(landmarks_alone.folder, "inductor", "fp32", faces=3)
    assert engine.batch == 8
    assert engine.parity.max_abs < 1e-5
    assert "-8-inductor-fp32-" in engine.folder.name
    said: list[str] = []
    again = load_engine(landmarks_alone.folder, "inductor", "fp32", faces=8, log=said.append)
    assert said == []
    eager = load_engine(landmarks_alone.folder, "torch")
    some = [inputs for _, inputs in parity_inputs(engine.spec)] * 3
    stacked = {name: np.concatenate([one[name] for one in some]) for name in some[0]}
    got = again.run(**stacked)  # 15 faces: two batches, one not full
    np.testing.assert_allclose(got, eager.run(**stacked), atol=1e-5)
    np.testing.assert_allclose(again.run(**some[2]), got[2:3], atol=1e-6)


@needs_compiler
def test_a_package_that_is_none_is_one_line(tmp_path: Path, landmarks_alone: Bundle) -> None:
    (tmp_path / "device.json").write_text('{"device": "cpu", "precision": "fp32"}')
    (tmp_path / "model.pt2").write_bytes(b"junk")
    with pytest.raises(EngineError, match="AOTInductor cannot load") as error:
        get("inductor").open(tmp_path, landmarks_alone.spec, None)
    assert "\n" not in str(error.value)


def test_without_a_compiler_inductor_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landmarks_alone: Bundle
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EngineError, match="no-such-compiler is missing"):
        build(landmarks_alone, get("inductor"), "fp32", tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_engine_for_a_gpu_that_went_away(tmp_path: Path, landmarks_alone: Bundle) -> None:
    (tmp_path / "device.json").write_text('{"device": "cuda", "precision": "fp32"}')
    with pytest.raises(EngineError, match="compiled for a GPU"):
        get("inductor").open(tmp_path, landmarks_alone.spec, None)


def test_a_gpu_that_pytorch_cannot_use_is_said_and_no_cpu_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landmarks_alone: Bundle
) -> None:
    """A driver older than PyTorch's CUDA: the driver names the GPU, PyTorch sees none."""
    monkeypatch.setattr("engines.backends.fixed.nvidia_gpu", lambda: GPU("NVIDIA H100", "9.0", "12.2"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        EngineError, match=r"cannot use the GPU NVIDIA H100.*CUDA 12.2.*--backend openvino"
    ) as error:
        build(landmarks_alone, get("inductor"), "fp32", tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_batches_are_fixed() -> None:
    assert get("inductor").at(32).batch == 32
    assert get("inductor").batch == 1
    with pytest.raises(UsageError, match="1 or 8 or 32 or 128 faces at a time, not 7"):
        get("inductor").at(7)
    with pytest.raises(UsageError, match="openvino computes 1 faces at a time, not 8"):
        get("openvino").at(8)


# TensorRT: on machines that have it. Nothing stands in for it.


@pytest.mark.skipif(importlib.util.find_spec("torch_tensorrt") is not None, reason="torch_tensorrt is here")
def test_tensorrt_is_asked_for_in_vain() -> None:
    with pytest.raises(EngineError, match="needs the package torch-tensorrt: pip install torch-tensorrt"):
        load_engine("delta", "tensorrt")


def tensorrt_or_skip() -> None:
    pytest.importorskip("torch_tensorrt", reason="torch_tensorrt cannot be imported here")
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU for torch_tensorrt")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["delta", "cednn", "satnet", "tranet", "eacnet", "arl"])
def test_tensorrt_is_the_network(name: str, precision: str) -> None:
    tensorrt_or_skip()
    engine = load_engine(name, "tensorrt", precision, faces=8)
    assert engine.parity.max_abs <= engine.parity.tolerance
    inputs = next(parity_inputs(engine.spec))[1]
    several = {n: np.repeat(a, 3, axis=0) for n, a in inputs.items()}
    np.testing.assert_allclose(engine.run(**several), engine.run(**inputs).repeat(3, 0), atol=1e-4)


@pytest.mark.parametrize("name", ["delta", "cednn"])
def test_tensorrt_int8_answers_as_openvinos(name: str) -> None:
    """Its graph is held to that on every machine, in test_engine_int8_torch."""
    tensorrt_or_skip()
    engine = load_engine(name, "tensorrt", "int8", faces=8)
    reference = load_engine(name, "openvino", "int8")
    for _name, inputs in parity_inputs(engine.spec, seed=5):
        np.testing.assert_allclose(engine.run(**inputs), reference.run(**inputs), atol=0.05)


def test_inductor_has_no_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than one that shows the figures of OpenVINO's."""
    monkeypatch.setattr("engines.backends.obstacle", lambda *_: None)
    with pytest.raises(UsageError, match="inductor computes in fp32 or bf16 or fp16, got --precision int8"):
        load_engine("delta", "inductor", "int8")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graphs_inputs_keep_the_names_that_tensorrt_binds_them_by(
    landmarks_alone: Bundle, precision: str
) -> None:
    """Torch-TensorRT 2.13 and 2.14 call inputs as the graph's placeholders, and results output0, output1, …
    (`TRTInterpreter.placeholder`, `.output`); `tensorrt.load` hands them over in this order."""
    engine = ExportedEngine(landmarks_alone.spec, load_network(landmarks_alone))
    inputs = empty_inputs(landmarks_alone.spec.inputs(2), "cpu")
    with torch.no_grad():
        program = torch.export.export(mixed(engine, precision, "cpu"), (), inputs, strict=False)
    graph = program.run_decompositions().module().graph
    assert [node.target for node in graph.nodes if node.op == "placeholder"] == list(inputs)
    [output] = [node for node in graph.nodes if node.op == "output"]
    assert len(output.args[0]) == 1


# One sweep.

SWEEP = [
    (name, backend, precision)
    for backend, precision in (
        ("openvino", "fp32"), ("onnxruntime", "fp32"), ("inductor", "fp32"),
        ("openvino", "fp16"), ("onnxruntime", "fp16"), ("inductor", "fp16"), ("inductor", "bf16"),
        ("openvino", "bf16"), ("torch", "fp32"),
    )
    for name in ("cednn", "igc", "satnet", "arl", "iarl", "eacnet", "tranet", "delta")
]  # fmt: skip
SWEEP += [(name, "openvino", "int8") for name in ("cednn", "satnet", "delta")]  # what bundles have a form of
QUICK = {(n, "openvino", "fp32") for n in ("cednn", "igc", "satnet", "arl", "eacnet", "tranet", "delta")}
QUICK |= {("delta", "onnxruntime", "fp32"), ("cednn", "onnxruntime", "fp32"), ("cednn", "openvino", "fp16")}
QUICK |= {("cednn", "openvino", "bf16")}


@pytest.mark.parametrize(("name", "backend", "precision"), SWEEP)
def test_every_network_on_every_backend(name: str, backend: str, precision: str) -> None:
    """The figures of the cache entry, and once more with other inputs than it was built with."""
    if (name, backend, precision) not in QUICK and not ALL:
        pytest.skip("takes minutes for all; AUSTREAM_SWEEP=all runs it")
    try:
        engine: Engine = load_engine(name, backend, precision)
    except UsageError as error:
        assert "no bfloat16 in this processor" in str(error)  # noqa: PT017
        pytest.skip(str(error))
    except EngineError as error:  # half precision is too little for some random weights, and is refused
        assert precision != "fp32"
        assert resolve(name).random_seed is not None
        assert "differs from PyTorch eager: max" in str(error)  # noqa: PT017
        pytest.skip(str(error))
    assert engine.parity.holds
    entry: Mapping[str, Any] = json.loads((engine.folder / "entry.json").read_text())
    assert Parity(**entry["parity"]) == engine.parity
    if precision == "int8":  # judged on faces where it was made; its answers are in test_engine_int8.py
        assert engine.parity.p99_abs is not None
        return
    assert engine.parity.decisions == 5 * len(engine.spec.aus)
    assert precision != "fp32" or engine.parity.decisions_changed == 0
    if backend == "onnxruntime":  # its file, with two faces in one batch
        some = [inputs for _, inputs in parity_inputs(engine.spec)][1:3]
        both = {key: np.concatenate([one[key] for one in some]) for key in some[0]}
        [together] = onnxruntime.InferenceSession(engine.folder / "model.onnx").run(None, both)
        alone = np.concatenate([engine.run(**one) for one in some])
        assert np.ptp(alone, axis=0).max() > 0
        np.testing.assert_allclose(together, alone, rtol=0, atol=engine.parity.tolerance)
    if engine.spec.window == 1:
        eager = load_engine(name, "torch", log=lambda _: None)
        assert (
            compare(engine.session, eager.session, engine.spec, precision).max_abs <= engine.parity.tolerance
        )


@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        ("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("inductor", "fp32"), ("inductor", "bf16"),
        ("inductor", "fp16"), ("openvino", "fp16"), ("openvino", "bf16"), ("openvino", "int8"),
    ],
)  # fmt: skip
def test_a_temporal_network_in_parts(backend: str, precision: str) -> None:
    """OpenVINO's and PyTorch's in float32 are in test_engine_sliding.py."""
    if not ALL:
        pytest.skip("takes minutes; AUSTREAM_SWEEP=all runs it")
    engine = load_sliding("satnet", backend, precision)
    assert engine.parity.max_abs > 0
    assert engine.parity.holds
    if precision == "fp32":
        assert engine.parity.tolerance == 1e-5
        assert engine.parity.decisions_changed == 0
