from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest

from pipeline.errors import SourceError
from train.data.media import NOTHING, Video, pictures_in, pictures_zipped, video


def test_a_video_is_decoded_frame_by_frame(tmp_path: Path) -> None:
    made_up.video(tmp_path / "a.avi", 9, 20)
    media = video(tmp_path / "a.avi")
    assert isinstance(media, Video)
    assert (media.count, media.rate_hz) == (9, 20.0)
    frames = media.frames()
    number, picture = next(frames)
    assert number == 0
    assert made_up.looks_like(picture, 0)
    assert [n for n, _ in frames] == list(range(1, 9))
    assert list(media.frames(())) == []


def test_a_video_that_ends_early_is_refused_when_it_does(tmp_path: Path) -> None:
    made_up.video(tmp_path / "a.avi", 9, 20)
    media = Video(tmp_path / "a.avi", 12, 20.0)
    with pytest.raises(SourceError, match=r"a\.avi: only 9 of 12 frames can be decoded"):
        list(media.frames())


def test_a_video_that_lost_frames_is_refused_whatever_is_wanted_of_it(tmp_path: Path) -> None:
    """Behind a lost frame all others have another's number; where it was lost, nothing says."""
    made_up.video(tmp_path / "a.avi", 9, 20)
    media = Video(tmp_path / "a.avi", 10, 20.0)
    frames = media.frames(range(4))
    assert [next(frames)[0] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(SourceError, match="only 9 of 10 frames can be decoded"):
        next(frames)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    made_up.pictures(tmp_path, range(3), lambda k: f"{k}.jpg")
    made_up.put(tmp_path / "1.jpg", b"no picture")
    media = pictures_in(tmp_path)
    frames = media.frames()
    assert next(frames)[0] == 0
    with pytest.raises(SourceError, match=r"1\.jpg: not a picture"):
        next(frames)


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    made_up.put(tmp_path / "notes.txt", "")
    assert pictures_in(tmp_path) is NOTHING
    assert pictures_in(tmp_path / "nowhere") is NOTHING


def test_a_text_file_is_no_video(tmp_path: Path) -> None:
    made_up.put(tmp_path / "a.avi", "no video")
    with pytest.raises(SourceError, match=r"a\.avi: not a video that can be opened"):
        video(tmp_path / "a.avi")


def test_archives_have_several_tasks(tmp_path: Path) -> None:
    for task in ("T1", "T10"):
        made_up.bp4d(tmp_path, "F001", task, 5, np.zeros((1, 12), int), archive=True, pictures_of="2D+3D")
    media = pictures_zipped(tmp_path / "2D+3D" / "F001.zip", "T1")
    assert list(media.numbers) == [3, 4, 5, 6, 7]
    assert pictures_zipped(tmp_path / "2D+3D" / "F001.zip", "T2") is NOTHING
