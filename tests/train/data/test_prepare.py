"""Preparing gives what streaming gives, survives being killed, and hides nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import made_up
import numpy as np
import psutil
import pytest

from engines.spec import CropSpec
from pipeline.capture import captured_frames
from pipeline.config import RunConfig
from pipeline.errors import OutputError, SourceError, UsageError
from pipeline.faces import FaceStage, Wanted
from pipeline.inline import _neutral_policy
from pipeline.messages import FaceCrop, Ledger
from pipeline.sources import SourceSpec, open_source
from train.data import disfa
from train.data.base import Place
from train.data.cache import BAD, NO_FACE, SAMPLE, PreparedSet, open_cache
from train.data.layouts import DATASETS
from train.data.media import video
from train.data.plan import Order, plan
from train.data.prepare import main, prepare
from train.data.streamed import Options, find_neutral
from train.pool import Pool

CROPS = (CropSpec("five_point", 224), CropSpec("box", 224))
ROOT = Path(__file__).parents[3]


def order(root: Path, out: Path, **changes: Any) -> Order:
    options = Options(
        changes.pop("crops", CROPS), changes.pop("compensate", True), changes.pop("keep_bad", False)
    )
    values = {"dataset": None, "images": None, "workers": 1, "options": options, "partial": False} | changes
    return Order(root, out, **values)


def prepared(root: Path, out: Path, **changes: Any) -> PreparedSet:
    prepare(order(root, out, **changes))
    return open_cache(out)


@pytest.fixture(scope="session")
def trials(rendered: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    """Three people's DISFA+ trials, prepared."""
    return prepared(rendered("disfaplus"), tmp_path_factory.mktemp("trials"))


def cut(clip: Path, path: Path, count: int) -> None:
    """The first frames of a video, without loss."""
    path.parent.mkdir(parents=True)
    with av.open(str(clip)) as source, av.open(str(path), "w") as made:
        stream = made.add_stream("ffv1", rate=24)
        shown = source.streams.video[0]
        stream.width, stream.height, stream.pix_fmt = shown.width, shown.height, "yuv420p"
        for k, frame in zip(range(count), source.decode(shown), strict=False):
            frame.pts, frame.time_base = k, Fraction(1, 24)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))


def streamed(path: Path, neutral: Path, compensate: bool) -> list[FaceCrop]:
    """The face of every frame, as `run_stream.py --neutral PHOTO` sees them."""
    config = RunConfig.from_mapping(
        {
            "source": [str(path)],
            "neutral": str(neutral),
            "exposure_compensation": compensate,
        },
        "test",
    )
    stage = FaceStage(
        Wanted(CROPS, level_map=True), _neutral_policy(config.neutral), config.max_faces, compensate
    )
    spec = SourceSpec(str(path), path.stem)
    found = []
    for frame in captured_frames(open_source(spec), spec, config, Ledger(path.stem), lambda: None):
        faces = stage(frame)
        assert len(faces) == 1
        found += faces
    stage.close()
    return found


def same_as_streamed(cache: PreparedSet, faces: list[FaceCrop]) -> None:
    rows = list(range(len(cache)))
    assert len(faces) == len(rows)
    for name in ("five_point_224", "box_224"):
        assert np.array_equal(cache.samples.crop(name, rows), [face.crops_bgr[name] for face in faces])
    assert np.array_equal(cache.samples.level_map(rows), [face.level_map for face in faces])
    assert np.array_equal(cache.samples.points(rows), [face.landmarks_px for face in faces])
    exposure = np.float32([(face.exposure_gain, face.exposure_offset) for face in faces])
    assert np.array_equal(cache.samples.labels["exposure"], exposure)


@pytest.mark.parametrize("compensate", [True, False])
def test_a_video_gives_the_same_bytes_prepared_and_streamed(
    rendered: Callable[[str], Path], tmp_path: Path, compensate: bool
) -> None:
    root = rendered("disfa")
    cache = prepared(root, tmp_path / "cache", compensate=compensate)
    assert cache.exposure_compensation == compensate
    path = next((root / "Videos_LeftCamera").iterdir())
    frame = int(cache.recordings[0].neutral.split()[1])
    ((_, picture),) = video(path).frames([frame])
    cv2.imwrite(str(tmp_path / "neutral.png"), picture)
    faces = streamed(path, tmp_path / "neutral.png", compensate)
    same_as_streamed(cache, faces)
    assert cache.samples.level_map(list(range(len(cache)))).max() == 5
    assert np.allclose(cache.samples.labels["pts_seconds"], np.arange(len(faces)) / 20)


def test_real_footage_gives_the_same_bytes_prepared_and_streamed(tmp_path: Path, real_clip: Path) -> None:
    count = 24
    clip = tmp_path / "root" / "Videos_LeftCamera" / "LeftVideoSN001_comp.avi"
    cut(real_clip, clip, count)
    codes = tmp_path / "root" / "ActionUnit_Labels" / "SN001"
    codes.mkdir(parents=True)
    for au in disfa.AUS:
        (codes / f"SN001_au{int(au[2:])}.txt").write_text("".join(f"{k},0\n" for k in range(1, count + 1)))
    cache = prepared(tmp_path / "root", tmp_path / "cache", partial=True)  # 26 subjects are missing
    assert not cache.whole
    frame = int(cache.recordings[0].neutral.split()[1])
    ((_, picture),) = video(clip).frames([frame])
    cv2.imwrite(str(tmp_path / "neutral.png"), picture)
    same_as_streamed(cache, streamed(clip, tmp_path / "neutral.png", True))


def test_labels_are_part_of_what_was_prepared(tmp_path: Path) -> None:
    """Another edition of the labels has as many; prepared halves of both must not become one."""
    root, identities = tmp_path / "root", set()
    for level in (1, 5):
        levels = np.zeros((12, 12), int)
        levels[8:, 6] = level
        columns = {au: levels[:, a].tolist() for a, au in enumerate(made_up.DISFA_AUS)}
        made_up.disfa(root, "SN001", columns, 12)
        identities.add(plan(order(root, tmp_path / "out", partial=True)).identity)
        assert plan(order(root, tmp_path / "out", partial=True)).identity in identities
        shutil.rmtree(root)
    assert len(identities) == 2


def test_labels_names_and_places_are_the_loaders(
    rendered: Callable[[str], Path], trials: PreparedSet
) -> None:
    subjects = list(DATASETS["disfaplus"].read(rendered("disfaplus")))
    assert trials.subjects == tuple(subject.name for subject in subjects) == ("SN009", "SN013", "SN027")
    recordings = [recording for subject in subjects for recording in subject.recordings]
    names = [(recording.subject, recording.name) for recording in trials.recordings]
    assert names == [(recording.subject, recording.name) for recording in recordings]
    for number, recording in enumerate(recordings):
        rows = np.flatnonzero(trials.recording == number)
        assert np.array_equal(trials.frame[rows], recording.labels.frame)
        assert np.array_equal(trials.samples.occurrence[rows], recording.labels.occurrence)
        assert np.array_equal(trials.samples.intensity[rows], recording.labels.intensity)
        assert np.array_equal(trials.rows_of([recording.subject]), rows)  # one trial a subject here
        assert trials.recordings[number].neutral == f"{recording.name} 0"
        assert (trials.frames(number).status == SAMPLE).all()
    assert trials.report["root"] == str(rendered("disfaplus").resolve())
    assert trials.synthetic
    assert trials.whole  # those rendered are all there
    assert not trials.samples.level_map(rows[:1]).any()  # the neutral frame beside itself
    assert list((trials.folder / "shards").glob("*.part")) == []


def test_what_trains_reads_the_cache(trials: PreparedSet) -> None:
    pool = Pool.open([trials.folder], ["AU12", "AU04"])
    assert len(pool) == len(trials)
    assert pool.source == "synthetic-disfaplus"
    assert pool.people == (("synthetic-disfaplus", 0), ("synthetic-disfaplus", 1), ("synthetic-disfaplus", 2))
    assert np.array_equal(pool.occurrence, trials.samples.occurrence[:, trials.columns(["AU12", "AU04"])])
    assert pool.landmarks(np.array([0, 40])).any(axis=(2, 3)).all()


def test_clips_are_consecutive_frames_of_one_recording(trials: PreparedSet) -> None:
    clips = trials.clips(7, 3)
    wanted = []
    for number in range(len(trials.recordings)):
        rows = np.flatnonzero(trials.recording == number)  # 16 frames, each with a sample
        wanted += [list(rows[begin : begin + 7]) for begin in range(0, len(rows) - 6, 3)]
    assert sorted(clips.tolist()) == sorted(wanted)
    assert trials.clips(17, 1).shape == (0, 17)


@pytest.fixture
def copied(rendered: Callable[[str], Path], tmp_path: Path) -> Path:
    """Rendered DISFA+ that may be changed."""
    return Path(shutil.copytree(rendered("disfaplus"), tmp_path / "root"))


def test_frames_without_a_face_are_kept_in_the_index_alone(copied: Path, tmp_path: Path) -> None:
    trial = next((copied / "Images" / "SN013").iterdir())
    for number in (5, 6, 7):
        cv2.imwrite(str(trial / f"{number:03d}.jpg"), np.full((240, 320, 3), 90, np.uint8))
    cache = prepared(copied, tmp_path / "cache")
    index = cache.frames(1)
    assert index.frame[index.status == NO_FACE].tolist() == [5, 6, 7]
    assert cache.recordings[1].no_face == 3
    assert cache.report["counts"]["no_face"] == 3
    assert cache.report["counts"]["samples"] == len(cache) == 45
    assert cache.frame[cache.recording == 1].tolist() == [0, 1, 2, 3, 4, *range(8, 16)]
    inside = [clip for clip in cache.clips(6, 1).tolist() if cache.recording[clip[0]] == 1]
    assert [cache.frame[clip].tolist()[0] for clip in inside] == [8, 9, 10]


def test_bad_frames_are_left_out_unless_asked_for(
    rendered: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = (path.name for path in (rendered("disfa") / "ActionUnit_Labels").iterdir())
    monkeypatch.setitem(disfa.BAD_FRAMES, name, ((4, 6), (30, 40)))  # labels from 1, frames from 0
    cache = prepared(rendered("disfa"), tmp_path / "cache", crops=CROPS[:1])
    assert cache.recordings[0].bad == 6
    assert cache.frames(0).frame[cache.frames(0).status == BAD].tolist() == [3, 4, 5, 29, 30, 31]
    assert cache.frame.tolist() == [0, 1, 2, *range(6, 29)]
    assert len(prepared(rendered("disfa"), tmp_path / "all", crops=CROPS[:1], keep_bad=True)) == 32


def test_of_frames_without_an_au_the_one_nearest_to_rest_is_neutral(rendered: Callable[[str], Path]) -> None:
    (subject,) = DATASETS["disfa"].read(rendered("disfa"))
    (recording,) = subject.recordings
    levels = recording.labels.intensity.sum(axis=1)
    loud, calm = int(levels.argmax()), int(np.flatnonzero(levels == 0)[0])
    found = find_neutral(recording.media, Place("left", loud, (calm, loud)))
    assert found is not None
    assert found[1] == calm
    assert find_neutral(recording.media, Place("left", loud)) is not None  # no choice


def test_a_recording_without_a_face_at_first_has_no_neutral(copied: Path, tmp_path: Path) -> None:
    trial = next((copied / "Images" / "SN027").iterdir())
    cv2.imwrite(str(trial / "000.jpg"), np.full((240, 320, 3), 90, np.uint8))
    cache = prepared(copied, tmp_path / "cache", crops=CROPS[:1])
    rows = cache.rows_of(["SN027"])
    assert cache.recordings[2].neutral == ""
    assert cache.report["counts"]["without_neutral"] == 1
    assert not cache.samples.neutral(rows)[2].any()
    assert not cache.samples.level_map(rows).any()


@pytest.mark.parametrize("layout", ["bp4d", "bp4dplus", "ckplus", "fera2017"])
def test_every_layout_is_prepared(rendered: Callable[[str], Path], tmp_path: Path, layout: str) -> None:
    cache = prepared(rendered(layout), tmp_path / "cache", crops=CROPS[:1])
    dataset = DATASETS[layout]
    assert cache.dataset == layout
    assert cache.aus == dataset.aus
    (subject,) = dataset.read(rendered(layout))
    assert len(cache) == sum(len(recording.labels) for recording in subject.recordings)
    assert all(recording.neutral for recording in cache.recordings)
    assert cache.samples.crop("five_point_224", [0, -1 + len(cache)]).std() > 10
    labelled = np.concatenate([recording.labels.occurrence for recording in subject.recordings])
    assert np.array_equal(cache.samples.occurrence, labelled)


def test_bp4ds_files_are_also_fera_2015s(rendered: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "cache"
    assert main([str(rendered("bp4d")), "--out", str(out), "--dataset", "fera2015", "--workers", "1"]) == 0
    cache = open_cache(out)
    assert (cache.dataset, len(cache.aus)) == ("fera2015", 11)
    with pytest.raises(UsageError, match="AU24: fera2015 does not code it; it codes AU01, AU02"):
        cache.columns(["AU24"])
    with pytest.raises(UsageError, match="no subject F099; has F001"):
        cache.rows_of(["F099"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    rendered: Callable[[str], Path],
    trials: PreparedSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    how: signal.Signals,
) -> None:
    out = tmp_path / "cache"
    command = [
        sys.executable,
        "-m",
        "train",
        "data",
        "prepare",
        str(rendered("disfaplus")),
        "--out",
        str(out),
    ]
    run = subprocess.Popen([*command, "--workers", "2"], cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list((out / "frames").glob("*.safetensors")) and run.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    children = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
    os.kill(run.pid, how)
    assert run.wait(timeout=120) in (-signal.SIGKILL, 130, 0)  # 0: it was as good as done
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() for child in children)
    done = len(list((out / "frames").glob("*.safetensors")))
    if done < 3:
        with pytest.raises(SourceError, match="preparing did not finish: run the same command again"):
            open_cache(out)
    assert main([str(rendered("disfaplus")), "--out", str(out), "--workers", "1"]) == 0
    assert "(SYNTHETIC: rendered faces)" in capsys.readouterr().out
    assert contents(out) == contents(trials.folder)


def test_another_run_may_not_go_on_in_the_same_folder(
    rendered: Callable[[str], Path], trials: PreparedSet, copied: Path, tmp_path: Path
) -> None:
    before = contents(trials.folder)
    for wrong in (
        order(rendered("disfaplus"), trials.folder, compensate=False),
        order(rendered("disfaplus"), trials.folder, crops=CROPS[:1]),
        order(rendered("disfa"), trials.folder),
    ):
        with pytest.raises(UsageError, match="give another folder"):
            prepare(wrong)
    shutil.rmtree(copied / "Images" / "SN013")
    shutil.rmtree(copied / "Labels" / "SN013")
    with pytest.raises(UsageError, match="give another folder"):
        prepare(order(copied, trials.folder))
    assert contents(trials.folder) == before
    with pytest.raises(UsageError, match="lies inside the dataset"):
        order(copied, copied / "cache")
    with pytest.raises(UsageError, match="--workers 0"):
        order(copied, tmp_path / "cache", workers=0)


def test_a_half_copied_dataset_is_refused_or_prepared_as_such(copied: Path, tmp_path: Path) -> None:
    trial = next((copied / "Images" / "SN013").iterdir())
    (trial / "011.jpg").unlink()
    with pytest.raises(
        SourceError, match=r"DISFA\+ is not whole: SN013/.*labels for 16 frames, 1 of them not"
    ):
        prepare(order(copied, tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    cache = prepared(copied, tmp_path / "cache", crops=CROPS[:1], partial=True)
    assert not cache.whole
    assert [recording.subject for recording in cache.recordings] == ["SN009", "SN027"]
    assert len(cache.report["left_out"]) == 1
    assert "SN013" in cache.report["left_out"][0]


def test_a_picture_that_cannot_be_read_names_itself(copied: Path, tmp_path: Path) -> None:
    trial = next((copied / "Images" / "SN013").iterdir())
    broken = (trial / "011.jpg").read_bytes()[:200]
    (trial / "011.jpg").write_bytes(broken)
    with pytest.raises(SourceError, match=r"011\.jpg"):
        prepare(order(copied, tmp_path / "cache", crops=CROPS[:1]))
    cache = prepared(copied, tmp_path / "cache", crops=CROPS[:1], partial=True)
    assert not cache.whole
    assert "011.jpg" in cache.report["left_out"][0]
    assert cache.subjects == ("SN009", "SN013", "SN027")
    assert sorted({str(path.name)[:5] for path in (tmp_path / "cache" / "shards").iterdir()}) == [
        "00000",
        "00002",
    ]


def test_labels_longer_than_the_video_are_refused(
    rendered: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(rendered("disfa"), tmp_path / "root"))
    (folder,) = (root / "ActionUnit_Labels").iterdir()
    for path in folder.iterdir():
        path.write_text(path.read_text() + "33,0\n34,0\n")
    with pytest.raises(SourceError, match="labels for 34 frames, 2 of them not among the 32 frames"):
        main([str(root), "--out", str(tmp_path / "cache")])
    with pytest.raises(SourceError, match="not one recording that can be prepared"):
        main([str(root), "--out", str(tmp_path / "cache"), "--partial"])
    assert capsys.readouterr().out == ""


def test_a_wrong_root_and_a_full_disk(
    rendered: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match="does not exist; expected the dataset's top folder"):
        prepare(order(tmp_path / "nowhere", tmp_path / "cache"))
    with pytest.raises(SourceError, match=r"looks like DISFA\+: give that folder"):
        prepare(order(rendered("disfaplus") / "Images", tmp_path / "cache"))
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(OutputError, match=r"needs up to 0\.0 GB, 0\.0 GB are free"):
        prepare(order(rendered("disfaplus"), tmp_path / "cache"))


def test_bad_caches_are_one_clear_line(trials: PreparedSet, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trials.folder, tmp_path / "cache"))
    report = json.loads((folder / "prepared.json").read_text())

    def refused(match: str) -> None:
        with pytest.raises(SourceError, match=match) as caught:
            open_cache(folder).frames(0)
        assert "\n" not in str(caught.value)

    (folder / "frames" / f"{trials.recordings[0].file}.safetensors").write_bytes(b"no")
    refused("cannot be read")
    (folder / "prepared.json").write_text(json.dumps(report | {"schema": 7}))
    refused("expected schema 1, got 7")
    (folder / "prepared.json").write_text(json.dumps(report | {"whole": "yes"}))
    refused("whole: expected a bool, got 'yes'")
    (folder / "prepared.json").write_text(json.dumps(report | {"recordings": report["recordings"][:2]}))
    refused("do not belong together")
    (folder / "prepared.json").write_text("{")
    refused("expected JSON")
    (folder / "prepared.json").unlink()
    refused("preparing did not finish")
    shutil.rmtree(folder)
    refused("no prepared dataset")
