from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from train.data.base import Place, Recording
from train.data.ckplus import AUS, read


def only(root: Path) -> Recording:
    (subject,) = read(root)
    (recording,) = subject.recordings
    return recording


@settings(max_examples=15, deadline=None)
@given(
    st.integers(2, 9),
    st.dictionaries(st.sampled_from([1, 2, 5, 12, 16, 25, 27, 54, 64]), st.integers(0, 5), min_size=1),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, count: int, coded: dict[int, int]
) -> None:
    root = tmp_path_factory.mktemp("ckplus")
    made_up.ckplus(root, "S005", "001", count, coded)
    recording = only(root)
    recording.require()
    labels = recording.labels
    assert labels.frame.tolist() == [count]
    for a, au in enumerate(AUS):
        level = coded.get(int(au[2:]))
        assert labels.occurrence[0, a] == (level is not None)
        wanted = np.nan if level == 0 else level or 0
        np.testing.assert_array_equal(labels.intensity[0, a], wanted)
    assert recording.neutral == Place("001", 1)
    seen = dict(recording.media.frames({1, count}))
    assert all(made_up.looks_like(seen[number], number) for number in (1, count))


def test_sequences_of_several_people(tmp_path: Path) -> None:
    for subject, sequence in (("S005", "001"), ("S010", "001"), ("S010", "002")):
        made_up.ckplus(tmp_path, subject, sequence, 3, {12: 3})
    found = {subject.name: [r.name for r in subject.recordings] for subject in read(tmp_path)}
    assert found == {"S005": ["001"], "S010": ["001", "002"]}


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("last picture", r"S005/001: labels for 1 frames, 1 of them not among the 3"),
        ("codes", r"expected one file S005_001_…_facs\.txt, found 0"),
        ("folder of codes", "S005/001: no FACS folder"),
        ("pictures", "S005/001: labelled, but there are no pictures"),
        ("text of codes", r"S005_001_00000004_facs\.txt: empty; copy it again"),
        ("damaged codes", r"line 1: expected an AU and its intensity 0–5, got 'twelve'"),
    ],
)
def test_half_copies_are_refused(tmp_path: Path, gone: str, message: str) -> None:
    made_up.ckplus(tmp_path, "S005", "001", 4, {12: 3})
    images, codes = tmp_path / "cohn-kanade-images/S005/001", tmp_path / "FACS/S005/001"
    if gone == "last picture":
        (images / "S005_001_00000004.png").unlink()
    elif gone == "pictures":
        for path in images.glob("*.png"):
            path.unlink()
    elif gone == "text of codes":
        made_up.put(codes / "S005_001_00000004_facs.txt", "\n")
    elif gone == "damaged codes":
        made_up.put(codes / "S005_001_00000004_facs.txt", "twelve\n")
    else:
        (codes / "S005_001_00000004_facs.txt").unlink()
        if gone == "folder of codes":
            codes.rmdir()
    with pytest.raises(SourceError, match=message):
        only(tmp_path).require()


def test_a_coded_frame_that_is_not_the_last_is_odd(tmp_path: Path) -> None:
    made_up.ckplus(tmp_path, "S005", "001", 4, {12: 3})
    made_up.pictures(tmp_path / "cohn-kanade-images/S005/001", [5], lambda k: f"S005_001_{k:08d}.png")
    recording = only(tmp_path)
    recording.require()
    assert recording.labels.frame.tolist() == [4]
    assert [p.text for p in recording.problems] == ["S005/001: picture 4 is coded, but the last one is 5"]
