"""Augmentation, pool, schedule, thresholds: each against what it should be by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patterns import clips, shard, stills, writer

from pipeline.errors import UsageError
from pipeline.geometry import frontal_points, head_rotation
from pipeline.tracking import FaceTracker
from train import metrics, thresholds
from train.augment import draw
from train.batches import Batches
from train.pool import Pool
from train.recipe import AugmentTable, DataTable, PhaseTable
from train.schedule import learning_rate
from train.shards import UNKNOWN

NONE = AugmentTable(flip=0)


def test_no_augmentation_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    levels = rng.integers(0, 6, (224, 224), dtype=np.uint8)
    change = draw(NONE, 224, rng)
    assert np.array_equal(change.picture(crop), crop)
    assert np.array_equal(change.levels(levels), levels)


def test_flip_and_geometry_move_the_level_map_with_the_picture() -> None:
    """A bright square stays under its levels, whatever happens."""
    table = AugmentTable(flip=0.5, rotate_deg=20, scale=0.2, shift_px=15)
    crop, levels = np.zeros((224, 224, 3), np.uint8), np.zeros((224, 224), np.uint8)
    crop[60:100, 40:90], levels[60:100, 40:90] = 255, 5
    moved = 0
    for seed in range(20):
        change = draw(table, 224, np.random.default_rng(seed))
        bright, marked = change.picture(crop)[..., 0] > 127, change.levels(levels) == 5
        assert (bright & marked).sum() / (bright | marked).sum() > 0.95
        moved += bool((bright != (crop[..., 0] > 127)).any())
    assert moved == 20


def test_each_kind_of_change_shows() -> None:
    rng = np.random.default_rng(1)
    crop = rng.integers(60, 200, (224, 224, 3), dtype=np.uint8)
    levels = np.full((224, 224), 3, np.uint8)
    kinds = [
        "brightness",
        "contrast",
        "colour",
        "blur",
        "noise",
        "jpeg",
        "erase",
        "rotate_deg",
        "scale",
        "shift_px",
    ]
    for kind in kinds:
        table = replace(
            NONE, **{kind: 0.8 if kind in ("contrast", "colour", "jpeg", "erase", "scale") else 10.0}
        )
        seen = [draw(table, 224, np.random.default_rng(s)) for s in range(8)]
        assert any((change.picture(crop) != crop).any() for change in seen), kind
        assert all(np.array_equal(c.picture(crop), c.picture(crop)) for c in seen)
        if kind in ("brightness", "contrast", "colour", "blur", "noise", "jpeg"):
            assert all(np.array_equal(change.levels(levels), levels) for change in seen)
    dropped = [
        not draw(replace(NONE, neutral_dropout=0.3), 224, rng).levels(levels).any() for _ in range(400)
    ]
    assert 0.22 < np.mean(dropped) < 0.38


def test_the_neutral_goes_with_its_face() -> None:
    rng = np.random.default_rng(2)
    face = rng.integers(1, 255, (224, 224, 3), dtype=np.uint8)
    table = AugmentTable(flip=0.5, rotate_deg=6, scale=0.06, shift_px=6, contrast=0.2)
    for seed in range(10):
        change = draw(table, 224, np.random.default_rng(seed))
        assert np.array_equal(change.neutral_face(face), change.picture(face))
    assert not change.neutral_face(np.zeros_like(face)).any()
    without = draw(replace(table, neutral_dropout=1.0), 224, rng)
    assert not without.neutral_face(face).any()
    points = rng.normal(size=(2, 468, 3)).astype(np.float32)
    assert not without.landmarks(points)[1].any()
    assert without.landmarks(points)[0].any()


def test_mirrored_landmarks_are_those_of_the_mirrored_picture() -> None:
    picture = np.ascontiguousarray(skimage.data.astronaut()[..., ::-1])
    tracker = FaceTracker(max_faces=1)
    found = []
    for image in (picture, np.ascontiguousarray(picture[:, ::-1])):
        points = tracker.update(image, 0.0)[0].seen.points
        found.append(frontal_points(points, head_rotation(points)))
        tracker.reset()
    tracker.close()
    change = draw(replace(NONE, flip=1.0, jitter=0.0), 224, np.random.default_rng(0))
    mirrored = change.landmarks(np.stack([found[0], found[0]]))
    assert np.array_equal(mirrored[0], mirrored[1])
    assert np.abs(mirrored[0] - found[1]).mean() < 0.01


def test_frames_of_a_window_share_everything_but_noise() -> None:
    crop = np.full((224, 224, 3), 128, np.uint8)
    change = draw(replace(NONE, noise=20.0), 224, np.random.default_rng(0))
    assert not np.array_equal(change.picture(crop, 0), change.picture(crop, 1))
    change = draw(AugmentTable(brightness=50, rotate_deg=5, erase=1), 224, np.random.default_rng(0))
    assert np.array_equal(change.picture(crop, 0), change.picture(crop, 1))


def test_a_pool_puts_folders_together(tmp_path: Path) -> None:
    one = stills(tmp_path / "one", 8, ("AU01", "AU12"))
    two = stills(tmp_path / "two", 12, ("AU12", "AU04"))
    pool = Pool.open([one, two], ["AU04", "AU12"])
    assert len(pool) == 20
    assert (pool.occurrence[:8, 0] == 9).all()
    assert np.isnan(pool.intensity[:8, 0]).all()
    assert np.array_equal(pool.occurrence[:8, 1], pool.folders[0].occurrence[:, 1])
    assert np.array_equal(pool.occurrence[8:], pool.folders[1].occurrence[:, [1, 0]])
    assert len(pool.people) == 3  # the same numbers of one source are the same people
    rows = np.array([9, 0, 19])
    wanted = [pool.folders[1].crop("box_224", [1]), pool.folders[0].crop("box_224", [0])]
    assert np.array_equal(pool.crop("box_224", rows)[:2], np.concatenate(wanted))
    with pytest.raises(UsageError, match="AU09: not in the data, which has AU01, AU04, AU12"):
        Pool.open([one, two], ["AU09"])


def test_what_is_too_faint_is_not_learned_from(bars: Path) -> None:
    pool = Pool.open([bars], ["AU01", "AU12"])
    taught = pool.without_faint({"AU12": 3.5})
    np.testing.assert_array_equal(taught.occurrence[:, 0], pool.occurrence[:, 0])
    for before, after, level in zip(
        pool.occurrence[:, 1], taught.occurrence[:, 1], pool.intensity[:, 1], strict=True
    ):
        assert after == (UNKNOWN if before == 1 and level < 3.5 else before)
    with pytest.raises(UsageError, match=r"present_from\.AU09: expected one of AU01, AU12"):
        pool.without_faint({"AU09": 2})


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.floats(0.01, 0.9), st.integers(0, 99))
def test_no_subject_is_on_both_sides(people: int, share: float, seed: int) -> None:
    subject = np.append(np.arange(people), np.random.default_rng(seed).integers(0, people, 200 - people))
    empty = np.zeros((200, 1), np.uint8)
    everybody = tuple(("s", number) for number in range(people))
    pool = Pool((), np.array([0, 200]), ("AU01",), empty, empty.astype(np.float32), subject, everybody)
    training, validation = pool.split(DataTable(("x",), share, seed))
    assert not set(subject[training]) & set(subject[validation])
    assert (training ^ validation).all()
    held = min(max(round(share * people), 1), people - 1)
    assert len(set(subject[validation])) <= held


def test_windows_of_a_pool_stay_in_their_folder(tmp_path: Path) -> None:
    folders = [clips(tmp_path / name, [18, 17]) for name in "ab"]
    windows = Pool.open(folders, ["AU01"]).windows(16, 1, 25.0)
    assert len(windows) == 2 * (3 + 2)
    assert windows[5].tolist() == list(range(35, 51))
    with pytest.raises(UsageError, match=r"clips of 25.0 frames/s, engine.rate_hz is 30"):
        Pool.open(folders, ["AU01"]).windows(16, 1, 30.0)


def batches_of(bars: Path, **changes: object) -> Batches:
    pool = Pool.open([bars], ["AU01", "AU12"])
    made = Batches(pool, np.arange(40)[:, None], "box_224", ("level_map",), AugmentTable(noise=3), 6, True)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_every_pass_has_each_sample_at_most_once(bars: Path) -> None:
    batches = batches_of(bars)
    assert len(batches) == 6
    first, second = batches.order(0), batches.order(1)
    assert sorted(first) == sorted(second) == list(range(40))
    assert not np.array_equal(first, second)
    plain = batches_of(bars, shuffle=False, table=None)
    assert [len(plain[k].occurrence) for k in range(len(plain))] == [6] * 6 + [4]


def test_a_batch_is_a_function_of_its_number(bars: Path) -> None:
    one, other = batches_of(bars)[13], batches_of(bars)[13]
    assert torch.equal(one.pictures, other.pictures)
    assert torch.equal(one.beside["level_map"], other.beside["level_map"])
    assert not torch.equal(one.pictures, batches_of(bars, seed=(1,))[13].pictures)
    batches = batches_of(bars)
    for number in (14, 0, 13, 12):  # whichever were asked for before, of this pass and of others
        assert torch.equal(batches[number].pictures, batches_of(bars)[number].pictures)


def test_a_balanced_pass_shows_rare_aus_more_often(tmp_path: Path) -> None:
    arrays = shard(200, 2)
    arrays["occurrence"][:] = 0
    arrays["occurrence"][:2, 0], arrays["occurrence"][:100, 1] = 1, 1
    made = writer(tmp_path, ("AU01", "AU12"))
    made.write_shard("a", arrays)
    made.finish()
    pool = Pool.open([tmp_path], ["AU01", "AU12"])
    batches = Batches(pool, np.arange(200)[:, None], "box_224", (), NONE, 10, True, sampler="balanced")
    drawn = np.concatenate([batches.order(lap) for lap in range(20)])
    # Half of the draws are even, a quarter shows AU01 for sure, a quarter AU12 (1 in 50 of these AU01 too).
    assert np.isin(drawn, [0, 1]).mean() == pytest.approx(0.5 * 0.01 + 0.25 + 0.25 * 0.02, abs=0.03)


def test_pictures_are_shrunk_after_they_are_changed(tmp_path: Path) -> None:
    pool = Pool.open([stills(tmp_path / "bars", 6)], ["AU01", "AU12"])
    whole = Batches(pool, np.arange(6)[:, None], "box_224", (), AugmentTable(noise=3), 3, True)
    small, large = replace(whole, shrunk_px=112)[1].pictures, whole[1].pictures.float()
    means = large.reshape(3, 112, 2, 112, 2, 3).mean((2, 4))
    assert small.shape == (3, 112, 112, 3)
    assert (small.float() - means).abs().max() <= 0.5


def test_learning_rates_by_hand() -> None:
    phase = PhaseTable("p", 10, 0.1)
    assert {learning_rate(phase, s, 5) for s in range(50)} == {0.1}
    steps = replace(phase, schedule="step", step_epochs=4, step_factor=0.5)
    assert [learning_rate(steps, s, 5) for s in (0, 19, 20, 40)] == pytest.approx([0.1, 0.1, 0.05, 0.025])
    cosine = replace(phase, schedule="cosine", final_share=0.0, warmup_steps=10)
    assert learning_rate(cosine, 0, 5) == pytest.approx(0.1 / 11)
    assert learning_rate(cosine, 10, 5) == pytest.approx(0.1)
    assert learning_rate(cosine, 30, 5) == pytest.approx(0.05)
    assert learning_rate(cosine, 50, 5) == pytest.approx(0, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 999))
def test_the_best_threshold_is_the_best_of_all(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability, present = rng.integers(0, 8, n) / 8 + 0.01, rng.integers(0, 2, n).astype(bool)
    found = thresholds.best_f1(probability, present)

    def f1(threshold: float) -> float:
        return metrics.f1((probability >= threshold)[:, None], present[:, None].astype(np.uint8))[0]

    if present.any():
        assert f1(found) == pytest.approx(max(f1(t) for t in np.linspace(0, 1.1, 200)))
    else:
        assert found == 0.5


def test_calm_faces_raise_a_threshold() -> None:
    """AU01 is told apart perfectly at 0.35; on calm frames it goes up to 0.5, and 2% may pass."""
    rng = np.random.default_rng(0)
    calm = np.column_stack((np.linspace(0, 0.5, 1000), np.full(1000, 0.01)))
    busy = np.column_stack((rng.uniform(0.36, 1, 5000), rng.uniform(0.6, 1, 5000)))
    occurrence = np.concatenate((np.zeros((1000, 2), np.uint8), np.ones((5000, 2), np.uint8)))
    chosen = thresholds.choose(np.concatenate((calm, busy)), occurrence)
    assert chosen.values[0] == pytest.approx(0.49, abs=0.002)
    assert chosen.calm_alarms[0] <= 0.02
    assert 0.05 <= chosen.values[1] <= 0.6
    assert (chosen.calm_frames, "2%" in chosen.rule) == (1000, True)
    few = thresholds.choose(np.concatenate((calm[:20], busy)), occurrence[980:])
    assert "2%" not in few.rule
    unknown = np.full((3, 2), 9, np.uint8)
    assert not thresholds.calm(unknown).any()
    assert thresholds.choose(np.zeros((3, 2)), unknown).values == (0.5, 0.5)
    assert math.isnan(thresholds.choose(np.zeros((3, 2)), unknown).calm_alarms[0])


def test_what_is_unknown_is_no_false_alarm() -> None:
    """Of the calm frames half show a trace of AU01, which is loud there; its threshold need not care."""
    busy = np.array([[1, 0], [0, 1]], np.uint8).repeat(300, axis=0)
    calm = np.zeros((600, 2), np.uint8)
    calm[:300, 0] = 9
    occurrence = np.concatenate((busy, calm))
    probability = np.where(occurrence == 1, 0.6, 0.1)
    probability[600:900, 0] = 0.9
    chosen = thresholds.choose(probability, occurrence)
    assert chosen.values == pytest.approx((0.35, 0.35), abs=1e-3)
    assert chosen.calm_alarms == (0.0, 0.0)
    np.testing.assert_array_equal(
        thresholds.calm(np.array([[0, 9, 0], [0, 1, 0], [9, 9, 9]], np.uint8)),
        [[True, False, True], [False] * 3, [False] * 3],
    )


def test_alarms_on_calm_frames_are_counted_by_a_loop() -> None:
    rng = np.random.default_rng(3)
    occurrence = rng.choice([0, 0, 0, 1, 9], (400, 3)).astype(np.uint8)
    occurrence[:, 2] = 9
    probability, limits = rng.uniform(size=(400, 3)), np.array([0.3, 0.8, 0.5])
    found = thresholds.calm_alarms(probability, limits, occurrence)
    for a in range(2):
        rows = [k for k in range(400) if occurrence[k, a] == 0 and 1 not in occurrence[k]]
        assert found[a] == pytest.approx(np.mean([probability[k, a] >= limits[a] for k in rows]))
    assert math.isnan(found[2])


def test_a_threshold_that_would_go_too_high_is_said() -> None:
    calm = np.full((200, 1), 0.99)
    chosen = thresholds.choose(
        np.concatenate((calm, calm)), np.repeat([[0], [1]], 200, axis=0).astype(np.uint8)
    )
    assert chosen.values == (0.95,)
    assert chosen.calm_alarms == (1.0,)
    assert chosen.rule.endswith("or at 0.95 at the latest")
