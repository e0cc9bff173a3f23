"""INT8 by post-training quantisation: NNCF finds ranges over real faces, other faces judge what comes out.

Ranges are least to greatest value over all calibration faces. NNCF's default, their mean, cuts off what only
some faces reach: of Delta's probabilities one in a hundred moved by 0.12 that way, by 0.03 this way (LOG.md).
Convolutions, products with weights and sums of two branches go to INT8; arithmetic around them stays. Where
the calibration faces' probabilities move by more than `AIM`, NNCF's accuracy control puts the layers that do
the most harm back to floating point; not those of random weights, which cannot be spoilt. Where it is known
beforehand which layers those are, the network names them (`AUNetwork.floating`). Biases are left alone:
correcting them gained nothing.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backends import get, installed_version
from engines.backends.base import InParts, Session
from engines.backends.openvino import one_core
from engines.build import parity_inputs
from engines.bundle import Bundle
from engines.cache import Log, Parity
from engines.export import ExportedEngine
from engines.int8 import TOLERANCE, GraphInt8, Int8, tolerance_of
from engines.int8_graph import PASSED_THROUGH, WEIGHTED, extract, name_operations, weight_ports
from engines.weights import load_network
from pipeline.errors import EngineError, UsageError

AUC_TOLERANCE = 0.005
"""What AUC may change by."""
AIM = 0.025
"""The 99th percentile that is sought on the calibration faces: half, as other faces will be worse off."""
CALIBRATING = 300
JUDGING = 900
WINDOWS = 40
"""The same, of either, of a temporal engine."""
RANKING = 30
"""Of the calibration faces, those by which layers are ranked."""
FRAMES_OF_A_WINDOW = 4
"""Of each window, for the ranges of the frame part."""
_OTHERS = ("Parameter", "Result", "Constant")

Inputs = Mapping[str, NDArray[Any]]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Faces:
    """What a network is calibrated and judged on."""

    items: Sequence[Inputs]
    """Each `EngineSpec.inputs(1)`; may be read from disk when asked for."""
    calibrates: NDArray[np.bool_]
    """(n,): calibrated on; the others judge."""
    what: str
    """In words, e.g. `1277 stills of 160 synthetic people`."""
    split: str
    """In words, how it was decided who judges."""
    auc: Callable[[NDArray[np.int64], Probabilities], float] | None = None
    """Mean AUC of probabilities (k, A) for items (k,); NaN where none has labels. None without any."""


def quantise(bundle: Bundle, faces: Faces, log: Log) -> Int8:
    """The INT8 form of a bundle.

    Args:
        bundle: weights and spec; for the OpenVINO backend.
        faces: to calibrate and judge on.
        log: is told what goes on.

    Raises:
        EngineError: NNCF is not installed; or the result is out of tolerance, with the figures.
        UsageError: no faces to calibrate on, or none to judge.
    """
    if installed_version("nncf") is None:
        raise EngineError(
            "calibration needs NNCF: pip install nncf, or install austream with its extra: .[int8]"
        )
    spec = bundle.spec
    limits = (CALIBRATING, JUDGING) if spec.window == 1 else (WINDOWS, WINDOWS)
    calibrating, judging = (
        _spread(np.flatnonzero(chosen), limit)
        for chosen, limit in zip((faces.calibrates, ~faces.calibrates), limits, strict=True)
    )
    if not (len(calibrating) and len(judging)):
        raise UsageError(
            f"--calibrate: expected faces to calibrate on and others to judge by, got {len(calibrating)} and "
            f"{len(judging)} {'windows' if spec.window > 1 else 'faces'}; give longer videos or more of them"
        )
    untrained = bundle.random_seed is not None
    aim, tolerance = 1.0 if untrained else AIM, tolerance_of(bundle)
    backend: Any = get("openvino", "int8")
    engine = ExportedEngine(spec, load_network(bundle))
    with tempfile.TemporaryDirectory(prefix="austream-int8-") as place:
        reference, int8 = Path(place) / "fp32", Path(place) / "int8"
        reference.mkdir()
        int8.mkdir()
        log(f"{spec.name}: calibrating INT8 on {len(calibrating)} of {faces.what}; {faces.split}")
        if spec.window == 1:
            backend.export(engine, spec, "fp32", reference)
            floating: Session = backend.open(reference, spec, None)
            model, kept = backend.graphs(engine, spec)["model"], engine.network.floating
            graphs = _whole(model, kept, floating, faces, calibrating, log, aim)
        else:
            backend.export_sliding(engine, spec, "fp32", reference)
            sliding = backend.open_sliding(reference, spec, None)
            floating = InParts(sliding)
            models, kept = backend.graphs(engine, spec), engine.network.floating
            graphs = _in_parts(models, kept, sliding, faces, calibrating, log, aim)
        nothing = Parity(0, 0, 0, 0, tolerance, 0.0)
        made = Int8(bundle.weights_id, graphs, nothing, np.empty((0, 0), np.float32), {})
        backend.export_int8(engine, spec, made, int8)
        session: Session = backend.open(int8, spec, None)
        log(f"{spec.name}: judging on {len(judging)} others")
        wanted, got = (run_all(s, [faces.items[i] for i in judging]) for s in (floating, session))
        note = f"judged on {len(judging)} of {faces.what}; {faces.split}"
        note += "; random weights, so the figures say nothing of trained ones" * untrained
        parity = replace(judge(wanted, got, spec.thresholds, note), tolerance=tolerance)
        figures: dict[str, Any] = {
            "nncf": installed_version("nncf"),
            "openvino": installed_version("openvino"),
        }
        figures |= {"trained": spec.trained, "calibrated_on": f"{len(calibrating)} of {faces.what}"}
        figures |= {"spread": round(float(wanted.std(axis=0).mean()), 4)}
        if faces.auc is not None and not untrained:
            aucs = [faces.auc(judging, p) for p in (wanted, got)]
            if np.isfinite(aucs).all():
                figures |= dict(zip(("auc_fp32", "auc_int8"), [round(x, 5) for x in aucs], strict=True))
        expected = np.concatenate([session.run(inputs) for _name, inputs in parity_inputs(spec)])
    found = Int8(bundle.weights_id, graphs, parity, expected, figures)
    refuse_beyond(found, spec.name)
    return found


def refuse_beyond(int8: Int8, name: str) -> None:
    """Refuse what is out of tolerance.

    Raises:
        EngineError: with the figures.
    """
    moved, said = 0.0, ""
    if "auc_fp32" in int8.made:
        before, after = (float(int8.made[key]) for key in ("auc_fp32", "auc_int8"))
        moved = abs(after - before)
        said = f"; AUC {before:.4f} → {after:.4f} (tolerance {AUC_TOLERANCE})"
    if not int8.parity.holds or moved > AUC_TOLERANCE:
        raise EngineError(
            f"{name} (openvino, int8): out of tolerance: {int8.parity}{said}; calibrate on more and other "
            "faces, or use --precision fp32"
        )


def judge(wanted: Probabilities, got: Probabilities, thresholds: Sequence[float], note: str) -> Parity:
    """How far INT8's probabilities (n, A) are from float32's."""
    difference = np.nan_to_num(np.abs(got.astype(np.float64) - wanted), nan=np.inf)
    limits = np.asarray(thresholds)
    return Parity(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        decisions_changed=int(((got >= limits) != (wanted >= limits)).sum()),
        decisions=got.size,
        tolerance=TOLERANCE,
        p99_abs=float(np.percentile(difference, 99)) if np.isfinite(difference).all() else float("inf"),
        note=note,
    )


def run_all(session: Session, items: Iterable[Inputs]) -> Probabilities:
    """Probabilities (n, A) of items of one face each."""
    return np.concatenate([session.run(item) for item in items])


def _spread(rows: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """At most so many, evenly."""
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]


def _whole(
    model: Any,
    kept: Sequence[str],
    floating: Session,
    faces: Faces,
    rows: NDArray[np.int64],
    log: Log,
    aim: float,
) -> dict[str, GraphInt8]:
    items = [faces.items[i] for i in rows]
    wanted = run_all(floating, items)
    found = quantise_graph(model, items, lambda c, i: c(dict(items[i]))[0][0], wanted, log, aim, kept)
    return {"model": found}


class _OtherFrame:
    """A sliding session with another frame part."""

    def __init__(self, session: Any, compiled: Any) -> None:
        self._compiled = compiled
        self.gates, self.step, self.head = session.gates, session.step, session.head

    def features(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array(self._compiled({"crops": crop[None]})[0])


def _in_parts(
    models: Mapping[str, Any],
    kept: Sequence[str],
    sliding: Any,
    faces: Faces,
    rows: NDArray[np.int64],
    log: Log,
    aim: float,
) -> dict[str, GraphInt8]:
    """Frame part and head of a temporal engine, each judged with the other in floating point."""
    from engines.convlstm import CHANNELS, PADDED

    windows = [faces.items[i]["crops"] for i in rows]
    wanted = run_all(InParts(sliding), [{"crops": w} for w in windows])
    picked = np.linspace(0, windows[0].shape[1] - 1, FRAMES_OF_A_WINDOW).round().astype(int)
    frames = [{"crops": w[:, k]} for w in windows for k in picked]
    hidden = []
    for window in windows:
        state: Any = None
        for crop in window[0]:
            [state] = sliding.step([sliding.gates(sliding.features(crop))], [state])
        hidden.append({"hidden": state.hidden.reshape(1, PADDED, PADDED, CHANNELS).copy()})

    def by_frames(compiled: Any, i: int) -> Probabilities:
        return InParts(_OtherFrame(sliding, compiled)).run({"crops": windows[i]})[0]

    return {
        "frame": quantise_graph(models["frame"], frames, by_frames, wanted, log, aim, kept),
        "head": quantise_graph(
            models["head"], hidden, lambda c, i: c(hidden[i])[0][0], wanted, log, aim, kept
        ),
    }


def quantise_graph(
    model: Any,
    samples: Sequence[Inputs],
    predict: Callable[[Any, int], Probabilities],
    wanted: Probabilities,
    log: Log,
    aim: float = AIM,
    kept: Sequence[str] = (),
) -> GraphInt8:
    """INT8 for one graph.

    Args:
        model: an `openvino.Model` in float32, freshly converted; its operations get new names.
        samples: its inputs, that ranges are taken from.
        predict: probabilities (A,) of face i by a compiled model in the place of this one.
        wanted: (n, A), of all faces in floating point.
        log: is told what stays in floating point.
        aim: 99th percentile of the differences from which layers are put back.
        kept: what stays in floating point from the start: how its operations' names begin.
    """
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedAccuracyRestorerParameters,
        AdvancedQuantizationParameters,
        OverflowFix,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    named = name_operations(model)
    kinds = {op.get_type_name() for op in model.get_ops()}
    left = sorted(kinds - {*WEIGHTED, "Add", *PASSED_THROUGH, *_OTHERS})
    floating = [
        name
        for name, op in named.items()
        if name.startswith(tuple(kept)) or (op.get_type_name() in WEIGHTED and not weight_ports(op))
    ]

    def validate(compiled: Any, faces: Iterable[int]) -> tuple[float, list[float]]:
        """Higher is better, from 1 down; and the same of each face."""
        moved = np.stack([np.abs(predict(compiled, i) - wanted[i]) for i in faces])
        return 1.0 - float(np.percentile(moved, 99)), [1.0 - float(face.max()) for face in moved]

    with _quietly(), one_core():
        quantised = nncf.quantize_with_accuracy_control(
            model,
            nncf.Dataset(samples, dict),
            nncf.Dataset(range(len(wanted))),
            validate,
            max_drop=aim,
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=floating, types=left, validate=False),
            advanced_quantization_parameters=AdvancedQuantizationParameters(
                # Half the range would spare processors without 8-bit dot products, which are refused instead.
                overflow_fix=OverflowFix.DISABLE,
                disable_bias_correction=True,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                backend_params={"compress_weights": False},
            ),
            advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
                ranking_subset_size=min(RANKING, len(wanted)), num_ranking_workers=1
            ),
        )
    found = extract(quantised, named)
    log(
        f"{len(found.weights)} layers in INT8; in floating point: {', '.join(found.floating_point) or 'none'}"
    )
    return found


@contextmanager
def _quietly() -> Iterator[None]:
    """NNCF's log below errors is left out for as long as it lasts; its progress bars stay."""
    log = logging.getLogger("nncf")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
