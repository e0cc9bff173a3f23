"""The pieces of the Winograd convolution and of the fused ConvLSTM step, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import njit

from engines import convlstm, winograd
from engines.convlstm import BLOCKS, LANES, ConvLSTMKernel, State, by_blocks
from engines.crew import Crew
from engines.networks.satnet import ConvLSTM


def bordered(picture: np.ndarray) -> np.ndarray:
    """(C, S, S) → flat [S + 2, S + 2, C]."""
    return np.pad(picture.transpose(1, 2, 0), ((1, 1), (1, 1), (0, 0))).ravel()


def test_one_tile_is_a_correlation() -> None:
    """F(4, 3) along one axis in plain Python: Aᵀ[(G w) ⊙ (Bᵀ d)]."""
    rng = np.random.default_rng(0)
    d, w = rng.standard_normal(6).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    points = winograd.input_transform.py_func(*d)
    weight = np.zeros((64, 1, 3, 3), np.float32)
    weight[0, 0, 2] = w  # at the point ∞ of the first axis, G takes its last row
    transformed = winograd.weight_transform(weight).reshape(6, 6, 64)[5, :, 0]
    got = winograd.output_transform.py_func(*(transformed * points))
    np.testing.assert_allclose(got, np.correlate(d, w), atol=1e-5)


@pytest.mark.parametrize(("side", "channels", "outputs"), [(28, 128, 128), (28, 32, 64), (56, 64, 64)])
def test_convolution(side: int, channels: int, outputs: int) -> None:
    rng = np.random.default_rng(1)
    picture = rng.standard_normal((channels, side, side)).astype(np.float32)
    weight = rng.standard_normal((outputs, channels, 3, 3)).astype(np.float32)
    across = side // 4
    tiles = across**2
    points = np.full(tiles * 36 * channels, np.nan, np.float32)
    half = across * (across // 2)
    winograd.to_points(bordered(picture), side, channels, half, tiles - half, points)
    winograd.to_points(bordered(picture), side, channels, 0, half, points)
    got = np.empty((outputs // 64, tiles * 16 * 64), np.float32)
    sums = np.empty(tiles * 36 * 64, np.float32)
    for block, weights in enumerate(winograd.weight_transform(weight)):
        winograd.multiply(points, weights.ravel(), channels, tiles, sums)
        winograd.from_points(sums, tiles, got[block])
    images = (
        got.reshape(-1, across, across, 4, 4, 64).transpose(0, 5, 1, 3, 2, 4).reshape(outputs, side, side)
    )
    double = torch.from_numpy(picture).double()[None], torch.from_numpy(weight).double()
    expected = torch.nn.functional.conv2d(*double, padding=1)[0].numpy()
    assert np.abs(images - expected).max() < 2e-6 * expected.std() * channels**0.5
    assert np.sqrt(np.mean((images - expected) ** 2)) < 1e-6 * expected.std()


def test_sigmoid_and_tanh() -> None:
    @njit(error_model="numpy", fastmath={"contract"})
    def over(s, t, both, one):  # type: ignore[no-untyped-def]
        for i in range(s.size):
            both[i] = convlstm.sigmoid_times_tanh(s[i], t[i])
            one[i] = convlstm.sigmoid(s[i])

    x = np.concatenate([np.linspace(-20, 20, 400_001), [-1e4, 1e4, -0.0, np.inf, -np.inf]]).astype(np.float32)
    wide = x.astype(np.float64)
    sigmoid = 1 / (1 + np.exp(-np.clip(wide, -700, 700)))
    both, one = np.empty_like(x), np.empty_like(x)
    over(np.full_like(x, 100), x, both, one)
    assert np.abs(both - np.tanh(wide)).max() < 1.5e-7
    over(x, x[::-1].copy(), both, one)
    assert np.abs(one - sigmoid).max() < 1e-7
    assert np.abs(both - sigmoid * np.tanh(wide[::-1])).max() < 2.5e-7


@pytest.fixture(scope="module")
def lstm() -> ConvLSTM:
    torch.manual_seed(1)
    return ConvLSTM(128).eval()


def kernel(lstm: ConvLSTM, threads: int) -> ConvLSTMKernel:
    def weights(layer: torch.nn.Conv2d) -> np.ndarray:
        return winograd.weight_transform(by_blocks(layer.weight.detach().numpy()))

    bias = by_blocks(lstm.input_gates.bias.detach().numpy())
    return ConvLSTMKernel(weights(lstm.input_gates), bias, weights(lstm.hidden_gates), Crew(threads))


def pictures(state: State) -> tuple[np.ndarray, np.ndarray]:
    """Hidden and cell state as PyTorch has them, (128, 28, 28); the border is still zero."""
    hidden = state.hidden.reshape(30, 30, 128).transpose(2, 0, 1)
    assert not hidden[:, [0, -1]].any()
    assert not hidden[:, :, [0, -1]].any()
    cell = state.cell.reshape(BLOCKS, 7, 7, 4, 4, LANES).transpose(0, 5, 1, 3, 2, 4).reshape(128, 28, 28)
    return hidden[:, 1:-1, 1:-1], cell


def test_steps_of_the_conv_lstm(lstm: ConvLSTM) -> None:
    features = torch.relu(torch.randn(4, 128, 28, 28, generator=torch.Generator().manual_seed(2)))
    ours = kernel(lstm, 2)
    expected, state = None, None
    with torch.inference_mode():
        for frame in features:
            expected = lstm.step(lstm.input_gates(frame[None]), expected)
            [state] = ours.step([ours.gates(bordered(frame.numpy()))], [state])
            for got, wanted in zip(pictures(state), expected, strict=True):
                np.testing.assert_allclose(got, wanted[0].numpy(), atol=3e-6)


def test_batch_and_threads_change_no_bit(lstm: ConvLSTM) -> None:
    """19 windows (more than go through together), two of them new, against each alone on one thread."""
    rng = np.random.default_rng(4)
    one, two = kernel(lstm, 1), kernel(lstm, 2)
    features = [np.abs(rng.standard_normal((128, 28, 28))).astype(np.float32) for _ in range(3)]
    gates = [two.gates(bordered(f)) for f in features]
    assert all(np.array_equal(g, one.gates(bordered(f))) for g, f in zip(gates, features, strict=True))

    def begin(k: ConvLSTMKernel, n: int) -> State | None:
        return None if n in (0, 5) else k.step([gates[n % 3]], [None])[0]

    following = [gates[(n + n // 3) % 3] for n in range(19)]
    together = two.step(following, [begin(two, n) for n in range(19)])
    for n, state in enumerate(together):
        [alone] = one.step([following[n]], [begin(one, n)])
        assert np.array_equal(alone.hidden, state.hidden)
        assert np.array_equal(alone.cell, state.cell)


def test_a_crew_does_every_piece_once_and_hands_errors_on() -> None:
    crew = Crew(3)
    done: list[int] = []
    crew.share(50, lambda _, piece: done.append(piece))
    assert sorted(done) == list(range(50))
    crew.share(0, lambda *_: pytest.fail("there is nothing to do"))

    def fails(_: int, piece: int) -> None:
        if piece == 30:
            raise ValueError("piece 30")

    with pytest.raises(ValueError, match="piece 30"):
        crew.share(50, fails)
