"""`bench attention`: maps against what the networks compute, and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch

from bench.__main__ import main
from bench.attention import LEAST_RANGE, SHOWN, Look, Looker, evenly, heat, ranges
from engines.bundle import BUNDLED, resolve
from engines.networks.eacnet import attention_map
from pipeline.errors import SourceError, UsageError
from pipeline.messages import FaceCrop, Stamp


def stamp(seq: int) -> Stamp:
    return Stamp("clip", 0, seq, seq / 25, 0.0, 0.0)


def crop(seed: int, face: int = 0) -> FaceCrop:
    """As much of a face as lookers read: noise, and blobs of levels."""
    rng = np.random.default_rng(seed)
    blobs = cv2.resize(rng.integers(0, 6, (14, 14), np.uint8), (224, 224), interpolation=cv2.INTER_LINEAR)
    pixels = rng.integers(0, 256, (224, 224, 3), np.uint8)
    return cast(
        FaceCrop,
        SimpleNamespace(
            face=face,
            track_index=seed,
            crops_bgr={"five_point_224": pixels, "box_224": pixels},
            level_map=blobs,
            landmarks_px=rng.uniform(0, 224, (478, 3)).astype(np.float32),
            bbox_xyxy=(0.0, 0.0, 224.0, 224.0),
            neutral_bgr=None,
            landmarks=None,
        ),
    )


def test_cednn_shows_the_levels_that_each_block_meets() -> None:
    looker, face = Looker("cednn", 25.0), crop(1)
    window = looker.push(stamp(0), face)
    assert window is not None
    look = looker.look(window, face)
    levels = face.level_map
    assert levels is not None
    for i in range(3):
        side = 224 >> i
        pooled = [
            [levels[y << i : (y + 1) << i, x << i : (x + 1) << i].max() for x in range(side)]
            for y in range(side)
        ]
        np.testing.assert_array_equal(look.maps[f"block {i + 1}"], pooled)
    assert np.array_equal(look.crop_bgr, face.crops_bgr["five_point_224"])


def test_satnet_shows_the_mask_of_each_au_on_a_window_of_one_face() -> None:
    looker = Looker("satnet", 25.0)
    seen: list[torch.Tensor] = []
    network: Any = looker._engine.network
    network.attention.mask.register_forward_hook(lambda _m, _i, out: seen.append(out))
    crops = [crop(i, face=0) for i in range(3)] + [crop(i, face=1) for i in range(16)]
    windows = [looker.push(stamp(i), one) for i, one in enumerate(crops)]
    assert [window is not None for window in windows] == [False] * 18 + [True]
    assert windows[-1] is not None
    np.testing.assert_array_equal(windows[-1], [one.crops_bgr["box_224"] for one in crops[3:]])
    look = looker.look(windows[-1], crops[-1])
    for a, au in enumerate(looker.spec.aus):
        wanted = 1 / (1 + np.exp(-seen[0][0, a].numpy().astype(np.float64)))
        np.testing.assert_allclose(look.maps[au], wanted, atol=1e-6)
    chances = looker._engine(torch.from_numpy(windows[-1][None]))[0]
    limits = zip(looker.spec.aus, chances.tolist(), looker.spec.thresholds, strict=True)
    assert look.called == pytest.approx({au: p for au, p, threshold in limits if p >= threshold})


def test_deltas_maps_lie_where_it_looks() -> None:
    spec = resolve("delta").spec
    found = torch.zeros((1, len(spec.aus), 20, 20))
    found[0, :, 3, 5] = 1.0  # all of the attention on one cell of 8×8 pixels of the part that it reads
    [shown] = {one.tobytes() for one in SHOWN["delta"](found, spec).values()}
    wanted = np.zeros((224, 224), np.float32)
    wanted[44 + 24 : 44 + 32, 32 + 40 : 32 + 48] = 400.0
    assert np.array_equal(np.frombuffer(shown, np.float32).reshape(224, 224), wanted)


def arl_folder(folder: Path, variant: str) -> Path:
    """ARL with two AUs."""
    fields = json.loads((BUNDLED / "arl" / "engine.json").read_text())
    fields |= {"variant": {"variant": variant}, "aus": ["AU01", "AU12"], "thresholds": [0.5, 0.5]}
    (folder / "engine.json").write_text(json.dumps(fields))
    return folder


def test_arl_shows_what_each_branch_multiplies_by(tmp_path: Path) -> None:
    looker, face = Looker(str(arl_folder(tmp_path, "wcsp")), 25.0), crop(2)
    face.crops_bgr["level_eyes_176"] = face.crops_bgr["box_224"][:176, :176]  # type: ignore[index]
    network: Any = looker._engine.network
    met: list[tuple[torch.Tensor, torch.Tensor]] = []
    for branch in network.branches:
        for layer in (branch.fourth, branch.fourth_norm):  # before and behind the multiplication
            layer.register_forward_hook(lambda _m, given, out: met.append((given[0], out)))
    window = looker.push(stamp(0), face)
    assert window is not None
    look = looker.look(window, face)
    for (_, before), (behind, _), au in zip(met[::2], met[1::2], ("AU01", "AU12"), strict=True):
        shown = torch.from_numpy(look.maps[au])
        torch.testing.assert_close(behind[0], before[0] * shown)
        assert shown.shape == (44, 44)


def test_a_variant_without_maps_is_refused(tmp_path: Path) -> None:
    looker, face = Looker(str(arl_folder(tmp_path, "wc")), 25.0), crop(2)
    face.crops_bgr["level_eyes_176"] = face.crops_bgr["box_224"][:176, :176]  # type: ignore[index]
    window = looker.push(stamp(0), face)
    assert window is not None
    with pytest.raises(UsageError, match="this variant of arl has no map"):
        looker.look(window, face)


def test_eacnets_groups_and_tranets_regions_have_titles() -> None:
    eacnet, tranet = resolve("eacnet").spec, resolve("tranet").spec
    centers = torch.full((1, 20, 2), 0.25)
    maps = SHOWN["eacnet"](tuple(attention_map(centers, size) for size in (56, 28)), eacnet)
    assert {title: m.shape for title, m in maps.items()} == {"group 3": (56, 56), "group 4": (28, 28)}
    middle = [(maps["group 4"].sum(axis) * np.arange(28)).sum() / maps["group 4"].sum() for axis in (0, 1)]
    assert middle == pytest.approx([6.5, 6.5], abs=1e-3)
    found = {
        region: tuple(torch.rand(1, 1, side, side) for side in (56, 28, 14)) for region in ("upper", "lower")
    }
    shown = SHOWN["tranet"](found, tranet)
    assert list(shown) == ["upper 1", "upper 2", "upper 3", "lower 1", "lower 2", "lower 3"]
    assert np.array_equal(shown["lower 2"], found["lower"][1][0, 0].numpy())


@pytest.mark.parametrize("wanted", ["satnet", "igc"])
def test_an_engine_without_attention_is_refused(
    tmp_path: Path, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = json.loads((BUNDLED / "satnet" / "engine.json").read_text())
    fields |= {"weights": {"random_seed": 0}}
    if wanted == "satnet":
        fields["variant"] = {"variant": "tnet"}
    else:
        fields |= {"network": "igc", "variant": {}, "window": 1, "rate_hz": None}
    (tmp_path / "engine.json").write_text(json.dumps(fields))
    words = ["--engine", str(tmp_path), "--source", "demo", "--out", str(tmp_path / "a.png"), "--frames", "1"]
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.zeros((64, 64, 3), np.uint8))
    words[3] = str(photo)
    assert main(["attention", *words]) == 2
    assert f"{wanted} shows no attention; leave it out" in capsys.readouterr().err


def test_a_column_has_one_scale_and_a_flat_one_is_not_stretched() -> None:
    def look(first: float, second: float) -> Look:
        maps = {"AU01": np.array([[first, 0.5]], np.float32), "AU02": np.array([[second]], np.float32)}
        return Look(np.zeros((8, 8, 3), np.uint8), maps, {})

    spec = Looker("satnet", 25.0).spec
    scale = ranges([look(0.25, 0.5), look(0.75, 0.5)], spec)
    assert scale == {"AU01": (0.25, 0.75), "AU02": (0.5, 0.5 + LEAST_RANGE)}


def test_heat_leaves_the_least_grey_and_colours_the_more_the_hotter() -> None:
    crop_bgr = np.full((64, 64, 3), (40, 90, 200), np.uint8)
    grey = cv2.cvtColor(crop_bgr, cv2.COLOR_BGR2GRAY)[0, 0]
    values = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None], 64, axis=0)
    painted = heat(crop_bgr, values, 0.0, 1.0)
    assert painted.shape == (64, 64, 3)
    np.testing.assert_array_equal(painted[:, 0], grey)
    red, green, blue = painted[0].astype(int).T
    assert (np.diff(red) >= -1).all()  # rounding apart
    assert (np.diff(red - green)[:20] >= -1).all()  # first red …
    assert red[-1] > green[-1] > blue[-1] + 80  # … then yellow


def test_frames_are_spread_over_the_clip() -> None:
    assert evenly(120, "x") == [10, 30, 50, 70, 90, 110]
    with pytest.raises(SourceError, match="name some with --frames"):
        evenly(None, "x")


def test_a_picture_of_two_engines_and_the_frames_that_have_windows(
    real_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "attention.png"
    words = ["--engine", "cednn,satnet", "--source", str(real_clip), "--frames", "18,3", "--out", str(out)]
    assert main(["attention", *words]) == 0
    text = capsys.readouterr().out
    assert "frame 3: left out" in text
    assert "frames 18" in text
    height, width = cv2.imread(str(out)).shape[:2]
    assert width / height > 5  # one row: the face, three maps and thirteen
