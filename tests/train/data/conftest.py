"""Rendered people in the datasets' layouts: a few small folders for the whole session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from train.data.mimic import LAYOUTS, Order, mimic

Rendered = Callable[[str], Path]
SMALL = {"disfaplus": (3, 0.8), "disfa": (1, 1.6), "ckplus": (1, 0.9)}
"""People and seconds of each; one person of half a second of any other."""


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """A folder in a dataset's layout, to be read only; copy it before changing anything."""

    @cache
    def make(layout: str) -> Path:
        people, seconds = SMALL.get(layout, (1, 0.5))
        out = tmp_path_factory.mktemp(layout) / "root"
        mimic(Order(LAYOUTS[layout], out, people, seconds, seed=4))
        return out

    return make
