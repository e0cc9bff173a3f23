"""int8.json: written, read, refused; and what is built by the one that Delta carries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import int8
from engines.backends.base import Backend, Session
from engines.backends.openvino import BACKEND
from engines.build import INT8_AGREES, build, parity_inputs
from engines.bundle import BUNDLED, Bundle, read_bundle, resolve
from engines.cache import Parity
from engines.export import ExportedEngine
from engines.int8 import ANSWERS, TOLERANCE, GraphInt8, Int8, Rounding
from engines.runtime import Engine, load_engine
from engines.spec import EngineSpec
from engines.weights import load_network
from pipeline.errors import AustreamError, EngineError
from train.calibration import gather
from train.synth.generate import main as synth

JUDGED = Parity(0.08, 0.004, 3, 1300, 0.05, 0.03, "judged on nobody")


def made_up(bundle: Bundle) -> Int8:
    graph = GraphInt8(
        (
            Rounding((("a/Convolution", 0), ("b/Add", 1)), (-1.5,), (0.1,), 256),
            Rounding((("c/GroupConvolution", 0),), (0.0, -2.0), (1.0, 3e-7), 255),
        ),
        (("a/Convolution", 1),),
        ("c/GroupConvolution",),
    )
    expected = np.random.default_rng(0).random((ANSWERS, len(bundle.spec.aus)), np.float32)
    return Int8(bundle.weights_id, {"frame": graph, "head": graph}, JUDGED, expected, {"nncf": "0"})


@pytest.fixture
def bundle(write_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Untrained, without an INT8 form, with a cache of its own."""
    monkeypatch.setenv("AUSTREAM_CACHE_DIR", str(tmp_path / "cache"))
    return read_bundle(write_bundle())


def test_what_was_written_is_read_back(bundle: Bundle) -> None:
    written = made_up(bundle)
    int8.write(bundle.folder / "int8.json", written)
    found, origin = int8.load(bundle)
    assert found.graphs == written.graphs
    assert np.array_equal(found.expected, written.expected)
    assert (found.parity, found.made, found.weights) == (written.parity, written.made, bundle.weights_id)
    assert origin == "carried by the bundle"
    assert found.floating_point == ("c/GroupConvolution",) * 2
    assert not list(bundle.folder.glob("*.part"))


def test_ones_own_goes_before_the_bundles(bundle: Bundle) -> None:
    int8.write(bundle.folder / "int8.json", made_up(bundle))
    carried = int8.content(bundle)
    int8.write(int8.own_path(bundle), replace(made_up(bundle), made={"nncf": "mine"}))
    found, origin = int8.load(bundle)
    assert found.made == {"nncf": "mine"}
    assert origin.startswith("calibrated here")
    assert int8.content(bundle) != carried  # so it is built anew


def test_without_one_the_error_says_what_to_run(bundle: Bundle) -> None:
    with pytest.raises(
        EngineError, match=r"cednn: no INT8 form.*engines build .* --precision int8 --calibrate"
    ):
        load_engine(bundle.folder, precision="int8")


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        fields = json.loads(path.read_text())
        change(fields)
        path.write_text(json.dumps(fields))

    return edit


def first_rounding(fields: dict[str, Any]) -> list[Any]:
    rounding: list[Any] = fields["graphs"]["head"]["activations"][0]
    return rounding


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: p.write_text(p.read_text()[:500]), "damaged"),
        (lambda p: p.write_bytes(b"\x80\x04\x95 pickle"), "damaged"),
        (lambda p: p.write_text("[]"), "damaged"),
        (lambda p: p.write_text("x" * 5_000_000), "damaged, no INT8 form .5000000 bytes"),
        (edited(lambda f: f.pop("graphs")), "damaged, no INT8 form .no 'graphs'"),
        (edited(lambda f: f.update(graphs={})), "damaged"),
        (edited(lambda f: f.update(expected=[[0.5]])), "damaged"),
        (lambda p: p.write_text("[" * 200_000), "damaged, no INT8 form .*recursion"),
        (edited(lambda f: f.update(expected=f["expected"][:2])), r"probabilities \(5, 13\), got \(2, 13\)"),
        (edited(lambda f: f["expected"][0].__setitem__(0, float("nan"))), "damaged"),
        (edited(lambda f: f["parity"].update(p99_abs=0.7, tolerance=1.0)), "which may be 0.5"),
        (edited(lambda f: f["parity"].update(max_abs="x")), "parity: expected numbers from 0 up"),
        (edited(lambda f: f["parity"].update(p99_abs=0.06)), "99th percentile 0.06"),
        (edited(lambda f: f["parity"].pop("p99_abs")), "99th percentile None"),
        (edited(lambda f: first_rounding(f).__setitem__(1, [2.0])), "range"),
        (edited(lambda f: first_rounding(f).__setitem__(1, [float("-inf")])), "range"),
        (edited(lambda f: first_rounding(f).__setitem__(3, 65536)), "65536 levels"),
        (edited(lambda f: first_rounding(f)[0].__setitem__(0, ["a", -1])), "place"),
        (edited(lambda f: f.update(weights="random seed 7")), "made for other weights"),
        (edited(lambda f: f.update(schema=2)), "schema 2 is newer than 1"),
    ],
)
def test_a_file_that_is_none_is_refused(bundle: Bundle, damage: Callable[[Path], object], said: str) -> None:
    path = bundle.folder / "int8.json"
    int8.write(path, made_up(bundle))
    damage(path)
    with pytest.raises(EngineError, match=said) as error:
        load_engine(bundle.folder, precision="int8", log=lambda _line: None)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_deltas_form_is_not_for_other_weights(tmp_path: Path) -> None:
    shutil.copytree(BUNDLED / "delta", tmp_path / "delta")
    path = tmp_path / "delta" / "engine.json"
    path.write_text(path.read_text().replace(resolve("delta").weights_id, "0" * 64))
    with pytest.raises(EngineError, match="made for other weights"):
        int8.load(read_bundle(tmp_path / "delta"))


def test_a_trained_form_may_not_be_laxer_than_any(tmp_path: Path) -> None:
    """One that sets itself another tolerance."""
    shutil.copytree(BUNDLED / "delta", tmp_path / "delta")
    path = tmp_path / "delta" / "int8.json"
    edited(lambda f: f["parity"].update(p99_abs=0.3, tolerance=0.4))(path)
    with pytest.raises(EngineError, match=r"99th percentile 0.3, tolerance 0.4, which may be 0.05"):
        int8.read(path, read_bundle(tmp_path / "delta"))


def test_an_unwritable_place(bundle: Bundle) -> None:
    (bundle.folder / "file").write_text("")
    with pytest.raises(AustreamError, match="cannot make it"):
        int8.write(bundle.folder / "file" / "int8.json", made_up(bundle))


class Answers(Backend):
    """Needs no graph: INT8 of everything is the same number."""

    name = "answers"
    precisions = ("int8",)

    def __init__(self, value: float) -> None:
        self.value = value

    def export(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """Not asked for."""

    def export_int8(self, engine: ExportedEngine, spec: EngineSpec, int8: Int8, folder: Path) -> None:
        """Nothing to write."""

    def open(self, folder: Path, spec: EngineSpec, threads: int | None, lanes: int = 1) -> Session:  # noqa: ARG002
        value, n_aus = self.value, len(spec.aus)

        class Always:
            def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
                return np.full((len(inputs["crops"]), n_aus), value, np.float32)

        return Always()


@pytest.mark.parametrize("value", [0.5 + INT8_AGREES * 1.1, float("nan")])
def test_a_machine_that_answers_otherwise_is_refused(bundle: Bundle, tmp_path: Path, value: float) -> None:
    form = replace(made_up(bundle), expected=np.full((5, 13), 0.5, np.float32))
    int8.write(bundle.folder / "int8.json", form)
    parity = build(bundle, Answers(0.5), "int8", tmp_path)
    assert (parity.p99_abs, parity.holds) == (0.03, True)
    assert "in floating point: c/GroupConvolution" in parity.note
    with pytest.raises(
        EngineError, match=r"answers, int8.: probabilities differ by up to .*use --precision fp32"
    ):
        build(bundle, Answers(value), "int8", tmp_path)


@pytest.fixture(scope="module")
def delta_int8() -> Engine:
    return load_engine("delta", "openvino", "int8", log=lambda _line: None)


def test_delta_carries_its_form(delta_int8: Engine) -> None:
    assert (BUNDLED / "delta" / "int8.json").stat().st_size < 300_000
    assert delta_int8.parity.p99_abs is not None
    assert delta_int8.parity.p99_abs <= 0.05
    assert "carried by the bundle" in delta_int8.parity.note
    form, _ = int8.load(resolve("delta"))
    assert abs(form.made["auc_int8"] - form.made["auc_fp32"]) <= 0.005
    compiled, half = (
        (delta_int8.folder / "model.bin").stat().st_size,
        resolve("delta").weights_path.stat().st_size,
    )
    assert form.expected.shape[0] == ANSWERS == len(list(parity_inputs(delta_int8.spec)))
    assert compiled < 0.6 * 2 * half  # a third of it is the landmarks' first layer, which stays in float32


def test_a_rebuild_is_the_same(delta_int8: Engine, tmp_path: Path) -> None:
    bundle = resolve("delta")
    form, _ = int8.load(bundle)
    BACKEND.export_int8(ExportedEngine(bundle.spec, load_network(bundle)), bundle.spec, form, tmp_path)
    assert (tmp_path / "model.bin").read_bytes() == (delta_int8.folder / "model.bin").read_bytes()
    again = BACKEND.open(tmp_path, bundle.spec, 1)
    for k, (_name, inputs) in enumerate(parity_inputs(bundle.spec)):
        got = delta_int8.run(**inputs)
        assert np.array_equal(again.run(inputs), got)
        np.testing.assert_allclose(got[0], form.expected[k], atol=INT8_AGREES)


def test_it_is_rounded_and_close(delta_int8: Engine, tmp_path: Path) -> None:
    """Beside PyTorch eager on rendered people: not the same, and within what the bundle promises of faces."""
    options = "--people 4 --stills 4 --clips 0 --seed 3000017 --processes 1 --crops five_point_224"
    assert synth(["--out", str(tmp_path / "people"), *options.split()]) == 0
    eager = load_engine("delta", "torch", log=lambda _line: None)
    faces = gather(eager.spec, [str(tmp_path / "people")]).items
    moved = np.array([np.abs(delta_int8.run(**face) - eager.run(**face)) for face in faces])
    assert len(faces) > 10
    assert np.max(moved) > 1e-5
    assert np.percentile(moved, 99) <= TOLERANCE
