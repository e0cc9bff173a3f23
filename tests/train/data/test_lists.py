"""Label lists of public code, in the forms in which that code writes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import made_up
import numpy as np
import pytest

from pipeline.errors import SourceError, UsageError
from train.data.base import Recording
from train.data.cache import open_cache
from train.data.check import check
from train.data.folds import folds
from train.data.layouts import LISTS, named, recognise
from train.data.lists import KINDS
from train.data.mimic_layouts import Shown
from train.data.mimic_lists import LISTS as LAYOUTS
from train.data.prepare import main
from train.shards import UNKNOWN
from train.synth.script import LABELLED


def read(root: Path, name: str, images: Path | None = None) -> dict[str, Recording]:
    subjects = recognise(root, name, images).read(root)
    return {f"{r.subject}/{r.name}": r for subject in subjects for r in subject.recordings}


def jaa(root: Path, prefix: str, part: str, paths: list[str], rows: list[str]) -> None:
    made_up.put(root / "data" / "list" / f"{prefix}_{part}_path.txt", "".join(f"{p}\n" for p in paths))
    made_up.put(root / "data" / "list" / f"{prefix}_{part}_AUoccur.txt", "".join(f"{r}\n" for r in rows))


NONE, SMILE = " ".join("0" * 12), "0 0 0 1 0 1 1 0 0 0 0 0"


def test_jaa_nets_lists(tmp_path: Path) -> None:
    made_up.pictures(
        tmp_path / "data" / "imgs" / "BP4D" / "F001" / "T1", range(2439, 2444), "{:04d}.jpg".format
    )
    made_up.pictures(tmp_path / "data" / "imgs" / "BP4D" / "M002" / "T8", range(7, 9), "{:04d}.jpg".format)
    jaa(tmp_path, "BP4D", "part1", [f"BP4D/F001/T1/{n}.jpg" for n in (2440, 2441, 2442)], [NONE, SMILE, NONE])
    jaa(tmp_path, "BP4D", "part2", ["BP4D/M002/T8/0007.jpg", "BP4D/M002/T8/0008.jpg"], [SMILE, SMILE])
    # The lists of two parts together repeat them, and numpy may have written floats.
    both = [f"BP4D/F001/T1/{n}.jpg" for n in (2440, 2441, 2442)]
    jaa(tmp_path, "BP4D", "combine_1_2", both, [" ".join(["0.0"] * 12), SMILE, NONE])
    found = read(tmp_path, "jaanet-bp4d")
    assert list(found) == ["F001/T1", "M002/T8"]
    recording = found["F001/T1"]
    recording.require()
    assert recording.labels.frame.tolist() == [2440, 2441, 2442]
    assert recording.rate_hz == 25
    smiling = [
        au for au, label in zip(recording.labels.aus, recording.labels.occurrence[1], strict=True) if label
    ]
    assert smiling == ["AU06", "AU10", "AU12"]
    assert np.isnan(recording.labels.intensity).all()
    assert recording.neutral is not None
    assert recording.neutral.frame in (2440, 2442)
    shown = dict(recording.media.frames([2441]))
    assert made_up.looks_like(shown[2441], 2441)
    assert [p.text for p in found["M002/T8"].problems] == ["M002: no frame without an AU, so no neutral"]


def test_disfas_pictures_lie_under_an_image_root_that_is_given(tmp_path: Path) -> None:
    made_up.pictures(tmp_path / "elsewhere" / "DISFA" / "SN002", range(4), "{}.jpg".format)
    jaa(
        tmp_path / "lists",
        "DISFA",
        "part1",
        [f"DISFA/SN002/{n}.jpg" for n in range(4)],
        ["0 1 0 0 0 0 0 0"] * 4,
    )
    with pytest.raises(SourceError, match="no folder of pictures; give the lists' image root with --images"):
        read(tmp_path / "lists", "jaanet-disfa")
    found = read(tmp_path / "lists", "jaanet-disfa", tmp_path / "elsewhere")
    assert list(found) == ["SN002/left"]
    assert found["SN002/left"].labels.aus == KINDS["disfa"].aus
    assert found["SN002/left"].labels.occurrence[:, 1].all()
    assert named("jaanet-disfa").columns(["AU26"]) == [7]
    with pytest.raises(UsageError, match="AU05: DISFA by JAA-Net's lists does not code it"):
        named("jaanet-disfa").columns(["AU05"])
    (tmp_path / "elsewhere" / "DISFA" / "SN002" / "3.jpg").unlink()
    with pytest.raises(SourceError, match="labels for 4 frames, 1 of them not among the 3 frames"):
        read(tmp_path / "lists", "jaanet-disfa", tmp_path / "elsewhere")["SN002/left"].require()


def test_me_graphaus_lists(tmp_path: Path) -> None:
    top = tmp_path / "data" / "BP4D"
    made_up.pictures(top / "img" / "F001" / "T1", range(9, 12), "{}.jpg".format)  # not padded
    made_up.pictures(top / "img" / "F003" / "T1", range(1, 3), "{}.jpg".format)
    first, second = "F001/T1/9.jpg\nF001/T1/10.jpg\nF001/T1/11.jpg\n", "F003/T1/1.jpg\nF003/T1/2.jpg\n"
    rows, others = f"{NONE}\n{SMILE}\n{NONE[:-1]}9\n", f"{NONE}\n{NONE}\n"
    for fold, (which, other) in {3: ("test", "train"), 2: ("train", "test")}.items():
        made_up.put(top / "list" / f"BP4D_{which}_img_path_fold{fold}.txt", first)
        made_up.put(top / "list" / f"BP4D_{which}_label_fold{fold}.txt", rows)
        made_up.put(top / "list" / f"BP4D_{other}_img_path_fold{fold}.txt", second)
        made_up.put(top / "list" / f"BP4D_{other}_label_fold{fold}.txt", others)
    for root in (tmp_path, tmp_path / "data" / "BP4D", top / "list"):
        found = read(root, "megraphau-bp4d")
        assert list(found) == ["F001/T1", "F003/T1"]
        labels = found["F001/T1"].labels
        assert labels.frame.tolist() == [9, 10, 11]
        assert labels.occurrence[2].tolist() == [0] * 11 + [UNKNOWN]
        assert labels.occurrence[1].sum() == 3
    (top / "list" / "BP4D_test_label_fold3.txt").unlink()
    with pytest.raises(SourceError, match=r"BP4D_test_label_fold3\.txt: not there"):
        read(tmp_path, "megraphau-bp4d")


def test_au_r_cnns_lists(tmp_path: Path) -> None:
    made_up.pictures(tmp_path / "BP4D-training" / "F023" / "T4", range(935, 939), "{:04d}.jpg".format)
    lines = ["F023/T4/0935.jpg\t14,12,6\t#\tBP4D", "F023/T4/0936.jpg\t?24,0\t#\tBP4D"]
    lines += ["F023/T4/0937.jpg\t28,5\t#\tBP4D", "F023/T4/0938.jpg\t0\tF023/T4/0935.jpg\tBP4D"]
    made_up.put(
        tmp_path / "idx" / "3_fold" / "id_test_1.txt", "\n".join([*lines, "SN001/1.jpg\t0\t#\tDISFA", ""])
    )
    made_up.put(tmp_path / "idx" / "3_fold" / "id_valid_1.txt", lines[0] + "\n")
    made_up.put(tmp_path / "idx" / "3_fold" / "id_trainval_2.txt", f"{lines[0]}\n{lines[0]}\n")
    labels = read(tmp_path, "aurcnn-bp4d")["F023/T4"].labels
    assert labels.frame.tolist() == [935, 936, 937]  # 938 was made from another picture
    present = [au for au, label in zip(labels.aus, labels.occurrence[0], strict=True) if label == 1]
    assert present == ["AU06", "AU12", "AU14"]
    assert labels.occurrence[1].tolist() == [0] * 11 + [UNKNOWN]
    assert not labels.occurrence[2].any()  # AU 28 and 5 are none of the twelve


def test_au_r_cnns_disfa_has_both_cameras_and_another_threshold(tmp_path: Path) -> None:
    rows = []
    for camera in ("Left", "Right"):
        made_up.pictures(tmp_path / f"Img_{camera}Camera" / "SN001", range(1, 4), "{}.jpg".format)
        rows += [f"Img_{camera}Camera/SN001/{n}.jpg\t{n if n < 3 else 0}\t#\tDISFA" for n in range(1, 4)]
    made_up.put(tmp_path / "idx" / "3_fold" / "id_test_1.txt", "\n".join(rows))
    found = read(tmp_path, "aurcnn-disfa")
    assert list(found) == ["SN001/left", "SN001/right"]
    assert found["SN001/left"].labels.occurrence[0, 0] == found["SN001/left"].labels.occurrence[1, 1] == 1
    odd = [problem.text for recording in found.values() for problem in recording.problems]
    assert odd == [
        "SN001/left: these lists call an AU of DISFA present from intensity 1 on, other code from 2 on"
    ]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("part1_AUoccur", SMILE + "\n"), "1 lines for the 2 pictures of BP4D_part1_path"),
        (("part1_AUoccur", f"{SMILE} 0\n{SMILE}\n"), "line 1: expected 12 labels of 0, 1 or 9, got"),
        (("part1_AUoccur", f"{SMILE}\n{SMILE[:-1]}2\n"), "line 2: expected 12 labels"),
        (
            ("part1_AUoccur", "version https://git-lfs.github.com/spec/v1\n"),
            "a pointer of Git LFS, not the list",
        ),
        (("part1_AUoccur", ""), "empty; get it again"),
        (
            ("part1_path", "BP4D/F001/T1/1.jpg\nBP4D/F001/T1/1.jpg\n"),
            "for the second time, with other labels",
        ),
        (
            ("part1_path", "BP4D/F001/T1/1.jpg\n../../etc/F001/2.jpg\n"),
            "expected a picture like F001/T1/2440",
        ),
        (("part1_path", "BP4D/F001/T1/1.jpg\n/etc/F001/2.jpg\n"), "expected a picture like F001/T1/2440"),
        (("part2_path", "BP4D/F001/T1/7.jpg\nBP4D/F001/T1/8.jpg\n"), "F001 is in BP4D_part1_path.txt and in"),
        (("part3_path", "BP4D/F004/T1/7.jpg\n"), "BP4D_part3_AUoccur.txt: not there, so 1 pictures have no"),
    ],
)
def test_bad_lists_are_one_clear_line(tmp_path: Path, change: tuple[str, str], match: str) -> None:
    made_up.pictures(tmp_path / "data" / "imgs" / "BP4D" / "F001" / "T1", range(1, 3), "{}.jpg".format)
    jaa(tmp_path, "BP4D", "part1", ["BP4D/F001/T1/1.jpg", "BP4D/F001/T1/2.jpg"], [NONE, SMILE])
    jaa(tmp_path, "BP4D", "part2", ["BP4D/M002/T1/1.jpg", "BP4D/M002/T1/2.jpg"], [NONE, SMILE])
    (tmp_path / "data" / "list" / f"BP4D_{change[0]}.txt").write_text(change[1])
    with pytest.raises(SourceError, match=match) as caught:
        read(tmp_path, "jaanet-bp4d")
    assert "\n" not in str(caught.value)


def test_who_is_trained_on_may_not_be_tested(tmp_path: Path) -> None:
    top = tmp_path / "list"
    for which in ("train", "test"):
        made_up.put(top / f"DISFA_{which}_img_path_fold1.txt", "SN001/0.png\n")
        made_up.put(top / f"DISFA_{which}_label_fold1.txt", "0 0 0 0 0 0 0 0\n")
    made_up.pictures(tmp_path / "img" / "SN001", range(1), "{}.png".format)
    with pytest.raises(SourceError, match=r"SN001 is in DISFA_test.* and in DISFA_train.*trained on"):
        read(tmp_path, "megraphau-disfa")
    for which in ("trainval", "test"):
        made_up.put(top / f"id_{which}_1.txt", f"F001/T1/{len(which)}.jpg\t0\t#\tBP4D\n")
    made_up.pictures(tmp_path / "F001" / "T1", range(1), "{}.png".format)
    with pytest.raises(SourceError, match=r"F001 is in id_test_1\.txt and in id_trainval_1\.txt"):
        read(top, "aurcnn-bp4d", tmp_path)


def test_lists_are_named_and_have_their_datasets_folds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="say whose lists they are with --dataset, one of jaanet-bp4d"):
        recognise(tmp_path, None, tmp_path)
    with pytest.raises(UsageError, match="--images: disfa has its own pictures"):
        recognise(tmp_path, "disfa", tmp_path)
    with pytest.raises(SourceError, match=r"not BP4D by JAA-Net's lists.*lacks BP4D_part1_path\.txt"):
        recognise(tmp_path, "jaanet-bp4d")
    subjects = KINDS["bp4d"].dataset.subjects
    assert folds("megraphau-bp4d", subjects) == folds("bp4d", subjects)


@pytest.mark.parametrize("layout", LISTS)
def test_rendered_lists_are_read_back(tmp_path: Path, layout: str) -> None:
    rng = np.random.default_rng(2)
    made: dict[str, list[Shown]] = {}

    def record(subject: str, frames: int) -> Shown:
        shape = (frames, len(LABELLED))
        pictures = [np.full((48, 64, 3), 90, np.uint8)] * frames
        occurrence = rng.choice([0, 1, 9], shape).astype(np.uint8)
        shown = Shown(pictures, np.float32(rng.uniform(0, 5, shape)), occurrence, ())
        made.setdefault(subject, []).append(shown)
        return shown

    chosen = LAYOUTS[layout]
    for subject in chosen.subjects[:4]:
        chosen.write(tmp_path, subject, lambda frames, *_, s=subject, **__: record(s, frames), 0.4)  # type: ignore[misc]
    report = check(tmp_path, layout)
    columns = [LABELLED.index(au) for au in report.dataset.aus]
    for name, recordings in made.items():
        found = [r for key, r in read(tmp_path, layout).items() if key.startswith(name)]
        assert len(found) == len(recordings)
        for recording, shown in zip(found, recordings, strict=True):
            wanted = shown.occurrence[:, columns]
            if layout.endswith("disfa"):
                wanted = np.floor(shown.intensity[:, columns] + 0.5) >= 2
            assert np.array_equal(recording.labels.occurrence, wanted)


def test_rendered_lists_are_prepared(
    rendered: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(rendered("megraphau-disfa"), tmp_path / "root"))
    images = Path(shutil.move(root / "data" / "DISFA" / "img", tmp_path / "images"))
    flags = ["--dataset", "megraphau-disfa", "--images", str(images)]
    assert main([str(root), "--out", str(tmp_path / "cache"), *flags, "--workers", "1"]) == 0
    assert "DISFA by ME-GraphAU's lists (SYNTHETIC: rendered faces)" in capsys.readouterr().out
    cache = open_cache(tmp_path / "cache")
    assert (cache.dataset, cache.aus) == ("megraphau-disfa", KINDS["disfa"].aus)
    assert len(cache) == 10
