"""One cache of compiled engines for the whole session, so that a network is converted once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engines.bundle import BUNDLED
from engines.runtime import Engine, load_engine


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """AUSTREAM_CACHE_DIR, empty at first."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUSTREAM_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def cednn_openvino() -> Engine:
    return load_engine("cednn", "openvino")


@pytest.fixture(scope="session")
def satnet_openvino() -> Engine:
    return load_engine("satnet", "openvino")


@pytest.fixture
def write_bundle(tmp_path: Path) -> Callable[..., Path]:
    """A folder whose engine.json is the bundled CEDNN's with other fields; `...` removes one."""

    def write(name: str = "bundle", **changes: object) -> Path:
        fields = json.loads((BUNDLED / "cednn" / "engine.json").read_text())
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
