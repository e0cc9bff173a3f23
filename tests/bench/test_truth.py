"""`bench truth`: its figures against brute force on made-up clips, and a few frames of the real one."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.__main__ import main
from bench.plots import Marks, Watched, draw_traces, turning_points
from bench.truth import (
    CALM_SECONDS,
    CALM_WITHIN,
    COMPARED,
    Labels,
    agreement,
    calm_alarms,
    calm_frames,
    labelled,
    pivot,
    read_labels,
    spearman,
    specs_of,
)
from engines.spec import CropSpec, EngineSpec
from pipeline.errors import OutputError, SourceError, UsageError
from pipeline.messages import Geometry

REST = {
    "eye_opening": 0.3,
    "lip_gap": 0.01,
    "mouth_width": 0.55,
    "corner_lift": 0.0,
    "brow_raise": 0.26,
    "brow_gap": 0.3,
    "jaw_drop": 0.75,
}


def engine(name: str, aus: tuple[str, ...] = ("AU04", "AU12", "AU25"), landmarks: bool = False) -> EngineSpec:
    crop = CropSpec("five_point", 224)
    halves = (0.5,) * len(aus)
    return EngineSpec(
        name, "cednn", {}, crop, False, 1, None, aus, halves, {"trained": "untrained"}, landmarks=landmarks
    )


def made_up(frames: int, specs: tuple[EngineSpec, ...] = (engine("one"),), seed: int = 0) -> Watched:
    """A face at rest for `frames` frames at 25 a second, and engines that say anything."""
    rng = np.random.default_rng(seed)
    probability = {spec.name: rng.uniform(0, 1, (frames, len(spec.aus))) for spec in specs}
    return Watched(
        stream="made up.mp4",
        frames=frames,
        rate_hz=25.0,
        specs=specs,
        seq=np.arange(frames),
        pts_seconds=np.arange(frames) / 25,
        geometry={name: np.full(frames, REST[name]) for name in Geometry.__dataclass_fields__},
        rest_distance=np.zeros(frames),
        probability=probability,
        active={name: values >= 0.5 for name, values in probability.items()},
        faces_bgr=rng.integers(0, 255, (frames, 112, 112, 3), dtype=np.uint8),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4) | st.none(), st.integers(0, 6) | st.none()), min_size=0, max_size=30)
)
def test_spearman_is_the_correlation_of_counted_ranks(pairs: list[tuple[int | None, int | None]]) -> None:
    def rank(value: int, among: list[int]) -> float:
        return sum(other < value for other in among) + (sum(other == value for other in among) + 1) / 2

    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    left, right = [a for a, _ in both], [b for _, b in both]
    columns = np.array([[np.nan if v is None else v for v in pair] for pair in pairs]).reshape(-1, 2).T
    found = spearman(*columns)
    if len(both) < 3 or len(set(left)) == 1 or len(set(right)) == 1:
        assert np.isnan(found)
    else:
        ranks = [rank(a, left) for a in left], [rank(b, right) for b in right]
        assert found == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)


def test_agreement_has_the_sign_of_the_measure_and_skips_what_an_engine_lacks() -> None:
    clip = made_up(40, (engine("sees", ("AU43", "AU25")), engine("told", ("AU12",), landmarks=True)))
    way = np.linspace(0, 1, 40)
    clip.geometry["eye_opening"][:] = 0.3 - 0.2 * way
    clip.geometry["lip_gap"][:] = 0.2 * way
    clip.geometry["mouth_width"][:] = 0.5 + 0.1 * way
    clip.probability["sees"][:, 0] = way**3
    clip.probability["sees"][:, 1] = 1 - way
    clip.probability["sees"][:5] = np.nan
    clip.probability["told"][:, 0] = way
    rows = [row for spec in clip.specs for row in agreement(clip, spec)]
    found = [(r["au"], r["measure"], round(r["spearman"], 6), r["frames"], r["of_no_weight"]) for r in rows]
    assert found == [
        ("AU25", "lip_gap", -1.0, 35, False),
        ("AU43", "−eye_opening", 1.0, 35, False),
        ("AU12", "mouth_width", 1.0, 40, True),
    ]


def test_every_compared_measure_is_one_of_the_rows() -> None:
    assert {pair.measure for pair in COMPARED} | set(CALM_WITHIN) <= set(Geometry.__dataclass_fields__)


def test_calm_needs_every_measure_at_rest_half_a_second_without_a_gap() -> None:
    clip = made_up(99)
    clip.geometry["eye_opening"][20] = 0.05  # a blink: 20 calm frames before it
    clip.geometry["mouth_width"][31:60] = 0.6  # a smile: only 10 calm frames before it
    clip.rest_distance[70:72] = np.nan  # looks away: 10 calm frames before
    clip.seq[85:] += 3  # lost for a moment: 13 and 14 calm frames, 0.48 and 0.52 s
    clip.pts_seconds[:] = clip.seq / 25
    calm = calm_frames(clip)
    assert np.flatnonzero(calm).tolist() == [*range(20), *range(85, 99)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_calm_frames_are_what_a_loop_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clip = made_up(120, seed=seed)
    for name, within in CALM_WITHIN.items():
        moves = np.repeat(rng.uniform(size=12) < 0.15, 10)
        clip.geometry[name][:] += rng.uniform(-0.4, 0.4, 120) * within + 2 * within * moves
    clip.rest_distance[:] = rng.permutation(120)
    clip.rest_distance[rng.integers(0, 120, 2)] = np.nan
    clip = replace(clip, seq=np.arange(120) + np.repeat([0, 5], [60, 60]))
    nearest = sorted(i for i in range(120) if clip.rest_distance[i] < np.inf)
    nearest = sorted(nearest, key=lambda i: clip.rest_distance[i])[:25]
    still = [
        not np.isnan(clip.rest_distance[i])
        and all(
            abs(values[i] - sorted(values[nearest])[12]) <= CALM_WITHIN[name]
            for name, values in clip.geometry.items()
            if name in CALM_WITHIN
        )
        for i in range(120)
    ]
    wanted = []
    for i in range(120):
        first = last = i
        while first > 0 and still[first - 1] and clip.seq[first] - clip.seq[first - 1] == 1:
            first -= 1
        while last < 119 and still[last + 1] and clip.seq[last + 1] - clip.seq[last] == 1:
            last += 1
        wanted.append(still[i] and (last - first) / 25 >= CALM_SECONDS - 1e-6)
    assert calm_frames(clip).tolist() == wanted


def test_a_person_rests_where_the_frames_nearest_to_rest_are() -> None:
    clip = made_up(100)
    clip.geometry["mouth_width"][30:] = 0.6  # most frames, but further from rest
    clip.rest_distance[30:] = 1.0
    assert np.flatnonzero(calm_frames(clip)).tolist() == list(range(30))


def test_a_face_that_never_rests_has_no_calm_frames_and_no_alarms() -> None:
    clip = replace(made_up(30), rest_distance=np.full(30, np.nan))
    calm = calm_frames(clip)
    rows = calm_alarms(clip, clip.specs[0], calm)
    assert not calm.any()
    assert [row["frames"] for row in rows] == [0] * 4
    assert all(np.isnan(row["alarms"]) for row in rows)


def test_alarms_are_counted_where_the_engine_has_an_answer() -> None:
    clip = made_up(10)
    clip.active["one"][:] = False
    clip.active["one"][[0, 4, 5], 1] = True
    clip.probability["one"][:2] = np.nan
    calm = np.array([True] * 6 + [False] * 4)
    found = {row["au"]: (row["frames"], row["alarms"]) for row in calm_alarms(clip, clip.specs[0], calm)}
    assert found == {"AU04": (4, 0), "AU12": (4, 0.5), "AU25": (4, 0), "mean": (4, pytest.approx(1 / 6))}


def test_labels_are_scored_as_pairs_and_counts_say() -> None:
    clip = made_up(60, (engine("one"), engine("late", ("AU25", "AU12"))), seed=3)
    clip.probability["late"][:15] = np.nan
    rng = np.random.default_rng(4)
    at = np.arange(0.0, 70.0, 2.0)
    occurrence = rng.choice(np.array([0, 1, 9], np.uint8), (35, 2), p=(0.5, 0.4, 0.1))
    rows = labelled(clip, Labels(("AU12", "AU25"), "seq", at, occurrence))
    assert {row["frames"] for row in rows} == {22}  # 16, 18, … 58: both have an answer
    for row in rows:
        if row["au"] == "mean":
            continue
        spec = next(spec for spec in clip.specs if spec.name == row["engine"])
        column, label = spec.aus.index(row["au"]), ("AU12", "AU25").index(row["au"])
        judged = [
            (int(s), o[label]) for s, o in zip(at, occurrence, strict=True) if 15 <= s < 60 and o[label] < 9
        ]
        values = {s: clip.probability[spec.name][s, column] for s, _ in judged}
        shown, not_shown = [s for s, o in judged if o == 1], [s for s, o in judged if o == 0]
        wins = [
            float(values[s] > values[t]) + 0.5 * (values[s] == values[t])
            for s, t in product(shown, not_shown)
        ]
        hits = sum(values[s] >= 0.5 for s in shown)
        called = hits + sum(values[s] >= 0.5 for s in not_shown)
        assert (row["present"], row["absent"]) == (len(shown), len(not_shown))
        assert row["auc"] == pytest.approx(np.mean(wins))
        assert row["f1"] == pytest.approx(2 * hits / (called + len(shown)))
    means = {row["engine"]: row["auc"] for row in rows if row["au"] == "mean"}
    for name, mean in means.items():
        aucs = [row["auc"] for row in rows if row["engine"] == name and row["au"] != "mean"]
        assert mean == pytest.approx(np.mean(aucs))


def test_an_au_that_is_always_there_has_no_score_and_no_part_in_the_mean() -> None:
    clip = made_up(20)
    occurrence = np.ones((20, 2), np.uint8)
    occurrence[::2, 1] = 0
    rows = labelled(clip, Labels(("AU12", "AU25"), "seq", np.arange(20.0), occurrence))
    assert np.isnan(rows[0]["auc"])
    assert np.isnan(rows[0]["f1"])
    assert (rows[2]["auc"], rows[2]["f1"]) == (rows[1]["auc"], rows[1]["f1"])


def test_labels_by_time_find_the_nearest_frame_and_none_beyond_half_a_step() -> None:
    clip = made_up(50)
    labels = Labels(
        ("AU12",), "pts_seconds", np.array([0.0, 0.041, 0.059, 1.979, 1.985]), np.zeros((5, 1), np.uint8)
    )
    assert labels.rows_of(clip).tolist() == [0, 1, 1, 49, -1]


def test_labels_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("\ufeffpts_seconds, AU12,AU04\n0.5,1,0\n1.25,9, 1\n", encoding="utf-8")
    labels = read_labels(path)
    assert (labels.aus, labels.key, labels.at.tolist()) == (("AU12", "AU04"), "pts_seconds", [0.5, 1.25])
    assert labels.occurrence.tolist() == [[1, 0], [9, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got nothing and 0 lines"),
        ("seq,AU12\n", "at least one line"),
        ("AU12,AU04\n1,0\n", "one column seq or pts_seconds"),
        ("seq,smile\n1,0\n", "columns named like AU01"),
        ("seq,AU12\nsoon,0\n", "line 2: seq is no number"),
        ("seq,AU12\n1,0\n2,2\n", "line 3: AU12: expected 0, 1 or 9"),
        ("seq,AU12\n1\n", "line 2: AU12: expected"),
        ("seq,AU12\n1,0,1\n", "line 2: AU12: expected"),
    ],
)
def test_labels_that_are_none_are_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_labels(path)


def test_labels_that_are_not_there_or_of_other_aus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="none of them is an AU of one"):
        labelled(made_up(5), Labels(("AU43",), "seq", np.arange(5.0), np.zeros((5, 1), np.uint8)))


def test_a_table_has_a_line_an_au_a_column_an_engine_and_the_mean_last() -> None:
    rows = [
        {"engine": "a", "au": "mean", "auc": 0.75},
        {"engine": "a", "au": "AU12", "auc": 0.5},
        {"engine": "a", "au": "AU04", "auc": -1.0},
        {"engine": "b", "au": "AU12", "auc": float("nan")},
    ]
    table = pivot(rows, ("au",), {"auc": "AUC"})
    assert [[cell.strip() for cell in line.values()] for line in table] == [
        ["AU04", "−1.00", ""],
        ["AU12", "0.50", "–"],
        ["mean", "0.75", ""],
    ]
    assert list(table[0]) == ["au", "a AUC", "b AUC"]


def test_faces_are_taken_closer_together_where_something_happens() -> None:
    clip = made_up(200)
    clip.geometry["lip_gap"][100:120] = np.linspace(0, 0.3, 20)
    clip.geometry["lip_gap"][120:] = 0.3
    chosen = turning_points(clip, 14)
    inside = ((chosen >= 95) & (chosen < 125)).sum()
    assert len(chosen) == 14
    assert 6 <= inside <= 9  # half of the way lies in these 30 frames, and their share of the time
    assert max(b - a for a, b in pairwise(chosen)) <= 200 / 7 + 1  # half of the way is time: no long gap
    assert turning_points(made_up(3), 14).tolist() == [0, 1, 2]


def test_a_plot_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    clip = made_up(30)
    calm = np.arange(30) < 12
    marks = {"AU12": Marks(np.array([0.2, 0.4]), np.array([0, 1], np.uint8))}
    draw_traces(tmp_path / "a.png", clip, clip.specs[0], [], calm, marks)
    image = cv2.imread(str(tmp_path / "a.png"))
    assert image.shape[1] == 1820
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(OutputError, match="cannot write it"):
        draw_traces(tmp_path / "none" / "a.png", clip, clip.specs[0], [], calm, {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "cednn"], "nothing to measure on"),
        (["--rendered", "x", "--out", "y"], "belong to a clip"),
        (["--engine", "cednn,cednn", "--source", "x"], "two engines are called cednn"),
        (["--engine", "none", "--source", "x"], "unknown engine"),
        (["--source", "none.mp4"], "no such file"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["truth", *words]) in (1, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_the_defaults_can_be_told_apart() -> None:
    assert [spec.name for spec in specs_of(("cednn", "satnet"))] == ["cednn", "satnet"]


def test_a_few_real_frames_give_tables_figures_and_a_plot(
    real_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out, report = tmp_path / "l.csv", tmp_path / "out", tmp_path / "r.json"
    labels.write_text("seq,AU12,AU43\n0,0,0\n20,0,1\n23,1,1\n400,1,1\n")
    words = ["--engine", "cednn", "--source", str(real_clip), "--frames", "24", "--labels", str(labels)]
    assert main(["truth", *words, "--out", str(out), "--json", str(report)]) == 0
    text = capsys.readouterr().out
    assert "the face is in 24 of 24 frames" in text
    assert "4 frames labelled by eye: 1 without this face, 3 on which every engine has an answer" in text
    assert cv2.imread(str(out / "truth_cednn.png")) is not None
    rows = json.loads(report.read_text())["rows"]
    assert {row["part"] for row in rows} == {"geometry", "calm", "labels"}
    assert len([row for row in rows if row["part"] == "geometry"]) == len(COMPARED)
    assert {row["trained"] for row in rows} == {specs_of(("cednn",))[0].trained}
