"""From a prepared dataset to tables, pictures and bundles: folds, protocols, resuming, halves of faces."""

from __future__ import annotations

import json
import shutil
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
from train.data.lists import KINDS
from train.evaluate import evaluate
from train.fit import BEST
from train.foldtest import FoldTest
from train.obtain import cache_of
from train.paper_tables import find, studies
from train.protocol import across, chosen, folds_of, plan
from train.recipe import Recipe, read_recipe
from train.reproduce import parse, parser
from train.results import result, title
from train.task import Task

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


def words_of(cache: Path, out: Path, *more: str) -> list[str]:
    tiny.register()
    sets = [word for change in SMALL for word in ("--set", change)]
    words = [
        "--paper",
        "cednn",
        "--dataset",
        "disfaplus",
        "--cache",
        str(cache),
        "--out",
        str(out),
    ]
    return [*words, *sets, *more]


def reproduce(cache: Path, out: Path, *more: str) -> int:
    return main(["reproduce", *words_of(cache, out, *more)])


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
    spec = read_bundle(tmp_path / "P3" / "bundle").spec
    assert set(spec.thresholds) == {0.5}
    told: Any = spec.provenance
    assert told["thresholds"]["rule"] == "the papers', not chosen"
    assert told["validation"]["what"] == "the tested fold itself; epoch chosen on them"


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
    assert "--folds 4: no such fold; expected among P1, P2, P3" in refused(
        capsys, *CEDNN, "--cache", str(cache), "--folds", "4"
    )
    assert "not prepared yet; name the dataset's folder with --root" in refused(
        capsys, *CEDNN, "--cache", str(tmp_path)
    )
    assert "--variant res-l5m3: no variant of CEDNN" in refused(
        capsys, *CEDNN, "--cache", str(cache), "--variant", "res-l5m3"
    )
    satnet = ("--paper", "satnet", "--dataset", "disfa", "--cache", str(cache), "--set", 'initial=""')
    assert "holds disfaplus, not disfa; name another --cache" in refused(capsys, *satnet)
    lacking = ("--set", 'engine.aus=["AU01","AU45"]')
    assert "AU45: disfaplus does not code it" in refused(capsys, *CEDNN, "--cache", str(cache), *lacking)
    assert "--test-on goes with --test-root" in refused(
        capsys, *CEDNN, "--cache", str(cache), "--test-on", "disfa"
    )
    few = prepared(tmp_path / "few", "disfaplus", disfaplus.SUBJECTS[:5], disfaplus.DISFAPLUS.aus, each=2)
    assert "missing, so the folds would not be the published ones" in refused(
        capsys, *CEDNN, "--cache", str(few)
    )


HASTY = ("--folds", "P1", "--set", "phase.0.epochs=1", "--set", "phase.0.steps_per_epoch=1")
CEDNN = ("--paper", "cednn", "--dataset", "disfaplus")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said instead of a report."""
    assert main(["reproduce", *words]) == 2
    return capsys.readouterr().err


def asked(*words: str) -> Task:
    """A task, with nothing trained yet."""
    return parse(parser().parse_args(words))


def test_results_of_other_samples_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same recipe, folder and names, but other data in the cache: rendered results would pass as real."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    people, aus = disfaplus.SUBJECTS, disfaplus.DISFAPLUS.aus
    prepared(cache, "disfaplus", people, aus, each=4)
    assert reproduce(cache, out, *HASTY) == 0

    def first() -> FoldTest:
        task = asked(*words_of(cache, out, *HASTY))
        return task.fold_test(task.every[0])

    assert first().known("full") is not None
    shutil.rmtree(cache)
    prepared(cache, "disfaplus", people, aus, each=5, synthetic=False)
    assert first().known("full") is None
    assert reproduce(cache, out, *HASTY) == 2
    assert "P1/run: trained on other samples than" in capsys.readouterr().err


def test_a_test_that_was_killed_is_done_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FoldTest, "_tell", killed)
        assert reproduce(cache, tmp_path, *HASTY) == 130
    assert reproduce(cache, tmp_path, *HASTY) == 0
    told: Any = read_bundle(tmp_path / "P1" / "bundle").spec.provenance
    assert told["test"]["frames"] == 24


def test_a_root_that_the_cache_is_not_of_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of, aus = tmp_path / "DISFA+", disfaplus.DISFAPLUS.aus
    cache = prepared(tmp_path / "cache", "disfaplus", disfaplus.SUBJECTS, aus, each=2, root=str(of))
    words = (*CEDNN, "--cache", str(cache), "--root")
    assert f"was prepared from {of}, not from {tmp_path}" in refused(capsys, *words, str(tmp_path))
    assert asked(*words, str(of)).trained.folder == cache


def test_a_cache_of_another_exposure_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CEDNN alone has neutrals as they were taken."""
    aus = disfaplus.DISFAPLUS.aus
    cache = prepared(tmp_path / "c", "disfaplus", disfaplus.SUBJECTS, aus, each=2, compensates=True)
    assert "not prepared without exposure compensation" in refused(capsys, *CEDNN, "--cache", str(cache))
    cache = prepared(tmp_path / "d", "disfa", disfa.SUBJECTS, disfa.DISFA.aus, each=1)
    satnet = ("--paper", "satnet", "--dataset", "disfa", "--set", 'initial=""', "--cache", str(cache))
    assert "not prepared with exposure compensation" in refused(capsys, *satnet)


@pytest.mark.parametrize("name", sorted(studies()))
def test_papers_that_read_different_crops_have_different_caches(name: str) -> None:
    """And `fit RECIPE` reads what `reproduce` prepares."""
    with torch.device("meta"):
        recipe = read_recipe(name)
    folder = cache_of(studies()[name].dataset, recipe, compensates=not name.startswith("cednn"))
    assert recipe.data.folders == (str(folder),)
    assert all(crop in folder.name for crop in (recipe.engine.crop, recipe.augment.crop))


def test_starting_weights_that_are_missing_are_missed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Before the dataset, which would be prepared for hours."""
    for paper, initial in (
        ("satnet", "published:/none/resnet18.safetensors"),
        ("arl", "/none/best.safetensors"),
    ):
        words = ("--paper", paper, "--dataset", "disfa", "--root", "/none", "--set", f'initial="{initial}"')
        file = initial.removeprefix("published:")
        assert f"initial: {file}: no such file; the head of train/recipes/{paper}-disfa.toml" in refused(
            capsys, *words
        )


def test_another_dataset_is_looked_at_before_training(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on = (*CEDNN, "--cache", str(cache), "--test-root", "/none", "--test-on")
    assert "bp5d: no such dataset; expected one of bp4d, " in refused(capsys, *on, "bp5d")
    lists = prepared(tmp_path / "l", "jaanet-disfa", ["SN001", "SN002"], KINDS["disfa"].aus, each=1)
    task = asked(*CEDNN, "--cache", str(cache), "--test-on", "jaanet-disfa", "--test-cache", str(lists))
    assert title(task) == "CEDNN (res-l18m1-att3-se1) on DISFA+, tested on DISFA by JAA-Net's lists"
    assert task.every[0].test == ("SN002",), "SN001 is in DISFA+, too"
    disfas = prepared(tmp_path / "d", "disfa", disfa.SUBJECTS, disfa.DISFA.aus, each=1, compensates=True)
    made = ("bp4d", ["F001", "F002"], ("AU01", "AU12"))
    bp4d = prepared(tmp_path / "b", *made, each=1, compensates=True, rate_hz=25.0)
    satnet = ("--paper", "satnet", "--dataset", "disfa", "--set", 'initial=""', "--cache", str(disfas))
    satnet += ("--test-on", "bp4d", "--test-cache", str(bp4d))
    assert "bp4d: of 25.0 frames/s, the engine's windows are of 20.0" in refused(capsys, *satnet)
    flat = ("--variant", "sanet")
    assert asked(*satnet, *flat).every[0].test == ("F001", "F002"), "frames have no rate"
    assert "goes with a dataset's own folds" in refused(capsys, *satnet, *flat, "--protocol", "paper")


TINY = (
    'engine.network="tiny"',
    "engine.variant={}",
    'engine.crop="five_point_224"',
    "engine.level_map=true",
    'augment.crop=""',
    'initial=""',
    "initial_aus={}",
    "phase.0.epochs=1",
    "phase.0.steps_per_epoch=2",
    "phase.0.batch_size=4",
    "threads=1",
)


def tiny_words(paper: str, cache: Path) -> tuple[str, ...]:
    tiny.register()
    sets = [word for change in TINY for word in ("--set", change)]
    return ("--paper", paper, "--dataset", "disfa", "--cache", str(cache), *sets)


def test_lists_of_a_dataset_are_taken_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where they code the AUs; they know no intensities."""
    made = ("jaanet-disfa", disfa.SUBJECTS, KINDS["disfa"].aus)
    lists = prepared(tmp_path / "lists", *made, each=1, compensates=True, levels=False)
    task = asked(*tiny_words("arl", lists))
    assert title(task) == "ARL (arl) on DISFA by JAA-Net's lists, RECIPE CHANGED"
    assert [fold.name for fold in task.every] == ["P1", "P2", "P3"]
    assert "AU05, AU15, AU17, AU20: jaanet-disfa does not code it" in refused(
        capsys, *tiny_words("iarl", lists)
    )
    own = prepared(
        tmp_path / "own", "disfa", disfa.SUBJECTS, disfa.DISFA.aus, each=1, compensates=True, levels=False
    )
    assert "disfa knows no intensities, which iARL estimates" in refused(capsys, *tiny_words("iarl", own))


def test_the_bundle_of_intensities_is_tested_as_its_table(tmp_path: Path) -> None:
    cache = prepared(tmp_path / "c", "disfa", disfa.SUBJECTS, disfa.DISFA.aus, each=2, compensates=True)
    words = ("reproduce", *tiny_words("iarl", cache), "--folds", "1", "--out", str(tmp_path / "out"))
    assert main(list(words)) == 0
    told: Any = read_bundle(tmp_path / "out" / "P1" / "bundle").spec.provenance
    assert "Not as the paper has it: the loss is without the energy of the CRF, which Eq. 13" in told["note"]
    assert told["test"]["threshold"] == 0.4, "intensity 2 of 5"
    tables = json.loads((tmp_path / "out" / "report.json").read_text())["tables"]
    for table in tables[:2]:
        column = [score[table["metric"]] for score in told["test"]["aus"].values()]
        assert column == table["folds"]["P1"], table["metric"]
    kept_test = kept.Tested.load(tmp_path / "out" / "P1" / "tested-full.safetensors")
    assert kept_test is not None
    for a, au in enumerate(kept_test.aus):
        shown = kept_test.occurrence[:, a] == 1
        called = kept_test.probability[:, a] >= 0.4
        found = told["test"]["aus"][au]["f1"]
        assert found == (
            pytest.approx(2 * (shown & called).sum() / (shown.sum() + called.sum()), abs=1e-4)
            if shown.any()
            else None
        )


def test_the_report_says_what_became_of_the_data(cache: Path, tmp_path: Path) -> None:
    people = ["SN001", "SN002", "SN005"]
    recordings = [
        {"subject": s, "name": "left", "labels": 12, "samples": 8, "no_face": 2, "bad": 1, "unreadable": 1}
        | {"neutral": "", "file": f"s{k:03d}"}
        for k, s in enumerate(people)
    ]
    problems = [{"fatal": False, "text": f"odd thing {k}"} for k in range(6)]
    told = {"recordings": recordings, "problems": problems, "whole": False}
    other = prepared(tmp_path / "disfa", "disfa", people, disfa.DISFA.aus, synthetic=False, **told)
    words = (*CEDNN, "--cache", str(cache), "--test-on", "disfa", "--test-cache", str(other), "--partial")
    task = asked(*words, "--hop", "3")
    assert task.partial, "of those who are tested somebody is missing"
    shown = result(task, {"full": {"all": None}})
    assert shown.synthetic
    assert shown.facts["Tested on"] == (
        "DISFA, 3 of 27 subjects, 36 labelled frames (published: 130,814): 24 samples, 6 without a face, "
        "3 bad, 3 unreadable"
    )
    assert shown.facts["Tested on, neutral faces"] == "none; exposure as it was taken"
    assert shown.facts["Tested on, odd"].startswith("odd thing 0; odd thing 1; ")
    assert shown.facts["Tested on, odd"].endswith("; … and 2 more")
    assert shown.facts["Hop"].startswith("3 frames")
    assert sum("these are not the published folds" in note for note in shown.notes) == 2


def test_a_start_from_rendered_faces_is_told(out: Path, cache: Path) -> None:
    begin = out / "P1" / "run" / BEST
    task = asked(*CEDNN, "--cache", str(cache), "--set", f'initial="{begin}"')
    shown = result(task, {"full": dict.fromkeys(("P1", "P2", "P3"))})
    assert shown.facts["Begins with"] == f"{begin}, trained on synthetic-disfaplus"


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
    with pytest.raises(UsageError, match="all of its subjects are or may be in bp4d too"):
        across(bp4d, opened(tmp_path, "fera2015", ["F001", "M001"]))


def test_fera_2017_is_bp4d_and_some_of_bp4dplus(tmp_path: Path) -> None:
    """VA_F001 is another person than BP4D's F001; which of BP4D+'s she is, nobody published."""
    fera = opened(tmp_path, "fera2017", ["TR_F001", "VA_F001", "VA_F030"])
    bp4d, more = opened(tmp_path, "bp4d", ["F001", "F050"]), opened(tmp_path, "bp4dplus", ["F001"])
    assert across(bp4d, fera).test == ("VA_F001", "VA_F030")
    assert across(fera, bp4d).test == ("F050",)
    assert across(more, fera).test == ("TR_F001",)
    with pytest.raises(UsageError, match=r"are or may be in fera2017 too"):
        across(fera, more)


def test_lists_are_of_the_datasets_people(tmp_path: Path) -> None:
    bp4d = opened(tmp_path, "bp4d", ["F001", "M001"])
    with pytest.raises(UsageError, match="are or may be in bp4d too"):
        across(bp4d, opened(tmp_path, "jaanet-bp4d", ["F001", "M001"]))
    some = opened(tmp_path, "jaanet-disfa", ["SN001", "SN003"])
    assert [fold.name for fold in folds_of(some, partial=True)] == ["P1", "P3"]


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
