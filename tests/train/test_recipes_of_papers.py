"""Every paper's recipe builds and takes a step, and says what the paper says."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import UsageError
from train.dryrun import dry_run
from train.paper_tables import studies
from train.recipe import RECIPES, Recipe, read_recipe
from train.variants import changes

STUDIES = sorted(studies())


def read(name: str, *sets: str) -> Recipe:
    """Without drawing weights: building a spec builds its network."""
    with torch.device("meta"):
        return read_recipe(name, sets)


@pytest.mark.parametrize("name", STUDIES)
def test_a_recipe_takes_a_step(name: str) -> None:
    """With shapes alone: what does not go together raises as it would with numbers."""
    lines = dry_run(read(name), "meta").splitlines()
    assert lines[0].startswith(f"{name}: {len(studies()[name].aus)} AUs")
    assert sum(line.startswith("phase ") for line in lines) == (3 if name == "eacnet-bp4d" else 1)
    assert all(line.endswith("on noise") for line in lines if line.startswith("phase "))


def test_a_dry_run_computes_a_loss() -> None:
    """The smallest of them in full: 12 AUs at probability ½ cost ln 2 each."""
    line = dry_run(
        read_recipe("cednn-disfaplus", changes(studies()["cednn-disfaplus"], "res-l18m1"))
    ).splitlines()[1]
    assert "9.59 of 9.59 M weights" in line
    assert float(line.split("mean_bce ")[1].split()[0]) == pytest.approx(0.6931, abs=0.05)


def test_hyper_parameters_are_the_papers() -> None:
    """Read from the papers' implementation sections, by hand."""
    wanted = {
        "cednn-disfaplus": (20, 32, 0.01, 0.9, False, 0.0005, 5, 0.1),
        "cednn-ckplus": (30, 32, 0.01, 0.9, False, 0.0005, 20, 0.1),
        "satnet-bp4d": (24, 20, 0.01, 0.9, True, 0.0002, 8, 0.1),
        "satnet-disfa": (24, 20, 0.01, 0.9, True, 0.0002, 8, 0.1),
        "arl-bp4d": (12, 8, 0.006, 0.9, True, 0.0005, 2, 0.3),
        "arl-disfa": (12, 8, 0.006, 0.9, True, 0.0005, 2, 0.3),
        "iarl-fera2015": (12, 8, 0.0006, 0.9, True, 0.0005, 2, 0.3),
        "iarl-disfa": (12, 8, 0.0006, 0.9, True, 0.0005, 2, 0.3),
    }
    for name, row in wanted.items():
        p = read(name).phase[0]
        assert (p.optimiser, p.schedule) == ("sgd", "step"), name
        found = (
            p.epochs,
            p.batch_size,
            p.lr,
            p.momentum,
            p.nesterov,
            p.weight_decay,
            p.step_epochs,
            p.step_factor,
        )
        assert found == row, name
    tra = read("tranet-disfa").phase[0]
    assert (tra.lr, tra.momentum, tra.weight_decay, tra.batch_size, tra.steps_per_epoch) == (
        0.001,
        0.9,
        0.001,
        64,
        100,
    )
    assert {(p.lr, p.momentum, p.loss) for p in read("eacnet-bp4d").phase} == {(0.0001, 0.9, "eacnet")}
    assert read("arl-disfa").initial_aus == {"AU09": "AU10", "AU25": "AU23", "AU26": "AU24"}


@pytest.mark.parametrize("name", STUDIES)
def test_a_recipe_has_the_aus_of_its_table(name: str) -> None:
    recipe = read(name)
    assert recipe.engine.aus == studies()[name].au_names
    assert (RECIPES / f"{name}.toml").read_text(encoding="utf-8").count("ours") >= 2, "what is open is marked"


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_with_a_column_makes_a_recipe(name: str) -> None:
    study = studies()[name]
    chosen = study.variants if len(study.variants) < 10 else study.variants[::7]
    for variant in chosen:
        recipe = read(name, *changes(study, variant))
        assert recipe.spec().aus == study.au_names


def test_variants_change_what_they_name() -> None:
    def engine(name: str, variant: str) -> Recipe:
        return read(name, *changes(studies()[name], variant))

    dense = engine("cednn-disfaplus", "dense-l6m3-att2-se2")
    assert dense.spec().variant == {
        "branches": 6,
        "connection": "dense",
        "attention_blocks": 2,
        "se": "second",
    }
    plain = engine("cednn-disfaplus", "res-l3m6").spec()
    assert plain.variant["attention_blocks"] == 0
    assert plain.variant["se"] is None
    assert not plain.level_map
    assert engine("satnet-disfa", "sanet").spec().window == 1
    assert engine("satnet-disfa", "tnet").spec().window == 16
    assert [p.name for p in engine("eacnet-bp4d", "enet").phase] == ["fvgg", "enet"]
    assert engine("eacnet-bp4d", "enet").spec().au_centers
    assert not engine("eacnet-bp4d", "fvgg").spec().au_centers
    assert engine("arl-bp4d", "b").phase[0].arl.weights == "equal"
    assert engine("iarl-fera2015", "iwcsp").phase[0].arl.cosine == 0


def test_an_unknown_variant_is_refused() -> None:
    for name, variant in (("cednn-disfaplus", "res-l5m3"), ("satnet-disfa", "satnet2"), ("arl-bp4d", "wcsp")):
        with pytest.raises(UsageError, match=f"--variant {variant}: no variant of .*; expected one of"):
            changes(studies()[name], variant)
