"""Recipes for the pattern folders, small enough for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from patterns import stills

from train.recipe import Recipe
from train.tables import from_table

Table = dict[str, Any]


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 stills of 10 subjects, two AUs."""
    return stills(tmp_path_factory.mktemp("bars"), 40)


@pytest.fixture(scope="session")
def small_table(bars: Path) -> Callable[..., Table]:
    """A recipe for them as a table: a tiny network for a few steps; `phase` and others replace its keys."""
    tiny.register()

    def make(phase: Table | list[Table] | None = None, **changes: Any) -> Table:
        one = {"name": "all", "epochs": 2, "steps_per_epoch": 3, "batch_size": 4, "lr": 1e-2}
        table: Table = {
            "engine": {
                "name": "small",
                "network": "tiny",
                "crop": "five_point_224",
                "level_map": True,
                "aus": ["AU01", "AU12"],
            },
            "data": {"folders": [str(bars)], "validation_share": 0.2},
            "augment": {"flip": 0.5, "brightness": 10.0, "noise": 3.0},
            "phase": phase if isinstance(phase, list) else [one | (phase or {})],
            "threads": 1,
        }
        return table | changes

    return make


@pytest.fixture(scope="session")
def small(small_table: Callable[..., Table]) -> Callable[..., Recipe]:
    """The same as a recipe."""

    def make(phase: Table | list[Table] | None = None, **changes: Any) -> Recipe:
        return from_table(Recipe, small_table(phase, **changes), "small.toml")

    return make
