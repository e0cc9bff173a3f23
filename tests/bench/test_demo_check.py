"""The demo check: passes on rows that follow the script, and names what does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.__main__ import main
from bench.demo import EXPECTATIONS, DemoRun, check
from train.synth.timeline import FRAMES, FRAMES_PER_SECOND, SEGMENTS, pose_at, timeline_at

LIGHT = next(s for s in SEGMENTS if s.name == "light")


def engine(name: str, trained: str) -> dict:
    return {"name": name, "trained": trained, "aus": ["AU12", "AU09", "AU24"]}


HEADER = {"type": "header", "engines": [engine("sees", "synthetic-trained"), engine("guesses", "untrained")]}


def rows(blind_to: str | None = None) -> list[dict]:
    """What a tracker would write that follows the script exactly, but does not see one AU."""
    rng = np.random.default_rng(0)
    out: list[dict] = []
    for i in range(FRAMES):
        seconds = i / FRAMES_PER_SECOND
        row: dict = {
            "type": "result",
            "face": 0,
            "pts_seconds": seconds,
            "neutral": "automatic",
            "geometry": dict.fromkeys(
                ("brow_raise", "mouth_width", "corner_lift", "lip_gap", "jaw_drop", "eye_opening"), 0.5
            ),
            "level_share": dict.fromkeys(("face", "brows", "eyes", "mouth"), 0.001),
            "exposure": {"gain": 1.2 if LIGHT.begin <= seconds < LIGHT.end else 1.0},
            "pose_deg": {"yaw": pose_at(seconds).yaw_deg},
        }
        for group in ("geometry", "level_share"):
            row[group] = {
                k: v + rng.normal(0, 1e-3 if group == "geometry" else 1e-4) for k, v in row[group].items()
            }
        intensities = timeline_at(seconds)
        for expectation in EXPECTATIONS:
            if expectation.au != blind_to:
                group, name = expectation.measure
                row[group][name] += expectation.sign * 0.1 * intensities[expectation.au]
        seen = {au: 0.1 + 0.8 * intensities.get(au, 0.0) for au in ("AU12", "AU09") if au != blind_to}
        row["aus"] = {"sees": {"AU24": 0.1, "AU09": 0.1, **seen}, "guesses": {"AU12": 0.5, "AU09": 0.5}}
        out.append(row)
    return [HEADER, *out, {"type": "ledger", "balanced": True}]


def write(path: Path, lines: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def failed(path: Path) -> list[str]:
    return [row["check"] for row in check(DemoRun(path)) if row[""] != "ok"]


def test_rows_that_follow_the_script_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "r.jsonl", rows())
    assert main(["demo", str(path), "--plot", str(tmp_path / "p.png")]) == 0
    assert "FAILED" not in capsys.readouterr().out
    assert (tmp_path / "p.png").stat().st_size > 10_000


@pytest.mark.parametrize("au", ["AU20", "AU43", "AU09"])
def test_an_expression_that_is_not_seen_is_named(tmp_path: Path, au: str) -> None:
    names = failed(write(tmp_path / "r.jsonl", rows(blind_to=au)))
    assert any(name.startswith(f"{au}:") for name in names)
    assert (f"{au}: probability (sees)" in names) == (au == "AU09")
    assert not any("guesses" in name for name in names)  # random weights are not held to anything


def test_a_changed_id_a_lost_frame_and_a_lit_up_level_map_are_named(tmp_path: Path) -> None:
    lines = rows()
    lines[300]["face"] = 1
    lines[-1]["balanced"] = False
    for row in lines[1:-1]:
        if LIGHT.begin <= row["pts_seconds"] < LIGHT.end:
            row["level_share"]["face"] = 0.3
    names = failed(write(tmp_path / "r.jsonl", lines))
    assert names == [
        "one face, one id, in every frame",
        "every frame accounted for",
        "light step: level map stays dark",
    ]


def test_half_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "r.jsonl", rows()[:101])
    assert main(["demo", str(path)]) == 1
    assert "expected a whole run" in capsys.readouterr().err
