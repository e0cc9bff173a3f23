"""CEDNN against its paper's printed figures and brute-force readings of its equations."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from engines.figures import multiply_accumulates, parameters
from engines.networks.cednn import BRANCHES, CEDNN, IGC, Block, IGCBlock, apply_maps, binary_maps, interleave
from engines.networks.layers import SqueezeExcite
from pipeline.errors import UsageError

TABLE_6_PARAMETERS_M = {
    ("residual", 1): "13.33",
    ("residual", 2): "11.34",
    ("residual", 3): "10.68",
    ("residual", 6): "10.02",
    ("residual", 9): "9.80",
    ("residual", 18): "9.59",
    ("dense", 1): "14.22",
    ("dense", 2): "12.23",
    ("dense", 3): "11.57",
    ("dense", 6): "10.91",
    ("dense", 9): "10.69",
    ("dense", 18): "10.48",
}
TABLE_6_GFLOPS = {
    "residual": (1.13, 0.69, 0.54, 0.40, 0.36, 0.33),
    "dense": (1.32, 0.88, 0.74, 0.60, 0.56, 0.52),
}
VARIANTS = list(itertools.product(("residual", "dense"), BRANCHES))


def on_meta(*args: object, **options: object) -> CEDNN:
    with torch.device("meta"):
        return CEDNN(*args, **options)


@pytest.mark.parametrize(("connection", "branches"), VARIANTS)
def test_parameters_are_table_6(connection: str, branches: int) -> None:
    network = on_meta(12, branches, connection, attention_blocks=2, se=None)
    count = sum(p.numel() for p in network.parameters())
    assert f"{count / 1e6:.2f}" == TABLE_6_PARAMETERS_M[connection, branches]


@pytest.mark.parametrize(("connection", "branches"), VARIANTS)
def test_biases_and_norms_are_the_ones_decided(connection: str, branches: int) -> None:
    """The printed digits leave room for one layer's biases more or less; the header does not."""
    network = on_meta(12, branches, connection, 0, None)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert parameters(network) - sum(layer.weight.numel() for layer in layers) == 15_812


def test_parameters_with_channel_attention_are_table_8() -> None:
    assert f"{parameters(on_meta(12, 18, 'residual', 3, 'first')) / 1e6:.2f}" == "9.79"


def test_maps_cost_no_parameters() -> None:
    counts = {parameters(on_meta(12, 6, "residual", n, None)) for n in range(5)}
    assert len(counts) == 1


def hooked_macs(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-accumulates of every convolution and linear layer that ran, from its shapes."""
    total = 0

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        per_output = module.weight.shape[1:].numel()  # channels per group times the kernel
        total += output.numel() * per_output

    counted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [m.register_forward_hook(count) for m in counted]
    network(*inputs)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(("connection", "branches"), VARIANTS)
def test_macs_against_hooks(connection: str, branches: int) -> None:
    network = on_meta(12, branches, connection, 0, "second").eval()
    assert multiply_accumulates(network) == hooked_macs(network, torch.zeros(1, 3, 224, 224, device="meta"))


def test_macs_are_table_6_less_one_constant() -> None:
    """Each rounded figure allows an interval of constants; all twelve must share one."""
    gaps = []
    for connection, figures in TABLE_6_GFLOPS.items():
        for branches, printed in zip(BRANCHES, figures, strict=True):
            gaps.append(printed - multiply_accumulates(on_meta(12, branches, connection, 0, None)) / 1e9)
    low, high = max(gaps) - 0.005, min(gaps) + 0.005
    assert low < high
    assert pytest.approx(low, abs=5e-5) == 0.0349
    assert pytest.approx(high, abs=5e-5) == 0.0355


@pytest.mark.parametrize("branches", BRANCHES)
def test_basic_block_against_a_loop(branches: int) -> None:
    """Eqs. 1–4, one channel at a time, with branch l and partition m spelt out."""
    torch.manual_seed(branches)
    channels, size = 36, 5
    partitions = channels // branches
    block = Block(channels, branches, "residual", None).eval()
    x = torch.randn(1, channels, size, size)
    z1 = torch.empty(1, channels, size, size)
    for branch in range(branches):  # Eq. 1: a branch sees its own M channels
        own = slice(branch * partitions, (branch + 1) * partitions)
        weight, bias = block.first.weight[own], block.first.bias[own]
        z1[:, own] = nn.functional.conv2d(x[:, own], weight, bias, padding=1)
    z1 = torch.relu(block.first_norm(z1))
    expected = torch.empty_like(z1)
    for m in range(partitions):  # Eq. 2: partition m has the m-th channel of every branch
        gathered = [z1[0, branch * partitions + m] for branch in range(branches)]
        for branch in range(branches):  # Eq. 3, and Eq. 4: back to where the channel came from
            row = m * branches + branch
            weights = block.second.weight[row, :, 0, 0]
            y = sum(w * z for w, z in zip(weights, gathered, strict=True)) + block.second.bias[row]
            norm = block.second_norm
            # The norm comes before the way back, so it is the partition's order that counts.
            y = (y - norm.running_mean[row]) / torch.sqrt(norm.running_var[row] + norm.eps)
            expected[0, branch * partitions + m] = y * norm.weight[row] + norm.bias[row]
    torch.testing.assert_close(block.basic(x), expected, rtol=1e-4, atol=1e-5)


def test_interleave_deals_channels_out_and_back() -> None:
    x = torch.arange(12.0).view(1, 12, 1, 1)
    assert interleave(x, 3).flatten().tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert torch.equal(interleave(interleave(x, 3), 4), x)


@pytest.mark.parametrize("connection", ["residual", "dense"])
def test_connection_follows_equations_5_to_7(connection: str) -> None:
    torch.manual_seed(0)
    block = Block(18, 6, connection, None).eval()
    x = torch.randn(2, 18, 4, 4)
    y = block.basic(x)
    joined = y + x if connection == "residual" else torch.cat([y, x], 1)
    weight = block.merge.weight[:, :, 0, 0]
    merged = torch.einsum("oc,bchw->bohw", weight, joined) + block.merge.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(block(x), torch.relu(block.merge_norm(merged)), rtol=1e-4, atol=1e-5)


def test_squeeze_excitation_weighs_channels() -> None:
    torch.manual_seed(0)
    se = SqueezeExcite(36, 18)
    x = torch.randn(2, 36, 3, 3)
    pooled = x.mean((2, 3))
    hidden = torch.relu(pooled @ se.reduce.weight[:, :, 0, 0].T + se.reduce.bias)
    weights = torch.sigmoid(hidden @ se.expand.weight[:, :, 0, 0].T + se.expand.bias)
    torch.testing.assert_close(se(x), x * weights[:, :, None, None])


@pytest.mark.parametrize(("se", "place", "width"), [("first", "block_se", 36), ("second", "second_se", 18)])
def test_squeeze_excitation_sits_where_figures_10_and_11_put_it(se: str, place: str, width: int) -> None:
    block = Block(18, 6, "residual", se)
    attentions = {name: m for name, m in block.named_children() if isinstance(m, SqueezeExcite)}
    assert list(attentions) == [place]
    assert attentions[place].expand.out_channels == width


def test_pooling_levels_pools_every_binary_map() -> None:
    level_map = torch.randint(0, 6, (3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    pooled_levels = nn.functional.max_pool2d(level_map.unsqueeze(1), 2).squeeze(1)
    pooled_maps = nn.functional.max_pool2d(binary_maps(level_map), 2)
    assert torch.equal(binary_maps(pooled_levels), pooled_maps)


def test_maps_double_their_own_group_only() -> None:
    x = torch.ones(1, 18, 1, 2)
    maps = binary_maps(torch.tensor([[[3, 0]]]))  # passes three thresholds; passes none
    assert maps[0, :, 0].tolist() == [[1, 0], [1, 0], [1, 0], [0, 0], [0, 0]]
    met = apply_maps(x, maps)
    assert met[0, :, 0, 0].tolist() == [1] * 3 + [2] * 9 + [1] * 6
    assert met[0, :, 0, 1].tolist() == [1] * 18


@pytest.mark.parametrize("blocks", range(5))
def test_attention_on_request(blocks: int) -> None:
    torch.manual_seed(0)
    network = CEDNN(2, 18, "residual", blocks, None).eval()
    level_map = torch.zeros(1, 224, 224, dtype=torch.uint8)
    level_map[0, 100, 101] = 4
    with torch.inference_mode():
        logits, maps = network(torch.rand(1, 3, 224, 224), level_map, return_attention=True)
    assert logits.shape == (1, 2)
    assert [tuple(m.shape) for m in maps] == [(1, 5, 224 >> i, 224 >> i) for i in range(blocks)]
    for i, used in enumerate(maps):
        assert used.nonzero().tolist() == [[0, k, 100 >> i, 101 >> i] for k in range(4)]


def test_the_level_map_matters_only_with_attention() -> None:
    torch.manual_seed(0)
    image, full = torch.rand(1, 3, 224, 224), torch.full((1, 224, 224), 5)
    with torch.inference_mode():
        plain = CEDNN(3, 18, "residual", 0, None).eval()
        assert torch.equal(plain(image), plain(image, full))
        attentive = CEDNN(3, 18, "residual", 1, None).eval()
        assert not torch.equal(attentive(image, full * 0), attentive(image, full))
    with pytest.raises(ValueError, match="level_map"):
        attentive(image)


@pytest.mark.parametrize(
    "wrong", [{"branches": 4}, {"connection": "skip"}, {"attention_blocks": 5}, {"se": "third"}]
)
def test_wrong_variants_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        CEDNN(12, **wrong)


def test_igc_is_the_baseline_of_table_6() -> None:
    """0.57 million parameters with the 13 AUs of CK+, 20 layers, 0.83 GFLOPs with element-wise work."""
    with torch.device("meta"):
        network = IGC(13).eval()
    assert f"{parameters(network) / 1e6:.2f}" == "0.57"
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20
    macs = multiply_accumulates(network)
    assert macs == hooked_macs(network, torch.zeros(1, 3, 224, 224, device="meta"))
    elements = 48 * 224**2, 96 * 112**2, 192 * 56**2
    # A bias, two operations of a normalisation and a ReLU after each convolution: 1 in the stem, 6 a stage.
    element_wise = 4 * (elements[0] * 7 + elements[1] * 6 + elements[2] * 6)
    assert f"{(macs + element_wise) / 1e9:.2f}" == "0.83"


def test_igc_block_against_a_loop() -> None:
    """L = 24 groups of M channels, then M groups of one channel from each, one output at a time."""
    torch.manual_seed(0)
    block = IGCBlock(48, 96, 2).eval()
    x = torch.randn(1, 48, 6, 6)
    first = torch.cat(
        [
            nn.functional.conv2d(
                x[:, 2 * g : 2 * g + 2], block.first.weight[4 * g : 4 * g + 4], stride=2, padding=1
            )
            for g in range(24)
        ],
        dim=1,
    )
    first = torch.relu(block.first_norm(first + block.first.bias.view(1, -1, 1, 1)))
    expected = torch.empty(1, 96, 3, 3)
    for m in range(4):
        gathered = first[0, m::4]  # the m-th channel of every group
        for g in range(24):
            row = 24 * m + g
            y = (block.second.weight[row, :, 0, 0].view(-1, 1, 1) * gathered).sum(0) + block.second.bias[row]
            norm = block.second_norm
            y = (y - norm.running_mean[row]) / torch.sqrt(norm.running_var[row] + norm.eps)
            expected[0, 4 * g + m] = torch.relu(y * norm.weight[row] + norm.bias[row])
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
