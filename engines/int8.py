"""`int8.json`: how a network computes in INT8. Bundles carry it, so that nobody who runs one needs NNCF or
pictures to calibrate on.

For the graphs that a backend makes of one set of weights it says which operations round their inputs to 8
bits, and over which ranges; those of the weights follow from the weights. Who calibrates with pictures of
their own keeps the file in the cache folder, where it goes before the bundle's:

    <cache>/int8/<engine>-<weights>.json

`engines.quantise` makes it, `engines.int8_graph` builds graphs by it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.bundle import Bundle
from engines.cache import Parity, cache_folder
from pipeline.errors import EngineError, OutputError
from pipeline.whole import write_whole

SCHEMA = 1
INT8_FILE = "int8.json"
MAX_BYTES = 4_000_000
"""More than any network needs; longer files are not read."""

TOLERANCE = 0.05
"""What the 99th percentile of the differences to float32 may be on the judging faces."""
UNTRAINED_TOLERANCE = 0.5
"""The same of random weights, whose probabilities follow noise; all their layers go to INT8, for speed."""
ANSWERS = 5
"""Rows of `Int8.expected`: as many as `build.parity_inputs` has inputs."""

Place = tuple[str, int]
"""An operation, by its name in `int8_graph.name_operations`, and the number of one of its inputs."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """One tensor, rounded to 8 bits before the operations that read it."""

    places: tuple[Place, ...]
    low: tuple[float, ...]
    """Its least value; one, or one per channel."""
    high: tuple[float, ...]
    levels: int
    """Values between them, both included."""


@dataclass(frozen=True, slots=True)
class GraphInt8:
    """One graph in INT8."""

    activations: tuple[Rounding, ...]
    weights: tuple[Place, ...]
    """Constants that become int8, per output channel, symmetric around 0."""
    floating_point: tuple[str, ...]
    """Layers with weights that stay as they are, because the probabilities would suffer or for no gain."""


@dataclass(frozen=True, slots=True)
class Int8:
    """All of the file."""

    weights: str
    """`Bundle.weights_id` of the weights that it is for."""
    graphs: Mapping[str, GraphInt8]
    """By the backend's names: `model`, or `frame` and `head` of an engine in parts."""
    parity: Parity
    """Against float32, on faces that were not calibrated on."""
    expected: NDArray[np.float32]
    """(ANSWERS, n_aus): what INT8 answered to the inputs of `build.parity_inputs` where it was made."""
    made: Mapping[str, Any]
    """With what and on what; AUC where the faces had labels."""

    @property
    def floating_point(self) -> tuple[str, ...]:
        """Of all graphs."""
        return tuple(name for graph in self.graphs.values() for name in graph.floating_point)

    def text(self) -> str:
        """The file's content; one rounding to a line."""
        head = {"schema": SCHEMA, "weights": self.weights, "made": dict(self.made)}
        head["parity"] = asdict(self.parity)
        expected = [[_short(p) for p in row] for row in self.expected]
        graphs = []
        for name, graph in self.graphs.items():
            rounded = [
                [
                    [list(p) for p in r.places],
                    [_short(v) for v in r.low],
                    [_short(v) for v in r.high],
                    r.levels,
                ]
                for r in graph.activations
            ]
            parts = {"activations": rounded, "weights": [list(p) for p in graph.weights]}
            lines = [f"   {json.dumps(key)}: [\n    {_lines(rows)}\n   ]" for key, rows in parts.items()]
            lines.append(f'   "floating_point": {json.dumps(list(graph.floating_point))}')
            graphs.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
        body = json.dumps(head, indent=1, ensure_ascii=False)
        return (
            body[:-2]
            + f',\n "expected": [\n    {_lines(expected)}\n ]'
            + ',\n "graphs": {\n'
            + ",\n".join(graphs)
            + "\n }\n}\n"
        )


def _lines(rows: list[Any]) -> str:
    return ",\n    ".join(json.dumps(row) for row in rows)


def _short(value: float) -> float:
    """The shortest decimal that is this float32."""
    return float(str(np.float32(value)))


def own_folder() -> Path:
    """Where calibrations with one's own pictures are kept."""
    return cache_folder().with_name("int8")


def own_path(bundle: Bundle) -> Path:
    """Where that of a bundle is."""
    weights = hashlib.sha256(bundle.weights_id.encode()).hexdigest()[:16]
    return own_folder() / f"{bundle.spec.name}-{weights}.json"


def find(bundle: Bundle) -> Path | None:
    """The file that INT8 of this bundle is built by; None where there is none."""
    return next((p for p in (own_path(bundle), bundle.folder / INT8_FILE) if p.exists()), None)


def load(bundle: Bundle) -> tuple[Int8, str]:
    """What INT8 of this bundle is built by, and where that comes from, in words.

    Raises:
        EngineError: there is none, it is damaged, or made for other weights.
    """
    path = _required(bundle)
    own = path == own_path(bundle)
    return read(path, bundle), f"calibrated here, {path}" if own else "carried by the bundle"


def content(bundle: Bundle) -> str:
    """The file as it stands, for the key of what is built by it.

    Raises:
        EngineError: there is none, or it cannot be read.
    """
    path = _required(bundle)
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise EngineError(
            f"{path}: cannot be read: {error.strerror}; make it again: {command(bundle)}"
        ) from None


def _required(bundle: Bundle) -> Path:
    path = find(bundle)
    if path is None:
        raise EngineError(
            f"{bundle.spec.name}: no INT8 form, its bundle has no {INT8_FILE}; make one: {command(bundle)}"
        )
    return path


def command(bundle: Bundle) -> str:
    """What to run to get an INT8 form."""
    known = bundle.folder.parent.name == "bundled"
    name = bundle.spec.name if known else bundle.folder
    return f"python -m engines build {name} --precision int8 --calibrate VIDEO…"


def write(path: Path, int8: Int8) -> None:
    """Write the file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot make it: {error.strerror}; choose another place") from None
    write_whole(path, int8.text().encode())


def read(path: Path, bundle: Bundle) -> Int8:
    """Read and check the file.

    Raises:
        EngineError: damaged, too new, or for other weights than the bundle's.
    """
    again = f"make it again: {command(bundle)}"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        fields = json.loads(path.read_text(encoding="utf-8"))
        if type(fields["schema"]) is not int:
            raise ValueError(f"schema {fields['schema']!r}")
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}; {again}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(f"{path}: damaged, no INT8 form ({_reason(error)}); {again}") from None
    if fields["schema"] > SCHEMA:
        raise EngineError(
            f"{path}: schema {fields['schema']} is newer than {SCHEMA}, the newest read here; update austream"
        )
    if fields.get("weights") != bundle.weights_id:
        raise EngineError(
            f"{path}: made for other weights ({str(fields.get('weights'))[:12]}…) than the bundle's "
            f"({bundle.weights_id[:12]}…); {again}"
        )
    try:
        return _parse(fields, bundle)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EngineError(f"{path}: damaged, no INT8 form ({_reason(error)}); {again}") from None


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def tolerance_of(bundle: Bundle) -> float:
    """What the 99th percentile may be; a file's own word for it may be stricter."""
    return TOLERANCE if bundle.random_seed is None else UNTRAINED_TOLERANCE


def _parse(fields: dict[str, Any], bundle: Bundle) -> Int8:
    graphs = {str(name): _parse_graph(graph) for name, graph in fields["graphs"].items()}
    expected = np.array(fields["expected"], np.float32)
    shape = (ANSWERS, len(bundle.spec.aus))
    if not graphs or expected.shape != shape or not np.isfinite(expected).all():
        raise ValueError(f"expected probabilities {shape}, got {expected.shape} of {len(graphs)} graphs")
    parity = Parity(**fields["parity"])
    most = tolerance_of(bundle)
    if parity.p99_abs is None or not parity.p99_abs <= parity.tolerance <= most:
        raise ValueError(
            f"99th percentile {parity.p99_abs}, tolerance {parity.tolerance}, which may be {most}"
        )
    return Int8(fields["weights"], graphs, parity, expected, dict(fields["made"]))


def _parse_graph(graph: dict[str, Any]) -> GraphInt8:
    activations = tuple(
        Rounding(
            tuple(_parse_place(p) for p in places), tuple(map(float, low)), tuple(map(float, high)), levels
        )
        for places, low, high, levels in graph["activations"]
    )
    for rounding in activations:
        bounds = list(zip(rounding.low, rounding.high, strict=True))
        finite = all(math.isfinite(v) for pair in bounds for v in pair)
        if not (bounds and finite and all(a < b for a, b in bounds) and rounding.places):
            raise ValueError(f"range {rounding.low[:1]} to {rounding.high[:1]} at {rounding.places[:1]}")
        if type(rounding.levels) is not int or not 2 <= rounding.levels <= 256:
            raise ValueError(f"{rounding.levels!r} levels at {rounding.places[0]}")
    weights = tuple(_parse_place(p) for p in graph["weights"])
    return GraphInt8(activations, weights, tuple(map(str, graph["floating_point"])))


def _parse_place(place: Any) -> Place:
    name, port = place
    if type(name) is not str or type(port) is not int or port < 0:
        raise ValueError(f"place {place!r}")
    return name, port
