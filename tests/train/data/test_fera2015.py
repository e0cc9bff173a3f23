from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np

from train.data import bp4d
from train.data.fera2015 import AUS, read
from train.data.folds import folds


def test_bp4d_files_with_fewer_aus(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    occurrence, levels = rng.choice([0, 1, 9], (6, 12)), rng.choice([0, 3, 9], (6, 5))
    made_up.bp4d(tmp_path, "F021", "T3", 222, occurrence, levels)
    (subject,) = read(tmp_path)
    recording = next(r for r in subject.recordings if r.name == "T3")
    recording.require()
    columns = [bp4d.AUS.index(au) for au in AUS]
    np.testing.assert_array_equal(recording.labels.occurrence, occurrence[:, columns])
    of_au12 = np.where(levels[:, 2] == 9, np.nan, levels[:, 2])
    np.testing.assert_array_equal(recording.labels.intensity[:, AUS.index("AU12")], of_au12)
    assert not recording.labels.bad.any()  # JAA-Net's list is of its own protocol


def test_only_development_is_tested() -> None:
    (fold,) = folds("fera2015", bp4d.SUBJECTS)
    assert (fold.name, len(fold.train), len(fold.test)) == ("development", 21, 20)
    assert "F001" in fold.train
    assert "M018" in fold.test
