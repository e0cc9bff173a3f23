"""Bundles: the two that come along, and everything that may be wrong with one."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engines.bundle import BUNDLED, Bundle, list_bundles, read_bundle, resolve
from engines.networks import build_network
from engines.networks.base import AUNetwork
from engines.spec import AU_CENTERS
from engines.weights import expected_weights, fill, load_network, randomise, save_bundle
from pipeline.errors import EngineError, UsageError

AUS = ["AU01", "AU02", "AU04", "AU05", "AU06", "AU09", "AU12", "AU15", "AU17", "AU20", "AU25", "AU26", "AU43"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CEDNN with weights in a file, to be copied."""
    folder = tmp_path_factory.mktemp("bundles") / "whole"
    spec = resolve("cednn").spec
    save_bundle(folder, spec, build_network(spec).state_dict())
    return folder


@pytest.fixture
def saved(whole: Path, tmp_path: Path) -> Bundle:
    """A copy to damage."""
    return read_bundle(shutil.copytree(whole, tmp_path / "saved"))


def resealed(bundle: Bundle, change: Callable[[dict[str, torch.Tensor]], object]) -> Bundle:
    """The bundle with other tensors and a checksum to match, so that only their content is wrong."""
    weights = load_file(bundle.weights_path)
    change(weights)
    save_file(weights, bundle.weights_path)
    return reseal(bundle)


def reseal(bundle: Bundle) -> Bundle:
    path = bundle.folder / "engine.json"
    fields = json.loads(path.read_text())
    fields["weights"]["sha256"] = hashlib.sha256(bundle.weights_path.read_bytes()).hexdigest()
    path.write_text(json.dumps(fields))
    return read_bundle(bundle.folder)


def test_the_bundled_engines() -> None:
    specs = {bundle.spec.name: bundle.spec for bundle in list_bundles()}
    assert list(specs) == ["arl", "cednn", "delta", "eacnet", "iarl", "igc", "satnet", "tranet"]
    trained = {name: specs[name] for name in ("cednn", "delta", "satnet")}
    for name, spec in trained.items():
        assert spec.trained == "synthetic-trained"
        assert (BUNDLED / name / "weights.safetensors").stat().st_size < 25e6
        assert set(AUS) <= set(spec.aus)
        assert all(0.05 <= threshold <= 0.95 for threshold in spec.thresholds)
    for name, spec in specs.items():
        if name in trained:
            continue
        assert list(spec.aus) == AUS
        # An intensity of 2 of 5 is where the papers begin to call an AU active.
        assert set(spec.thresholds) == {0.4 if name == "iarl" else 0.5}
        assert spec.trained == "untrained"
    cednn, satnet = specs["cednn"], specs["satnet"]
    # Table 13's best average, 74.4: residual L18M1, maps on three blocks, first SE block.
    best = {"branches": 18, "connection": "residual", "attention_blocks": 3, "se": "first"}
    assert (cednn.crop.name, cednn.level_map, cednn.window, cednn.rate_hz) == (
        "five_point_224",
        True,
        1,
        None,
    )
    assert dict(cednn.variant) == best
    assert specs["igc"].crop == cednn.crop  # its baseline, which reads no maps
    assert not specs["igc"].level_map
    assert (satnet.crop.name, satnet.level_map, satnet.window, satnet.rate_hz) == ("box_224", False, 16, 25)


def test_reading_bundles_needs_no_torch() -> None:
    code = "import sys; from engines.bundle import *; list_bundles(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        UsageError,
        match=r"unknown engine 'cedn': expected arl or cednn or delta or eacnet or iarl or igc or satnet or "
        "tranet",
    ):
        resolve("cedn")


def test_a_path_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"a folder with engine\.json"):
        resolve(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"a folder with engine\.json"):
        resolve(tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2 is newer than 1"),
        ({"schema": 0}, "schema: expected 1, got 0"),
        ({"schema": "1"}, "schema: expected int"),
        ({"aus": ...}, r"missing fields \['aus'\]"),
        ({"color": "red"}, r"unknown fields \['color'\]"),
        ({"window": True}, "window: expected int, got true"),
        ({"level_map": 1}, "level_map: expected bool, got 1"),
        ({"au_centers": 1}, "au_centers: expected bool, got 1"),
        ({"max_intensity": "5"}, "max_intensity: expected int or float or NoneType"),
        ({"crop": {"kind": "box"}}, "crop: expected"),
        ({"crop": {"kind": "round", "size_px": 224}}, "crop: expected a kind"),
        ({"thresholds": ["0.5"] * 13}, "thresholds: expected a list of float"),
        ({"thresholds": [0.5]}, "thresholds: expected 13"),
        ({"weights": {"random_seed": -1}}, "weights: expected"),
        ({"weights": {"random_seed": True}}, "weights: expected"),
        ({"weights": {"random_seed": 2**64}}, "weights: expected"),
        ({"window": 1_000_000}, "window: expected 1 to 1024 frames"),
        ({"weights": {"file": "../x", "sha256": "0" * 64}}, "weights: expected"),
        ({"weights": {"file": "weights.safetensors", "sha256": "0"}}, "weights: expected"),
    ],
)
def test_a_damaged_engine_json(
    write_bundle: Callable[..., Path], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(EngineError, match=message) as error:
        read_bundle(write_bundle(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\x00\x01"])
def test_invalid_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "engine.json").write_text(text)
    with pytest.raises(EngineError, match=r"engine\.json: expected (a )?JSON"):
        read_bundle(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EngineError, match="expected JSON"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "vgg"}, "unknown network 'vgg', expected one of cednn, igc, satnet, arl"),
        ({"variant": {"depth": 3}}, r"unknown variant fields \['depth'\]"),
        ({"variant": {"n_aus": 3}}, r"unknown variant fields \['n_aus'\]"),
        ({"variant": {"branches": 5}}, "branches must be one of"),
        ({"level_map": False}, "level_map is False"),
        ({"window": 16}, "window is 16"),
        ({"crop": {"kind": "box", "size_px": 200}}, "crop is 200 px"),
    ],
)
def test_a_spec_that_contradicts_its_network(
    write_bundle: Callable[..., Path], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        build_network(read_bundle(write_bundle(**changes)).spec)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("tranet", {"regions": 5}),
        ("tranet", {"regions": [["upper"]]}),
        ("delta", {"pixels": "no"}),
        ("cednn", {"branches": [3]}),
    ],
)
def test_a_variant_of_another_kind_is_one_line(name: str, variant: dict[str, object]) -> None:
    with pytest.raises(EngineError, match=name) as error:
        build_network(replace(resolve(name).spec, variant=variant))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("half", [False, True])
def test_weights_come_back(tmp_path: Path, half: bool) -> None:
    spec = resolve("cednn").spec
    torch.manual_seed(1)
    state = build_network(spec).state_dict()
    bundle = save_bundle(tmp_path / "b", spec, state, half=half)
    assert bundle == read_bundle(tmp_path / "b")
    assert bundle.spec == spec
    with safe_open(bundle.weights_path, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {  # noqa: SIM118
            torch.float16 if half else torch.float32
        }
    loaded = expected_weights(load_network(bundle))
    assert {t.dtype for t in loaded.values()} == {torch.float32}
    for name, tensor in loaded.items():
        assert torch.equal(tensor, state[name].half().float() if half else state[name])
    assert [path.name for path in sorted(bundle.folder.iterdir())] == ["engine.json", "weights.safetensors"]


def test_saving_refuses_what_float16_cannot_hold(tmp_path: Path) -> None:
    spec = resolve("cednn").spec
    state = build_network(spec).state_dict()
    state["fc.bias"][0] = 1e6
    with pytest.raises(EngineError, match=r"float16.*not finite: fc\.bias"):
        save_bundle(tmp_path / "b", spec, state, half=True)
    assert not (tmp_path / "b").exists()


def set_nan(weights: dict[str, torch.Tensor]) -> None:
    weights["blocks.0.first.weight"][0] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("fc.bias"), r"missing: fc\.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "unknown: extra"),
        (lambda w: w.update({"fc.bias": torch.zeros(12)}), r"wrong shape: fc\.bias \(12,\) for \(13,\)"),
        (lambda w: w.update({"fc.bias": torch.zeros(13, dtype=torch.int32)}), r"fc\.bias torch\.int32"),
        (
            lambda w: w.update({"fc.bias": torch.zeros(13).to(torch.float8_e4m3fn)}),
            r"neither float32 nor float16: fc\.bias torch\.float8",
        ),
        (set_nan, r"not finite: blocks\.0\.first\.weight"),
        (lambda w: w.clear() or w.update(x=torch.zeros(1)), r"missing: .* and \d+ more"),
    ],
)
def test_wrong_weights(
    saved: Bundle, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    with pytest.raises(EngineError, match=message) as error:
        load_network(resealed(saved, change))
    assert "\n" not in str(error.value)


def test_missing_weights(saved: Bundle) -> None:
    saved.weights_path.unlink()
    with pytest.raises(EngineError, match=r"weights\.safetensors: expected the bundle's weights"):
        load_network(saved)


def test_another_files_checksum(saved: Bundle) -> None:
    content = bytearray(saved.weights_path.read_bytes())
    content[-1] ^= 1
    saved.weights_path.write_bytes(content)
    with pytest.raises(EngineError, match="expected SHA-256"):
        load_network(saved)


@pytest.mark.parametrize("size", [0, 4, 5000])
def test_truncated_weights(saved: Bundle, size: int) -> None:
    """With a checksum to match, as an export on a full disk might leave it."""
    saved.weights_path.write_bytes(saved.weights_path.read_bytes()[:size])
    with pytest.raises(EngineError, match="expected a whole safetensors file"):
        load_network(reseal(saved))


class Bomb:
    """Its pickle would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
def test_a_pickle_in_disguise_is_not_run(saved: Bundle, tmp_path: Path, kind: str) -> None:
    if kind == "pickle":
        saved.weights_path.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    else:
        torch.save({"x": Bomb(tmp_path / "ran")}, saved.weights_path)
    for bundle in (saved, reseal(saved)):
        with pytest.raises(EngineError, match="got a pickle, which is never read"):
            load_network(bundle)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(params=["cednn", "satnet"])
def network(request: pytest.FixtureRequest) -> AUNetwork:
    return build_network(resolve(request.param).spec)


def test_random_weights_depend_on_the_seed_alone(network: AUNetwork) -> None:
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(draws))  # the global generator must not matter
        randomise(network, seed)
        draws.append({name: t.clone() for name, t in expected_weights(network).items()})
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])
    assert not all(torch.equal(draws[0][name], draws[2][name]) for name in draws[0])


@pytest.mark.parametrize(
    ("name", "moves"),
    [("cednn", 0.02), ("satnet", 0.02), ("eacnet", 0.02), ("tranet", 0.02), ("arl", 0.01), ("igc", 0.01)],
)
def test_random_weights_answer_to_the_picture(name: str, moves: float) -> None:
    """On smooth pictures: probabilities apart between AUs and between pictures, few of them at an end, and no
    AU that says the same of all."""
    network = build_network(resolve(name).spec)
    randomise(network, 0)
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(6, 3, 8, 8, generator=generator)
    px = network.input_px
    images = torch.nn.functional.interpolate(coarse, size=(px, px), mode="bilinear")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.pixel_mean, network.pixel_std))
    images = (images - mean) / std
    beside: dict[str, torch.Tensor] = {}
    if network.reads_level_map:
        beside["level_map"] = torch.full((6, px, px), 2)
    if network.reads_au_centers:
        beside["au_centers"] = torch.rand(1, AU_CENTERS, 2, generator=generator).expand(6, -1, -1)
    with torch.inference_mode():
        windows = images.unflatten(0, (3, 2)) if network.temporal else images
        probabilities = torch.sigmoid(network(windows, **beside))
    assert probabilities.std(dim=1).min() > 0.1
    assert probabilities.std(dim=0).mean() > moves
    assert probabilities.std(dim=0).min() > 0.001
    assert ((probabilities > 0.02) & (probabilities < 0.98)).float().mean() > 0.7


def test_step_counters_do_not_matter(network: AUNetwork) -> None:
    weights = network.state_dict()
    fill(network, weights, "x")
    fill(network, {n: t for n, t in weights.items() if "num_batches" not in n}, "x")
