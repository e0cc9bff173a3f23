"""EAC-Net against loops over its equations and against torchvision's public names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engines.networks.eacnet import (
    VARIANTS,
    EACNet,
    attention_map,
    crop_areas,
    load_vgg19,
    local_response_norm,
)
from pipeline.errors import EngineError, UsageError

VGG19 = (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M")
"""Table 1, column E, of the VGG paper."""


def vgg19_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's state dict: convolution, ReLU and pooling are numbered in a row."""
    shapes: dict[str, tuple[int, ...]] = {}
    number, channels = 0, 3
    for width in VGG19:
        if width == "M":
            number += 1
            continue
        shapes[f"features.{number}.weight"] = (width, channels, 3, 3)
        shapes[f"features.{number}.bias"] = (width,)
        channels = width
        number += 2
    for name, (inputs, outputs) in {"0": (25088, 4096), "3": (4096, 4096), "6": (4096, 1000)}.items():
        shapes[f"classifier.{name}.weight"], shapes[f"classifier.{name}.bias"] = (outputs, inputs), (outputs,)
    return shapes


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VGG-19 file whose tensors each hold a number of their own (float16, to be small and quick)."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    shapes = vgg19_shapes()
    save_file(
        {n: torch.full(s, i + 1.0, dtype=torch.float16) for i, (n, s) in enumerate(shapes.items())}, path
    )
    return path


def test_the_attention_map_is_equation_1() -> None:
    """At 100 px and whole centres, pixel by pixel: 11×11 areas, 1 in the middle, 0.05 in the corners."""
    rng = np.random.default_rng(0)
    whole = rng.integers(-3, 103, (2, 20, 2))
    expected = np.zeros((2, 100, 100))
    for face in range(2):
        for cx, cy in whole[face]:
            for y in range(max(0, cy - 5), min(100, cy + 6)):
                for x in range(max(0, cx - 5), min(100, cx + 6)):
                    weight = 1 - 0.095 * (abs(x - cx) + abs(y - cy))
                    expected[face, y, x] = max(expected[face, y, x], weight)
    centers = torch.from_numpy((whole + 0.5) / 100)
    np.testing.assert_allclose(attention_map(centers, 100)[:, 0].numpy(), expected, atol=1e-9)
    alone = attention_map(centers[:1, :1] * 0 + 0.505, 100)
    assert alone.max() == pytest.approx(1)
    assert alone[alone > 0].min() == pytest.approx(0.05)
    assert (alone > 0).sum() == 121


def test_smaller_maps_lie_at_the_same_places() -> None:
    centers = torch.full((1, 20, 2), 0.25)
    centers[:, :, 1] = 0.75
    for size in (56, 28):
        found = attention_map(centers, size)[0, 0].nonzero().double().mean(0) + 0.5
        np.testing.assert_allclose(found / size, [0.75, 0.25], atol=0.5 / size)


def test_areas_are_cut_around_their_centres() -> None:
    features = torch.arange(2 * 3 * 28 * 28.0).reshape(2, 3, 28, 28)
    centers = torch.rand(2, 20, 2, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    centers[0, 0] = torch.tensor([0.5, 0.25])
    areas = crop_areas(features, centers)
    assert areas.shape == (2, 20, 3, 3, 3)
    for face in range(2):
        for i in range(20):
            x, y = (int(np.clip(np.floor(float(v) * 28), 1, 26)) for v in centers[face, i])
            expected = features[face, :, y - 1 : y + 2, x - 1 : x + 2]
            assert torch.equal(areas[face, i], expected)
    assert areas[0, 0, 0, 1, 1] == features[0, 0, 7, 14]


def test_normalisation_is_equation_2() -> None:
    x = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(0)) * 40
    expected = torch.empty_like(x)
    for c in range(2):
        for i in range(4):
            for j in range(5):
                around = x[0, c, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
                expected[0, c, i, j] = x[0, c, i, j] / (2 + 0.002 * (around**2).sum()) ** 0.75
    torch.testing.assert_close(local_response_norm(x), expected)


@pytest.fixture(scope="module")
def eacnet() -> EACNet:
    torch.manual_seed(0)
    return EACNet(3).eval()


def test_the_network_put_together_by_hand(eacnet: EACNet) -> None:
    """Group by group with torchvision's order of layers, then area by area."""
    torch.manual_seed(1)
    image, centers = torch.randn(1, 3, 224, 224), torch.rand(1, 20, 2)
    with torch.inference_mode():
        logits, maps = eacnet(image, centers, return_attention=True)
        x, number, group = image, 0, 0
        first = x
        for width in VGG19[:-6]:  # up to the fourth group's last convolution
            if width == "M":
                if group in (2, 3):
                    x = x + first * maps[group - 2]
                x, number, group = nn.functional.max_pool2d(x, 2), number + 1, group + 1
                continue
            started = number in (0, 5, 10, 19)
            x = torch.relu(eacnet.features[str(number)](x))
            first = x if started else first
            number += 2
        x = local_response_norm(x + first * maps[1])
        parts = []
        for i in range(20):
            column, row = (int(min(max(float(v) * 28 // 1, 1), 26)) for v in centers[0, i])
            area = x[:, :, row - 1 : row + 2, column - 1 : column + 2]
            large = area.repeat_interleave(2, 2).repeat_interleave(2, 3)
            assert large.shape == (1, 512, 6, 6)
            local = torch.relu(eacnet.crops.convs[i](large))
            parts.append(torch.relu(eacnet.crops.layers[i](local.flatten(1))))
        joined = torch.cat(parts, 1)
        assert joined.shape == (1, 20 * 150)
        expected = eacnet.fc8(torch.relu(eacnet.fc7(joined)))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-6)
    assert [tuple(m.shape) for m in maps] == [(1, 1, 56, 56), (1, 1, 28, 28)]


def test_the_centres_matter(eacnet: EACNet) -> None:
    torch.manual_seed(2)
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        one, other = eacnet(image, torch.full((1, 20, 2), 0.3)), eacnet(image, torch.full((1, 20, 2), 0.7))
    assert (one - other).abs().max() > 1e-5
    with pytest.raises(ValueError, match=r"au_centers: expected \(B, 20, 2\) for eacnet"):
        eacnet(image)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_have_their_parts(variant: str) -> None:
    with torch.device("meta"):
        network = EACNet(12, variant)
    assert network.reads_au_centers == (variant != "fvgg")
    assert len(network.features) == (12 if variant == "eacnet" else 16)
    assert hasattr(network, "crops") == (variant == "eacnet")
    assert network.fc7.out_features == 2048
    frozen = {n for n, _ in network.named_parameters() if n.startswith(network.frozen)}
    last = 18 if variant == "fvgg" else 8
    assert frozen == {n for n in vgg19_shapes() if n.startswith("features") and int(n.split(".")[1]) < last}


@pytest.mark.parametrize("variant", ["fvgg", "eacnet"])
def test_published_weights_load(published: Path, variant: str) -> None:
    network = EACNet(2, variant)
    before = network.fc7.weight.clone()
    load_vgg19(network, published)
    numbers = {name: i + 1.0 for i, name in enumerate(vgg19_shapes())}
    for name, tensor in network.state_dict().items():
        if name.startswith("features"):
            assert (tensor == numbers[name]).all(), name
    if variant == "fvgg":
        assert (network.fc6.weight == numbers["classifier.0.weight"]).all()
    assert torch.equal(network.fc7.weight, before)


def test_a_wrong_file_names_its_keys(tmp_path: Path) -> None:
    state = {
        name: torch.zeros(1).expand(shape) for name, shape in vgg19_shapes().items() if "features" in name
    }
    del state["features.10.bias"]
    state["features.11.weight"] = torch.zeros(1)
    state["features.5.bias"] = torch.zeros(127)
    save_file({n: t.contiguous() for n, t in state.items()}, tmp_path / "w.safetensors")
    with torch.device("meta"):
        network = EACNet(2, "eacnet")
    with pytest.raises(EngineError) as error:
        load_vgg19(network, tmp_path / "w.safetensors")
    message = str(error.value)
    assert "expected VGG-19 in torchvision's names" in message
    assert "missing: features.10.bias" in message
    assert "unexpected: features.11.weight" in message
    assert "features.5.bias (127,) for (128,)" in message
    with pytest.raises(EngineError, match="expected VGG-19 weights as safetensors"):
        load_vgg19(network, tmp_path / "none.safetensors")


def test_wrong_variants_are_refused() -> None:
    with pytest.raises(UsageError, match="eacnet: variant"):
        EACNet(2, "eac")
