"""`bench engine` and `bench gpu`: rows as the design has them, and what they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from bench import engine, gpu
from bench.__main__ import main
from bench.gpu_faces import level_maps, warp_faces
from engines import int8
from engines.backends.fixed import Fixed, FixedSession
from engines.bundle import resolve
from engines.cache import Parity
from engines.figures import delta_figures
from engines.gpu import GPU
from pipeline import mesh
from pipeline.diffmap import level_map
from pipeline.errors import EngineError, UsageError


def test_rows_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e.json"
    command = ["engine", "--engine", "delta", "--backend", "openvino", "--backend", "torch", "--rounds", "2"]
    assert main([*command, "--precision", "fp32", "--threads", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert set(report) == {"machine", "commit", "rows"}
    rows = {row["backend"]: row for row in report["rows"]}
    assert set(rows) == {"openvino", "torch"}
    wanted = {"engine", "backend", "precision", "p50_ms", "p95_ms", "fps", "speedup_vs_eager"}
    for row in rows.values():
        assert wanted | {"weight_bytes", "build_seconds", "start_seconds", "max_abs"} <= set(row)
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["fps"] == pytest.approx(1e3 / row["p50_ms"])
        assert min(row["build_seconds"], row["start_seconds"], row["speedup_vs_eager"]) > 0
        assert row["weight_bytes"] == pytest.approx(4 * delta_figures()[0].parameters, rel=0.1)
    assert {row["p99_abs"] for row in rows.values()} == {None}  # INT8's alone
    assert rows["torch"]["max_abs"] == 0 < rows["openvino"]["max_abs"] < 1e-4
    assert "speedup_vs_eager" in capsys.readouterr().out


def test_its_cache_is_empty_but_for_ones_own_int8_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUSTREAM_CACHE_DIR", str(tmp_path))
    with engine.own_cache():
        assert not int8.own_folder().exists()  # the user has none
    cednn = resolve("cednn")
    kept = int8.own_path(cednn)
    kept.parent.mkdir(parents=True)
    kept.write_text("calibrated here")
    with engine.own_cache():
        found = int8.find(cednn)
        assert found is not None
        assert found != kept
        assert found.read_text() == "calibrated here"
        found.unlink()
    assert int8.find(cednn) == kept


def test_precisions_are_whatever_the_backends_have() -> None:
    assert ("openvino", "fp16") in engine.forms(["openvino"], [])
    assert engine.forms(["openvino", "torch"], ["fp16"]) == [("openvino", "fp16")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["engine", "--rounds", "0"],
        ["engine", "--backend", "tpu"],
        ["engine", "--engine", "nobody"],
        ["engine", "--backend", "torch", "--precision", "fp16"],
        ["gpu", "--rounds", "0"],
        ["gpu", "--batch", "7"],
        ["gpu", "--engine", "nobody"],
    ],
)
def test_mistakes_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(gpu.nvidia_gpu() is not None, reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu"]) == 2
    said = capsys.readouterr()
    assert "expected an NVIDIA GPU" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


# What `bench gpu` computes, on the CPU. Nothing of it says anything about a GPU.


def test_ceilings_and_crops_run() -> None:
    found = gpu.ceilings("cpu", rounds=1, side=64, copy_bytes=1000)
    assert set(found) == {"fp32", "fp16", "bf16", "copy"}
    assert min(found.values()) > 0
    rows = gpu.crop_rows("cpu", rounds=1, faces=(1, 2))
    assert [(row["what"], row["faces"]) for row in rows] == [
        ("alignment", 1), ("level map", 1), ("alignment", 2), ("level map", 2),
    ]  # fmt: skip


def test_a_row_of_throughput(tmp_path: Path) -> None:
    spec = resolve("delta").spec
    shapes = spec.inputs(8)

    def call(crops: torch.Tensor, **_: torch.Tensor) -> torch.Tensor:
        return crops.float().mean(dim=(1, 2, 3))[:, None].expand(-1, len(spec.aus))

    loaded = SimpleNamespace(
        spec=spec, backend="inductor", precision="fp16", batch=8, folder=tmp_path,
        parity=Parity(1e-3, 1e-4, 0, 1, 2e-2),
    )  # fmt: skip
    (tmp_path / "weights").write_bytes(bytes(10**6))
    ceiling = {"fp32": 1e12, "fp16": 1e15, "bf16": 1e15, "copy": 1e12}
    row = gpu.throughput_row(loaded, FixedSession(Fixed(call, shapes, "cpu"), 8), "cpu", ceiling, 3)
    assert row["fps"] == pytest.approx(8e3 / row["p50_ms"])
    # The figures are for twelve AUs, the bundle has more: a map and a row of weights each.
    assert gpu.operations(spec) == pytest.approx(2 * delta_figures()[0].multiply_accumulates, rel=0.01)
    assert row["share_of_products"] == pytest.approx(row["device_fps"] * gpu.operations(spec) / 1e15)
    read = 10**6 / 2 + sum(array.nbytes for array in gpu.faces_of(spec, 8).values())
    assert row["share_of_copies_without_activations"] == pytest.approx(row["device_fps"] / 8 * read / 1e12)


def test_what_fails_costs_no_more_than_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No memory is left at batch 32, a precision is refused; what follows is measured."""
    path = tmp_path / "gpu.json"
    seen: list[int] = []

    def throughput(name: str, *form: object) -> dict[str, object]:
        _, precision, batch, *_ = form
        if path.exists():
            seen.append(len(json.loads(path.read_text())["rows"]))
        if precision == "bf16":
            raise EngineError("bf16 is refused with figures")
        if batch == 32:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return {"engine": name, "batch": batch, "p50_ms": 1.0}

    monkeypatch.setattr(
        gpu, "eager_row", lambda name, _, batch, *__: {"engine": name, "p50_ms": 50.0 * batch}
    )
    monkeypatch.setattr(gpu, "latency_row", lambda *_: {"p50_ms": next(iter(()))})
    monkeypatch.setattr(gpu, "throughput", throughput)
    monkeypatch.setattr(gpu, "sliding_row", lambda *form: {"feeds": form[3], "eager_ms": form[4]})
    monkeypatch.setattr(gpu, "crop_rows", lambda *_: [{"what": "alignment"}])
    report = gpu.Report({"what": "a chip"}, path)
    gpu.measure(report, ["satnet"], [("inductor", "bf16"), ("inductor", "fp16")], [8, 32, 128], {}, 1)
    rows = json.loads(path.read_text())["rows"]
    assert rows[:2] == [{"what": "a chip"}, {"engine": "satnet", "p50_ms": 400.0}]
    assert [row["batch"] for row in report.tables["throughput"]] == [8, 128]
    assert report.tables["sliding"] == [{"feeds": n, "eager_ms": 50.0 * n} for n in (8, 32)] * 2
    assert rows[-6:] == report.failed
    assert [(row["precision"], row.get("batch")) for row in report.failed] == [
        ("bf16", None), ("bf16", 8), ("bf16", 32), ("bf16", 128), ("fp16", None), ("fp16", 32),
    ]  # fmt: skip
    assert report.failed[0]["why"] == "StopIteration"  # an error that says nothing
    assert rows[-1]["why"] == "CUDA out of memory."
    assert seen == sorted(set(seen))  # every row was on disk before the next was measured
    report.print()
    assert "failed: throughput, satnet, inductor, fp16, 32: CUDA out of memory." in capsys.readouterr().out


def test_forms_on_a_gpu() -> None:
    able = ["tensorrt", "inductor"]
    assert ("inductor", "bf16") in gpu.wanted_forms(able, (), ())
    assert gpu.wanted_forms(able, ("inductor",), ("fp32",)) == [("inductor", "fp32")]
    with pytest.raises(UsageError, match="--backend openvino: expected one that computes on this GPU"):
        gpu.wanted_forms(able, ("openvino",), ())
    assert gpu.wanted_forms(able, (), ("int8",)) == [("tensorrt", "int8")]
    with pytest.raises(UsageError, match="inductor have no int8"):
        gpu.wanted_forms(able, ("inductor",), ("int8",))


def test_a_gpu_that_pytorch_cannot_use_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    h100 = GPU("NVIDIA H100", "9.0", "12.2")
    for module in ("bench.gpu", "engines.backends", "engines.backends.fixed"):
        monkeypatch.setattr(f"{module}.nvidia_gpu", lambda: h100)
    monkeypatch.setattr("engines.backends.installed_version", lambda p: {"torch": "2.13.0"}.get(p))
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setenv("CUDA_HOME", sys.prefix)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["gpu", "--rounds", "1"]) == 1
    error = capsys.readouterr().err
    assert "cannot use the GPU NVIDIA H100" in error
    assert error.count("\n") == 1


def test_eager_is_float32_throughout() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    row = gpu.eager_row("delta", "cpu", 2, 1)
    assert (row["precision"], row["batch"]) == ("fp32", 2)
    assert row["fps"] == pytest.approx(2e3 / row["p50_ms"])
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_level_map_in_torch_is_the_kernels(rng: np.random.Generator) -> None:
    crops, neutrals = rng.integers(0, 256, (2, 3, 224, 224, 3), dtype=np.uint8)
    masks = np.where(rng.integers(0, 2, (3, 224, 224)), 255, 0).astype(np.uint8)
    got = level_maps(*map(torch.from_numpy, (crops, neutrals, masks))).numpy()
    assert set(np.unique(got)) == set(range(6))
    for i in range(3):
        assert np.array_equal(got[i], level_map(crops[i], neutrals[i], masks[i]))


def test_the_warp_in_torch_is_opencvs(rng: np.random.Generator) -> None:
    """To OpenCV's own rounding of positions, 1/32 px, on smooth pictures; the border included."""
    frames = np.stack(
        [cv2.resize(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8), (320, 180)) for _ in range(2)]
    )
    transforms = np.array(
        [[[0.8, 0.2, -60], [-0.2, 0.8, 10]], [[1.5, -0.1, 20], [0.1, 1.5, -90]]], np.float32
    )
    got = warp_faces(torch.from_numpy(frames), torch.from_numpy(transforms), 224).numpy()
    for i in range(2):
        wanted = mesh.warp(frames[i], transforms[i].astype(np.float64), 224)
        assert np.abs(got[i].astype(int) - wanted).max() <= 2
        assert np.ptp(wanted) > 100


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
