"""What backends have in common that compile PyTorch's graph for one batch size, mainly for a GPU: the graphs
of an engine, whole or in parts, and the way of arrays to the device and back."""

from __future__ import annotations

import copy
import json
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from engines.backends.base import Backend, InParts, Session, SlidingSession
from engines.batching import Batcher, in_batches
from engines.export import ExportedEngine, Mixed
from engines.gpu import nvidia_gpu
from engines.spec import EngineSpec
from pipeline.errors import EngineError

if TYPE_CHECKING:
    from engines.int8 import Int8
    from engines.int8_layers import Layer
    from engines.networks.satnet import SATNet

_INFO_FILE = "device.json"
_HIDDEN = (128, 28, 28)
WINDOWS = 16
"""In flight for a face at hop 1; more go in turns."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Shapes = Mapping[str, tuple[tuple[int, ...], type]]
Call = Callable[..., Tensor]
"""A compiled graph: tensors by name → a tensor, all on its device."""


def device_here() -> str:
    """`cuda` where PyTorch can use a GPU; `cpu` where there is none.

    Raises:
        EngineError: there is one that PyTorch cannot use; on a CPU it would not be what was asked for.
    """
    if torch.cuda.is_available():
        return "cuda"
    if (gpu := nvidia_gpu()) is not None:
        raise EngineError(
            f"PyTorch {torch.__version__} cannot use the GPU {gpu}: renew its driver, install a PyTorch for "
            "that CUDA, or choose --backend openvino"
        )
    return "cpu"


def empty_inputs(shapes: Shapes, device: str) -> dict[str, Tensor]:
    """Zeros."""
    return {
        name: torch.from_numpy(np.zeros(shape, dtype)).to(device) for name, (shape, dtype) in shapes.items()
    }


class Fixed:
    """A compiled graph with its inputs in place: one call at a time, on a GPU replayed as a CUDA graph."""

    def __init__(self, call: Call, shapes: Shapes, device: str, record: bool = True) -> None:
        """record: whether to make a CUDA graph of it, where the device is a GPU."""
        self.inputs = empty_inputs(shapes, device)
        """Where the graph reads."""
        self._call = call
        self._lock = threading.Lock()
        self._graph: torch.cuda.CUDAGraph | None = None
        with torch.inference_mode():
            if device == "cuda" and record:
                self._record()
            else:
                self.output = call(**self.inputs)

    def _record(self) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # what is made ready at a first call must not be recorded
                self._call(**self.inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.output = self._call(**self.inputs)

    def launch(self) -> Tensor:
        """Compute what lies in `inputs`. On a GPU it may not be done yet, and the next call overwrites it."""
        with torch.inference_mode():
            if self._graph is None:
                self.output = self._call(**self.inputs)
            else:
                self._graph.replay()
        return self.output

    def __call__(self, inputs: Mapping[str, np.ndarray | Tensor]) -> Tensor:
        """The result for inputs of the whole batch, in memory of its own, on the device."""
        with self._lock, torch.inference_mode():
            for name, given in inputs.items():
                if isinstance(given, np.ndarray):  # from_numpy wants writable memory
                    given = torch.from_numpy(np.require(given, requirements=["C", "W"]))
                self.inputs[name].copy_(given)
            return self.launch().clone()


class FixedSession:
    """A whole engine; faces go in batches of one size, so that a result does not depend on its company."""

    def __init__(self, fixed: Fixed, batch: int) -> None:
        self.fixed = fixed
        self._batch = batch

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `Session`."""
        parts = [self.fixed(filled)[:faces] for filled, faces in in_batches(inputs, self._batch)]
        return torch.cat(parts).cpu().numpy()


class GatesPart(nn.Module):
    """What a sliding engine computes once per frame: crops (B, 224, 224, 3) → gates (B, 512, 28, 28)."""

    def __init__(self, engine: ExportedEngine) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, crops: Tensor) -> Tensor:
        """See the class."""
        network: Any = self.engine.network
        gates: Tensor = network.conv_lstm.input_gates(network.frame_features(self.engine.images(crops)))
        return gates


class StepPart(nn.Module):
    """Windows one frame on: gates (W, 512, 28, 28) and states (2, W, 128, 28, 28), hidden and cell → states.
    A window's first state is zero, which is the same as none: the hidden half of the gates has no bias."""

    def __init__(self, network: SATNet) -> None:
        super().__init__()
        self.lstm = network.conv_lstm

    def forward(self, gates: Tensor, states: Tensor) -> Tensor:
        """See the class."""
        return torch.stack(self.lstm.step(gates, (states[0], states[1])))


class LastPart(nn.Module):
    """What it computes once per output: hidden states (B, 128, 28, 28) → probabilities."""

    def __init__(self, network: SATNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        logits, _attention = self.network.head(hidden)
        return torch.sigmoid(logits)


def sliding_parts(engine: ExportedEngine, batch: int) -> dict[str, tuple[nn.Module, Shapes]]:
    """The three graphs of a temporal engine in parts, and what they read: `WINDOWS` for each face."""
    network: Any = engine.network
    shapes = part_shapes(engine.network.input_px, batch)
    parts = {"frame": GatesPart(engine), "step": StepPart(network), "head": LastPart(network)}
    return {name: (part, shapes[name]) for name, part in parts.items()}


def part_shapes(input_px: int, batch: int) -> dict[str, Shapes]:
    """What each part reads."""
    channels, *picture = _HIDDEN
    windows = WINDOWS * batch
    return {
        "frame": {"crops": ((batch, input_px, input_px, 3), np.uint8)},
        "step": {
            "gates": ((windows, 4 * channels, *picture), np.float32),
            "states": ((2, windows, *_HIDDEN), np.float32),
        },
        "head": {"hidden": ((batch, *_HIDDEN), np.float32)},
    }


class FixedSlidingSession:
    """A temporal engine in parts of fixed batches; what passes between them stays on the device."""

    def __init__(self, parts: Mapping[str, Fixed], batch: int) -> None:
        self._frame, self._step, self._head = parts["frame"], parts["step"], parts["head"]
        self._batch = batch
        self._batcher = Batcher(self._frame, batch)

    def features(self, crop: np.ndarray) -> Tensor:
        """See `SlidingSession`; gates, (512, 28, 28). Asked for by several threads, computed together."""
        gates: Tensor = self._batcher.ask({"crops": crop[None]})
        return gates

    def features_of(self, crops: Sequence[np.ndarray]) -> list[Tensor]:
        """See `ManyAtOnce`."""
        if not len(crops):
            return []
        batches = in_batches({"crops": np.stack(crops)}, self._batch)
        return [gates for filled, faces in batches for gates in self._frame(filled)[:faces]]

    def gates(self, features: Tensor) -> Tensor:
        """See `SlidingSession`: `features` are gates already."""
        return features

    def step(self, gates: Sequence[Tensor], states: Sequence[Tensor | None]) -> list[Tensor]:
        """See `SlidingSession`; a state is (2, 128, 28, 28), hidden and cell."""
        windows = WINDOWS * self._batch
        after: list[Tensor] = []
        with torch.inference_mode():
            for begin in range(0, len(gates), windows):
                these, before = gates[begin : begin + windows], states[begin : begin + windows]
                blank = self._step.inputs["states"].new_zeros(2, *_HIDDEN)
                missing = windows - len(these)
                stacked = [blank if state is None else state for state in before] + [blank] * missing
                filled = torch.stack([*these, *[torch.zeros_like(these[0])] * missing])
                result = self._step({"gates": filled, "states": torch.stack(stacked, dim=1)})
                after += list(result[:, : len(these)].unbind(dim=1))
        return after

    def head(self, state: Tensor) -> np.ndarray:
        """See `SlidingSession`."""
        return self.heads_of([state])[0]

    def heads_of(self, states: Sequence[Tensor]) -> list[np.ndarray]:
        """See `ManyAtOnce`."""
        outputs: list[np.ndarray] = []
        with torch.inference_mode():
            for begin in range(0, len(states), self._batch):
                these = [state[0] for state in states[begin : begin + self._batch]]
                blank = [torch.zeros_like(these[0])] * (self._batch - len(these))
                result = self._head({"hidden": torch.stack([*these, *blank])})
                outputs += list(result[: len(these)].cpu().numpy())
        return outputs


class FixedBackend(Backend):
    """Compiles for the machine's GPU, at one of several batch sizes."""

    batches = (1, 8, 32, 128)
    suffix: str
    """Of the files."""
    records = True
    """Whether its graphs are to be replayed as CUDA graphs; a library may do so itself."""

    beside = "fp16"
    """What is computed in, in INT8's graphs, that is not INT8."""

    def examples(self, shapes: Shapes, device: str) -> dict[str, Tensor]:
        """What a graph is traced with."""
        return empty_inputs(shapes, device)

    @abstractmethod
    def compile(self, module: nn.Module, shapes: Shapes, precision: str, device: str, path: Path) -> None:
        """Write a graph of a module that takes inputs by name.

        Raises:
            EngineError: the library cannot.
        """

    @abstractmethod
    def load(self, path: Path, shapes: Shapes, device: str) -> Call:
        """Load what `compile` wrote.

        Raises:
            EngineError: the library refuses the file.
        """

    def export(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """See `Backend`."""
        self._compile_all({"model": (engine, spec.inputs(self.batch))}, precision, folder)

    def open(self, folder: Path, spec: EngineSpec, threads: int | None, lanes: int = 1) -> Session:
        """See `Backend`. On a CPU, PyTorch's thread count is the process's."""
        if (folder / f"frame{self.suffix}").exists():
            return InParts(self.open_sliding(folder, spec, threads, lanes))
        fixed = self._load_all({"model": spec.inputs(self.batch)}, threads, folder)
        return FixedSession(fixed["model"], self.batch)

    def export_sliding(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:  # noqa: ARG002
        """See `Backend`."""
        self._compile_all(sliding_parts(engine, self.batch), precision, folder)

    def open_sliding(
        self,
        folder: Path,
        spec: EngineSpec,
        threads: int | None,
        lanes: int = 1,  # noqa: ARG002
    ) -> SlidingSession:
        """See `Backend`."""
        parts = self._load_all(part_shapes(spec.crop.size_px, self.batch), threads, folder)
        return FixedSlidingSession(parts, self.batch)

    def export_int8(self, engine: ExportedEngine, spec: EngineSpec, int8: Int8, folder: Path) -> None:
        """See `Backend`."""
        from engines.backends.openvino import BACKEND as OPENVINO
        from engines.backends.openvino import deployed
        from engines.int8_layers import layers

        origin = f"{spec.name}'s INT8 form"
        found = OPENVINO.graphs(engine, spec)
        if found.keys() != int8.graphs.keys():
            raise EngineError(f"{origin}: of {sorted(int8.graphs)}, the engine has {sorted(found)}")
        wanted = {name: layers(model, int8.graphs[name], origin) for name, model in found.items()}
        if spec.window > 1:
            self._compile_all(sliding_parts(engine, self.batch), "int8", folder, wanted)
        else:
            with deployed(engine, winograd=False):  # the form whose layers `int8` names
                graphs = {"model": (engine, spec.inputs(self.batch))}
                self._compile_all(graphs, "int8", folder, wanted)

    def _compile_all(
        self,
        graphs: Mapping[str, tuple[nn.Module, Shapes]],
        precision: str,
        folder: Path,
        wanted: Mapping[str, Sequence[Layer]] = MappingProxyType({}),
    ) -> None:
        device = device_here()
        (folder / _INFO_FILE).write_text(json.dumps({"device": device, "precision": precision}))
        _exact(precision)
        for name, (module, shapes) in graphs.items():
            # A copy: the engine is what the result will be compared with.
            moved = copy.deepcopy(module).to(device).eval()
            if precision == "int8":
                from engines.int8_torch import round_layers

                floating, inputs = mixed(moved, self.beside, device), self.examples(shapes, device)
                moved = round_layers(floating, inputs, wanted.get(name, ()), f"INT8 of {name}")
            self.compile(moved, shapes, precision, device, folder / f"{name}{self.suffix}")

    def _load_all(self, graphs: Mapping[str, Shapes], threads: int | None, folder: Path) -> dict[str, Fixed]:
        if threads is not None:
            torch.set_num_threads(threads)
        info = json.loads((folder / _INFO_FILE).read_text())
        if info["device"] == "cuda" and not torch.cuda.is_available():
            raise EngineError(f"{folder}: compiled for a GPU that PyTorch does not see now; check the driver")
        _exact(info["precision"])
        return {
            name: Fixed(
                self.load(folder / f"{name}{self.suffix}", shapes, info["device"]),
                shapes,
                info["device"],
                self.records,
            )
            for name, shapes in graphs.items()
        }


def _exact(precision: str) -> None:
    """fp32 means that: by default a GPU's convolutions would round their factors to TF32's ten bits."""
    if precision == "fp32":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def mixed(module: nn.Module, precision: str, device: str) -> nn.Module:
    """The module, computed in a precision."""
    return Mixed(module, device, DTYPES[precision]).eval() if precision in DTYPES else module
