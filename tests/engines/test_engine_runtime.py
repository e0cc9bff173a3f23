"""Engines as the pipeline uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from engines import backends
from engines.backends import choose, choose_precision
from engines.build import parity_inputs
from engines.bundle import resolve
from engines.gpu import GPU
from engines.runtime import Engine, load_engine, pick
from engines.weights import load_network, save_bundle
from pipeline.errors import EngineError, UsageError
from pipeline.header import engine_entry


@pytest.fixture(scope="module")
def cednn_torch() -> Engine:
    return load_engine("cednn", "torch")


def faces(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    coarse = rng.integers(0, 256, (count, 14, 14, 3), dtype=np.uint8)
    levels = rng.integers(0, 6, (count, 14, 14), dtype=np.uint8)
    return coarse.repeat(16, 1).repeat(16, 2), levels.repeat(16, 1).repeat(16, 2)


def test_preprocessing_is_in_the_graph(cednn_openvino: Engine, rng: np.random.Generator) -> None:
    """BGR bytes against a network fed by hand with RGB from 0 to 1."""
    crops, levels = faces(rng, 2)
    rgb = crops[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    with torch.inference_mode():
        logits = (
            load_network(resolve("cednn"))(torch.from_numpy(rgb), torch.from_numpy(levels)).double().numpy()
        )
    np.testing.assert_allclose(cednn_openvino.run(crops, levels), 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_satnets_preprocessing_is_imagenets(satnet_openvino: Engine, rng: np.random.Generator) -> None:
    frames, _ = faces(rng, 16)
    rgb = frames[..., ::-1].astype(np.float64) / 255
    normal = (rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    images = torch.from_numpy(normal.transpose(0, 3, 1, 2)[None].astype(np.float32))
    with torch.inference_mode():
        logits = load_network(resolve("satnet"))(images).double().numpy()
    got = satnet_openvino.run(frames[None])
    assert got.shape == (1, 13)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_company_does_not_matter(
    cednn_openvino: Engine, cednn_torch: Engine, rng: np.random.Generator
) -> None:
    crops, levels = faces(rng, 3)
    together = cednn_openvino.run(crops, levels)
    alone = np.concatenate([cednn_openvino.run(crops[i : i + 1], levels[i : i + 1]) for i in range(3)])
    assert np.array_equal(together, alone)
    assert np.ptp(together, axis=0).max() > 0.01
    np.testing.assert_allclose(cednn_torch.run(crops, levels), together, atol=1e-4)


@pytest.mark.parametrize("name", ["cednn_openvino", "cednn_torch"])
def test_read_only_and_strided_crops(
    request: pytest.FixtureRequest, name: str, rng: np.random.Generator
) -> None:
    engine: Engine = request.getfixturevalue(name)
    crops, levels = faces(rng, 2)
    expected = engine.run(crops[::-1].copy(), levels[::-1].copy())
    crops.flags.writeable = levels.flags.writeable = False
    np.testing.assert_allclose(engine.run(crops[::-1], levels[::-1]), expected, atol=1e-6)


def test_no_faces(cednn_openvino: Engine, satnet_openvino: Engine) -> None:
    none = cednn_openvino.run(np.empty((0, 224, 224, 3), np.uint8), np.empty((0, 224, 224), np.uint8))
    assert none.shape == (0, 13)
    assert none.dtype == np.float32
    assert satnet_openvino.run(np.empty((0, 16, 224, 224, 3), np.uint8)).shape == (0, 13)


CROPS = np.zeros((1, 224, 224, 3), np.uint8)
LEVELS = np.zeros((1, 224, 224), np.uint8)


@pytest.mark.parametrize(
    ("crops", "levels", "message"),
    [
        (CROPS.astype(np.float32), LEVELS, r"crops: expected uint8 \(B, 224, 224, 3\), got float32"),
        (CROPS[:, :200], LEVELS, r"crops: expected .*, got uint8 \(1, 200, 224, 3\)"),
        (CROPS[0], LEVELS, "crops: expected"),
        (CROPS.tolist(), LEVELS, "crops: expected .*, got list"),
        (CROPS, None, "expected level_map beside the crops"),
        (CROPS, LEVELS[0], "level_map: expected uint8"),
        (CROPS, LEVELS.astype(bool), "level_map: expected uint8 .*, got bool"),
        (CROPS, np.zeros((2, 224, 224), np.uint8), "level_map: expected"),
        (CROPS, LEVELS + 255, "level_map: expected 0 to 5, got 255"),
    ],
)
def test_wrong_inputs(cednn_openvino: Engine, crops: object, levels: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cednn_openvino.run(crops, levels)


def test_level_maps_for_an_engine_without(satnet_openvino: Engine) -> None:
    with pytest.raises(UsageError, match="expected no level_map"):
        satnet_openvino.run(np.zeros((1, 16, 224, 224, 3), np.uint8), LEVELS)
    with pytest.raises(UsageError, match=r"\(B, 16, 224, 224, 3\)"):
        satnet_openvino.run(CROPS)


EVERYTHING = {"torch_tensorrt": "2.13.0", "torch": "2.13.0", "openvino": "1.0", "onnxruntime": "1.31.1"}
H100 = GPU("NVIDIA H100", "9.0", "13.0")


def a_machine(monkeypatch: pytest.MonkeyPatch, gpu: GPU | None, **packages: str) -> None:
    """With that GPU, those packages, a C++ compiler and a CUDA toolkit."""
    monkeypatch.setattr(backends, "nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(backends, "installed_version", lambda p: packages.get(p.replace("-", "_")))
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setenv("CUDA_HOME", sys.prefix)


def test_auto_takes_the_best_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(gpu: GPU | None, **packages: str) -> tuple[str, str]:
        a_machine(monkeypatch, gpu, **packages)
        name, reason = choose("auto")
        return name, f"{reason}; {choose_precision(name, 'auto')[1]}"

    everything, h100 = EVERYTHING, H100
    name, reason = here(h100, **everything)
    assert name == "tensorrt"
    assert "tensorrt 2.13.0 on NVIDIA H100 (compute 9.0, CUDA 13.0)" in reason
    assert "fp16" in reason
    name, reason = here(h100, torch="2.13.0", openvino="1.0")
    assert name == "inductor"
    assert "tensorrt not installed" in reason
    name, reason = here(h100, torch="2.13.0+cpu", openvino="1.0")
    assert name == "openvino"
    assert "built without CUDA" in reason
    name, reason = here(None, **everything)
    assert name == "openvino"
    assert "no NVIDIA GPU for tensorrt; no NVIDIA GPU for inductor" in reason
    assert "fp32 on a CPU" in reason
    assert here(None, torch="2.13.0", onnxruntime="1.31.1")[0] == "onnxruntime"
    name, reason = here(None, torch="2.13.0")
    assert name == "torch"
    assert "openvino not installed; onnxruntime not installed" in reason
    with pytest.raises(EngineError, match="pip install openvino"):
        load_engine("cednn", "openvino")
    with pytest.raises(EngineError, match="no backend is installed"):
        here(None)


def test_auto_looks_at_the_precision_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    a_machine(monkeypatch, H100, **EVERYTHING)
    assert choose("auto", "int8")[0] == "tensorrt"
    name, reason = choose("auto", "bf16")
    assert name == "inductor"
    assert "tensorrt has no bf16" in reason
    a_machine(monkeypatch, H100, torch="2.13.0", openvino="1.0")
    name, reason = choose("auto", "int8")
    assert name == "openvino"
    assert "inductor has no int8" in reason
    a_machine(monkeypatch, None, **EVERYTHING)
    assert choose("auto", "fp16")[0] == "openvino"
    monkeypatch.setattr(backends, "_cpu_has_bfloat16", lambda: True)
    assert choose("auto", "bf16")[0] == "openvino"
    monkeypatch.setattr(backends, "_cpu_has_bfloat16", lambda: False)
    with pytest.raises(UsageError, match=r"bf16: no backend for it .*GPU for inductor; no bfloat16 in this"):
        load_engine("cednn", "auto", "bf16")
    with pytest.raises(UsageError, match=r"bf16: no bfloat16 in this processor .*; use --precision fp32"):
        load_engine("cednn", "openvino", "bf16")


def test_auto_passes_inductor_by_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    a_machine(monkeypatch, H100, torch="2.13.0", openvino="1.0")
    assert choose("auto")[0] == "inductor"
    monkeypatch.setenv("CXX", "no-such-compiler")
    name, reason = choose("auto")
    assert name == "openvino"
    assert "no C++ compiler no-such-compiler for inductor" in reason
    assert choose("inductor")[0] == "inductor"  # what it compiled before runs without one


def test_auto_passes_inductor_by_without_a_cuda_toolkit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A driver and PyTorch's own packages are not enough to build for a GPU."""
    a_machine(monkeypatch, H100, torch="2.13.0", openvino="1.0")
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(backends, "_CUDA", tmp_path)
    assert choose("auto")[0] == "inductor"
    monkeypatch.setattr(backends, "_CUDA", tmp_path / "none")
    name, reason = choose("auto")
    assert name == "openvino"
    assert "no CUDA toolkit (CUDA_HOME, nvcc or /usr/local/cuda) for inductor" in reason


def test_inductor_on_a_cpu_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    a_machine(monkeypatch, None, **EVERYTHING)
    assert choose_precision("inductor", "auto") == (
        "fp32",
        "auto: fp32 on a CPU, where fp16 would save space only",
    )
    a_machine(monkeypatch, H100, **EVERYTHING)
    assert choose_precision("inductor", "auto")[0] == "fp16"


def test_an_answer_that_is_no_number_is_an_error(
    monkeypatch: pytest.MonkeyPatch, cednn_torch: Engine
) -> None:
    """NaN is below every threshold: it would look like a calm face."""

    class Overflowing:
        def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
            answer = np.full((len(inputs["crops"]), 13), 0.5, np.float32)
            answer[-1, 3] = np.nan
            return answer

    monkeypatch.setattr(cednn_torch, "session", Overflowing())
    crops, levels = faces(np.random.default_rng(0), 2)
    with pytest.raises(EngineError, match=r"cednn \(torch, fp32\): expected probabilities, got NaN"):
        cednn_torch.run(crops, levels)


def test_an_int8_form_is_mentioned_where_there_is_one() -> None:
    there, none = (pick(resolve(name), "openvino", "auto", 1) for name in ("delta", "igc"))
    assert there[1] == none[1] == "fp32"
    assert "--precision int8" in there[2]
    assert "int8" not in none[2]
    assert "int8" not in pick(resolve("delta"), "onnxruntime", "auto", 1)[2]


def test_what_was_chosen_is_said(cednn_openvino: Engine) -> None:
    engine = load_engine("cednn", "auto", "auto")
    assert (engine.backend, engine.precision, engine.batch) == ("openvino", "fp32", 1)
    assert engine.reason.startswith("auto: openvino 20")
    assert "auto: fp32 on a CPU" in engine.reason
    assert cednn_openvino.reason == "asked for; fp32 asked for"
    assert engine_entry(engine)["chosen_because"] == engine.reason


def test_no_gpu_is_seen_where_none_is_shown() -> None:
    """CUDA_VISIBLE_DEVICES hides one; without a driver there is none anyway."""
    code = "from engines.gpu import nvidia_gpu; print(nvidia_gpu())"
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=hidden, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "None"


def test_a_broken_installation_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what import makes of a library that fails
    monkeypatch.delitem(sys.modules, "engines.backends.onnxruntime", raising=False)
    with pytest.raises(EngineError, match="onnxruntime is installed but cannot be imported") as error:
        load_engine("cednn", "onnxruntime")
    assert "\n" not in str(error.value)


def test_a_library_built_for_another_one_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def undefined_symbol(name: str) -> None:
        raise OSError(f"{name}: undefined symbol: _ZN3c10")

    monkeypatch.setattr(backends, "import_module", undefined_symbol)
    with pytest.raises(EngineError, match=r"cannot be imported .*undefined symbol"):
        load_engine("cednn", "torch")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tpu"}, "unknown backend 'tpu': expected auto or tensorrt or inductor or openvino"),
        ({"precision": "fp8"}, "unknown precision 'fp8': expected fp32 or bf16 or fp16 or int8"),
        ({"backend": "torch", "precision": "fp16"}, "backend torch computes in fp32"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "backend onnxruntime computes in fp32 or fp16"),
        ({"threads": 0}, "threads: expected 1 or more"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_engine("cednn", **options)


def test_one_thread_gives_the_same(cednn_openvino: Engine, rng: np.random.Generator) -> None:
    crops, levels = faces(rng, 1)
    single = load_engine("cednn", "openvino", threads=1)
    np.testing.assert_allclose(single.run(crops, levels), cednn_openvino.run(crops, levels), atol=1e-5)


def test_fp16_halves_the_file(cednn_openvino: Engine, rng: np.random.Generator) -> None:
    half = load_engine("cednn", "openvino", "fp16")
    sizes = [(engine.folder / "model.bin").stat().st_size for engine in (half, cednn_openvino)]
    assert 0.45 < sizes[0] / sizes[1] < 0.55
    assert 0 < half.parity.max_abs < 2e-2
    crops, levels = faces(rng, 1)
    np.testing.assert_allclose(half.run(crops, levels), cednn_openvino.run(crops, levels), atol=2e-2)


def test_a_warm_cache_needs_no_torch(cednn_openvino: Engine) -> None:
    code = """
import json, sys
import numpy as np
from engines.runtime import load_engine
engine = load_engine("cednn", "auto")
out = engine.run(np.zeros((1, 224, 224, 3), np.uint8), np.zeros((1, 224, 224), np.uint8))
print(json.dumps({"torch": "torch" in sys.modules, "backend": engine.backend, "out": out[0].tolist()}))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert said["torch"] is False
    assert said["backend"] == "openvino"
    assert done.stderr == ""
    np.testing.assert_allclose(said["out"], cednn_openvino.run(CROPS, LEVELS)[0], atol=1e-6)


def test_a_damaged_compiled_engine_is_rebuilt(cednn_torch: Engine, rng: np.random.Generator) -> None:
    crops, levels = faces(rng, 1)
    before = cednn_torch.run(crops, levels)
    (cednn_torch.folder / "weights.safetensors").write_bytes(b"junk")
    lines: list[str] = []
    again = load_engine("cednn", "torch", log=lines.append)
    assert any("damaged (weights.safetensors was changed)" in line for line in lines)
    assert lines[-1] == f"cednn (torch, fp32): {cednn_torch.parity}"  # of what was built just now
    assert np.array_equal(again.run(crops, levels), before)


def test_a_trained_bundle_from_a_folder(tmp_path: Path) -> None:
    """Its weights count, and a file exchanged behind a warm cache is noticed."""
    spec = resolve("cednn").spec
    network = load_network(resolve("cednn"))
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.linspace(-3, 3, 13))
    bundle = save_bundle(tmp_path / "mine", spec, network.state_dict())
    engine = load_engine(bundle.folder, "torch", log=lambda _line: None)
    expected = 1 / (1 + np.exp(-np.linspace(-3, 3, 13)))
    np.testing.assert_allclose(engine.run(CROPS, LEVELS)[0], expected, atol=1e-6)
    bundle.weights_path.write_bytes(b"other")
    with pytest.raises(EngineError, match="SHA-256"):
        load_engine(bundle.folder, "torch")


@pytest.fixture(scope="module")
def eacnet() -> Engine:
    return load_engine("eacnet", "openvino")


def test_centres_reach_the_network(eacnet: Engine, rng: np.random.Generator) -> None:
    crops, _ = faces(rng, 2)
    centers = rng.uniform(0, 1, (2, 20, 2)).astype(np.float32)
    normal = (crops[..., ::-1].astype(np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    images = torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        logits = load_network(resolve("eacnet"))(images, torch.from_numpy(centers)).double().numpy()
    got = eacnet.run(crops, au_centers=centers)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-logits)), atol=1e-4)
    assert np.abs(eacnet.run(crops, au_centers=centers[::-1].copy()) - got).max() > 1e-3


CENTERS = np.full((1, 20, 2), 0.5, np.float32)


@pytest.mark.parametrize(
    ("centers", "message"),
    [
        (None, "eacnet: expected au_centers beside the crops"),
        (CENTERS[:, :19], r"au_centers: expected float32 \(B, 20, 2\), got float32 \(1, 19, 2\)"),
        (CENTERS.astype(np.float64), "au_centers: expected float32 .*, got float64"),
        (CENTERS * np.float32("nan"), "au_centers: expected finite"),
    ],
)
def test_wrong_centres(eacnet: Engine, centers: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        eacnet.run(CROPS, au_centers=centers)


def test_centres_for_an_engine_without(cednn_openvino: Engine) -> None:
    with pytest.raises(UsageError, match="expected no au_centers"):
        cednn_openvino.run(CROPS, LEVELS, CENTERS)


def test_arls_preprocessing(rng: np.random.Generator) -> None:
    crops = faces(rng, 1)[0][:, :176, :176].copy()
    images = torch.from_numpy((crops[..., ::-1].astype(np.float32) - 128).transpose(0, 3, 1, 2) / 128)
    with torch.inference_mode():
        logits = load_network(resolve("arl"))(images).double().numpy()
    got = load_engine("arl", "openvino").run(crops)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-logits)), atol=1e-4)


@pytest.mark.parametrize("name", ["cednn", "delta"])
def test_a_result_does_not_depend_on_the_number_of_threads(name: str) -> None:
    one, two = (load_engine(name, "openvino", threads=threads) for threads in (1, 2))
    for _kind, inputs in parity_inputs(one.spec):
        assert np.array_equal(one.run(**inputs), two.run(**inputs))


@pytest.mark.usefixtures("cednn_openvino")  # compiled, so that the script finds it in the cache
def test_signals_are_handled_after_engines_have_gone() -> None:
    """OpenVINO left a dead stack for signal handlers behind: the next signal ended the process."""
    script = """
import gc, os, signal
from engines.runtime import load_engine
one, other = load_engine("cednn", "openvino"), load_engine("cednn", "openvino")
del one
gc.collect()
del other
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "handled"), done.stderr
