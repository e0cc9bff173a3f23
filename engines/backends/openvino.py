"""OpenVINO on the CPU. PyTorch is imported to export only."""

from __future__ import annotations

import queue
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from engines.backends import COMPUTES
from engines.backends.base import Backend, InParts, Session, SlidingSession
from engines.backends.recurrence import PartsSession, open_recurrence, save_recurrence
from engines.spec import EngineSpec
from pipeline.errors import EngineError, last_line

if TYPE_CHECKING:
    from torch import nn

    from engines.export import ExportedEngine
    from engines.int8 import Int8

_FILE = "model.xml"
_FRAME_FILE, _HEAD_FILE = "frame.xml", "head.xml"
_COMPUTED_IN = ("austream", "computed_in")
"""Where an IR says that it is to be computed in another type than float32."""
Shapes = Mapping[str, tuple[tuple[int, ...], type]]


class Requests:
    """A compiled model with as many inference requests as it has lanes; who finds none free waits."""

    def __init__(self, compiled: Any, lanes: int) -> None:
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        nothing = {p.any_name: np.zeros(tuple(p.shape), p.element_type.to_dtype()) for p in compiled.inputs}
        for _ in range(lanes):
            request = compiled.create_infer_request()
            # One by one, before threads come to it: OpenVINO's Python layer sets up its table of types at the
            # first inference, and two threads that do so together wait for each other for ever (2026.4.1).
            request.infer(nothing)
            self._free.put(request)

    def infer(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The model's only output, in memory of its own."""
        request = self._free.get()
        try:
            return np.array(request.infer(inputs, share_inputs=True, share_outputs=True)[0])
        finally:
            self._free.put(request)


class OpenVINOSession:
    """Runs one face at a time, so that a face's result does not depend on its company."""

    def __init__(self, requests: Requests, spec: EngineSpec) -> None:
        self._requests = requests
        self._n_aus = len(spec.aus)

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `Session`."""
        faces = len(inputs["crops"])
        probabilities = np.empty((faces, self._n_aus), np.float32)
        for face in range(faces):
            one = {name: array[face : face + 1] for name, array in inputs.items()}
            probabilities[face] = self._requests.infer(one)[0]
        return probabilities


class OpenVINOBackend(Backend):
    """float32 arithmetic; `fp16` stores the weights in half the space and computes in float32 as well. `bf16`
    computes in bfloat16 where the processor can. `int8` rounds what `engines.int8` names. A temporal engine's
    recurrence stays in float32."""

    name = "openvino"
    precisions = COMPUTES[name]

    def export(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """Traces the engine at batch 1 and writes OpenVINO's IR."""
        # No Winograd in bf16: its sums would be rounded in between.
        with deployed(engine, winograd=precision != "bf16"):
            _convert(engine, spec.inputs(1), precision, folder / _FILE)

    def open(self, folder: Path, spec: EngineSpec, threads: int | None, lanes: int = 1) -> Session:
        """See `Backend`."""
        if (folder / _FRAME_FILE).exists():
            return InParts(self.open_sliding(folder, spec, threads, lanes))
        return OpenVINOSession(_compile(folder / _FILE, threads, lanes), spec)

    def graphs(self, engine: ExportedEngine, spec: EngineSpec) -> dict[str, Any]:
        """What INT8 may change, in float32: `model`, or `frame` and `head` of a temporal engine."""
        if spec.window == 1:
            # No Winograd: its sums are no convolutions any more, and in INT8 the plain ones are faster.
            with deployed(engine, winograd=False):
                return {"model": _traced(engine, spec.inputs(1))}
        frame, head = _parts(engine, spec)
        return {"frame": _traced(*frame), "head": _traced(*head)}

    def export_int8(self, engine: ExportedEngine, spec: EngineSpec, int8: Int8, folder: Path) -> None:
        """See `Backend`."""
        from engines.int8_graph import apply

        graphs = self.graphs(engine, spec)
        if graphs.keys() != int8.graphs.keys():
            raise EngineError(f"{spec.name}: INT8 of {sorted(int8.graphs)}, the engine has {sorted(graphs)}")
        for name, model in graphs.items():
            apply(model, int8.graphs[name], f"{spec.name}'s INT8 form")
            openvino.save_model(model, folder / f"{name}.xml", compress_to_fp16=False)
        if spec.window > 1:
            save_recurrence(engine, "fp32", folder)

    def export_sliding(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """IR of the frame part and the head; the ConvLSTM's weights as its kernel wants them."""
        for path, (module, inputs) in zip((_FRAME_FILE, _HEAD_FILE), _parts(engine, spec), strict=True):
            _convert(module, inputs, precision, folder / path)
        save_recurrence(engine, "fp16" if precision == "fp16" else "fp32", folder)

    def open_sliding(
        self,
        folder: Path,
        spec: EngineSpec,  # noqa: ARG002
        threads: int | None,
        lanes: int = 1,
    ) -> SlidingSession:
        """See `Backend`."""
        recurrence = open_recurrence(folder, threads)
        frame = _compile(folder / _FRAME_FILE, threads, lanes)
        return PartsSession(frame, recurrence, _compile(folder / _HEAD_FILE, threads, 1))


@contextmanager
def deployed(engine: ExportedEngine, winograd: bool) -> Iterator[None]:
    """For as long as it lasts, the engine's network is in the form that OpenVINO computes fastest; `winograd`
    counts where the network is for it."""
    from engines.winograd_graph import by_product, by_winograd

    network = engine.network
    engine.network = network.deployed()
    channels = network.winograd_from if winograd else None
    try:
        with by_winograd(engine.network, channels), by_product(engine.network):
            yield
    finally:
        engine.network = network


def _parts(engine: ExportedEngine, spec: EngineSpec) -> list[tuple[nn.Module, Shapes]]:
    """Frame part and head of a temporal engine, with their inputs."""
    from engines.convlstm import CHANNELS, PADDED
    from engines.export import FramePart, HeadPart

    frames = {"crops": ((1, *spec.crops_shape(1)[2:]), np.uint8)}
    hidden = {"hidden": ((1, PADDED, PADDED, CHANNELS), np.float32)}
    return [(FramePart(engine), frames), (HeadPart(engine), hidden)]


def _convert(module: nn.Module, inputs: Shapes, precision: str, path: Path) -> None:
    """Trace a module and write its IR, which says so itself where it is to be computed in bfloat16."""
    model = _traced(module, inputs)
    if precision == "bf16":
        model.set_rt_info(precision, [*_COMPUTED_IN])
    openvino.save_model(model, path, compress_to_fp16=precision == "fp16")


def _traced(module: nn.Module, inputs: Shapes) -> Any:
    """A module's graph for those inputs' shapes and types."""
    import torch

    module.eval()
    example = {name: torch.from_numpy(np.zeros(shape, dtype)) for name, (shape, dtype) in inputs.items()}
    shapes = [(name, shape) for name, (shape, _) in inputs.items()]
    with warnings.catch_warnings(), torch.inference_mode():
        # Tracing fixes the shapes, which is meant, and says so at every shape that Python code looks at.
        warnings.simplefilter("ignore")
        return openvino.convert_model(module, example_input=example, input=shapes)


@cache
def core() -> Any:
    """One for the process, for ever.

    Each Core gives the thread that makes it another stack for signal handlers and takes it away when it dies,
    whichever one is in use by then (2026.4.1). After two had died in the order of their birth the next signal
    that Python handles, a child's end or Ctrl-C, ended the process with a segmentation fault.
    """
    return openvino.Core()


@contextmanager
def one_core() -> Iterator[None]:
    """Whoever makes a Core meanwhile gets the process's one: NNCF makes several and lets them die."""
    core()
    places = (openvino, openvino._ov_api)  # `openvino.Core()` and `openvino.compile_model()`
    made_by_others = openvino.Core
    for place in places:
        place.Core = core
    try:
        yield
    finally:
        for place in places:
            place.Core = made_by_others


def _compile(path: Path, threads: int | None, lanes: int) -> Requests:
    # f32 said outright: on a CPU with bfloat16 OpenVINO would take that by itself, asked or not.
    # Unpinned: each engine pins its threads to the same cores, whatever else runs there.
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": lanes,
        "ENABLE_CPU_PINNING": False,
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        model = core().read_model(path)
        if model.has_rt_info([*_COMPUTED_IN]):
            options["INFERENCE_PRECISION_HINT"] = model.get_rt_info([*_COMPUTED_IN]).astype(str)
        return Requests(core().compile_model(model, "CPU", options), lanes)
    except RuntimeError as error:
        reason = last_line(error)
        raise EngineError(f"{path.parent}: OpenVINO cannot load the compiled engine: {reason}") from None


BACKEND = OpenVINOBackend()
