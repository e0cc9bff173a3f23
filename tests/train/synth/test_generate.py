"""From a seed to a sample folder: the same again, in any order, resumable, and as streaming sees it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.exposure import expose
from pipeline.faces import FaceStage, Wanted
from pipeline.geometry import frontal_points, head_rotation
from pipeline.messages import Frame, Stamp
from pipeline.neutral import Neutral as GivenNeutral
from pipeline.neutral import NeutralPolicy
from train.samples import Samples
from train.synth import generate
from train.synth.generate import Order, crop_spec, main, render_shard, shard_name
from train.synth.script import LABELLED
from train.synth.streaming import Watcher
from train.synth.studio import Studio

CROPS = ("five_point_224", "box_224")


def order(out: Path, **changes: int) -> Order:
    wanted = {"people": 3, "stills": 2, "clips": 1, "clip_frames": 4, "seed": 5} | changes
    return Order(out=out, crops=CROPS, **wanted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "samples"
    patch = pytest.MonkeyPatch()
    patch.setattr(generate, "PEOPLE_PER_SHARD", 2)
    options = "--people 3 --stills 2 --clips 1 --clip-frames 4 --seed 5 --processes 1"
    assert main(["--out", str(folder), *options.split()]) == 0
    patch.undo()
    return folder


def test_a_folder_holds_what_was_asked_for(folder: Path) -> None:
    samples = Samples.open(folder)
    assert len(samples) == 3 * (2 + 4)
    assert samples.aus == LABELLED
    assert samples.crops == CROPS
    assert samples.rate_hz == 25
    assert samples.source == "synthetic"
    assert list(samples.subjects) == [0, 1, 2]
    assert (samples.sequence == -1).sum() == 6
    assert samples.windows(4, 1).shape == (3, 4)
    assert np.nanmax(samples.intensity) <= 5
    assert np.isin(samples.occurrence, (0, 1, 9)).all()
    everything = np.arange(len(samples))
    faces, _, there = samples.neutral(everything)
    levels = samples.level_map(everything)
    assert (levels[there] > 0).any(axis=(1, 2)).all()
    assert not levels[~there].any()
    assert faces[there].std() > 10


def test_people_do_not_depend_on_shards_or_on_who_went_before(folder: Path, tmp_path: Path) -> None:
    alone = order(tmp_path / "alone")
    render_shard(alone, range(2, 3))
    alone.writer().finish()
    again, before = Samples.open(tmp_path / "alone"), Samples.open(folder)
    rows = np.flatnonzero(before.subject == 2)
    for name in CROPS:
        assert np.array_equal(again.crop(name, range(len(again))), before.crop(name, rows))
    assert np.array_equal(again.intensity, before.intensity[rows])
    assert np.array_equal(again.points(range(len(again))), before.points(rows))


def test_another_seed_gives_other_people() -> None:
    one, other = (Studio(seed, 0).still(0).picture_bgr for seed in (1, 2))
    assert one.shape != other.shape or np.abs(one.astype(int) - other).mean() > 3


def test_a_run_goes_on_where_it_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "PEOPLE_PER_SHARD", 1)
    asked = order(tmp_path, people=3, stills=1, clips=0)
    render_shard(asked, range(1))
    (tmp_path / "shards" / f"{shard_name(range(1, 2))}.safetensors.part").write_bytes(b"half")
    rendered: list[range] = []
    real = generate.render_shard

    def spy(order: Order, people: range) -> int:
        rendered.append(people)
        return real(order, people)

    monkeypatch.setattr(generate, "render_shard", spy)
    generate.generate(asked, 1)
    assert rendered == [range(1, 2), range(2, 3)]
    assert len(Samples.open(tmp_path)) == 3
    generate.generate(asked, 1)
    assert len(rendered) == 2
    with pytest.raises(UsageError, match="another"):
        generate.generate(order(tmp_path, people=3, stills=1, clips=0, seed=6), 1)
    with pytest.raises(UsageError, match="made when others were asked for"):
        generate.generate(order(tmp_path, people=2, stills=1, clips=0), 1)
    monkeypatch.setattr(generate, "fingerprint", lambda: "of tomorrow")  # the renderer has changed meanwhile
    with pytest.raises(UsageError, match="another"):
        generate.generate(asked, 1)
    capsys.readouterr()


def test_two_processes_give_the_same_as_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "PEOPLE_PER_SHARD", 2)
    generate.generate(order(tmp_path), 2)
    one, two = Samples.open(folder), Samples.open(tmp_path)
    everything = np.arange(len(one))
    assert np.array_equal(one.crop("box_224", everything), two.crop("box_224", everything))
    assert np.array_equal(one.level_map(everything), two.level_map(everything))


def test_a_neutral_of_the_recording_is_taken_where_it_is() -> None:
    apart: dict[str, list[float]] = {"same": [], "other": []}
    for number in range(4):
        studio = Studio(5, number)
        still, other = studio.still(0).picture_bgr, studio.neutral(False)[0]
        for rest in (studio.rest_in(0, False, False)[0], studio.rest_in(0, False, True)[0]):
            assert rest.shape == still.shape
            apart["same"].append(_corners_apart(still, rest))
        apart["other"].append(_corners_apart(still, other))
    assert max(apart["same"]) < 10 < np.median(apart["other"])


def _corners_apart(one: np.ndarray, other: np.ndarray) -> float:
    """Grey levels by which the upper corners of two pictures differ, where the wall is."""
    corners = [
        [np.median(p[:9, x], axis=(0, 1)) for x in (slice(0, 9), slice(-9, None))] for p in (one, other)
    ]
    return float(np.abs(np.subtract(*corners)).mean())


def test_level_maps_and_crops_are_those_of_streaming_the_clip() -> None:
    studio = Studio(5, 1)
    specs = [crop_spec(name) for name in CROPS]
    shots = studio.clip(0, 12, 25)
    watcher = Watcher(specs)
    try:
        neutral = watcher.neutral(studio.neutral(False))
        assert neutral is not None
        watcher.forget()
        ours = []
        for k, shot in enumerate(shots):
            observation = watcher.find(shot.picture_bgr, k / 25)
            assert observation is not None
            ours.append(watcher.look(shot.picture_bgr, observation, neutral))
    finally:
        watcher.close()
    frontal = frontal_points(neutral.points, head_rotation(neutral.points))
    policy = NeutralPolicy("given", given=GivenNeutral(neutral.image_bgr, "given", frontal))
    wanted = Wanted(tuple(specs), level_map=True, neutral=True, landmarks=True)
    stage = FaceStage(wanted, policy, max_faces=1)
    try:
        for k, (shot, mine) in enumerate(zip(shots, ours, strict=True)):
            face = stage(Frame(Stamp("clip", 0, k, k / 25, 0.0, 0.0), shot.picture_bgr))[0]
            assert np.array_equal(face.level_map, mine.level_map)
            assert np.array_equal(face.landmarks_px, mine.points)
            assert np.array_equal(face.neutral_bgr, expose(neutral.image_bgr, *mine.exposure))
            seen = frontal_points(mine.points, head_rotation(mine.points))
            assert np.array_equal(face.landmarks, np.stack([seen, frontal]))
            assert (face.exposure_gain, face.exposure_offset) == mine.exposure
            assert (face.pose.yaw, face.pose.pitch, face.pose.roll) == mine.pose_deg
            for name in CROPS:
                assert np.array_equal(face.crops_bgr[name], mine.crops[name])
    finally:
        stage.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--people", "0"], "--people"),
        (["--stills", "0", "--clips", "0"], "--stills and --clips"),
        (["--crops", "square_3"], "--crops"),
        (["--processes", "0"], "--processes"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, options: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        main(["--out", str(tmp_path), *options])
    assert not (tmp_path / "samples.json").exists()


def test_nothing_to_write_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "--out" in capsys.readouterr().err


def test_an_interrupt_says_that_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(order: Order, people: range) -> int:  # noqa: ARG001
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "render_shard", interrupted)
    assert main(["--out", str(tmp_path), "--people", "1", "--processes", "1"]) == 130
    assert "goes on from here" in capsys.readouterr().err
    assert not (tmp_path / "samples.json").exists()
