"""What all tests share: one cache for the session, and the real clip where it lies beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("GLOG_minloglevel", "2")

CLIP = Path(__file__).parents[2] / "shared" / "media" / "WolfgangLanger_Pexels.mp4"


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """AUSTREAM_CACHE_DIR, empty at first, so that every network is converted once a session."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUSTREAM_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def real_clip() -> Path:
    """640×360, 23.976 frames/s, 472 frames of one woman acting emotions."""
    if not CLIP.exists():
        pytest.skip(f"the real footage {CLIP.name} is not in ../shared/media")
    return CLIP
