"""Engines loaded once for the session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines.bundle import BUNDLED
from engines.runtime import Engine, load_engine


@pytest.fixture(scope="session")
def cednn_openvino() -> Engine:
    return load_engine("cednn", "openvino")


@pytest.fixture(scope="session")
def satnet_openvino() -> Engine:
    return load_engine("satnet", "openvino")


@pytest.fixture
def write_bundle(tmp_path: Path) -> Callable[..., Path]:
    """A folder whose engine.json is the bundled CEDNN's, untrained, with other fields; `...` removes one."""

    def write(name: str = "bundle", **changes: object) -> Path:
        fields = json.loads((BUNDLED / "cednn" / "engine.json").read_text())
        fields |= {"provenance": {"trained": "untrained"}, "weights": {"random_seed": 0}}
        fields |= changes
        folder = tmp_path / name
        folder.mkdir()
        kept = {key: value for key, value in fields.items() if value is not ...}
        (folder / "engine.json").write_text(json.dumps(kept))
        return folder

    return write


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
