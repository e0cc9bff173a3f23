"""`python -m engines`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engines.__main__ import main, table
from engines.networks import NETWORKS
from engines.runtime import Engine

BUNDLES = ["arl", "cednn", "delta", "eacnet", "iarl", "igc", "satnet", "tranet"]


def test_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["list", "--json", str(tmp_path / "list.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["engine", *BUNDLES]
    written = json.loads((tmp_path / "list.json").read_text())
    assert [row["engine"] for row in written["rows"]] == BUNDLES
    assert written["machine"]


@pytest.mark.parametrize(
    ("network", "agreeing", "row"),
    [
        ("cednn", 13, "residual L18M1, 3 maps, SE first"),
        ("igc", 1, "IGC-L24M2"),
        ("satnet", 2, "tnet"),
        ("arl", 0, "WCS-Net"),
        ("eacnet", 0, "fvgg"),
        ("tranet", 0, "no_channel"),
        ("delta", 0, "landmarks"),
    ],
)
def test_params(capsys: pytest.CaptureFixture[str], network: str, agreeing: int, row: str) -> None:
    assert main(["params", network]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.split("\n\n")[0].splitlines()[1:] if line.endswith("agrees")]
    assert len(rows) == agreeing
    assert "DIFFERS" not in out
    assert row in out


def test_params_of_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """All five papers, every variant and our own; multiply-accumulates by hand for three of them."""
    assert main(["params", "--json", str(tmp_path / "params.json")]) == 0
    assert "DIFFERS" not in capsys.readouterr().out
    rows = json.loads((tmp_path / "params.json").read_text())["rows"]
    found = {(row["family"], row["network"]): row for row in rows}
    assert len(found) == len(rows) == 13 + 1 + 5 + 4 + 3 + 7 + 3
    assert {row["family"] for row in rows} == set(NETWORKS)
    # VGG-19's convolutions and its first fully connected layer are its paper's; the top is 2048 and 12.
    groups = [(3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56)]
    groups += [(256, 256, 56)] * 3 + [(256, 512, 28)] + [(512, 512, 28)] * 3 + [(512, 512, 14)] * 4
    dense = 25088 * 4096 + 4096 * 2048 + 2048 * 12
    fvgg = found["eacnet", "fvgg"]
    assert fvgg["multiply_accumulates"] == sum(9 * i * o * px * px for i, o, px in groups) + dense
    assert fvgg["parameters"] == sum((9 * i + 1) * o for i, o, _ in groups) + dense + 4096 + 2048 + 12
    crops = 20 * (512 * 512 * 9 * 16 + 8192 * 150) + 3000 * 2048 + 2048 * 12
    eac = found["eacnet", "eacnet"]["multiply_accumulates"]
    assert eac == sum(9 * i * o * px * px for i, o, px in groups[:-4]) + crops
    # The CRF adds products of 1936×1936 with 18 features and two columns, and five steps over all pairs.
    crf = found["arl", "ARL, iARL"]["multiply_accumulates"] - found["arl", "WCS-Net"]["multiply_accumulates"]
    assert crf == 12 * (1936**2 * (20 + 5) + 6 * 2 * 44**3)


@pytest.mark.usefixtures("cednn_openvino")
def test_build_parity_profile(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["build", "cednn"]) == 0
    said = capsys.readouterr()
    assert "parity with PyTorch eager: max" in said.out
    assert "compiling" not in said.err  # it was compiled already
    assert main(["parity", "cednn", "--json", str(tmp_path / "parity.json")]) == 0
    assert json.loads((tmp_path / "parity.json").read_text())["rows"][0]["max_abs"] < 1e-4
    assert main(["profile", "cednn", "--runs", "2", "--json", str(tmp_path / "profile.json")]) == 0
    rows = json.loads((tmp_path / "profile.json").read_text())["rows"]
    assert [row["backend"] for row in rows] == ["torch", "openvino"]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] for row in rows)


@pytest.mark.usefixtures("satnet_openvino")
def test_a_temporal_engine_is_built_whole_and_in_parts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["build", "satnet", "--backend", "openvino", "--json", str(tmp_path / "rows.json")]) == 0
    out = capsys.readouterr().out
    assert out.count("parity with PyTorch eager: max") == 2
    assert "satnet, sliding: openvino" in out
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["form"] for row in rows] == ["whole", "sliding"]
    assert rows[0]["folder"] != rows[1]["folder"]
    assert [row["parity"]["tolerance"] for row in rows] == [1e-4, 1e-5]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["build", "nobody"],
            2,
            "engines: unknown engine 'nobody': expected arl or cednn or delta or eacnet or iarl or igc or "
            "satnet or tranet",
        ),
        (["build", "cednn", "--backend", "tpu"], 2, "engines: unknown backend 'tpu'"),
        (["build", "cednn", "--precision", "int3"], 2, "engines: unknown precision 'int3'"),
        (["profile", "cednn", "--runs", "0"], 2, "engines: --runs: expected 1 or more"),
        (["params", "vgg"], 2, "engines: params: unknown network 'vgg', expected one of cednn, igc, satnet"),
        (["build", "."], 1, "engines: .: expected a bundle"),
        (["list", "--json", "/nowhere/x.json"], 1, "engines: --json /nowhere/x.json: cannot write it"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_as_a_program(cednn_openvino: Engine) -> None:
    done = subprocess.run([sys.executable, "-m", "engines", "build", "cednn"], capture_output=True, text=True)
    assert done.returncode == 0
    assert str(cednn_openvino.folder) in done.stdout
    done = subprocess.run([sys.executable, "-m", "engines", "params", "vgg"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_table_aligns() -> None:
    assert table(("a", "number"), [("xyz", "1.5"), ("x", "–")]).splitlines() == [
        "a    number",
        "xyz     1.5",
        "x         –",
    ]
