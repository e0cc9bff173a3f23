"""From a run to a bundle that streams: thresholds and provenance inside, the same probabilities outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.bundle import read_bundle
from engines.runtime import load_engine
from pipeline.errors import SourceError, UsageError
from train.__main__ import main
from train.evaluate import evaluate, judged, plain_batches
from train.export import export, trained_on
from train.fit import BEST, LAST, fit
from train.pool import Pool
from train.recipe import Recipe

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def run(small: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fit(small({"epochs": 2, "steps_per_epoch": 25}, note="Bars."), folder)
    return folder


def test_a_bundle_is_the_run(run: Path, bars: Path, tmp_path: Path) -> None:
    bundle, validation = export(run, tmp_path / "b", name="bars", note="")
    assert read_bundle(tmp_path / "b") == bundle
    spec = bundle.spec
    assert (spec.name, spec.trained, spec.aus) == ("bars", "synthetic-trained", ("AU01", "AU12"))
    for wanted in ("data", "commit", "seed", "recipe", "thresholds", "validation"):
        assert spec.provenance[wanted] is not None
    assert spec.provenance["note"] == "Bars."
    assert spec.provenance["recipe"]["data"]["folders"] == ["/".join(["…", *bars.parts[-2:]])]
    assert str(tmp_path.parent) not in json.dumps(spec.provenance)
    assert spec.provenance["validation"]["mean"]["f1"] == pytest.approx(validation.mean("f1"), abs=1e-4)
    assert spec.thresholds != (0.5, 0.5)
    engine = load_engine(tmp_path / "b", "openvino", log=lambda _line: None)  # parity is checked in it
    pool = Pool.open([bars], spec.aus)
    batches = plain_batches(pool, spec, judged(pool, spec), batch_size=40)
    batch = batches[0]
    found = engine.run(batch.pictures.numpy(), batch.beside["level_map"].numpy())
    present = pool.occurrence == 1
    assert ((found >= np.array(spec.thresholds)) == present).mean() > 0.9


def test_bundle_and_checkpoint_score_alike(run: Path, bars: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "b")
    bundle, checkpoint = evaluate(str(tmp_path / "b"), [bars]), evaluate(str(run), [bars])
    assert bundle.frames == checkpoint.frames == 40
    for one, other in zip(bundle.scores, checkpoint.scores, strict=True):
        assert one.present == other.present
        assert one.auc == pytest.approx(other.auc, abs=0.01)
        assert one.mae == pytest.approx(other.mae, abs=0.02)
    lines = bundle.text().splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["AU01", "AU12", "mean"]


def test_the_command_line_goes_the_whole_way(
    run: Path, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), str(tmp_path / "b"), "--name", "bars"]) == 0
    assert "synthetic-trained" in capsys.readouterr().out
    scores = tmp_path / "s.json"
    assert main(["evaluate", str(tmp_path / "b"), str(bars), "--json", str(scores)]) == 0
    found: dict[str, Any] = json.loads(scores.read_text())
    assert [s["au"] for s in found["scores"]] == ["AU01", "AU12"]
    assert found["mean"]["auc"] > 0.9
    assert main(["fit", "nowhere.toml"]) == 2
    assert main(["evaluate", "nowhere", str(bars)]) == 2
    assert main(["export", str(tmp_path), str(tmp_path / "c")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("train: ")] == errors[-3:]
    assert "Traceback" not in "".join(errors)


def test_only_best_weights_of_a_whole_run_become_a_bundle(run: Path, bars: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"expected the best weights of a run, its {BEST}"):
        evaluate(str(run / LAST), [bars])
    with pytest.raises(SourceError, match=f"with {BEST}"):
        export(tmp_path, tmp_path / "b")


def test_what_an_engine_was_trained_on_is_said() -> None:
    assert trained_on("synthetic") == "synthetic-trained"
    assert trained_on("bp4d+synthetic") == "trained on bp4d+synthetic"
