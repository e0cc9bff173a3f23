"""An engine as one ONNX file: uint8 crops in, probabilities out, any number of faces at a time.

What ONNX Runtime loads here, TensorRT's own tools (`trtexec --onnx`) and others load elsewhere.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import EngineError, first_line
from pipeline.whole import write_whole

if TYPE_CHECKING:
    from torch import nn

    from engines.backends.onnxruntime import Model
    from engines.cache import Log
    from engines.runtime import Engine
    from engines.spec import EngineSpec

OUTPUT = "probabilities"
BATCH = "faces"
"""The name of the dimension that is left open."""
_SMALL = 64
"""Numbers up to which a tensor stays float32 when weights are stored as float16: constants, not weights."""

_ANY = 2**40
"""More bytes than any weight has."""

Shapes = Mapping[str, tuple[tuple[int, ...], type]]


def to_onnx(module: nn.Module, inputs: Shapes, precision: str = "fp32", output: str = OUTPUT) -> bytes:
    """Export a module whose inputs all begin with the batch, which the file leaves open.

    Args:
        module: takes its inputs by name and gives one tensor.
        inputs: shape and dtype by name, the batch being 2 or more: one would be taken for a constant.
        precision: `fp16` stores weights in half the space; all is computed in float32.
        output: name of the result.

    Returns:
        A file's content that passed ONNX's checker, shape inference included.

    Raises:
        EngineError: the module cannot be exported, or only for one batch.
    """
    model = exported(module, inputs, output)
    if precision == "fp16":
        _halve(model.graph)
    return checked(model)


def exported(
    module: nn.Module, inputs: Shapes, output: str = OUTPUT, folded: bool = False
) -> onnx.ModelProto:
    """A module's graph, for `checked` to finish.

    Args:
        module, inputs, output: as `to_onnx`.
        folded: normalisations go into the weights of their layers, and what is computed of weights alone is
            computed now. Runtimes do so themselves, and it takes as long as the export.

    Raises:
        EngineError: the module cannot be exported.
    """
    import onnxscript.optimizer
    import torch

    module.eval()
    example = {name: torch.from_numpy(np.zeros(shape, dtype)) for name, (shape, dtype) in inputs.items()}
    faces = torch.export.Dim(BATCH)
    heard = logging.getLogger("torch.onnx"), logging.getLogger("onnxscript")
    before = [logger.level for logger in heard]
    try:
        for logger in heard:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # Traced here, not by the exporter: where this fails it would try again and fix the batch.
            traced = torch.export.export(
                module, (), example, dynamic_shapes={name: {0: faces} for name in inputs}, strict=False
            )
            program: Any = torch.onnx.export(
                traced, (), kwargs=example, dynamo=True, optimize=folded, verbose=False,
                input_names=list(inputs), output_names=[output],
            )  # fmt: skip
            if folded:  # the exporter's own way leaves large weights alone
                onnxscript.optimizer.optimize(program.model, input_size_limit=_ANY, output_size_limit=_ANY)
        model: onnx.ModelProto = program.model_proto
    except Exception as error:  # the exporter raises many kinds, none of which says more
        raise EngineError(f"ONNX cannot express this network: {first_line(error)}") from error
    finally:
        for logger, level in zip(heard, before, strict=True):
            logger.setLevel(level)
    return model


def checked(model: onnx.ModelProto) -> bytes:
    """A file's content, with the batch open by its name.

    Raises:
        EngineError: ONNX's checker refuses it, or the batch is fixed.
    """
    _name_open_batch(model.graph)
    content: bytes = model.SerializeToString()
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(f"the exported graph is not valid ONNX: {first_line(error)}") from None
    return content


def _halve(graph: onnx.GraphProto) -> None:
    """Keep large float32 weights as float16, with a cast behind each that runtimes fold away when they load.

    Raises:
        EngineError: a weight does not fit.
    """
    casts = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) <= _SMALL:
            continue
        name, values = weight.name, numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.isfinite(halves).all():
            raise EngineError(f"{name}: a weight exceeds float16; build it in fp32")
        weight.CopyFrom(numpy_helper.from_array(halves, f"{name}:half"))
        casts.append(helper.make_node("Cast", [f"{name}:half"], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def _name_open_batch(graph: onnx.GraphProto) -> None:
    """Call the open dimension of inputs and outputs `BATCH`, for which the tracer has a symbol.

    Raises:
        EngineError: the export fixed it.
    """
    del graph.value_info[:]  # shapes in between, in terms of the symbol; runtimes find them themselves
    for value in [*graph.input, *graph.output]:
        dimension = value.type.tensor_type.shape.dim[0]
        if not dimension.dim_param:
            raise EngineError(f"{value.name}: the export fixed the batch to {dimension.dim_value}")
        dimension.dim_param = BATCH


def engine_to_onnx(module: nn.Module, spec: EngineSpec, precision: str) -> bytes:
    """`to_onnx` of a whole engine, with its AUs and thresholds as the file's metadata.

    Raises:
        EngineError: like `to_onnx`.
    """
    return with_metadata(to_onnx(module, spec.inputs(2), precision), spec)


def with_metadata(content: bytes, spec: EngineSpec) -> bytes:
    """The file with its AUs and thresholds."""
    model = onnx.load_from_string(content)
    said = {
        "austream.engine": spec.name,
        "austream.trained": spec.trained,
        "austream.aus": json.dumps(spec.aus),
        "austream.thresholds": json.dumps(spec.thresholds),
    }
    helper.set_model_props(model, said)
    complete: bytes = model.SerializeToString()
    return complete


def hand_out(name_or_path: str | Path, precision: str, path: Path, log: Log) -> tuple[Engine, float]:
    """Write the ONNX file of a bundle: the one that ONNX Runtime runs here, held to PyTorch eager.

    Returns:
        The engine in ONNX Runtime, and how far a probability moved when several faces went in together.

    Raises:
        UsageError, EngineError: as `load_engine`.
        EngineError: faces in one batch are not what they are alone.
        OutputError: the file cannot be written.
    """
    from engines.backends.onnxruntime import FILE, Model
    from engines.build import parity_inputs
    from engines.runtime import load_engine

    engine = load_engine(name_or_path, "onnxruntime", precision, log=log)
    file = Model(engine.folder / FILE, None, 1)
    some = [inputs for _, (_, inputs) in zip(range(2), parity_inputs(engine.spec), strict=False)]
    apart = moved_by_company(file, some)
    require_alike(apart, engine.parity.tolerance, f"{engine.spec.name} (onnx, {precision})")
    write_whole(path, (engine.folder / FILE).read_bytes())
    return engine, apart


def moved_by_company(file: Model, faces: Sequence[Mapping[str, np.ndarray]]) -> float:
    """How far a probability moves when faces go into a file together instead of alone."""
    together = {name: np.concatenate([one[name] for one in faces]) for name in faces[0]}
    alone = np.concatenate([file.infer(one) for one in faces])
    return float(np.abs(file.infer(together) - alone).max())


def require_alike(apart: float, tolerance: float, what: str) -> None:
    """Refuse a file whose faces depend on their company.

    Raises:
        EngineError: with the figures.
    """
    if not apart <= tolerance:
        raise EngineError(
            f"{what}: several faces in one batch move probabilities by {apart:.1e}, more than {tolerance:.0e}"
        )
