"""The bench runs, its rows are what the README says, and it would notice a kernel that disagrees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import diffmap
from bench.__main__ import main


def test_rows_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diffmap", "--rounds", "2", "--json", str(tmp_path / "d.json")]) == 0
    report = json.loads((tmp_path / "d.json").read_text())
    assert set(report) == {"machine", "commit", "rows"}
    assert [row["what"].split()[0] for row in report["rows"]] == ["kernel", "NumPy", "OpenCV", "OpenCV"]
    assert report["rows"][0]["kernel_is_faster_by"] == 1.0
    assert "NumPy twin" in capsys.readouterr().out


def test_a_kernel_that_disagrees_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffmap, "level_map_numpy", lambda *a: diffmap.level_map(*a) + 1)
    with pytest.raises(AssertionError, match="disagree"):
        diffmap.main(["--rounds", "1"])


def test_an_unknown_bench_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
