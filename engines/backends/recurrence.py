"""A temporal engine in parts on a CPU: whichever library computes frame part and head, the recurrence between
them is computed by `ConvLSTMKernel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from engines.convlstm import ConvLSTMKernel, State
    from engines.export import ExportedEngine

_FILE = "recurrence.npz"


class Compiled(Protocol):
    """A part that a library computes."""

    def infer(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The only output, in memory of its own."""
        ...


class PartsSession:
    """Frame part and head through a library, one frame and one window at a time; the recurrence between them
    through `ConvLSTMKernel`, three times as fast as OpenVINO's own (LOG.md, 2026-11-21).
    """

    def __init__(self, frame: Compiled, recurrence: ConvLSTMKernel, head: Compiled) -> None:
        self._frame, self._recurrence, self._head = frame, recurrence, head

    def features(self, crop: np.ndarray) -> np.ndarray:
        """See `SlidingSession`; (30, 30, 128)."""
        return self._frame.infer({"crops": np.ascontiguousarray(crop)[None]})

    def gates(self, features: np.ndarray) -> np.ndarray:
        """See `SlidingSession`."""
        return self._recurrence.gates(features)

    def step(self, gates: Sequence[np.ndarray], states: Sequence[State | None]) -> list[State]:
        """See `SlidingSession`."""
        return self._recurrence.step(gates, states)

    def head(self, state: State) -> np.ndarray:
        """See `SlidingSession`."""
        from engines.convlstm import CHANNELS, PADDED

        hidden = state.hidden.reshape(1, PADDED, PADDED, CHANNELS)
        return self._head.infer({"hidden": hidden})[0]


def save_recurrence(engine: ExportedEngine, precision: str, folder: Path) -> None:
    """The ConvLSTM's weights, transformed as the kernel wants them; float16 where weights are stored so."""
    from engines.convlstm import by_blocks
    from engines.winograd import weight_transform

    lstm: Any = engine.network.conv_lstm
    stored = np.float16 if precision == "fp16" else np.float32
    layers = ("input_weights", lstm.input_gates), ("hidden_weights", lstm.hidden_gates)
    transformed = {
        name: weight_transform(by_blocks(layer.weight.detach().numpy())).astype(stored)
        for name, layer in layers
    }
    np.savez(folder / _FILE, **transformed, input_bias=by_blocks(lstm.input_gates.bias.detach().numpy()))


def open_recurrence(folder: Path, threads: int | None) -> ConvLSTMKernel:
    """The kernel with the weights of `save_recurrence`."""
    from engines.convlstm import ConvLSTMKernel
    from engines.crew import Crew, usable_cores

    with np.load(folder / _FILE, allow_pickle=False) as stored:
        weights = {name: stored[name].astype(np.float32) for name in stored.files}
    return ConvLSTMKernel(**weights, crew=Crew(threads or usable_cores()))
