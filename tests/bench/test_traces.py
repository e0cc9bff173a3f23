"""Two precisions beside each other: the differences, AU by AU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_truth import made_up

from bench.traces import compare, draw, main
from engines.bundle import resolve
from pipeline.errors import UsageError


def test_differences_and_crossings() -> None:
    spec = resolve("cednn").spec
    rng = np.random.default_rng(0)
    first = rng.random((50, 13))
    other = first.copy()
    other[7, 2] += 0.3 if first[7, 2] < 0.5 else -0.3
    first[:5] = np.nan  # before its first window
    rows = compare(spec, first, other, ("fp32", "int8"))
    assert [row["au"] for row in rows] == [*spec.aus, "all"]
    assert {row["frames"] for row in rows} == {45}
    assert rows[2]["max"] == pytest.approx(0.3)
    assert rows[2]["p99"] == pytest.approx(0.3 * (0.99 * 44 - 43))  # one value of 45 is not 0
    crossed = int((first[7, 2] >= spec.thresholds[2]) != (other[7, 2] >= spec.thresholds[2]))
    assert rows[2]["decisions_changed"] == rows[-1]["decisions_changed"] == crossed
    assert all(row["max"] == 0 for row in rows[:2] + rows[3:-1])


@pytest.mark.parametrize("faces", [True, False])
def test_a_plot_shows_faces_or_nobody(tmp_path: Path, faces: bool) -> None:
    """The faces are of a colour that nothing else has."""
    clip = made_up(30)
    clip = replace(clip, faces_bgr=np.full_like(clip.faces_bgr, (255, 0, 255)))
    [spec] = clip.specs
    found = {"fp32": clip.probability[spec.name], "int8": 1 - clip.probability[spec.name]}
    rows = compare(spec, *found.values(), ("fp32", "int8"))
    draw(tmp_path / "a.png", clip, found, rows, faces=faces)
    shown = (cv2.imread(str(tmp_path / "a.png")) == (255, 0, 255)).all(axis=2).sum()
    assert shown > 10_000 if faces else shown == 0


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="says nothing"):
        compare(resolve("satnet").spec, np.full((4, 13), np.nan), np.zeros((4, 13)), ("a", "b"))
    for text in ("fp32", "fp32,fp32"):
        with pytest.raises(UsageError, match="two or three different"):
            main(["--source", "x.mp4", "--precision", text])
