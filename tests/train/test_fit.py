"""Training learns, goes on from any kill to the same weights, and says clearly why it cannot."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patterns import clips, shard, writer
from torch import Tensor

from pipeline.errors import OutputError, RunError, SourceError, UsageError
from train import checkpoint
from train.fit import BEST, LAST, fit
from train.logs import read_rows
from train.phase import PhaseRun
from train.recipe import Recipe

Make = Callable[..., Recipe]
ROOT = Path(__file__).parents[2]


def toml(table: dict[str, Any]) -> str:
    """Tables of one level, and [[phase]]; JSON's values are TOML's too, but for inline tables."""

    def value(v: Any) -> str:
        return (
            "{" + ", ".join(f"{k} = {value(x)}" for k, x in v.items()) + "}"
            if isinstance(v, dict)
            else json.dumps(v)
        )

    def body(t: dict[str, Any]) -> str:
        return "".join(f"{k} = {value(v)}\n" for k, v in t.items())

    plain = {k: v for k, v in table.items() if k not in ("engine", "data", "augment", "phase")}
    parts = [body(plain)] + [f"[{k}]\n{body(table[k])}" for k in ("engine", "data", "augment")]
    return "\n".join(parts + [f"[[phase]]\n{body(p)}" for p in table["phase"]])


def assert_same(one: Path, other: Path) -> None:
    """Every bit of both checkpoints."""
    first, second = checkpoint.read(one)[0], checkpoint.read(other)[0]
    assert set(first) == set(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_network_learns_bars(small: Make, tmp_path: Path) -> None:
    phase = {"epochs": 3, "steps_per_epoch": 25, "schedule": "cosine", "warmup_steps": 2}
    fit(small(phase), tmp_path)
    rows = read_rows(tmp_path / "log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    losses = [float(row["loss"]) for row in rows]
    assert losses[-1] < 0.5 * losses[0]
    assert max(float(row["mean_f1"]) for row in rows) > 0.9
    weights, facts = checkpoint.read(tmp_path / BEST)
    assert facts["validation"]["auc"] == pytest.approx(max(float(row["mean_auc"]) for row in rows), abs=1e-4)
    assert not any(name.startswith("optimiser") for name in weights)
    assert list((tmp_path / "tensorboard" / "0").glob("events*"))


def test_killed_in_an_epoch_it_goes_on_to_the_same_weights(
    small_table: Callable[..., dict[str, Any]], small: Make, tmp_path: Path
) -> None:
    """SIGKILL, in another process, somewhere in the second epoch or after."""
    settings: dict[str, Any] = {
        "phase": {"epochs": 5, "steps_per_epoch": 40, "ema_decay": 0.9, "accumulate": 2, "batch_size": 2},
        "checkpoint_minutes": 0.0,
    }
    settings["phase"] |= {
        "sampler": "balanced",
        "loss": "weighted_bce",
        "weight_decay": 0.01,
        "clip_norm": 5.0,
    }
    recipe = tmp_path / "r.toml"
    recipe.write_text(toml(small_table(**settings)))
    code = "import sys, tiny; tiny.register(); from train.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "fit", str(recipe), "--out", str(tmp_path / "killed")]
    path = {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
    process = subprocess.Popen(command, env=os.environ | path, stderr=subprocess.DEVNULL)
    last, deadline = tmp_path / "killed" / LAST, time.monotonic() + 120
    while not last.exists() or checkpoint.read(last)[1]["step"] < 45:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 45 <= checkpoint.read(last)[1]["step"] < 200
    fit(small(**settings), tmp_path / "killed")
    fit(small(**settings), tmp_path / "whole")
    assert_same(tmp_path / "killed" / LAST, tmp_path / "whole" / LAST)
    assert_same(tmp_path / "killed" / BEST, tmp_path / "whole" / BEST)
    assert (tmp_path / "killed" / "log.csv").read_text() == (tmp_path / "whole" / "log.csv").read_text()


def test_an_interrupted_step_is_forgotten_and_taken_again(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two checkpoints, with SGD and its momentum; the log's later rows go too."""
    recipe = small({"optimiser": "sgd", "nesterov": True, "lr": 0.01, "epochs": 3, "steps_per_epoch": 2})
    fit(recipe, tmp_path / "whole")
    real = PhaseRun.take_step

    def stops(self: PhaseRun, batches: Any) -> float:
        loss = real(self, batches)
        if self.step == 5:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(PhaseRun, "take_step", stops)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, tmp_path / "cut")
    monkeypatch.undo()
    assert checkpoint.read(tmp_path / "cut" / LAST)[1]["step"] == 4
    fit(recipe, tmp_path / "cut")
    assert_same(tmp_path / "cut" / LAST, tmp_path / "whole" / LAST)
    assert [row["step"] for row in read_rows(tmp_path / "cut" / "log.csv")] == ["2", "4", "6"]
    before = (tmp_path / "cut" / LAST).read_bytes()
    fit(recipe, tmp_path / "cut")  # finished: nothing more to do
    assert (tmp_path / "cut" / LAST).read_bytes() == before


@pytest.fixture(scope="module")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """SAT-Net in three phases on two clips; the second is for validation."""
    folder = clips(tmp_path_factory.mktemp("clips"), [20, 28])
    short = {"epochs": 1, "lr": 1e-3, "loss": "weighted_bce"}
    engine = {"name": "t", "network": "satnet", "crop": "box_224", "aus": ["AU01", "AU12"]}
    return {
        "engine": engine | {"window": 16, "rate_hz": 25.0},
        "data": {"folders": [str(folder)], "validation_subjects": [1]},
        "phase": [
            short
            | {"name": "frames", "variant": {"variant": "sanet"}, "steps_per_epoch": 2, "batch_size": 4},
            short
            | {"name": "fusion", "reads": "features", "copies": 2, "batch_size": 2, "epochs": 2}
            | {"steps_per_epoch": 1, "freeze": ["conv1", "bn1", "layer1", "layer2"]},
            short | {"name": "joint", "reads": "windows", "batch_size": 1, "steps_per_epoch": 1, "lr": 1e-5},
        ],
        "threads": 1,
    }


def test_a_temporal_network_is_trained_in_phases(
    small: Make, temporal: dict[str, Any], tmp_path: Path
) -> None:
    fit(small(**temporal), tmp_path)
    rows = read_rows(tmp_path / "log.csv")
    assert [row["name"] for row in rows] == ["frames", "fusion", "fusion", "joint"]
    frames, fusion = (checkpoint.read(tmp_path / f"{name}.safetensors")[0] for name in ("frames", "fusion"))
    joint = checkpoint.read(tmp_path / BEST)[0]
    assert "conv_lstm.hidden_gates.weight" not in frames

    def moved(one: dict[str, Tensor], other: dict[str, Tensor], part: str) -> bool:
        names = [n for n in one if n.startswith(part) and n in other]
        assert names
        return any(not torch.equal(one[n], other[n]) for n in names)

    for part in ("conv1", "bn1", "layer1", "layer2"):  # weights and statistics
        assert not moved(frames, fusion, part)
        assert moved(fusion, joint, part)
    for part in ("layer3", "layer4", "attention"):
        assert moved(frames, fusion, part)
    assert np.load(tmp_path / "features" / "1_training.npy").shape == (2, 20, 128, 28, 28)


def test_features_are_what_the_frozen_layers_make_of_the_frames(
    small: Make, temporal: dict[str, Any], tmp_path: Path
) -> None:
    from train.fit import Run

    recipe = small(**temporal | {"phase": temporal["phase"][1:]})
    run = Run(recipe, tmp_path)
    batches = run.batches(0)[1]
    batch = batches[0]
    phase = PhaseRun(recipe, 0, 1, None, torch.device("cpu"))
    whole = phase.learner.eval().network
    pictures = torch.from_numpy(run.pool.crop("box_224", batches.items[0]))[None]
    with torch.inference_mode():
        wanted = whole(phase.learner.engine.images(pictures))
        assert torch.allclose(phase.learner(batch)[:1], wanted, atol=2e-3)


def test_a_loss_that_is_no_number_ends_the_run(small: Make, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"phase all: the loss became (nan|inf) at step \d+; lower lr"):
        fit(small({"optimiser": "sgd", "lr": 10.0, "momentum": 0.99, "weight_decay": 1e6}), tmp_path)


def test_a_full_disk_is_one_line(small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        if path.name.startswith("last"):
            raise OSError(28, "No space left on device")
        return len(content)

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(os, "replace", lambda *_names: None)
    with pytest.raises(OutputError, match=r"last.safetensors: cannot write it: No space left"):
        fit(small({"steps_per_epoch": 1}), tmp_path)


def test_recipe_and_data_must_go_together(small: Make, small_table: Any, tmp_path: Path, bars: Path) -> None:
    engine = small_table()["engine"]
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"data": {"folders": ["nowhere"]}}, SourceError, "nowhere: expected a sample folder"),
        ({"engine": engine | {"aus": ["AU01", "AU04"]}}, UsageError, "AU04: not in the data"),
        ({"data": {"folders": [str(bars)], "validation_subjects": [99]}}, UsageError, "left for validation"),
        ({"engine": engine | {"crop": "five_point_112"}}, UsageError, "its network reads 224 px"),
        ({"device": "cuda"}, UsageError, "sees no GPU"),
        ({"precision": "fp16"}, UsageError, "needs a GPU"),
        ({"initial": "nowhere.safetensors"}, SourceError, "initial: nowhere"),
        ({"phase": {"freeze": ["layer9"]}}, UsageError, "no part 'layer9' in tiny"),
    ]
    if torch.cuda.is_available():
        cases = [case for case in cases if "GPU" not in case[2]]
    for changes, kind, match in cases:
        with pytest.raises(kind, match=match) as caught:
            fit(small(**changes), tmp_path)
        assert "\n" not in str(caught.value)


def test_what_the_labels_do_not_say_is_refused_before_training(small: Make, tmp_path: Path) -> None:
    """Nothing strong enough to draw by; and no intensities to be judged by."""

    def folder(name: str, intensity: float) -> dict[str, Any]:
        made, arrays = writer(tmp_path / name, ("AU01", "AU12")), shard(40, 2)
        arrays["intensity"] = np.where(arrays["occurrence"] == 1, intensity, intensity * 0).astype(np.float32)
        made.write_shard("s", arrays)
        made.finish()
        return {"folders": [str(tmp_path / name)], "validation_share": 0.3}

    faint = folder("faint", 2.0) | {"present_from": {"AU12": 3}}
    with pytest.raises(UsageError, match="'balanced' finds nothing that shows AU12") as caught:
        fit(small(data=faint, phase={"sampler": "balanced"}), tmp_path / "a")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="best_by: 'icc' needs intensities"):
        fit(small(data=folder("unmeasured", math.nan), best_by="icc"), tmp_path / "b")


def test_two_runs_in_one_folder_are_one_too_many(small: Make, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run is at work in it"):
            fit(small({"epochs": 1, "steps_per_epoch": 1}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    fit(small({"epochs": 1, "steps_per_epoch": 1}), tmp_path)


def test_a_folder_of_another_recipe_is_left_alone(small: Make, tmp_path: Path) -> None:
    fit(small({"epochs": 1, "steps_per_epoch": 1}), tmp_path)
    with pytest.raises(UsageError, match=r"another recipe \(phase.0.lr 0.01 → 0.02\)"):
        fit(small({"epochs": 1, "steps_per_epoch": 1, "lr": 0.02}), tmp_path)
    (tmp_path / LAST).write_bytes(b"nonsense")
    with pytest.raises(SourceError, match="expected a checkpoint"):
        fit(small({"epochs": 1, "steps_per_epoch": 1}), tmp_path)
