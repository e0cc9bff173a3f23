"""From a prepared dataset to tables, pictures and bundles: folds, protocols, resuming, halves of faces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from made_up_cache import prepared

from engines.bundle import read_bundle
from engines.runtime import load_engine
from pipeline.errors import AustreamError, UsageError
from train import checkpoint
from train import tested as kept
from train.__main__ import main
from train.batches import Batch
from train.data import disfa, disfaplus
from train.data.cache import PreparedSet, open_cache
from train.evaluate import evaluate
from train.fit import BEST
from train.foldtest import FoldTest
from train.paper_tables import find
from train.protocol import across, chosen, folds_of, plan
from train.recipe import Recipe, read_recipe

SMALL = (
    'engine.network="tiny"',
    "engine.variant={}",
    "phase.0.epochs=2",
    "phase.0.steps_per_epoch=6",
    "phase.0.batch_size=4",
    "phase.0.lr=0.05",
    "threads=1",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(
        tmp_path_factory.mktemp("cache"), "disfaplus", disfaplus.SUBJECTS, disfaplus.DISFAPLUS.aus
    )


def reproduce(cache: Path, out: Path, *more: str) -> int:
    tiny.register()
    sets = [word for change in SMALL for word in ("--set", change)]
    words = [
        "reproduce",
        "--paper",
        "cednn",
        "--dataset",
        "disfaplus",
        "--cache",
        str(cache),
        "--out",
        str(out),
    ]
    return main([*words, *sets, *more])


@pytest.fixture(scope="module")
def out(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """First the second fold alone, then all three."""
    folder = tmp_path_factory.mktemp("out")
    assert reproduce(cache, folder, "--folds", "2") == 0
    first = json.loads((folder / "report.json").read_text())
    (folder / "first.json").write_text(json.dumps(first))
    (folder / "time").write_text(str((folder / "P2" / "run" / BEST).stat().st_mtime_ns))
    assert reproduce(cache, folder, "--occluded") == 0
    return folder


def test_one_fold_makes_no_mean(out: Path) -> None:
    table = json.loads((out / "first.json").read_text())["tables"][0]
    assert table["missing"] == ["P1", "P3"]
    assert table["mean"] is table["pooled"] is table["mean_of_folds"] is None
    assert table["folds"]["P1"] is None
    assert len(table["folds"]["P2"]) == 12


def test_all_folds_beside_the_papers_table(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    table = report["tables"][0]
    assert report["synthetic"]
    assert table["paper"]["table"] == "13"
    assert table["paper"]["mean"] == 74.4
    assert not table["missing"]
    per_fold = [np.nanmean(np.array(table["folds"][p], float)) for p in ("P1", "P2", "P3")]
    assert table["mean_of_folds"] == pytest.approx(np.mean(per_fold), abs=1e-3)
    text = (out / "report.md").read_text()
    assert text.count("SYNTHETIC") == 1 + len(report["tables"])
    assert "engine.network 'cednn' → 'tiny'" in text, "what was changed by hand is told"
    assert text.startswith("# CEDNN (res-l18m1-att3-se1) on DISFA+, RECIPE CHANGED")
    assert int((out / "time").read_text()) == (out / "P2" / "run" / BEST).stat().st_mtime_ns, "not done again"
    for name in ("f1", "precision-recall", "co-occurrence", "training", "visible"):
        assert (out / "pictures" / f"{name}.png").exists()


def test_each_fold_tests_its_part_and_never_trains_on_it(out: Path, cache: Path) -> None:
    data = open_cache(cache)
    parts = {
        "P1": {"SN027", "SN010", "SN007"},
        "P2": {"SN013", "SN025", "SN003"},
        "P3": {"SN009", "SN001", "SN004"},
    }
    for name, people in parts.items():
        run = json.loads((out / name / "run" / "recipe.json").read_text())["data"]
        assert {data.subjects[k] for k in run["test_subjects"]} == people
        assert not set(run["test_subjects"]) & set(run["validation_subjects"])
        tested = kept.Tested.load(out / name / "tested-full.safetensors")
        assert tested is not None
        assert set(tested.people) == people
        assert len(tested) == 24
        np.testing.assert_array_equal(tested.occurrence, data.samples.occurrence[data.rows_of(tuple(people))])


def test_the_bundle_says_all_and_streams(out: Path, cache: Path) -> None:
    bundle = read_bundle(out / "P1" / "bundle")
    told: Any = bundle.spec.provenance
    assert told["trained"] == "synthetic-trained"
    assert told["dataset"] == "disfaplus"
    assert told["protocol"] == {"name": "clean", "fold": "P1"}
    assert told["note"].startswith("Rendered faces in the dataset's layout, no real person. CEDNN")
    assert told["note"].endswith("by a changed recipe.")
    assert told["checkpoint"] == checkpoint.digest(out / "P1" / "run" / BEST)
    assert told["seed"] == 0
    assert told["commit"]
    assert told["test"]["frames"] == 24
    assert told["thresholds"]["rule"].startswith("best F1 on validation")
    table = json.loads((out / "report.json").read_text())["tables"][0]
    assert 100 * told["test"]["mean"]["f1"] == pytest.approx(
        np.nanmean(np.array(table["folds"]["P1"], float)), abs=0.02
    )
    engine = load_engine(out / "P1" / "bundle", "openvino", log=lambda _line: None)
    assert engine.spec.thresholds == bundle.spec.thresholds != (0.5,) * 12
    everybody = evaluate(str(out / "P1" / "bundle"), [cache])
    assert everybody.frames == 72


def test_the_papers_protocol_decides_on_the_tested_fold(cache: Path, tmp_path: Path) -> None:
    assert reproduce(cache, tmp_path, "--folds", "P3", "--protocol", "paper") == 0
    run = json.loads((tmp_path / "P3" / "run" / "recipe.json").read_text())["data"]
    assert run["validation_subjects"] == run["test_subjects"]
    tested = kept.Tested.load(tmp_path / "P3" / "tested-full.safetensors")
    assert tested is not None
    assert tested.thresholds is None
    assert (
        "chosen on the tested fold itself, so the figures are optimistic"
        in (tmp_path / "report.md").read_text()
    )
    told: Any = read_bundle(tmp_path / "P3" / "bundle").spec.provenance
    assert told["validation"]["what"].startswith("the tested fold itself")


def test_other_settings_in_the_same_folder_are_refused(
    out: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(cache, out, "--set", "seed=1", "--folds", "1") == 2
    assert "holds a run of another recipe (seed 0 → 1); give another --out" in capsys.readouterr().err


def test_on_another_dataset_without_those_who_are_in_both(cache: Path, tmp_path: Path) -> None:
    """DISFA shares DISFA+'s nine subjects; of its AUs all are there."""
    other = prepared(tmp_path / "disfa", "disfa", ["SN001", "SN002", "SN005", "SN010"], disfa.DISFA.aus)
    assert reproduce(cache, tmp_path / "out", "--test-on", "disfa", "--test-cache", str(other)) == 0
    tested = kept.Tested.load(tmp_path / "out" / "all" / "tested-full.safetensors")
    assert tested is not None
    assert tested.people == ("SN002", "SN005")
    assert len(tested) == 16
    table = json.loads((tmp_path / "out" / "report.json").read_text())["tables"][0]
    assert table["paper"] is None
    assert list(table["folds"]) == ["all"]


def test_what_cannot_be_done_is_said_in_one_line(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["reproduce", *words]) == 2
        return capsys.readouterr().err

    cednn = ("--paper", "cednn", "--dataset", "disfaplus")
    assert "--folds 4: no such fold; expected among P1, P2, P3" in refused(
        *cednn, "--cache", str(cache), "--folds", "4"
    )
    assert "not prepared yet; name the dataset's folder with --root" in refused(
        *cednn, "--cache", str(tmp_path)
    )
    assert "--variant res-l5m3: no variant of CEDNN" in refused(
        *cednn, "--cache", str(cache), "--variant", "res-l5m3"
    )
    satnet = ("--paper", "satnet", "--dataset", "disfa", "--cache", str(cache))
    assert "holds disfaplus, not disfa; name another --cache" in refused(*satnet)
    lacking = ("--set", 'engine.aus=["AU01","AU45"]')
    assert "AU45: disfaplus does not code it" in refused(*cednn, "--cache", str(cache), *lacking)
    assert "--test-on goes with --test-root" in refused(*cednn, "--cache", str(cache), "--test-on", "disfa")
    few = prepared(tmp_path / "few", "disfaplus", disfaplus.SUBJECTS[:5], disfaplus.DISFAPLUS.aus, each=2)
    assert "missing, so the folds would not be the published ones" in refused(*cednn, "--cache", str(few))


def opened(tmp_path: Path, dataset: str, subjects: list[str]) -> PreparedSet:
    return open_cache(prepared(tmp_path / dataset, dataset, subjects, ("AU01", "AU12"), each=2))


def some_recipe() -> Recipe:
    with torch.device("meta"):
        return read_recipe("cednn-disfaplus")


def test_a_plan_holds_out_training_subjects_for_deciding(cache: Path) -> None:
    data = open_cache(cache)
    fold = folds_of(data, partial=False)[0]
    made = plan(some_recipe(), data, fold.name, fold.test, "clean").data
    assert len(made.validation_subjects) == 1
    assert len(made.test_subjects) == 3
    assert {data.subjects[k] for k in made.validation_subjects} < set(fold.train)
    with pytest.raises(UsageError, match="--protocol paper: goes with a dataset's own folds"):
        plan(some_recipe(), data, "all", (), "paper")


def test_folds_are_chosen_by_their_part(cache: Path) -> None:
    every = folds_of(open_cache(cache), partial=False)
    assert [f.name for f in chosen(every, ["3", "p1", "P3"])] == ["P3", "P1"]
    assert chosen(every, []) == every


def test_half_a_dataset_only_when_asked_for(tmp_path: Path) -> None:
    data = opened(tmp_path, "disfa", ["SN001", "SN002", "SN003", "SN006"])
    with pytest.raises(UsageError, match="missing, so the folds would not be the published ones"):
        folds_of(data, partial=False)
    assert {f.name: f.test for f in folds_of(data, partial=True)} == {
        "P1": ("SN001", "SN002"),
        "P2": ("SN006",),
        "P3": ("SN003",),
    }
    with pytest.raises(UsageError, match="all in one part"):
        folds_of(opened(tmp_path / "one", "disfa", ["SN001", "SN002"]), partial=True)


def test_people_of_two_datasets(tmp_path: Path) -> None:
    bp4d = opened(tmp_path, "bp4d", ["F001", "M001"])
    more = across(bp4d, opened(tmp_path, "bp4dplus", ["F001", "F050"]))
    assert more.test == ("F001", "F050"), "BP4D+ has other people under the same names"
    poses = across(bp4d, opened(tmp_path, "fera2017", ["TR_F001", "VA_F009"]))
    assert poses.test == ("VA_F009",), "FERA 2017 is made of BP4D"
    with pytest.raises(UsageError, match="all of its subjects are in bp4d too"):
        across(bp4d, opened(tmp_path, "fera2015", ["F001", "M001"]))


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        ("lower", np.s_[2:, :]),
        ("upper", np.s_[:2, :]),
        ("right", np.s_[:, 2:]),
        ("left", np.s_[:, :2]),
        ("none", np.s_[:0, :]),
        ("full", np.s_[:, :]),
    ],
)
@pytest.mark.parametrize("window", [(), (3,)])
def test_one_half_is_left_to_see(visible: str, seen: Any, window: tuple[int, ...]) -> None:
    pictures = torch.full((2, *window, 4, 4, 3), 7, dtype=torch.uint8)
    beside = {"level_map": torch.full((2, 4, 4), 3, dtype=torch.uint8), "landmarks": torch.ones(2, 2, 5, 3)}
    batch = Batch(pictures, beside, torch.zeros((2, 1), dtype=torch.uint8), torch.zeros((2, 1)))
    mask = np.zeros((4, 4), np.uint8)
    mask[seen] = 1
    found = kept.occlude(batch, visible)
    np.testing.assert_array_equal(
        found.pictures.numpy(), np.broadcast_to(7 * mask[..., None], pictures.shape)
    )
    np.testing.assert_array_equal(found.beside["level_map"].numpy(), np.broadcast_to(3 * mask, (2, 4, 4)))
    assert torch.equal(found.beside["landmarks"], beside["landmarks"])
    assert batch.pictures.min() == 7, "the batch itself stays as it is"


def test_studies_are_found() -> None:
    assert find("iarl", "fera2015").metrics == ("icc", "mae")
    with pytest.raises(AustreamError):
        find("iarl", "ckplus")


def fold_test(
    tmp_path: Path, recipe: Recipe, dataset: str, subjects: list[str], aus: tuple[str, ...]
) -> FoldTest:
    data = open_cache(prepared(tmp_path / "cache", dataset, subjects, aus, each=20))
    return FoldTest("x", recipe, tmp_path / "fold", data, tuple(subjects[:2]), hop=1)


def test_a_temporal_network_is_tested_on_every_full_window(tmp_path: Path) -> None:
    """20 frames have five windows of 16; the second frame of no window is of another person."""
    with torch.device("meta"):
        recipe = read_recipe("satnet-disfa", ["engine.rate_hz=20.0"])
        spec = recipe.spec()
    people = ["SN001", "SN002", "SN003"]
    test = fold_test(tmp_path, recipe, "disfa", people, disfa.DISFA.aus)
    pool, items = test.items(spec)
    assert items.shape == (10, 16)
    assert set(pool.subject[items].ravel()) == {0, 1}
    assert (np.diff(items, axis=1) == 1).all()


def test_poses_come_from_the_names_of_fera_2017(tmp_path: Path) -> None:
    with torch.device("meta"):
        recipe = read_recipe("arl-fera2017")
    test = fold_test(tmp_path, recipe, "fera2017", ["VA_F001", "VA_F002", "TR_F001"], recipe.engine.aus)
    rows = test.prepared.rows_of(["VA_F002", "VA_F001"])
    assert test.poses(rows).tolist() == [1] * 20 + [2] * 20


def test_an_au_that_the_other_dataset_lacks_is_not_tested(tmp_path: Path) -> None:
    with torch.device("meta"):
        recipe = read_recipe("cednn-disfaplus")
    test = fold_test(tmp_path, recipe, "bp4d", ["F001", "F002", "M001"], ("AU01", "AU12", "AU07"))
    assert test.aus == ("AU01", "AU12")
