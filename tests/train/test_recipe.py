"""Recipes are read as written, and every mistake in one is said in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.bundle import resolve
from pipeline.errors import UsageError
from train.paper_tables import studies
from train.recipe import RECIPES, Recipe, differences, read_recipe
from train.tables import from_table, plain

Make = Callable[..., Recipe]


@pytest.mark.parametrize("name", sorted({p.stem for p in RECIPES.glob("*.toml")} - set(studies())))
def test_shipped_recipes_train_what_the_bundles_are(name: str) -> None:
    recipe = read_recipe(name)
    spec, bundled = recipe.spec(), resolve(recipe.engine.name).spec
    for field in ("network", "crop", "level_map", "window", "rate_hz", "aus"):
        assert getattr(spec, field) == getattr(bundled, field)
    assert dict(spec.variant) == dict(bundled.variant)


def test_a_recipe_survives_json(small: Make) -> None:
    recipe = small()
    assert from_table(Recipe, json.loads(json.dumps(plain(recipe))), "x") == recipe


def refused(table: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        from_table(Recipe, table, "small.toml")
    assert "\n" not in str(caught.value)


def test_mistakes_are_named_where_they_are(small_table: Callable[..., dict[str, Any]]) -> None:
    good = small_table()
    engine, data = good["engine"], good["data"]
    refused({k: v for k, v in good.items() if k != "data"}, "small.toml: missing key 'data'")
    refused(good | {"epochs": 3}, "unknown key 'epochs'; known are engine, data")
    refused(good | {"seed": 1.5}, "seed: expected a whole number, got 1.5")
    refused(good | {"seed": True}, "seed: expected a whole number, got True")
    refused(good | {"seed": -1}, "seed: expected 0 or more, got -1")
    refused(good | {"precision": "fp8"}, "precision: expected one of fp32, bf16, fp16, got 'fp8'")
    refused(good | {"phase": {}}, "phase: expected a list")
    refused(good | {"phase": []}, r"expected at least one \[\[phase\]\]")
    refused(good | {"data": data | {"folders": []}}, "data: folders: expected at least one")
    refused(good | {"data": data | {"validation_share": 1.5}}, "validation_share: expected 0.01 to 0.9")
    refused(good | {"data": data | {"present_from": {"AU01": 6}}}, "present_from.AU01: expected an intensity")
    refused(good | {"augment": {"flip": 2.0}}, "augment: flip: expected 0 to 1, got 2.0")
    refused(good | {"engine": engine | {"network": "vgg"}}, "engine: small: unknown network 'vgg'")
    refused(good | {"engine": engine | {"aus": ["AU1"]}}, "expected names like AU01")
    refused(good | {"engine": engine | {"crop": "box"}}, "engine.crop: expected a name like five_point_224")
    refused(good | {"engine": engine | {"level_map": False}}, "level_map is False")
    refused(good | {"engine": engine | {"window": 16}}, "window is 16, its network tiny reads 1 frame")
    sanet = {
        "name": "s",
        "network": "satnet",
        "crop": "box_224",
        "aus": ["AU01"],
        "variant": {"variant": "sanet"},
    }
    other = good["phase"][0] | {"variant": {"variant": "resnet18"}}
    refused(good | {"engine": sanet, "phase": [other]}, "last one to train the engine itself")
    for change, match in [
        ({"lr": 0.0}, r"phase.0: lr: expected 1e-08 to 10, got 0.0"),
        ({"lr": "fast"}, "phase.0: lr: expected a number, got 'fast'"),
        ({"epochs": 0}, "epochs: expected 1 or more"),
        ({"optimiser": "lion"}, "optimiser: expected one of adamw, adam, sgd"),
        ({"nesterov": True}, "nesterov: expected optimiser 'sgd'"),
        ({"reads": "features"}, "'features' is for satnet"),
        ({"shrunk_px": 20}, "shrunk_px: expected 0, or 64 or more"),
        ({"shrunk_px": 112}, "shrunk_px: tiny reads pictures of 224 px alone"),
        ({"name": "1 2"}, "name: expected a word"),
        ({"freeze": "all"}, "freeze: expected a list"),
    ]:
        refused(small_table(change), match)
    one = good["phase"][0]
    refused(good | {"phase": [one, one]}, "expected different names")


def test_whole_numbers_pass_for_numbers(small_table: Callable[..., dict[str, Any]]) -> None:
    recipe = from_table(Recipe, small_table({"lr": 1}), "x")
    assert recipe.phase[0].lr == 1.0
    assert type(recipe.phase[0].lr) is float


def test_set_changes_one_key() -> None:
    changes = ["phase.0.epochs=3", "data.folders=['a', 'b']", "seed=7", "note=plain words", "augment.flip=0"]
    recipe = read_recipe("cednn-synthetic", changes)
    assert (recipe.phase[0].epochs, recipe.data.folders, recipe.seed) == (3, ("a", "b"), 7)
    assert (recipe.note, recipe.augment.flip) == ("plain words", 0.0)
    unchanged = read_recipe("cednn-synthetic")
    assert len(differences(plain(recipe), plain(unchanged))) == 5
    assert differences(plain(recipe), plain(recipe)) == []
    for change, match in [
        ("seed", "expected key=value"),
        ("phase.7.epochs=3", "no entry '7'"),
        ("phase.epochs=3", "no entry|phase.0.epochs"),
        ("phase.0.epoch=3", "unknown key 'epoch'"),
    ]:
        with pytest.raises(UsageError, match=match):
            read_recipe("cednn-synthetic", [change])


def test_a_file_that_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"known by name: .*cednn-synthetic, .*delta-synthetic"):
        read_recipe(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("seed = \n")
    with pytest.raises(UsageError, match="expected TOML") as caught:
        read_recipe(tmp_path / "bad.toml")
    assert "\n" not in str(caught.value)
