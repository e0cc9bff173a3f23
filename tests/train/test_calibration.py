"""From sample folders and footage to an INT8 engine: the split, the figures, and what a user may do wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from patterns import clips, stills

from engines import int8
from engines.__main__ import main
from engines.bundle import resolve
from engines.networks import build_network
from engines.runtime import load_engine
from engines.spec import CropSpec, EngineSpec
from engines.weights import save_bundle
from pipeline.errors import UsageError
from train.calibration import gather
from train.pool import Pool

SPEC = EngineSpec(
    "bars",
    "tiny",
    {},
    CropSpec("five_point", 224),
    True,
    1,
    None,
    ("AU01", "AU12"),
    (0.5, 0.5),
    {"trained": "made up"},
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolutional network with weights that answer to the bars."""
    tiny.register()
    torch.manual_seed(0)
    network = build_network(SPEC)
    with torch.no_grad():
        network.classifier.weight.mul_(8)
    folder = tmp_path_factory.mktemp("tiny") / "bars"
    save_bundle(folder, SPEC, network.state_dict())
    return folder


def test_a_folder_is_split_by_person(bars: Path) -> None:
    tiny.register()
    faces = gather(SPEC, [str(bars)])
    pool = Pool.open([bars], SPEC.aus)
    assert len(faces.items) == len(pool) == 40
    judges = set(pool.subject[~faces.calibrates])
    assert judges.isdisjoint(pool.subject[faces.calibrates])
    assert 0 < faces.calibrates.sum() < 20
    item = faces.items[7]
    assert {name: (a.shape, a.dtype.type) for name, a in item.items()} == SPEC.inputs(1)
    assert np.array_equal(item["crops"], pool.crop("five_point_224", np.array([7])))
    assert faces.auc is not None
    rows = np.arange(40)
    assert faces.auc(rows, pool.occurrence.astype(np.float32)) == 1.0
    assert faces.auc(rows, 1 - pool.occurrence.astype(np.float32)) == 0.0


def test_what_a_network_reads_beside_the_crops_comes_along(bars: Path) -> None:
    tiny.register()
    spec = replace(SPEC, au_centers=True)
    item = gather(spec, [str(bars)]).items[7]
    assert {name: (a.shape, a.dtype.type) for name, a in item.items()} == spec.inputs(1)
    centers = Pool.open([bars], SPEC.aus).au_centers(np.array([7]), "five_point_224")
    assert np.array_equal(item["au_centers"], centers)


def test_two_folders_are_one_after_the_other(bars: Path, tmp_path: Path) -> None:
    other = stills(tmp_path / "other", 8)
    faces = gather(SPEC, [str(bars), str(other)])
    assert len(faces.items) == 48
    pool = Pool.open([other], SPEC.aus)
    assert np.array_equal(faces.items[41]["crops"], pool.crop("five_point_224", np.array([1])))


def test_windows_of_clips(tmp_path: Path) -> None:
    folder = clips(tmp_path / "clips", [20, 20, 9, 20])
    faces = gather(resolve("satnet").spec, [str(folder)])
    assert faces.items[0]["crops"].shape == (1, 16, 224, 224, 3)
    assert faces.calibrates.any()
    assert not faces.calibrates.all()


def test_mistakes(tmp_path: Path, bars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="2 people or more"):
        gather(SPEC, [str(stills(tmp_path / "one", 4, shards=1))])
    for arguments, said in (
        (["--ship"], "--ship: keeps what --calibrate makes"),
        (["--calibrate", str(bars)], "--calibrate: is for --precision int8, got auto"),
        (["--precision", "int8", "--calibrate", str(tmp_path / "no.mp4")], "no.mp4"),
        (["--precision", "int8", "--backend", "torch"], "backend torch computes in fp32"),
        (  # before it looks at a face
            ["--precision", "int8", "--backend", "torch", "--calibrate", str(bars)],
            "backend torch computes in fp32",
        ),
        (
            ["--backend", "onnx", "--calibrate", str(bars)],
            "--backend onnx goes by an INT8 form; make that first",
        ),
    ):
        assert main(["build", "cednn", *arguments]) in (1, 2)
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_calibrated_shipped_and_loaded(
    bundle: Path, bars: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("nncf", reason="NNCF is not installed: pip install .[int8]")
    build = ["build", str(bundle), "--precision", "int8", "--calibrate", str(bars), "--ship"]
    assert main([*build, "--json", str(tmp_path / "out.json")]) == 0
    assert "auc_int8" in capsys.readouterr().out
    parity = json.loads((tmp_path / "out.json").read_text())["rows"][0]["parity"]
    engine = load_engine(bundle, precision="int8", log=print)
    assert "compiling" not in capsys.readouterr().out  # the build left it in the cache
    # The figures again, from the engines that anybody loads.
    faces, plain = gather(SPEC, [str(bars)]), load_engine(bundle, "torch")
    judging = np.flatnonzero(~faces.calibrates)
    wanted, got = (np.concatenate([e.run(**faces.items[i]) for i in judging]) for e in (plain, engine))
    moved = np.abs(wanted.astype(np.float64) - got)
    assert wanted.std() > 0.02  # the network says something
    assert 0 < moved.max() < 0.05
    assert parity["p99_abs"] == pytest.approx(np.percentile(moved, 99), abs=1e-4)
    assert parity["max_abs"] == pytest.approx(moved.max(), abs=1e-4)
    assert engine.parity.note.startswith(f"judged on {len(judging)} of 40 stills of 10 people (synthetic)")
    form, origin = int8.load(resolve(bundle))
    assert origin == "carried by the bundle"
    assert form.made["auc_fp32"] == pytest.approx(faces.auc(judging, wanted), abs=1e-4)  # type: ignore[misc]


def test_footage_goes_through_the_face_stage(real_clip: Path, tmp_path: Path) -> None:
    import av

    short = tmp_path / "short.mp4"
    with av.open(str(real_clip)) as source, av.open(str(short), "w") as out:
        stream = source.streams.video[0]
        target = out.add_stream("libx264", rate=24)
        target.width, target.height, target.pix_fmt = stream.width, stream.height, "yuv420p"
        for k, frame in enumerate(source.decode(stream)):
            if k == 36:
                break
            picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="bgr24"), format="bgr24")
            picture.pts = k
            out.mux(target.encode(picture))
        out.mux(target.encode())
    faces = gather(resolve("delta").spec, [str(short)])
    assert len(faces.items) == 36
    assert list(faces.calibrates) == [k < 24 for k in range(36)]
    assert {n: (a.shape, a.dtype.type) for n, a in faces.items[0].items()} == resolve("delta").spec.inputs(1)
    assert faces.auc is None
