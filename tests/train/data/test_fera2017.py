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
from train.data.fera2017 import AUS, INTENSITY_AUS, read
from train.data.folds import folds

LEVELS = [AUS.index(au) for au in INTENSITY_AUS]


def quiet(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((count, 10), int), np.zeros((count, 7), int)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_what_was_written_is_read(count: int, first: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    occurrence, levels = rng.choice([0, 1, 9], (count, 10)), rng.choice([0, 2, 5, 9], (count, 7))
    with tempfile.TemporaryDirectory() as folder:
        made_up.fera2017(Path(folder), "TR", "F001", "T1", occurrence, levels, (1, 6), first)
        (subject,) = read(Path(folder))
        assert [r.name for r in subject.recordings] == ["T1_1", "T1_6"]
        for recording in subject.recordings:
            recording.require()
            labels = recording.labels
            np.testing.assert_array_equal(labels.occurrence, occurrence)
            np.testing.assert_array_equal(labels.intensity[:, LEVELS], np.where(levels == 9, np.nan, levels))
            assert labels.frame.tolist() == list(range(count))
            assert all(made_up.looks_like(picture, number) for number, picture in recording.media.frames())


def test_the_same_name_in_both_parts_is_two_people(tmp_path: Path) -> None:
    for part in ("TR", "VA"):
        made_up.fera2017(tmp_path, part, "F007", "T1", *quiet(3))
    names = [subject.name for subject in read(tmp_path)]
    assert names == ["TR_F007", "VA_F007"]
    (fold,) = folds("fera2017", names)
    assert (fold.name, fold.train, fold.test) == ("validation", ("TR_F007",), ("VA_F007",))


def test_each_view_has_a_neutral_of_its_own(tmp_path: Path) -> None:
    made_up.fera2017(tmp_path, "TR", "F001", "T1", *quiet(5), views=(1, 9))
    busy, levels = quiet(3)
    made_up.fera2017(tmp_path, "TR", "F001", "T8", busy + 1, levels, views=(1, 9))
    (subject,) = read(tmp_path)
    neutrals = {recording.name: recording.neutral for recording in subject.recordings}
    one, nine = Place("T1_1", 2), Place("T1_9", 2)
    assert neutrals == {"T1_1": one, "T8_1": one, "T1_9": nine, "T8_9": nine}


def test_half_copies_are_refused(tmp_path: Path) -> None:
    for task in ("T1", "T2", "T3"):
        made_up.fera2017(tmp_path, "TR", "F001", task, *quiet(5))
    made_up.video(tmp_path / "ims" / "FERA17_TR_F001_T1_6.mp4", 4, 25, "libx264")
    (tmp_path / "ims" / "FERA17_TR_F001_T2_6.mp4").unlink()
    (tmp_path / "occ" / "FERA17_TR_F001_T3.csv").unlink()
    (subject,) = read(tmp_path)
    messages = ["5 frames, 1 of them not among the 4", "no pictures and no video", "no labels of it"]
    for recording, message in zip(subject.recordings, messages, strict=True):
        with pytest.raises(SourceError, match=message):
            recording.require()
