"""CEDNN's deployed form against the network that it stands for."""

from __future__ import annotations

import itertools

import pytest
import torch

from engines.networks.cednn import BRANCHES, CEDNN, Block, apply_maps, binary_maps
from engines.networks.cednn_deployed import DeployedBlock, thresholds, whole_second
from engines.weights import randomise

FORMS = list(itertools.product(BRANCHES, ("residual", "dense"), (None, "first", "second")))


def a_block(branches: int, connection: str, se: str | None) -> Block:
    torch.manual_seed(branches)
    block = Block(36, branches, connection, se).eval()
    for norm in (block.first_norm, block.second_norm, block.merge_norm):
        torch.nn.init.normal_(norm.weight)  # of either sign
        torch.nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return block


@pytest.mark.parametrize(("branches", "connection", "se"), FORMS)
@pytest.mark.parametrize("pools", [True, False])
def test_a_block_is_the_block(branches: int, connection: str, se: str | None, pools: bool) -> None:
    block = a_block(branches, connection, se)
    x = torch.randn(2, 36, 10, 14)
    with torch.no_grad():
        wanted = block(x)
        wanted = torch.nn.functional.max_pool2d(wanted, 2) if pools else wanted
        torch.testing.assert_close(DeployedBlock(block, pools)(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("branches", BRANCHES)
def test_one_convolution_says_what_two_permutations_and_groups_say(branches: int) -> None:
    block = a_block(branches, "residual", None)
    z = torch.randn(3, 36, 5, 4)
    with torch.no_grad():
        conv = whole_second(block)
        torch.testing.assert_close(conv(z), block.mixed(z), rtol=1e-5, atol=1e-5)
    # Group l's channel m reaches only what is the m-th of its group: Eq. 2.
    reached = conv.weight[:, :, 0, 0] != 0
    of_group = torch.arange(36) % (36 // branches)
    assert torch.equal(reached, of_group[:, None] == of_group)


@pytest.mark.parametrize("channels", [18, 144])
def test_thresholds_are_the_maps(channels: int) -> None:
    level = torch.randint(0, 6, (2, 9, 7)).float()
    x = torch.randn(2, channels, 9, 7)
    got = x * (1 + (level[:, None] >= thresholds(channels)).float())
    assert torch.equal(got, apply_maps(x, binary_maps(level)))


@pytest.mark.parametrize(
    ("branches", "connection", "blocks", "se"),
    [
        (18, "residual", 3, "first"),
        (6, "dense", 4, "second"),
        (1, "residual", 2, None),
        (18, "dense", 0, "first"),
    ],
)
def test_the_whole_network(branches: int, connection: str, blocks: int, se: str | None) -> None:
    network = CEDNN(5, branches, connection, blocks, se)
    randomise(network, 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    image = torch.rand(2, 3, 224, 224)
    level = torch.randint(0, 6, (2, 224, 224)).float() if blocks else None
    with torch.no_grad():
        wanted, got = network(image, level), network.deployed()(image, level)
    assert wanted.std() > 0.01
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
