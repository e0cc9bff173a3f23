"""SAT-Net against plain NumPy readings of its equations and torchvision's public names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engines.figures import multiply_accumulates, parameters
from engines.networks.satnet import VARIANTS, ConvLSTM, SATNet, SelfAttention, load_backbone
from pipeline.errors import EngineError, UsageError


def resnet18_shapes(classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's ResNet-18 state dict, step counters left out."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    norm("bn1", 64)
    before = 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (channels, before, 3, 3)
            norm(f"{name}.bn1", channels)
            shapes[f"{name}.conv2.weight"] = (channels, channels, 3, 3)
            norm(f"{name}.bn2", channels)
            if before != channels:
                shapes[f"{name}.downsample.0.weight"] = (channels, before, 1, 1)
                norm(f"{name}.downsample.1", channels)
            before = channels
    shapes["fc.weight"], shapes["fc.bias"] = (classes, 512), (classes,)
    return shapes


def published(classes: int = 1000) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) for name, shape in resnet18_shapes(classes).items()}


def conv_numpy(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """3×3, padding 1, as loops over output pixels: (C, H, W) and (O, C, 3, 3) → (O, H, W)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.empty((len(weight), *x.shape[1:]))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            patch = padded[:, row : row + 3, column : column + 3]
            out[:, row, column] = (weight * patch).sum((1, 2, 3))
    return out


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_conv_lstm_against_equations_1_to_3(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    channels, size, frames = 3, 4, 5
    lstm = ConvLSTM(channels)
    for parameter in lstm.parameters():  # as it starts, its gates hardly move
        torch.nn.init.normal_(parameter)
    x = rng.normal(size=(frames, channels, size, size))
    state = None
    for frame in x:
        state = lstm.step(lstm.input_gates(torch.tensor(frame[None], dtype=torch.float32)), state)

    w_x, w_h = (layer.weight.detach().double().numpy() for layer in (lstm.input_gates, lstm.hidden_gates))
    bias = lstm.input_gates.bias.detach().double().numpy()
    gate = {name: slice(n * channels, (n + 1) * channels) for n, name in enumerate("ifgo")}
    h = c = np.zeros((channels, size, size))
    for frame in x:
        a = {
            name: conv_numpy(frame, w_x[part]) + conv_numpy(h, w_h[part]) + bias[part][:, None, None]
            for name, part in gate.items()
        }
        c = sigmoid(a["f"]) * c + sigmoid(a["i"]) * np.tanh(a["g"])
        h = sigmoid(a["o"]) * np.tanh(c)
    np.testing.assert_allclose(state[0][0].detach().numpy(), h, atol=1e-6)
    np.testing.assert_allclose(state[1][0].detach().numpy(), c, atol=1e-6)


def test_a_new_conv_lstm_hands_on_what_the_last_frame_shows(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    lstm = ConvLSTM(16)
    x = torch.from_numpy(rng.exponential(size=(6, 1, 16, 7, 7)).astype(np.float32))
    state = None
    for frame in x:
        state = lstm.step(lstm.input_gates(frame), state)
    ranks = [np.argsort(np.argsort(a.detach().ravel())) for a in (x[-1], x[0], state[0])]
    last, first = (np.corrcoef(ranks[k], ranks[2])[0, 1] for k in (0, 1))
    assert last > 0.9
    assert abs(first) < 0.1


def test_self_attention_against_numpy(rng: np.random.Generator) -> None:
    module = SelfAttention(8, 3)
    x = rng.normal(size=(2, 8, 4, 4)).astype(np.float32)
    logits, maps = module(torch.from_numpy(x))

    def one_by_one(layer: nn.Conv2d) -> np.ndarray:
        weight, bias = layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()
        return np.einsum("oc,bchw->bohw", weight, x) + bias[None, :, None, None]

    attention = sigmoid(one_by_one(module.mask))
    np.testing.assert_allclose(maps.detach().numpy(), attention, atol=1e-6)
    expected = (one_by_one(module.features) * attention).mean((2, 3))
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=1e-6)


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        network = SATNet(12)
        baseline = SATNet(12, "resnet18")
    lstm = network.conv_lstm
    assert lstm.input_gates.weight.numel() + lstm.hidden_gates.weight.numel() == 4 * (128 + 128) * 128 * 9
    assert round(parameters(lstm) / 1e6, 1) == 1.2
    assert round(parameters(baseline) / 1e6) == 11


@pytest.mark.parametrize("variant", VARIANTS)
def test_macs_against_hooks(variant: str) -> None:
    with torch.device("meta"):
        network = SATNet(12, variant).eval()
    shape = (1, 4, 3, 224, 224) if network.temporal else (1, 3, 224, 224)
    total = 0

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight.shape[1:].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(shape, device="meta"))
    hooked = total
    assert multiply_accumulates(network, 4) == hooked


def test_the_backbone_has_torchvisions_names() -> None:
    with torch.device("meta"):
        state = SATNet(1000, "resnet18").state_dict()
    shapes = {name: tuple(t.shape) for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert shapes == resnet18_shapes()


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_have_their_parts(variant: str) -> None:
    with torch.device("meta"):
        network = SATNet(5, variant)
    parts = {name for name, _ in network.named_children()}
    assert ("conv_lstm" in parts) == (variant in ("satnet", "tnet"))
    assert ("attention" in parts) == (variant in ("satnet", "sanet"))
    assert ("fc" in parts) == (variant in ("tnet", "resnet18"))


def test_published_weights_load(tmp_path: Path) -> None:
    state = published()
    save_file(state, tmp_path / "resnet18.safetensors")
    network = SATNet(5)
    before = network.conv_lstm.input_gates.weight.clone()
    load_backbone(network, tmp_path / "resnet18.safetensors")
    for name in ("conv1.weight", "bn1.running_var", "layer2.0.downsample.0.weight", "layer4.1.bn2.bias"):
        assert torch.equal(network.state_dict()[name], state[name])
    assert torch.equal(network.conv_lstm.input_gates.weight, before)


@pytest.mark.parametrize(("classes", "taken"), [(5, True), (1000, False)])
def test_the_classifier_loads_where_it_fits(tmp_path: Path, classes: int, taken: bool) -> None:
    state = published(classes)
    save_file(state, tmp_path / "w.safetensors")
    network = SATNet(5, "resnet18")
    load_backbone(network, tmp_path / "w.safetensors")
    assert (network.fc.weight.shape == state["fc.weight"].shape) == taken
    if taken:
        assert torch.equal(network.fc.weight, state["fc.weight"])


def test_a_wrong_backbone_names_its_keys(tmp_path: Path) -> None:
    state = published()
    del state["layer3.0.conv1.weight"]
    state["layer5.0.conv1.weight"] = torch.zeros(1)
    state["bn1.bias"] = torch.zeros(63)
    state["bn1.weight"][5], state["layer1.0.bn1.bias"][0] = float("nan"), float("inf")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(EngineError) as error:
        load_backbone(SATNet(5), tmp_path / "w.safetensors")
    message = str(error.value)
    assert "missing: layer3.0.conv1.weight" in message
    assert "unexpected: layer5.0.conv1.weight" in message
    assert "bn1.bias (63,) for (64,)" in message
    assert "not finite: bn1.weight, layer1.0.bn1.bias" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [None, b"", b"\x80\x02}q\x00."])
def test_an_unreadable_backbone_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match="safetensors"):
        load_backbone(SATNet(5), path)


def test_the_last_frame_and_the_ones_before_it_count() -> None:
    torch.manual_seed(0)
    network = SATNet(4).eval()
    frames = torch.randn(1, 3, 3, 224, 224)
    with torch.inference_mode():
        logits, maps = network(frames, return_attention=True)
        assert logits.shape == (1, 4)
        assert maps.shape == (1, 4, 7, 7)
        assert maps.min() > 0
        assert maps.max() < 1
        # Frame by frame, and the last hidden state through the rest: what Fig. 2 shows.
        state = None
        for t in range(3):
            features = network.frame_features(frames[:, t])
            state = network.conv_lstm.step(network.conv_lstm.input_gates(features), state)
        torch.testing.assert_close(network.head(state[0])[0], logits, rtol=1e-5, atol=1e-6)
        for t in range(3):
            others = frames.clone()
            others[:, t] = 0
            assert not torch.allclose(network(others), logits, rtol=1e-5, atol=1e-6)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(UsageError, match="satnet: variant"):
        SATNet(12, "sat")
    image = torch.zeros(1, 3, 224, 224)
    with torch.device("meta"):
        network = SATNet(2)
        baseline = SATNet(2, "resnet18")
    with pytest.raises(ValueError, match=r"expected \(B, T, 3, 224, 224\), got \(1, 3, 224, 224\)"):
        network(image)
    with pytest.raises(ValueError, match="return_attention"):
        baseline(image.to("meta"), return_attention=True)
