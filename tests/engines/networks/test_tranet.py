"""TRA-Net against plain readings of its equations and against the public names of SENet-50."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engines.networks.tranet import (
    CBAM,
    DISFA_REGIONS,
    VARIANTS,
    Branch,
    DecoderStep,
    TRANet,
    load_senet50,
)
from pipeline.errors import EngineError, UsageError


def senet50_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the public port of VGGFace2's SENet-50, step counters left out."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    norm("bn1", 64)
    before = 64
    for layer, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            name, wide = f"layer{layer}.{block}", 4 * width
            for n, shape in ((1, (width, before, 1, 1)), (2, (width, width, 3, 3)), (3, (wide, width, 1, 1))):
                shapes[f"{name}.conv{n}.weight"] = shape
                norm(f"{name}.bn{n}", shape[0])
            for n, shape in ((4, (wide // 16, wide, 1, 1)), (5, (wide, wide // 16, 1, 1))):
                shapes[f"{name}.conv{n}.weight"], shapes[f"{name}.conv{n}.bias"] = shape, (shape[0],)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (wide, before, 1, 1)
                norm(f"{name}.downsample.1", wide)
            before = wide
    return shapes


def test_the_backbone_has_the_public_names() -> None:
    with torch.device("meta"):
        state = TRANet(8631, "senet50").state_dict()
    shapes = {n: tuple(t.shape) for n, t in state.items() if not n.endswith("num_batches_tracked")}
    assert shapes == senet50_shapes() | {"fc.weight": (8631, 2048), "fc.bias": (8631,)}


def test_published_weights_load(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.rand(shape, generator=generator) for name, shape in senet50_shapes().items()}
    state["fc.weight"], state["bn1.num_batches_tracked"] = torch.zeros(8631, 2048), torch.tensor(5)
    save_file(state, tmp_path / "senet50.safetensors")
    network = TRANet(8)
    before = network.decoder[0].conv[0].weight.clone()
    load_senet50(network, tmp_path / "senet50.safetensors")
    own = network.state_dict()
    for name in ("bn1.running_var", "layer2.0.downsample.1.bias", "layer4.2.conv5.bias"):
        assert torch.equal(own[name], state[name])
    assert torch.equal(network.decoder[0].conv[0].weight, before)
    # The port's own preprocessing, BGR less a mean, through its filters; ours, through what was loaded.
    bgr = torch.randint(0, 256, (1, 3, 32, 32), generator=generator).float()
    blue_green_red = torch.tensor([91.4953, 103.8827, 131.0912]).view(3, 1, 1)
    expected = nn.functional.conv2d(bgr - blue_green_red, state["conv1.weight"], stride=2, padding=3)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.pixel_mean, network.pixel_std))
    got = network.conv1((bgr.flip(1) / 255 - mean) / std)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-2)


def test_a_wrong_backbone_names_its_keys(tmp_path: Path) -> None:
    state = {name: torch.zeros(shape) for name, shape in senet50_shapes().items() if "layer4" not in name}
    state["layer1.0.se.weight"], state["bn1.bias"] = torch.zeros(1), torch.zeros(63)
    save_file(state, tmp_path / "w.safetensors")
    with torch.device("meta"):
        network = TRANet(8)
    with pytest.raises(EngineError) as error:
        load_senet50(network, tmp_path / "w.safetensors")
    message = str(error.value)
    assert "missing: layer4.0.bn1.bias" in message
    assert "unexpected: layer1.0.se.weight" in message
    assert "bn1.bias (63,) for (64,)" in message


def test_bottleneck_is_senets() -> None:
    """Squeeze, excite, weigh, add the input (not Eq. 3's own output)."""
    torch.manual_seed(0)
    with torch.no_grad():
        block = TRANet(1, "senet50").layer1[1].eval()
        x = torch.randn(2, 256, 6, 6)
        y = torch.relu(block.bn1(block.conv1(x)))
        y = block.bn3(block.conv3(torch.relu(block.bn2(block.conv2(y)))))
        squeezed = y.mean((2, 3))
        hidden = torch.relu(squeezed @ block.conv4.weight[:, :, 0, 0].T + block.conv4.bias)
        weights = torch.sigmoid(hidden @ block.conv5.weight[:, :, 0, 0].T + block.conv5.bias)
        torch.testing.assert_close(
            block(x), torch.relu(y * weights[:, :, None, None] + x), rtol=1e-4, atol=1e-5
        )


def test_decoder_step_is_equation_3() -> None:
    torch.manual_seed(0)
    step = DecoderStep(64, 32).eval()
    x, skip = torch.randn(1, 64, 4, 4), torch.randn(1, 32, 8, 8)
    u = torch.relu(step.conv(x))
    hidden = torch.relu(step.se.reduce(u.mean((2, 3), keepdim=True)))
    out = u * torch.sigmoid(step.se.expand(hidden)) + u
    expected = nn.functional.interpolate(out, size=(8, 8), mode="bilinear") + skip
    torch.testing.assert_close(step(x, skip), expected)


@pytest.mark.parametrize(("channel", "spatial", "residual"), [(1, 1, 0), (0, 1, 0), (1, 0, 0), (1, 1, 1)])
def test_cbam(channel: int, spatial: int, residual: int) -> None:
    torch.manual_seed(0)
    module = CBAM(32, bool(channel), bool(spatial), bool(residual))
    x = torch.randn(2, 32, 9, 9)
    y = x
    if channel:

        def perceptron(v: torch.Tensor) -> torch.Tensor:
            hidden = torch.relu(v @ module.reduce.weight.T + module.reduce.bias)
            return hidden @ module.expand.weight.T + module.expand.bias

        both = perceptron(x.mean((2, 3))) + perceptron(x.flatten(2).max(2).values)
        y = y * torch.sigmoid(both)[:, :, None, None]
    weights = None
    if spatial:  # a filter for each kind of pooling, added
        mean, highest = y.mean(1, keepdim=True), y.max(1, keepdim=True).values
        parts = [
            nn.functional.conv2d(p, module.spatial.weight[:, i : i + 1], padding=3)
            for i, p in enumerate((mean, highest))
        ]
        weights = torch.sigmoid(parts[0] + parts[1] + module.spatial.bias)
        y = y * weights
    got, got_weights = module(x)
    torch.testing.assert_close(got, y + x if residual else y, rtol=1e-4, atol=1e-6)
    assert (got_weights is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(got_weights, weights)


def test_masks_keep_their_region_only() -> None:
    """Eq. 4 around a centre half way down: above it, below it, and a quarter to either side."""
    x = torch.rand(1, 2, 56, 56) + 1
    kept = {region: TRANet._masked(x, region)[0, 0, :, 0] > 0 for region in ("upper", "middle", "lower")}
    rows = torch.arange(56)
    assert torch.equal(kept["upper"], rows < 28)
    assert torch.equal(kept["lower"], rows >= 28)
    assert torch.equal(kept["middle"], (rows >= 14) & (rows < 42))
    assert torch.equal(TRANet._masked(x, "upper")[:, :, :28], x[:, :, :28])


def test_a_branch_alternates_attention_and_convolutions() -> None:
    torch.manual_seed(0)
    branch = Branch(2, "tranet").eval()
    x = torch.randn(1, 256, 56, 56)
    with torch.inference_mode():
        got, maps = branch(x)
        for i in range(3):
            x, _ = branch.attentions[i](x)
            y = branch.seconds[i](torch.relu(branch.firsts[i](x)))
            x = torch.relu(y + x) if i < 2 else torch.relu(y)
            x = nn.functional.max_pool2d(x, 2) if i < 2 else x
        expected = branch.fc2(torch.relu(branch.fc1(x.mean((2, 3)))))
    torch.testing.assert_close(got, expected)
    assert [tuple(m.shape) for m in maps] == [(1, 1, s, s) for s in (56, 28, 14)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_table_2(variant: str) -> None:
    torch.manual_seed(0)
    network = TRANet(8, variant).eval()
    names = {name for name, _ in network.named_parameters()}
    assert any("decoder" in n for n in names) == (variant != "senet50")
    assert any("branches.upper" in n for n in names) == (variant not in ("senet50", "cbam"))
    assert any("spatial" in n for n in names) == (variant not in ("senet50", "masks", "no_spatial"))
    assert any("attentions.0.reduce" in n for n in names) == (
        variant not in ("senet50", "masks", "no_channel")
    )
    with torch.inference_mode():
        logits, maps = network(torch.randn(1, 3, 224, 224), return_attention=True)
    assert logits.shape == (1, 8)
    assert all(m.shape[2:] == (56, 56) for m, *_ in (found for found in maps.values() if found))
    assert any(maps.values()) == (variant not in ("senet50", "masks", "no_spatial"))


def test_aus_come_out_in_their_own_order() -> None:
    """An AU depends on its own region's branch, wherever it stands in the list."""
    regions = ("lower", "upper", "middle", "upper", "lower")
    torch.manual_seed(0)
    network = TRANet(5, "tranet", regions).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        before = network(image)
        for region in ("upper", "middle", "lower"):
            network.branches[region].fc2.bias += 7
            moved = [round(float(v), 3) for v in (network(image) - before)[0]]
            assert moved == [7 if r == region else 0 for r in regions]
            network.branches[region].fc2.bias -= 7


def test_regions_are_configured() -> None:
    with torch.device("meta"):
        assert TRANet(8).branch_of == ("upper",) * 3 + ("middle",) * 2 + ("lower",) * 3
        assert set(TRANet(2, "tranet", ("upper", "upper")).branches) == {"upper"}
        assert len(DISFA_REGIONS) == 8
    for regions in (None, ("upper",), ("upper", "top")):
        with pytest.raises(UsageError, match="tranet: regions must be one of"):
            TRANet(2, "tranet", regions)
    with pytest.raises(UsageError, match="tranet: variant"):
        TRANet(8, "tra")
