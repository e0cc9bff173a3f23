"""Two precisions beside each other: the differences, AU by AU."""

from __future__ import annotations

import numpy as np
import pytest

from bench.traces import compare, main
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


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="says nothing"):
        compare(resolve("satnet").spec, np.full((4, 13), np.nan), np.zeros((4, 13)), ("a", "b"))
    for text in ("fp32", "fp32,fp32"):
        with pytest.raises(UsageError, match="two or three different"):
            main(["--source", "x.mp4", "--precision", text])
