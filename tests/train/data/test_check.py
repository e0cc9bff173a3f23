from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import made_up
import numpy as np
import pytest

from pipeline.errors import OutputError, SourceError, UsageError
from train.data import bp4d, disfa, disfaplus
from train.data.check import check, main
from train.data.command import main as command
from train.data.layouts import DATASETS, recognise
from train.data.rendered import MARK


def levels(seed: int, count: int = 6) -> dict[int, list[int]]:
    drawn = np.random.default_rng(seed).choice([0, 0, 0, 1, 2, 5], (count, 12))
    drawn[0] = 0
    return {au: drawn[:, a].tolist() for a, au in enumerate(made_up.DISFA_AUS)}


def whole_disfa(root: Path) -> None:
    for k, subject in enumerate(disfa.SUBJECTS):
        made_up.disfa(root, subject, levels(k), 6)


def whole_disfaplus(root: Path) -> None:
    for k, subject in enumerate(disfaplus.SUBJECTS):
        for trial in range(42):
            made_up.disfaplus(root, subject, f"A{trial}_AU1_TrailNo_1", levels(k, 1))


def whole_bp4d(root: Path) -> None:
    for subject in bp4d.SUBJECTS:
        for task in bp4d.TASKS:
            made_up.bp4d(root, subject, task, 9, np.zeros((1, 12), int), np.zeros((1, 5), int))


def whole_bp4dplus(root: Path) -> None:
    at = {"archive": True, "pictures_of": "2D+3D"}
    for subject in bp4d.PLUS_SUBJECTS:
        for task in bp4d.PLUS_KIND.tasks:
            made_up.bp4d(root, subject, task, 9, np.zeros((1, 12), int), np.zeros((1, 5), int), **at)


def whole_ckplus(root: Path) -> None:
    for k in range(593):
        made_up.ckplus(root, f"S{k % 123:03d}", f"{1 + k // 123:03d}", 2, {1: 2, 12: 0})


def whole_fera2017(root: Path) -> None:
    for part, count in (("TR", 41), ("VA", 20)):
        for k in range(count):
            made_up.fera2017(root, part, f"F{k:03d}", "T1", np.zeros((2, 10), int), np.zeros((2, 7), int))


WHOLE = {
    "disfa": whole_disfa,
    "disfaplus": whole_disfaplus,
    "bp4d": whole_bp4d,
    "bp4dplus": whole_bp4dplus,
    "ckplus": whole_ckplus,
    "fera2017": whole_fera2017,
}


@pytest.mark.parametrize(("name", "write"), WHOLE.items())
def test_every_layout_is_recognised_and_whole(
    tmp_path: Path, name: str, write: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    assert main([str(tmp_path), "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    dataset = DATASETS[name]
    assert (report["dataset"], report["whole"]) == (name, True)
    assert len(report["subjects"]) == dataset.subject_count
    assert [row["au"] for row in report["aus"]] == list(dataset.aus)
    assert sum(part["subjects"] for part in report["parts"].values()) == dataset.subject_count
    assert f"subjects    {dataset.subject_count} of {dataset.subject_count}" in capsys.readouterr().out


def test_fera2015_has_to_be_named(tmp_path: Path) -> None:
    whole_bp4d(tmp_path)
    assert recognise(tmp_path).name == "bp4d"
    report = check(tmp_path, "fera2015")
    assert report.parts()["development"]["subjects"] == 20
    assert not report.fatal


def test_counts_are_those_of_what_was_written(tmp_path: Path) -> None:
    whole_disfa(tmp_path)
    drawn = np.array([[levels(k)[au] for au in made_up.DISFA_AUS] for k in range(27)])  # (27, 12, 6)
    report = check(tmp_path)
    for a, row in enumerate(report.aus()):
        assert row["known"] == 27 * 6
        assert row["present"] == (drawn[:, a] >= 2).sum()
        assert row["rate"] == pytest.approx((drawn[:, a] >= 2).mean())
        assert row["levels"] == [(drawn[:, a] == level).sum() for level in range(6)]
    assert report.total("media_frames") == 27 * 6
    assert report.parts() == {part: {"subjects": 9, "labels": 54} for part in ("P1", "P2", "P3")}
    assert [p.text for p in report.problems] == ["162 labelled frames, DISFA has 130,814"]


def test_what_is_unknown_is_in_no_rate(tmp_path: Path) -> None:
    occurrence = np.random.default_rng(0).choice([0, 1, 9], (30, 12))
    occurrence[:, 0] = 9
    made_up.bp4d(tmp_path, "F001", "T1", 9, occurrence)
    report = check(tmp_path)
    for a, row in enumerate(report.aus()):
        known = occurrence[:, a] != 9
        assert row["known"] == known.sum()
        assert row["rate"] == (pytest.approx(occurrence[known, a].mean()) if a else None)
        assert row["levels"] is None
    assert "AU01          0         0       –" in report.text()
    assert "no intensity of any AU in it" in report.text()


def test_a_half_copy_is_reported_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole_disfa(tmp_path)
    (tmp_path / "Videos_LeftCamera" / "LeftVideoSN002_comp.avi").unlink()
    made_up.disfa(tmp_path, "SN099", levels(0), 6)
    for name in ("SN031", "SN032"):
        (tmp_path / "Videos_LeftCamera" / f"LeftVideo{name}_comp.avi").unlink()
        for path in (tmp_path / "ActionUnit_Labels" / name).iterdir():
            path.unlink()
        (tmp_path / "ActionUnit_Labels" / name).rmdir()
    file = tmp_path / "report.json"
    with pytest.raises(SourceError, match=r"DISFA is not whole: SN002: labelled, but .*2 problems in all"):
        main([str(tmp_path), "--json", str(file)])
    shown = capsys.readouterr().out
    assert "subjects that are not there: SN031, SN032" in shown
    assert "no subjects of DISFA: SN099" in shown
    assert "parts       none" in shown
    report = json.loads(file.read_text())
    assert not report["whole"]
    assert report["parts"] == {}


@pytest.mark.parametrize("rendered", [False, True])
def test_trials_that_are_not_there_are_missed(tmp_path: Path, rendered: bool) -> None:
    for subject in disfaplus.SUBJECTS:
        made_up.disfaplus(tmp_path, subject, "A1_AU1_TrailNo_1", levels(0, 3))
    if rendered:
        made_up.put(tmp_path / "README.txt", f"{MARK}\n")
    report = check(tmp_path)
    assert report.fatal == ([] if rendered else ["9 recordings, DISFA+ has 378"])
    assert "9 recordings, DISFA+ has 378" in [problem.text for problem in report.problems]
    assert "recordings  9 of 378, " in report.text()


def test_a_wrong_root_says_what_each_layout_lacks(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    with pytest.raises(SourceError, match=r"no dataset recognised: .*DISFA\+ lacks Labels;") as caught:
        check(tmp_path)
    assert "BP4D lacks BP4D-training, AUCoding;" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match=r"not CK\+: CK\+ lacks cohn-kanade-images, FACS$"):
        check(tmp_path, "ckplus")


def test_a_root_one_folder_off_is_shown_the_way(tmp_path: Path) -> None:
    made_up.disfa(tmp_path / "DISFA", "SN001", levels(0), 6)
    with pytest.raises(SourceError, match=r"/DISFA looks like DISFA: give that folder"):
        check(tmp_path)
    with pytest.raises(SourceError, match=r"/DISFA looks like DISFA: give that folder"):
        check(tmp_path / "DISFA" / "ActionUnit_Labels")


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere: does not exist"):
        check(tmp_path / "nowhere")
    made_up.put(tmp_path / "file", "")
    with pytest.raises(SourceError, match="file: is a file"):
        check(tmp_path / "file")
    with pytest.raises(UsageError, match="--dataset bp5d: no such dataset; expected one of bp4d, "):
        check(tmp_path, "bp5d")
    for folder in ("Images", "Labels"):
        (tmp_path / folder).mkdir()
    with pytest.raises(SourceError, match=r"laid out as DISFA\+, but not one labelled frame in it"):
        check(tmp_path)
    made_up.disfa(tmp_path, "SN001", levels(0), 6)
    with pytest.raises(UsageError, match=r"holds several datasets \(disfa, disfaplus\)"):
        check(tmp_path)


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    whole_disfaplus(tmp_path)
    with pytest.raises(OutputError, match=r"none/report\.json: cannot write it"):
        main([str(tmp_path), "--json", str(tmp_path / "none" / "report.json")])


def test_the_command_is_found_by_name(tmp_path: Path) -> None:
    whole_disfaplus(tmp_path)
    assert command(["check", str(tmp_path), "--dataset", "disfaplus"]) == 0
    for argv in ([], ["chekc"]):
        with pytest.raises(UsageError, match="data: expected one of check, prepare, mimic, got"):
            command(argv)


def test_an_au_that_a_dataset_lacks() -> None:
    assert DATASETS["disfa"].columns(["AU12", "AU01"]) == [6, 0]
    with pytest.raises(UsageError, match="AU10: DISFA does not code it; it codes AU01, AU02"):
        DATASETS["disfa"].columns(["AU12", "AU10"])
