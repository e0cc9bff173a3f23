"""The papers' networks in the trainer: their crops and inputs in the batches, frozen parts, starting weights,
and runs that go on after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patterns import shard
from safetensors.torch import load_file, save_file
from torch.nn import functional

from engines.networks.eacnet import EACNet
from engines.networks.satnet import SATNet
from engines.networks.tranet import TRANet
from engines.spec import CropSpec
from pipeline import align
from pipeline.errors import EngineError, SourceError, UsageError
from train import checkpoint
from train.augment import draw
from train.batches import Batches
from train.fit import BEST, LAST, Run, fit
from train.networks import Learner, _parts
from train.objective import Objective
from train.phase import PhaseRun
from train.pool import Pool
from train.recipe import AugmentTable, Recipe
from train.samples import SampleWriter
from train.synth.head import mean_head
from train.tables import from_table

AUS = ("AU01", "AU12")
CROPS = ("level_eyes_176", "level_eyes_whole_200", "nose_center_224", "box_224")
Table = dict[str, Any]


def face(seed: int) -> np.ndarray:
    """478 points that a camera might see: the mean head, a little uneven."""
    rng = np.random.default_rng(seed)
    points = mean_head().points[:468] * 100 + np.array((300, 250, 0))
    points = np.vstack((points, points[:10]))  # irises, which nothing reads
    return (points + rng.normal(0, 0.5, points.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 stills of 6 subjects in the papers' crops; a middle that is the whole crop's."""
    path = tmp_path_factory.mktemp("faces")
    writer = SampleWriter(
        path, source="synthetic", aus=AUS, crops=CROPS, rate_hz=None, provenance={"seed": 1}
    )
    n = 12
    arrays = shard(n, 2, subject=np.arange(n) // 2)
    arrays["occurrence"][:4] = [[1, 0], [0, 1], [1, 1], [0, 0]]
    arrays["occurrence"][-4:] = [[1, 0], [0, 1], [1, 1], [0, 0]]
    arrays["intensity"] = 4.0 * arrays["occurrence"].astype(np.float32)
    arrays["points"] = np.stack([face(seed) for seed in range(n)])
    wide = arrays.pop("five_point_224")
    arrays["box_224"] = arrays["nose_center_224"] = wide
    arrays["level_eyes_whole_200"] = wide[:, :200, :200]
    arrays["level_eyes_176"] = wide[:, 12:188, 12:188]
    writer.write_shard("a", arrays)
    writer.finish()
    return path


@pytest.fixture(scope="module")
def make(folder: Path) -> Callable[..., Recipe]:
    """A recipe for them: `phase` and others replace its keys."""

    def build(engine: Table, phase: Table | None = None, **changes: Any) -> Recipe:
        one = {"name": "all", "epochs": 2, "steps_per_epoch": 1, "batch_size": 2, "lr": 1e-3}
        table: Table = {
            "engine": {"name": "x", "aus": list(AUS)} | engine,
            "data": {"folders": [str(folder)], "validation_subjects": [5]},
            "phase": [one | (phase or {})],
            "threads": 1,
        }
        return from_table(Recipe, table | changes, "x.toml")

    return build


Make = Callable[..., Recipe]
ARL: Table = {"network": "arl", "crop": "level_eyes_176", "variant": {"variant": "wcsp"}}
TRANET: Table = {
    "network": "tranet",
    "crop": "nose_center_224",
    "variant": {"variant": "senet50", "regions": ["upper", "lower"]},
}
RESNET: Table = {"network": "satnet", "crop": "box_224", "variant": {"variant": "resnet18"}}


# Inputs


def test_the_middle_of_the_whole_square_is_arls_crop() -> None:
    points = face(3)
    middle, whole = CropSpec("level_eyes", 176), CropSpec("level_eyes_whole", 200)
    box = align.box_around(points)
    inner = align.crop_transform(middle, points, box)
    shifted = align.crop_transform(whole, points, box) - [[0, 0, 12], [0, 0, 12]]
    assert inner == pytest.approx(shifted, abs=1e-9)


def test_pieces_are_cut_at_random_and_validation_takes_the_middle(make: Make, tmp_path: Path) -> None:
    recipe = make(ARL, augment={"crop": "level_eyes_whole_200", "flip": 0.0})
    run = Run(recipe, tmp_path)
    training, validation = run.batches(0)
    pieces = set()
    for number in range(12):
        batch, rows = training[number], training.order(number // len(training))
        k = number % len(training)
        for picture, item in zip(batch.pictures.numpy(), rows[2 * k :], strict=False):
            whole = run.pool.crop("level_eyes_whole_200", training.items[item])[0]
            places = [
                (x, y)
                for x in range(25)
                for y in range(25)
                if np.array_equal(whole[y : y + 176, x : x + 176], picture)
            ]
            assert len(places) == 1
            pieces.add(places[0])
    assert len(pieces) > 15
    middles = run.pool.crop("level_eyes_176", validation.items[:, -1])
    assert np.array_equal(np.concatenate([validation[k].pictures for k in range(len(validation))]), middles)


def test_centres_in_batches_are_those_of_streaming(folder: Path) -> None:
    pool = Pool.open([folder], AUS)
    batches = Batches(pool, np.arange(12)[:, None], "box_224", ("au_centers",), None, 4, shuffle=False)
    spec = CropSpec("box", 224)
    for k, centers in enumerate(batches[2].beside["au_centers"].numpy()):
        points = pool.folders[0].points([8 + k])[0]
        box = (*points[:, :2].min(0), *points[:, :2].max(0))
        assert centers == pytest.approx(align.au_centers_in_crop(spec, points, box))


def test_centres_move_as_the_picture_does() -> None:
    """A white dot painted at each centre is where the changed centre says."""
    table = AugmentTable(flip=1.0, rotate_deg=15, scale=0.1, shift_px=6)
    shares = align.au_centers_in_crop(CropSpec("box", 224), face(1), align.box_around(face(1)))
    seen = np.zeros(20, bool)
    for seed in range(6):
        change = draw(table, 224, np.random.default_rng(seed), 200)
        moved = change.centers(shares)
        assert change.flip
        for i, (x, y) in enumerate(np.floor(shares * 224).astype(int)):
            picture = np.zeros((224, 224, 3), np.uint8)
            picture[y - 1 : y + 2, x - 1 : x + 2] = 255
            out = change.picture(picture)[:, :, 0].astype(float)
            assert out.shape == (200, 200)
            if out.sum() < 6 * 255:  # moved out of the picture
                continue
            rows, columns = np.mgrid[:200, :200] + 0.5
            there = np.array([(out * columns).sum(), (out * rows).sum()]) / out.sum() / 200
            distances = np.abs(moved - there).max(axis=1)
            nearest = int(distances.argmin())
            assert distances[nearest] < 1.2 / 200
            seen[i] = True
    assert seen.sum() >= 18


def test_mirrored_centres_are_those_of_the_mirrored_face() -> None:
    mirror = np.append(mean_head().mirror, range(468, 478))
    points, spec = face(2), CropSpec("box", 224)
    mirrored = points[mirror] * np.array((-1, 1, 1), np.float32)
    expected = align.au_centers_in_crop(spec, mirrored, align.box_around(mirrored))
    change = draw(AugmentTable(flip=1.0), 224, np.random.default_rng(0))
    found = change.centers(align.au_centers_in_crop(spec, points, align.box_around(points)))
    assert found == pytest.approx(
        expected, abs=0.02
    )  # pairs that were not exchanged would be 0.1 and more off
    assert np.abs(found - expected).mean() < 0.004


# Frozen parts and starting weights


def test_what_the_paper_freezes_stays_bit_by_bit(make: Make, folder: Path, tmp_path: Path) -> None:
    save_file({"nothing": torch.zeros(1)}, tmp_path / "start.safetensors")
    recipe = make(
        TRANET,
        {"freeze": ["paper"], "loss": "tranet", "optimiser": "sgd", "weight_decay": 0.1, "ema_decay": 0.9},
        initial=str(tmp_path / "start.safetensors"),
    )
    pool = Pool.open([folder], AUS)
    objective = Objective.of(recipe.phase[0], recipe.spec(), pool.occurrence, pool.intensity)
    run = PhaseRun(recipe, 0, 1, objective, torch.device("cpu"))
    network = run.learner.network
    before = {n: t.clone() for n, t in network.state_dict().items()}
    batches = Batches(pool, np.arange(12)[:, None], "nose_center_224", (), AugmentTable(), 2, shuffle=True)
    batch = batches[0]
    with torch.no_grad():
        expected = functional.binary_cross_entropy_with_logits(
            run.learner.train()(batch), batch.occurrence.float()
        )
    network.load_state_dict(before)  # statistics too
    assert run.take_step([batch]) == pytest.approx(float(expected), rel=1e-5)
    for one in (network, run.seen.network):
        after = one.state_dict()
        changed = {n for n in before if not torch.equal(before[n], after[n])}
        assert not [n for n in changed if n.startswith(network.frozen)]
        expected_too = (
            "layer2.0.conv1.weight",
            "layer2.0.bn1.running_mean",
            "layer4.2.bn3.weight",
            "fc.weight",
        )
        assert changed >= set(expected_too)


def test_the_papers_frozen_groups_are_parts(make: Make) -> None:
    with torch.device("meta"):
        fvgg, eacnet = EACNet(2, "fvgg"), EACNet(2, "eacnet")
    numbers = {
        name: [int(p.split(".")[1]) for p in network.frozen] for name, network in (("f", fvgg), ("e", eacnet))
    }
    assert numbers == {"f": [0, 2, 5, 7, 10, 12, 14, 16], "e": [0, 2, 5, 7]}  # groups 1 to 3, and 1 and 2
    assert len(_parts(eacnet, "eacnet", ["paper"])) == 4
    with pytest.raises(UsageError, match="the paper of arl keeps no part"):
        Learner(make(ARL, {"loss": "arl"}).spec(), ("paper",))


def test_a_last_layer_that_learns_alone_sees_features_as_they_stream() -> None:
    with torch.device("meta"):
        network = EACNet(2, "eacnet")
    learner = Learner.__new__(Learner)
    assert {n.split(".")[0] for n, _ in network.named_parameters()} == {"features", "crops", "fc7", "fc8"}
    torch.nn.Module.__init__(learner)
    learner.engine = torch.nn.Module()  # type: ignore[assignment]
    learner.engine.network = network  # type: ignore[assignment]
    learner.frozen, learner._only_last = [], True
    assert not learner.train().network.training
    learner._only_last = False
    assert learner.train().network.training


def resnet18_file(path: Path, **changes: torch.Tensor | None) -> Path:
    """ImageNet's names and shapes with random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        tensors = dict(SATNet(1000, "resnet18").state_dict())
    tensors = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")} | changes
    save_file({n: t.contiguous() for n, t in tensors.items() if t is not None}, path)
    return path


def test_training_begins_with_published_weights(make: Make, tmp_path: Path) -> None:
    path = resnet18_file(tmp_path / "resnet18.safetensors")
    recipe = make(
        RESNET,
        {"epochs": 1, "freeze": ["conv1", "bn1", "layer1", "layer2"], "ema_decay": 0.5},
        initial=f"published:{path}",
    )
    fit(recipe, tmp_path / "run")
    trained, published = checkpoint.read(tmp_path / "run" / BEST)[0], load_file(path)
    for name in ("conv1.weight", "layer2.1.conv2.weight", "bn1.running_mean"):
        assert torch.equal(trained[name], published[name])
    assert (trained["layer3.0.conv1.weight"] - published["layer3.0.conv1.weight"]).abs().max() < 0.01
    assert not torch.equal(trained["layer3.0.conv1.weight"], published["layer3.0.conv1.weight"])
    assert trained["fc.weight"].shape == (2, 512)


def test_a_file_that_is_not_those_weights_names_its_keys(make: Make, tmp_path: Path) -> None:
    path = resnet18_file(
        tmp_path / "r.safetensors", **{"layer1.0.conv1.weight": None, "extra": torch.ones(1)}
    )
    with pytest.raises(EngineError, match=r"missing: layer1.0.conv1.weight; unexpected: extra") as caught:
        fit(make(RESNET, initial=f"published:{path}"), tmp_path / "run")
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="ARL begins with no published weights"):
        fit(make(ARL, {"loss": "arl"}, initial=f"published:{path}"), tmp_path / "arl")
    for network, what in ((EACNet, "VGG-19"), (TRANet, "SENet-50")):
        with torch.device("meta"):
            one = network(8)
        with pytest.raises(EngineError, match=what):
            one.load_published(path)
    with pytest.raises((EngineError, SourceError), match="cannot read it"):
        fit(make(RESNET, initial="published:nowhere.safetensors"), tmp_path / "none")


def test_recipes_refuse_what_cannot_be(make: Make) -> None:
    def refused(match: str, *arguments: Any, **changes: Any) -> None:
        with pytest.raises(UsageError, match=match) as caught:
            make(*arguments, **changes)
        assert "\n" not in str(caught.value)

    refused("'paper' keeps published weights", TRANET, {"freeze": ["paper"]})
    refused("'tranet' sums TRA-Net's branches", ARL, {"loss": "tranet"})
    refused("expected 'arl' beside engine.max_intensity", ARL | {"max_intensity": 5})
    wcs = ARL | {"variant": {"variant": "wcs"}}
    refused("arl.energy: expected loss 'arl' of", wcs, {"loss": "arl", "arl": {"energy": 1.0}})
    refused("arl.energy: expected loss 'arl' of", ARL, {"arl": {"energy": 1.0}})
    refused(
        "arl: weights: expected one of inverse_rate, equal", ARL, {"loss": "arl", "arl": {"weights": "no"}}
    )
    refused("augment.crop: expected 176 px or more", ARL, augment={"crop": "level_eyes_whole_160"})
    refused("expected a name like five_point_224, of a kind among", ARL, augment={"crop": "oval_200"})
    centers = {"network": "eacnet", "crop": "box_224"}
    refused("au_centers is False, its network eacnet needs the opposite", centers)
    assert make(centers | {"au_centers": True}).spec().au_centers
    assert make(ARL | {"max_intensity": 5}, {"loss": "arl"}).spec().thresholds == (0.4, 0.4)


# Runs


def test_iarl_goes_on_from_a_kill_to_the_same_weights(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make(
        ARL | {"max_intensity": 5},
        {"loss": "arl", "arl": {"energy": 1e-4}, "optimiser": "sgd", "nesterov": True},
        augment={"crop": "level_eyes_whole_200"},
        best_by="icc",
    )
    fit(recipe, tmp_path / "whole")
    real = PhaseRun.take_step

    def stops(self: PhaseRun, batches: Any) -> float:
        loss = real(self, batches)
        if self.step == 2:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(PhaseRun, "take_step", stops)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, tmp_path / "cut")
    monkeypatch.undo()
    fit(recipe, tmp_path / "cut")
    whole, cut = (checkpoint.read(tmp_path / name / LAST)[0] for name in ("whole", "cut"))
    assert set(whole) == set(cut)
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []
