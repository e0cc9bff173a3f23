from __future__ import annotations

import tempfile
from pathlib import Path

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from train.data import bp4d
from train.data.base import Place, Recording
from train.data.folds import PUBLISHED
from train.shards import UNKNOWN

LEVELS = [bp4d.AUS.index(au) for au in bp4d.INTENSITY_AUS]


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 12) occurrences and (n, 5) intensities, unknown ones among them."""
    return rng.choice([0, 1, 9], (count, 12)), rng.choice([0, 1, 2, 3, 4, 5, 9], (count, 5))


def task(root: Path, name: str = "T1") -> Recording:
    (subject,) = bp4d.read(root)
    return next(recording for recording in subject.recordings if recording.name == name)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(3, 3000),
    st.integers(1, 12),
    st.sampled_from([1, 3, 4, 5]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_what_was_written_is_read(first: int, count: int, padding: int, older: bool, seed: int) -> None:
    occurrence, levels = draw(np.random.default_rng(seed), count)
    with tempfile.TemporaryDirectory() as folder:
        made_up.bp4d(Path(folder), "F001", "T1", first, occurrence, levels, padding=padding, older=older)
        recording = task(Path(folder))
        recording.require()
        labels = recording.labels
        assert labels.frame.tolist() == list(range(first, first + count))
        np.testing.assert_array_equal(labels.occurrence, occurrence)
        np.testing.assert_array_equal(labels.intensity[:, LEVELS], np.where(levels == 9, np.nan, levels))
        others = [a for a in range(12) if a not in LEVELS]
        assert np.isnan(labels.intensity[:, others]).all()
        seen = list(recording.media.frames(set(labels.frame.tolist())))
        assert [number for number, _ in seen] == labels.frame.tolist()
        assert all(made_up.looks_like(picture, number) for number, picture in seen)


def test_archives_of_bp4dplus(tmp_path: Path) -> None:
    occurrence, levels = draw(np.random.default_rng(0), 4)
    for name in ("T1", "T6", "T7", "T8"):
        for subject, archive in (("F041", True), ("M058", False)):
            at = {"archive": archive, "pictures_of": "2D+3D"}
            made_up.bp4d(tmp_path, subject, name, 20, occurrence, levels, **at)
    zipped, unzipped = bp4d.read_plus(tmp_path)
    assert [r.name for r in zipped.recordings] == ["T1", "T6", "T8"]  # T7's labels are another video's
    assert [r.name for r in unzipped.recordings] == ["T1", "T6", "T7", "T8"]
    for recording in (*zipped.recordings, *unzipped.recordings):
        recording.require()
        np.testing.assert_array_equal(recording.labels.occurrence, occurrence)
        for number, picture in recording.media.frames({21, 22}):
            assert made_up.looks_like(picture, number)


def test_the_neutral_may_lie_in_another_task(tmp_path: Path) -> None:
    busy, rest = np.ones((6, 12), int), np.zeros((9, 12), int)
    rest[:2] = UNKNOWN
    for name in bp4d.TASKS:
        made_up.bp4d(tmp_path, "F002", name, 50, rest if name == "T5" else busy)
    (subject,) = bp4d.read(tmp_path)
    assert {recording.neutral for recording in subject.recordings} == {Place("T5", 55)}  # of 52–58


def test_an_intensity_is_no_rest_either(tmp_path: Path) -> None:
    occurrence, levels = np.zeros((5, 12), int), np.zeros((5, 5), int)
    levels[1:3, 2] = 1
    made_up.bp4d(tmp_path, "F002", "T1", 10, occurrence, levels)
    assert task(tmp_path).neutral == Place("T1", 13)  # of 13–14


def test_bad_frames_are_marked(tmp_path: Path) -> None:
    made_up.bp4d(tmp_path, "F021", "T3", 220, np.zeros((10, 12), int))
    labels = task(tmp_path, "T3").labels
    assert labels.number[labels.bad].tolist() == [223, 224, 225, 226, 227]


def test_bad_frames_are_as_many_as_jaa_net_leaves_out() -> None:
    lost = {
        part: sum(b - a + 1 for place, r in bp4d.BAD_FRAMES.items() if place[:4] in subjects for a, b in r)
        for part, subjects in PUBLISHED["bp4d"].items()
    }
    assert lost == {"P1": 50_631 - 50_601, "P2": 50_182 - 50_166, "P3": 46_034 - 45_809}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,0,1\n2,0,1\n", "expected a header whose first column is 0"),
        ("0,1,1\n1,0,0\n", "expected one column an AU"),
        ("0,1,2\n", "a header and no labels"),
        ("0,1,2\n1,0,5\n", "row 2: AU02: expected 0, 1 or 9, got 5"),
        ("0,1,2\n1,0\n", "row 2: expected 3 numbers, got 2"),
        ("0,1,2\n1,0,1\n1,0,1\n", "row 3: frame 1 for the second time"),
        ("0,1,2\nx,0,1\n", "row 2: expected a frame's number first, got 'x'"),
        ("0,50,51\n1,0,1\n", "expected columns of AU01"),
        ("", "expected a header .*'nothing'"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, content: str, message: str) -> None:
    made_up.bp4d(tmp_path, "F001", "T1", 3, np.zeros((3, 12), int))
    made_up.put(tmp_path / "AUCoding/AU_OCC/F001_T1.csv", content)
    with pytest.raises(SourceError, match=rf"F001_T1\.csv: {message}"):
        task(tmp_path).require()


def test_an_au_without_a_column_is_unknown_and_odd(tmp_path: Path) -> None:
    made_up.bp4d(tmp_path, "F001", "T1", 3, np.zeros((3, 12), int))
    made_up.put(tmp_path / "AUCoding/AU_OCC/F001_T1.csv", "0,2,4\n3,1,0\n")
    recording = task(tmp_path)
    recording.require()
    assert recording.labels.occurrence[0].tolist() == [9, 1, 0] + [9] * 9
    assert "no column for AU01, AU06" in recording.problems[0].text


def test_a_missing_file_of_intensities_is_unknown_and_odd(tmp_path: Path) -> None:
    made_up.bp4d(tmp_path, "F001", "T1", 3, np.zeros((3, 12), int), np.ones((3, 5), int))
    (tmp_path / "AUCoding/AU_INT/AU12/F001_T1_AU12.csv").unlink()
    made_up.put(tmp_path / "AUCoding/AU_INT/AU10/F001_T1_AU10.csv", "4,2\n5,9\n6,1\n")
    recording = task(tmp_path)
    recording.require()
    assert recording.labels.intensity[0, LEVELS].tolist()[::4] == [1, 1]
    np.testing.assert_array_equal(recording.labels.intensity[:, LEVELS[1]], [np.nan, 2, np.nan])
    assert np.isnan(recording.labels.intensity[:, LEVELS[2]]).all()
    assert [problem.text for problem in recording.problems if "F001/T1" in problem.text] == [
        "F001/T1: AU10: intensities of 1 frames without occurrence; left out",
        "F001/T1: AU10: no intensities of 1 of 3 frames; taken as unknown",
        "F001/T1: no intensities of AU12; taken as unknown",
    ]


def test_a_subject_twice_is_refused(tmp_path: Path) -> None:
    made_up.bp4d(tmp_path, "F001", "T1", 3, np.zeros((3, 12), int))
    made_up.put(tmp_path / "BP4D-training/F1/T1/0003.jpg", b"")
    with pytest.raises(SourceError, match="F001 and F1 are the same one; remove one"):
        task(tmp_path)


def test_half_copies_are_refused(tmp_path: Path) -> None:
    for name in ("T1", "T2", "T3"):
        made_up.bp4d(tmp_path, "M001", name, 10, np.zeros((5, 12), int))
    folder = tmp_path / "BP4D-training" / "M001"
    (folder / "T1" / "0012.jpg").unlink()
    for path in (folder / "T2").iterdir():
        path.unlink()
    made_up.put(folder / "T3" / "12.jpg", made_up.encoded(12, ".jpg"))
    for name, message in (
        ("T1", r"M001/T1: labels for 5 frames, 1 of them not among the 8 .*label 12"),
        ("T2", "M001/T2: labelled, but there are no pictures"),
        ("T3", r"0012\.jpg and 12\.jpg have the same number"),
        ("T4", r"M001/T4: no file M001_T4\.csv in AUCoding"),
    ):
        with pytest.raises(SourceError, match=message):
            task(tmp_path, name).require()


def test_a_damaged_archive_is_one_line(tmp_path: Path) -> None:
    made_up.bp4d(tmp_path, "F001", "T1", 5, np.zeros((2, 12), int), archive=True, pictures_of="2D+3D")
    archive = tmp_path / "2D+3D" / "F001.zip"
    archive.write_bytes(archive.read_bytes()[:-60])
    (subject,) = bp4d.read_plus(tmp_path)
    with pytest.raises(SourceError, match=r"F001\.zip: not a zip archive"):
        subject.recordings[0].require()
