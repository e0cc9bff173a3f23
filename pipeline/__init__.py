"""austream's pipeline: `for row in pipeline.run(source="clip.mp4", engines=["cednn"]): …`"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Loaded on first use: the pure modules of this package must not pull in engines and video by being
    # imported.
    if name == "run":
        from pipeline.inline import run

        return run
    if name == "subscribe":
        from pipeline.subscriber import subscribe

        return subscribe
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
