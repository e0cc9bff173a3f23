"""engines/networks/delta.py: what a missing neutral means, and that each part is read as described."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engines.networks.delta import (
    _LEFT_OUT,
    _PLACE_GAIN,
    AttentionPool,
    Delta,
    Wide,
    _as_ways,
    _with_one_left_out,
)
from pipeline.errors import UsageError

GENERATOR = torch.Generator().manual_seed(3)
FACES = torch.rand((3, 3, 224, 224), generator=GENERATOR)
RESTS = torch.rand((3, 3, 224, 224), generator=GENERATOR)
POINTS = torch.randn((3, 2, 468, 3), generator=GENERATOR)


@pytest.fixture(scope="module")
def network() -> Delta:
    torch.manual_seed(0)
    return Delta(4).eval()


@torch.inference_mode()
def logits(network: Delta, *inputs: torch.Tensor) -> np.ndarray:
    return network(*inputs).numpy()


def test_ways_are_displacements_and_zero_without_a_neutral() -> None:
    points = POINTS.clone()
    points[1, 1] = 0
    ways = _as_ways(points).numpy()
    face, rest = points[:, 0].numpy(), points[:, 1].numpy()
    for i in range(3):
        np.testing.assert_array_equal(ways[i, :1404], face[i].ravel())
        wanted = np.zeros(1404) if i == 1 else 10 * (face[i] - rest[i]).ravel()
        np.testing.assert_allclose(ways[i, 1404:2808], wanted, atol=1e-5)
        assert ways[i, 2808] == (i != 1)


def test_exposure_and_tone_say_nothing_to_the_pixel_part(network: Delta) -> None:
    usual = logits(network, FACES, RESTS, POINTS)
    np.testing.assert_allclose(logits(network, 0.5 * FACES, 0.5 * RESTS, POINTS), usual, atol=1e-4)
    assert np.abs(logits(network, FACES, RESTS.flip(0), POINTS) - usual).max() > 1e-3
    assert np.abs(logits(network, FACES, RESTS, POINTS.flip(1)) - usual).max() > 1e-3


def test_faces_do_not_see_each_other(network: Delta) -> None:
    together = logits(network, FACES, RESTS, POINTS)
    alone = [logits(network, FACES[i : i + 1], RESTS[i : i + 1], POINTS[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


def test_attention_gathers_by_softmax() -> None:
    torch.manual_seed(1)
    pool, x = AttentionPool(5, 2, 3), torch.randn((2, 5, 3, 3))
    pool.place.data.normal_()
    gathered, maps = (t.detach().numpy() for t in pool(x))
    weight, bias = pool.map.weight.detach().numpy()[:, :, 0, 0], pool.map.bias.detach().numpy()
    place = _PLACE_GAIN * pool.place.detach().numpy()
    for b in range(2):
        for au in range(2):
            score = np.exp(np.einsum("c,chw->hw", weight[au], x[b].numpy()) + bias[au] + place[au])
            np.testing.assert_allclose(maps[b, au], score / score.sum(), atol=1e-6)
            wanted = (score / score.sum() * x[b].numpy()).sum(axis=(1, 2))
            np.testing.assert_allclose(gathered[b, au], wanted, atol=1e-5)


def test_one_part_at_most_is_left_out_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    one, other = _with_one_left_out([torch.ones((100000, 1, 1)), torch.ones((100000, 1, 1))])
    assert ((one > 0) | (other > 0)).all()
    for part, share in zip((one, other), _LEFT_OUT, strict=True):
        assert abs(float((part == 0).float().mean()) - share) < 0.01
        assert abs(float(part.mean()) - 1) < 0.01


def test_either_part_stands_alone() -> None:
    pixels, points = Delta(4, landmarks=False).eval(), Delta(4, pixels=False).eval()
    assert (pixels.reads_neutral, pixels.reads_landmarks) == (True, False)
    assert (points.reads_neutral, points.reads_landmarks) == (False, True)
    assert logits(pixels, FACES, RESTS).shape == (3, 4)
    with torch.inference_mode():
        assert points(FACES, landmarks=POINTS).shape == (3, 4)
        _, maps = pixels(FACES, RESTS, return_attention=True)
        np.testing.assert_allclose(maps.sum(dim=(2, 3)), 1, atol=1e-5)
        with pytest.raises(UsageError, match="pixel part"):
            points(FACES, landmarks=POINTS, return_attention=True)
    with pytest.raises(UsageError, match="got neither"):
        Delta(4, pixels=False, landmarks=False)


def test_wide_is_linear() -> None:
    torch.manual_seed(0)
    wide, x = Wide(2809, 7), torch.randn((3, 2809))
    wanted = x.double() @ wide.weight.double().T + wide.bias.double()
    np.testing.assert_allclose(wide(x).detach().numpy(), wanted.detach().numpy(), atol=1e-5)
