"""EngineSpec refuses what contradicts itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engines.bundle import resolve
from engines.spec import CropSpec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "My Engine"}, "name: expected lower-case"),
        ({"name": "../x"}, "name: expected lower-case"),
        ({"thresholds": (0.5,)}, "thresholds: expected 13"),
        ({"thresholds": (float("nan"),) * 13}, "between 0 and 1"),
        ({"aus": ("AU01",) * 13}, "distinct"),
        ({"aus": ("AU1",), "thresholds": (0.5,)}, "names like AU01"),
        ({"window": 0}, "window"),
        ({"rate_hz": 0.0}, "rate_hz"),
        ({"rate_hz": float("nan")}, "rate_hz"),
        ({"provenance": {}}, "provenance"),
        ({"max_intensity": 0.0}, "max_intensity"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(resolve("cednn").spec, **changes)


def test_a_crop_has_a_kind_and_a_size() -> None:
    with pytest.raises(ValueError, match="five_point, box, level_eyes, level_eyes_whole, nose_center"):
        CropSpec("square", 224)
    with pytest.raises(ValueError, match="size_px"):
        CropSpec("box", 0)
    assert CropSpec.named("level_eyes_whole_200") == CropSpec("level_eyes_whole", 200)
    assert CropSpec.named(CropSpec("five_point", 224).name).size_px == 224
    for name in ("box", "box_0", "oval_224", "224", "level_eyes_-8"):
        with pytest.raises(ValueError, match="crop: expected a name like five_point_224"):
            CropSpec.named(name)


def test_shapes() -> None:
    cednn, satnet = resolve("cednn").spec, resolve("satnet").spec
    assert cednn.crops_shape(2) == (2, 224, 224, 3)
    assert cednn.inputs(2)["level_map"] == ((2, 224, 224), np.uint8)
    assert satnet.crops_shape(2) == (2, 16, 224, 224, 3)
    assert resolve("eacnet").spec.inputs(3)["au_centers"] == ((3, 20, 2), np.float32)
    assert [resolve(name).spec.crop.name for name in ("arl", "iarl", "eacnet", "tranet")] == [
        "level_eyes_176",
        "level_eyes_176",
        "box_224",
        "nose_center_224",
    ]
    assert [resolve(name).spec.max_intensity for name in ("arl", "iarl")] == [None, 5]


def test_a_neutral_goes_with_the_aligned_crop_alone() -> None:
    delta = resolve("delta").spec
    assert delta.inputs(1)["neutral"] == ((1, 224, 224, 3), np.uint8)
    with pytest.raises(ValueError, match="neutral: expected a five_point_224 crop beside it, got box_224"):
        replace(delta, crop=CropSpec("box", 224))
