from __future__ import annotations

import tempfile
from pathlib import Path

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from train.data.base import Place, Recording
from train.data.disfa import AUS, BAD_FRAMES, read
from train.data.folds import PUBLISHED


def columns(levels: np.ndarray) -> dict[int, list[int]]:
    return {au: levels[:, a].tolist() for a, au in enumerate(made_up.DISFA_AUS)}


def only(root: Path) -> Recording:
    (subject,) = read(root)
    (recording,) = subject.recordings
    return recording


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_what_was_written_is_read(count: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 6, (count, 12))
    with tempfile.TemporaryDirectory() as folder:
        made_up.disfa(Path(folder), "SN002", columns(levels), count)
        recording = only(Path(folder))
        recording.require()
    assert recording.labels.aus == AUS
    assert recording.labels.number.tolist() == list(range(1, count + 1))
    np.testing.assert_array_equal(recording.labels.intensity, levels)
    np.testing.assert_array_equal(recording.labels.occurrence, levels >= 2)
    assert recording.rate_hz == 20


def test_label_k_is_the_video_frame_before_it(tmp_path: Path) -> None:
    made_up.disfa(tmp_path, "SN001", columns(np.zeros((10, 12), int)), 10)
    recording = only(tmp_path)
    seen = dict(recording.media.frames(recording.labels.frame.tolist()))
    assert len(seen) == 10
    for number, frame in zip(recording.labels.number, recording.labels.frame, strict=True):
        assert made_up.looks_like(seen[int(frame)], int(number) - 1)
    assert [number for number, _ in recording.media.frames({2, 7})] == [2, 7]


def test_a_missing_au_file_is_unknown_and_odd(tmp_path: Path) -> None:
    levels = columns(np.full((5, 12), 3))
    del levels[9]
    made_up.disfa(tmp_path, "SN004", levels, 5)
    made_up.put(tmp_path / "ActionUnit_Labels/SN004/SN004_au12.txt", "1,3\n2,2\n5,1\n")
    recording = only(tmp_path)
    recording.require()
    missing, short = AUS.index("AU09"), AUS.index("AU12")
    assert (recording.labels.occurrence[:, missing] == 9).all()
    assert np.isnan(recording.labels.intensity[:, missing]).all()
    assert recording.labels.occurrence[:, short].tolist() == [1, 1, 9, 9, 0]
    assert [p.text for p in recording.problems if not p.fatal][:2] == [
        "SN004: no label file for AU09; taken as unknown",
        "SN004: AU12 lacks 2 of 5 frames that other AUs have; taken as unknown",
    ]


def test_the_neutral_is_the_middle_of_the_longest_rest(tmp_path: Path) -> None:
    levels = np.zeros((12, 12), int)
    levels[[4, 6], 3] = 1  # rests: labels 1–4, 6, 8–12
    made_up.disfa(tmp_path, "SN003", columns(levels), 12)
    assert only(tmp_path).neutral == Place("left", 9)


def test_nobody_at_rest_has_no_neutral(tmp_path: Path) -> None:
    made_up.disfa(tmp_path, "SN003", columns(np.ones((4, 12), int)), 4)
    recording = only(tmp_path)
    assert recording.neutral is None
    assert any("no neutral" in problem.text for problem in recording.problems)


def test_bad_frames_are_marked_and_never_neutral(tmp_path: Path) -> None:
    made_up.disfa(tmp_path, "SN001", columns(np.zeros((430, 12), int)), 430)
    recording = only(tmp_path)
    assert recording.labels.number[recording.labels.bad].tolist() == list(range(398, 421))
    assert recording.neutral is not None
    assert recording.neutral.frame == 198  # label 199, the middle of 1–397


def test_bad_frames_are_as_many_as_jaa_net_leaves_out() -> None:
    lost = {
        part: sum(b - a + 1 for s in subjects for a, b in BAD_FRAMES.get(s, ()))
        for part, subjects in PUBLISHED["disfa"].items()
    }
    assert lost == {"P1": 43_604 - 43_173, "P2": 43_605 - 40_344, "P3": 43_605 - 42_627}


@pytest.mark.parametrize(("labelled", "fatal"), [(19, False), (18, True)])
def test_labels_that_are_cut_off_are_refused(tmp_path: Path, labelled: int, fatal: bool) -> None:
    """A frame or so less than the video is DISFA's own; more is half a copy."""
    made_up.disfa(tmp_path, "SN001", columns(np.zeros((labelled, 12), int)), 20)
    (problem,) = only(tmp_path).problems
    assert problem.text.startswith(f"SN001: 20 frames, {labelled} of them labelled; ")
    assert problem.fatal == fatal


def test_labels_longer_than_the_video_are_refused(tmp_path: Path) -> None:
    made_up.disfa(tmp_path, "SN001", columns(np.zeros((9, 12), int)), 6)
    with pytest.raises(SourceError, match=r"labels for 9 frames, 3 of them not among the 6 .*label 7\)"):
        only(tmp_path).require()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,0\n2,7\n", "line 2: expected a label of .*, got 7"),
        ("1,0\n1,0\n", "line 2: frame 1 for the second time"),
        ("frame,au\n1,0\n", "line 1: expected a frame and its label, got 'frame,au'"),
        ("\n", "no label in it"),
        ("1,0\n\x00\xff", "line 2: expected a frame"),
    ],
)
def test_a_damaged_label_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    made_up.disfa(tmp_path, "SN001", columns(np.zeros((3, 12), int)), 3)
    made_up.put(tmp_path / "ActionUnit_Labels/SN001/SN001_au4.txt", content)
    with pytest.raises(SourceError, match=rf"SN001_au4\.txt: {message}"):
        only(tmp_path).require()


def test_spelling_varies(tmp_path: Path) -> None:
    made_up.disfa(tmp_path, "SN001", columns(np.zeros((3, 12), int)), 3)
    (tmp_path / "Videos_LeftCamera").rename(tmp_path / "Video_leftcamera")
    videos = tmp_path / "Video_leftcamera"
    (videos / "LeftVideoSN001_comp.avi").rename(videos / "LeftVideoSN001_Comp.AVI")
    only(tmp_path).require()


@pytest.mark.parametrize("gone", ["video", "labels", "half a video", "two videos"])
def test_half_of_a_subject_is_refused(tmp_path: Path, gone: str) -> None:
    made_up.disfa(tmp_path, "SN001", columns(np.zeros((3, 12), int)), 3)
    file = tmp_path / "Videos_LeftCamera" / "LeftVideoSN001_comp.avi"
    expected = "SN001: labelled, but there are no pictures"
    if gone == "video":
        file.unlink()
    elif gone == "labels":
        for path in (tmp_path / "ActionUnit_Labels" / "SN001").iterdir():
            path.unlink()
        expected = "SN001: no labels of it"
    elif gone == "two videos":
        file.with_name("LeftVideoSN001_Comp2.avi").write_bytes(file.read_bytes())
        expected = "SN001: expected one video, found LeftVideoSN001_Comp2.avi, LeftVideoSN001_comp.avi"
    else:
        file.write_bytes(file.read_bytes()[:40])
        expected = "LeftVideoSN001_comp.avi: not a video that can be opened"
    with pytest.raises(SourceError, match=expected):
        only(tmp_path).require()
