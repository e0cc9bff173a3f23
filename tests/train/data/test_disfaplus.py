from __future__ import annotations

import tempfile
from pathlib import Path

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from train.data.base import Place
from train.data.disfaplus import AUS, read

TRIALS = ("A1_AU1_TrailNo_1", "Y_HappyDescribed_TrailNo_2")


def columns(levels: np.ndarray) -> dict[int, list[int]]:
    return {au: levels[:, a].tolist() for a, au in enumerate(made_up.DISFA_AUS)}


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.booleans(), st.integers(0, 2**32 - 1))
def test_what_was_written_is_read(count: int, nested: bool, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 6, (2, count, 12))
    with tempfile.TemporaryDirectory() as folder:
        for trial, of_trial in zip(TRIALS, levels, strict=True):
            made_up.disfaplus(Path(folder), "SN007", trial, columns(of_trial), nested=nested)
        (subject,) = read(Path(folder))
        for recording, trial, of_trial in zip(subject.recordings, TRIALS, levels, strict=True):
            recording.require()
            assert (recording.subject, recording.name) == ("SN007", trial)
            np.testing.assert_array_equal(recording.labels.intensity, of_trial)
            np.testing.assert_array_equal(recording.labels.occurrence, of_trial >= 2)
            assert recording.neutral == Place(trial, 0)
            for frame, picture in recording.media.frames():
                assert made_up.looks_like(picture, frame)


def test_labels_and_pictures_are_matched_by_number(tmp_path: Path) -> None:
    levels = np.zeros((6, 12), int)
    levels[4, 0] = 5
    made_up.disfaplus(tmp_path, "SN001", TRIALS[0], columns(levels))
    folder = tmp_path / "Images" / "SN001" / TRIALS[0]
    (folder / "004.jpg").rename(folder / "4.jpg")
    (recording,) = next(read(tmp_path)).recordings
    recording.require()
    row = int(np.flatnonzero(recording.labels.occurrence[:, AUS.index("AU01")])[0])
    ((number, picture),) = recording.media.frames({int(recording.labels.frame[row])})
    assert number == 4
    assert made_up.looks_like(picture, 4)


def test_a_neutral_that_shows_an_au_is_odd(tmp_path: Path) -> None:
    levels = np.zeros((3, 12), int)
    levels[:, AUS.index("AU12")] = 2
    made_up.disfaplus(tmp_path, "SN001", TRIALS[0], columns(levels))
    (recording,) = next(read(tmp_path)).recordings
    assert [p.text for p in recording.problems] == [
        f"SN001/{TRIALS[0]}: its first frame, taken as neutral, shows AU12"
    ]


def test_a_subject_twice_is_refused(tmp_path: Path) -> None:
    for subject in ("SN1", "SN001"):
        made_up.disfaplus(tmp_path, subject, TRIALS[0], columns(np.zeros((2, 12), int)))
    with pytest.raises(SourceError, match="Images: SN001 and SN1 are the same one; remove one"):
        next(read(tmp_path))


def test_half_copies_are_refused(tmp_path: Path) -> None:
    for trial in TRIALS:
        made_up.disfaplus(tmp_path, "SN001", trial, columns(np.zeros((4, 12), int)))
    (tmp_path / "Images" / "SN001" / TRIALS[0] / "003.jpg").unlink()
    for path in (tmp_path / "Labels" / "SN001" / TRIALS[1]).iterdir():
        path.unlink()
    (tmp_path / "Labels" / "SN001" / TRIALS[1]).rmdir()
    cut, unlabelled = next(read(tmp_path)).recordings
    with pytest.raises(SourceError, match=r"TrailNo_1: labels for 4 frames, 1 of them not among the 3"):
        cut.require()
    with pytest.raises(SourceError, match=r"TrailNo_2: no folder of labels"):
        unlabelled.require()


def test_a_line_that_is_no_label_is_refused_after_the_heading(tmp_path: Path) -> None:
    made_up.disfaplus(tmp_path, "SN001", TRIALS[0], columns(np.zeros((4, 12), int)))
    made_up.put(tmp_path / "Labels/SN001" / TRIALS[0] / "AU2.txt", "a\nb\n000.jpg 0\n001.jpg\n")
    (recording,) = next(read(tmp_path)).recordings
    with pytest.raises(SourceError, match=r"AU2\.txt: line 4: expected a frame and its label"):
        recording.require()
