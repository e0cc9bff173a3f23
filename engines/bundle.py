"""Bundles: a folder with `engine.json` and `weights.safetensors`, read without PyTorch.

engine.json holds `schema`, the fields of `EngineSpec` and `weights`, which is one of

    {"file": "weights.safetensors", "sha256": "…"}     trained weights, float32 or float16
    {"random_seed": 0}                                 none: random ones are drawn when the engine is compiled

`au_centers`, `neutral`, `landmarks` and `max_intensity` may be left out; they are then false and null.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.spec import CropSpec, EngineSpec
from pipeline.errors import EngineError, UsageError

SCHEMA = 1
_LARGEST_BYTES = 1 << 20
"""Of engine.json; provenance takes most of it."""
SPEC_FILE = "engine.json"
WEIGHTS_FILE = "weights.safetensors"
BUNDLED = Path(__file__).parent / "bundled"

_FIELDS: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "name": (str,),
    "network": (str,),
    "variant": (dict,),
    "crop": (dict,),
    "level_map": (bool,),
    "window": (int,),
    "rate_hz": (int, float, type(None)),
    "aus": (list,),
    "thresholds": (list,),
    "provenance": (dict,),
    "weights": (dict,),
}
_OPTIONAL: dict[str, tuple[type, ...]] = {
    "au_centers": (bool,),
    "neutral": (bool,),
    "landmarks": (bool,),
    "max_intensity": (int, float, type(None)),
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as its engine.json describes it; the weights stay on disk."""

    folder: Path
    spec: EngineSpec
    weights_sha256: str | None
    """Of weights.safetensors, in hex; None where the weights are random."""
    random_seed: int | None

    @property
    def weights_path(self) -> Path:
        """Where the weights lie, unless they are random."""
        return self.folder / WEIGHTS_FILE

    @property
    def weights_id(self) -> str:
        """What tells one set of weights from another."""
        return f"random seed {self.random_seed}" if self.weights_sha256 is None else self.weights_sha256

    def verify(self) -> None:
        """Check that the weights are the ones that engine.json means.

        Raises:
            EngineError: the file is missing, is no safetensors, or its SHA-256 differs.
        """
        if self.weights_sha256 is None:
            return
        path = self.weights_path
        try:
            with path.open("rb") as file:
                head = file.read(9)
                file.seek(0)
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise EngineError(
                f"{path}: expected the bundle's weights: {error.strerror}; export it again"
            ) from None
        # Said before the checksum, because it names the mistake: a .pt file under another name.
        if head[:1] == b"\x80" or head[:4] == b"PK\x03\x04":
            raise EngineError(f"{path}: expected safetensors, got a pickle, which is never read; convert it")
        if actual != self.weights_sha256:
            raise EngineError(
                f"{path}: expected SHA-256 {self.weights_sha256[:12]}…, got {actual[:12]}…; "
                "the file is damaged or was exchanged, export the bundle again"
            )


def _parse_spec(fields: dict[str, Any]) -> EngineSpec:
    crop = fields["crop"]
    if set(crop) != {"kind", "size_px"} or type(crop["size_px"]) is not int:
        raise ValueError(f'crop: expected {{"kind": …, "size_px": pixels}}, got {json.dumps(crop)}')
    for name, types in (("aus", (str,)), ("thresholds", (int, float))):
        if not all(type(value) in types for value in fields[name]):
            raise ValueError(
                f"{name}: expected a list of {types[-1].__name__}, got {json.dumps(fields[name])}"
            )
    return EngineSpec(
        name=fields["name"],
        network=fields["network"],
        variant=fields["variant"],
        crop=CropSpec(**crop),
        level_map=fields["level_map"],
        window=fields["window"],
        rate_hz=fields["rate_hz"],
        aus=tuple(fields["aus"]),
        thresholds=tuple(fields["thresholds"]),
        provenance=fields["provenance"],
        au_centers=fields.get("au_centers", False),
        neutral=fields.get("neutral", False),
        landmarks=fields.get("landmarks", False),
        max_intensity=fields.get("max_intensity"),
    )


def _parse_weights(weights: dict[str, Any]) -> tuple[str | None, int | None]:
    """(SHA-256, None) or (None, seed)."""
    match weights:
        case {"file": "weights.safetensors", "sha256": str(digest), **rest} if len(digest) == 64 and not rest:
            return digest, None
        case {"random_seed": int(seed), **rest} if type(seed) is int and 0 <= seed < 2**63 and not rest:
            return None, seed
    raise ValueError(
        f'weights: expected {{"file": "{WEIGHTS_FILE}", "sha256": 64 hex digits}} '
        f'or {{"random_seed": 0 to 2^63 − 1}}, got {json.dumps(weights)}'
    )


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle's engine.json.

    Raises:
        EngineError: the folder is no bundle, or its engine.json is damaged, contradictory or too new.
    """
    path = folder / SPEC_FILE
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
        if len(content) > _LARGEST_BYTES:
            raise EngineError(f"{path}: expected at most {_LARGEST_BYTES} bytes")
        fields = json.loads(content.decode("utf-8"))
    except OSError as error:
        raise EngineError(
            f"{folder}: expected a bundle, a folder with {SPEC_FILE}: {error.strerror}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{path}: expected JSON, got something else: {error}") from None
    if not isinstance(fields, dict):
        raise EngineError(f"{path}: expected a JSON object, got {type(fields).__name__}")
    schema = fields.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise EngineError(
            f"{path}: schema {schema} is newer than {SCHEMA}, the newest read here; update austream"
        )
    missing = sorted(set(_FIELDS) - set(fields))
    extra = sorted(set(fields) - set(_FIELDS) - set(_OPTIONAL))
    if missing or extra:
        raise EngineError(
            f"{path}: missing fields {missing}, unknown fields {extra}; expected {sorted(_FIELDS)}"
        )
    for name, types in (_FIELDS | _OPTIONAL).items():
        if name in fields and type(fields[name]) not in types:
            wanted = " or ".join(kind.__name__ for kind in types)
            raise EngineError(f"{path}: {name}: expected {wanted}, got {json.dumps(fields[name])}")
    if schema != SCHEMA:
        raise EngineError(f"{path}: schema: expected {SCHEMA}, got {schema}")
    try:
        spec = _parse_spec(fields)
        digest, seed = _parse_weights(fields["weights"])
    except ValueError as error:
        raise EngineError(f"{path}: {error}") from None
    return Bundle(folder, spec, digest, seed)


def write_spec(folder: Path, spec: EngineSpec, weights_sha256: str) -> None:
    """Write engine.json for weights that already lie in the folder.

    Raises:
        OSError: it cannot be written.
    """
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "name": spec.name,
        "network": spec.network,
        "variant": dict(spec.variant),
        "crop": {"kind": spec.crop.kind, "size_px": spec.crop.size_px},
        "level_map": spec.level_map,
        "window": spec.window,
        "rate_hz": spec.rate_hz,
        "aus": list(spec.aus),
        "thresholds": list(spec.thresholds),
        "provenance": dict(spec.provenance),
        "weights": {"file": WEIGHTS_FILE, "sha256": weights_sha256},
    }
    fields |= {name: True for name in ("au_centers", "neutral", "landmarks") if getattr(spec, name)}
    if spec.max_intensity is not None:
        fields["max_intensity"] = spec.max_intensity
    (folder / SPEC_FILE).write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def list_bundles() -> list[Bundle]:
    """The bundles that come with austream, by name."""
    return [read_bundle(path.parent) for path in sorted(BUNDLED.glob(f"*/{SPEC_FILE}"))]


def resolve(name_or_path: str | Path) -> Bundle:
    """The bundle of that name, or the one in that folder. A name goes before a folder called the same.

    Raises:
        UsageError: neither a known name nor an existing path.
        EngineError: the bundle is damaged.
    """
    known = sorted(path.parent.name for path in BUNDLED.glob(f"*/{SPEC_FILE}"))
    if str(name_or_path) in known:
        return read_bundle(BUNDLED / str(name_or_path))
    folder = Path(name_or_path)
    if not folder.exists():
        raise UsageError(
            f"unknown engine {str(name_or_path)!r}: expected {' or '.join(known)}, or the folder of a bundle"
        )
    return read_bundle(folder)
