"""SAT-Net's ConvLSTM on a CPU, one step for many windows: Winograd convolutions and the cell in Numba.

Equations 1–3 of Li, Zhang, Yin ("SAT-Net: Self-Attention and Temporal Fusion for Facial Action Unit
Detection"); networks/satnet.py has them in PyTorch and says what the paper leaves open. A window's numbers
are computed by the same operations in the same order whatever else is in the batch: they are the same to the
bit.

Layouts, float32: a *block* is 16 hidden channels, and its 64 outputs are their input, forget, candidate and
output gates, so that a block's cells can be computed from its outputs alone.

    hidden, features   [30, 30, 128], a border of zeros around 28×28
    gates              [block 8, tile 49, pixel 16, gate 4, channel 16]
    cell               [block 8, tile 49, pixel 16, channel 16]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from engines import winograd
from engines.crew import Crew

SIDE = 28
CHANNELS = 128
PADDED = SIDE + 2
LANES = 16
"""Hidden channels to a block."""
BLOCKS = CHANNELS // LANES
ACROSS = SIDE // winograd.TILE
TILES = ACROSS * ACROSS
PIXELS = winograd.TILE**2
WINDOWS = 16
"""Windows that go through the kernels together: their points take 14 MB."""

_F = np.float32
_ONE, _TWO, _LIMIT = _F(1), _F(2), _F(30)
_LOG2_E = _F(1 / np.log(2))
_LN2_HIGH = _F(0.693359375)
"""ln 2 to ten bits, so that its product with a small integer is exact."""
_LN2_LOW = _F(np.log(2) - 0.693359375)
_ROUND = _F(1.5 * 2**23)
"""Added to a small float32, leaves its nearest integer in the lowest bits."""
_C2, _C3, _C4, _C5, _C6, _C7 = (_F(1 / f) for f in (2, 6, 24, 120, 720, 5040))


@intrinsic
def _bits(_context, value):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def generate(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _from_bits(_context, value):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def generate(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(inline="always")
def exp(x: Any) -> Any:
    """eˣ, x limited to ±30: Taylor's polynomial on [−ln 2 / 2, ln 2 / 2], times a power of 2."""
    x = min(max(x, -_LIMIT), _LIMIT)
    shifted = x * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = _C6 + r * _C7
    p = _C5 + r * p
    p = _C4 + r * p
    p = _C3 + r * p
    p = _C2 + r * p
    p = _ONE + r * p
    p = _ONE + r * p
    power = np.int32(np.int32(_bits(shifted)) << np.int32(23)) + np.int32(0x3F800000)  # type: ignore[call-arg]
    return p * _from_bits(np.int32(power))


@njit(inline="always")
def sigmoid_times_tanh(s: Any, t: Any) -> Any:
    """σ(s) · tanh(t) with one division: (1 − e^−2t) / ((1 + e^−s)(1 + e^−2t))."""
    e = exp(-_TWO * t)
    return (_ONE - e) / ((_ONE + exp(-s)) * (_ONE + e))


@njit(inline="always")
def sigmoid(s: Any) -> Any:
    """1 / (1 + e^−s)."""
    return _ONE / (_ONE + exp(-s))


@njit(nogil=True, boundscheck=False, cache=True, error_model="numpy", fastmath={"contract"})
def _cells(
    from_hidden: NDArray[np.float32],
    from_input: NDArray[np.float32],
    first: bool,
    block: int,
    cell: NDArray[np.float32],
    hidden: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Cell and hidden state of one block, in place (eqs. 2 and 3).

    Args:
        from_hidden: [tile, pixel, 64]; not read at the first step, where it is zero.
        from_input: the same of the frame.
        first: whether there was no step before.
        block: which.
        cell: [tile, pixel, 16], read unless `first`, written.
        hidden: of all blocks, [30, 30, 128], this block's channels written.
    """
    i, f, g, o = 0, LANES, 2 * LANES, 3 * LANES
    for tile in range(TILES):
        for pixel in range(PIXELS):
            place = tile * PIXELS + pixel
            x = from_input[place * 4 * LANES : (place + 1) * 4 * LANES]
            c = cell[place * LANES : (place + 1) * LANES]
            row = tile // ACROSS * winograd.TILE + pixel // winograd.TILE + 1
            column = tile % ACROSS * winograd.TILE + pixel % winograd.TILE + 1
            start = (row * PADDED + column) * CHANNELS + block * LANES
            h = hidden[start : start + LANES]
            if first:
                for k in range(LANES):
                    now = sigmoid_times_tanh(x[k + i], x[k + g])
                    c[k] = now
                    h[k] = sigmoid_times_tanh(x[k + o], now)
            else:
                y = from_hidden[place * 4 * LANES : (place + 1) * 4 * LANES]
                for k in range(LANES):
                    now = sigmoid_times_tanh(x[k + i] + y[k + i], x[k + g] + y[k + g])
                    now += sigmoid(x[k + f] + y[k + f]) * c[k]
                    c[k] = now
                    h[k] = sigmoid_times_tanh(x[k + o] + y[k + o], now)


@njit(nogil=True, boundscheck=False, cache=True)
def _add_bias(gates: NDArray[np.float32], bias: NDArray[np.float32]) -> None:  # pragma: no cover - compiled
    """gates [tile, pixel, 64] += bias [64]."""
    for start in range(0, gates.size, winograd.BLOCK):
        row = gates[start : start + winograd.BLOCK]
        for k in range(winograd.BLOCK):
            row[k] += bias[k]


@dataclass(frozen=True, slots=True)
class State:
    """What a window carries from frame to frame; written over by the next step."""

    hidden: NDArray[np.float32]
    """[30, 30, 128]."""
    cell: NDArray[np.float32]
    """[8, 12544]."""


def by_blocks(gates: NDArray[np.float32]) -> NDArray[np.float32]:
    """PyTorch's order of the 512 gates along the first axis (gate, channel) → (block, gate, channel)."""
    split = gates.reshape(4, BLOCKS, LANES, *gates.shape[1:])
    return np.ascontiguousarray(split.swapaxes(0, 1)).reshape(gates.shape)


class ConvLSTMKernel:
    """Both halves of the gates, and the cell. Not for two threads at once; it brings its own."""

    def __init__(
        self,
        input_weights: NDArray[np.float32],
        input_bias: NDArray[np.float32],
        hidden_weights: NDArray[np.float32],
        crew: Crew,
    ) -> None:
        """Takes what `winograd.weight_transform` makes of weights ordered `by_blocks`, and the bias likewise.

        Args:
            input_weights: [8, 36, 128, 64].
            input_bias: [512].
            hidden_weights: [8, 36, 128, 64].
            crew: does the work.
        """
        self._input = [block.reshape(-1) for block in input_weights]
        self._bias = input_bias.reshape(BLOCKS, winograd.BLOCK)
        self._hidden = [block.reshape(-1) for block in hidden_weights]
        self._crew = crew
        self._sums = [
            np.empty(TILES * winograd.POINTS * winograd.BLOCK, np.float32) for _ in range(crew.size)
        ]
        self._pixels = [np.empty(TILES * PIXELS * winograd.BLOCK, np.float32) for _ in range(crew.size)]
        self._points: list[NDArray[np.float32]] = []
        # Once through everything, so that no frame of a live stream waits for Numba.
        nothing = self.gates(np.zeros((PADDED, PADDED, CHANNELS), np.float32))
        self.step([nothing], self.step([nothing], [None]))

    def gates(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a frame adds to its gates: features [30, 30, 128] → [8, 50176]."""
        gates = np.empty((BLOCKS, TILES * PIXELS * winograd.BLOCK), np.float32)
        self._transform([features.reshape(-1)])

        def one_block(worker: int, block: int) -> None:
            self._convolve(worker, 0, self._input[block], gates[block])
            _add_bias(gates[block], self._bias[block])

        self._crew.share(BLOCKS, one_block)
        return gates

    def step(self, gates: Sequence[NDArray[np.float32]], states: Sequence[State | None]) -> list[State]:
        """One frame on, every window with the gates of its frame; None where it is the window's first."""
        begun = [(g, s) for g, s in zip(gates, states, strict=True) if s is not None]
        for start in range(0, len(begun), WINDOWS):
            self._advance(begun[start : start + WINDOWS])
        new = [g for g, s in zip(gates, states, strict=True) if s is None]
        fresh = iter(self._start(new))
        return [s if s is not None else next(fresh) for s in states]

    def _start(self, gates: Sequence[NDArray[np.float32]]) -> list[State]:
        states = [
            State(
                np.zeros(PADDED * PADDED * CHANNELS, np.float32),
                np.empty((BLOCKS, TILES * PIXELS * LANES), np.float32),
            )
            for _ in gates
        ]

        def one_block(_worker: int, piece: int) -> None:
            window, block = divmod(piece, BLOCKS)
            g, s = gates[window][block], states[window]
            _cells(g, g, True, block, s.cell[block], s.hidden)

        self._crew.share(len(states) * BLOCKS, one_block)
        return states

    def _advance(self, windows: Sequence[tuple[NDArray[np.float32], State]]) -> None:
        # All points first: a step writes its hidden state over the one that they are made from.
        self._transform([state.hidden for _, state in windows])

        def one_block(worker: int, piece: int) -> None:
            block, window = divmod(piece, len(windows))  # by blocks: a block's weights stay in the cache
            gates, state = windows[window]
            self._convolve(worker, window, self._hidden[block], self._pixels[worker])
            _cells(self._pixels[worker], gates[block], False, block, state.cell[block], state.hidden)

        self._crew.share(BLOCKS * len(windows), one_block)

    def _transform(self, pictures: Sequence[NDArray[np.float32]]) -> None:
        while len(self._points) < len(pictures):
            self._points.append(np.empty(TILES * winograd.POINTS * CHANNELS, np.float32))

        def one_row(_worker: int, piece: int) -> None:
            picture, row = divmod(piece, ACROSS)
            winograd.to_points(pictures[picture], SIDE, CHANNELS, row * ACROSS, ACROSS, self._points[picture])

        self._crew.share(len(pictures) * ACROSS, one_row)

    def _convolve(
        self, worker: int, picture: int, weights: NDArray[np.float32], pixels: NDArray[np.float32]
    ) -> None:
        winograd.multiply(self._points[picture], weights, CHANNELS, TILES, self._sums[worker])
        winograd.from_points(self._sums[worker], TILES, pixels)
