"""Messages as bytes and back, without pickle: a header, JSON, and the landmarks as they lie in memory.

    2 bytes   "AU"
    1         version of this layout
    1         kind: index into KINDS
    4         CRC of the fields of all messages, so that two versions of austream never misread each other
    4         J, bytes of JSON
    4         L, bytes of landmarks
    J         JSON; a dataclass is the array of its fields in their order
    L         float32 n×478×3, little-endian, in the order in which the faces stand in the JSON

How a message reads is taken from its type hints, once, at import. Pixels do not travel: `streams` has
references for them. Whatever the bytes are, `decode` gives a checked message or raises WireError.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import struct
import types
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import WireError
from pipeline.messages import MESH_POINTS
from pipeline.streams import Message

VERSION = 1
MAX_BYTES = 4 << 20
"""Of a message; faces beyond some 600 do not fit."""
_MAX_JSON_BYTES = 2 << 20
_HEADER = struct.Struct("<2sBBIII")
_MAGIC = b"AU"
_LANDMARKS = np.dtype("<f4")
_LANDMARKS_BYTES = MESH_POINTS * 3 * _LANDMARKS.itemsize

KINDS: tuple[type, ...] = get_args(Message)

Arrays = Iterator[NDArray[np.float32]]
Encode = Callable[[Any, list[bytes]], Any]
Decode = Callable[[Any, Arrays], Any]


def encode(message: Message) -> bytes:
    """A message as bytes.

    Raises:
        WireError: it carries pixels, a number that is not finite, or more than MAX_BYTES.
    """
    kind = KINDS.index(type(message))
    landmarks: list[bytes] = []
    try:
        plain = _CODECS[kind][0](message, landmarks)
        text = json.dumps(plain, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise WireError(f"{type(message).__name__}: cannot be sent: {error}") from error
    blob = b"".join(landmarks)
    if len(text) > _MAX_JSON_BYTES or _HEADER.size + len(text) + len(blob) > MAX_BYTES:
        raise WireError(f"{type(message).__name__}: too large: {len(text)} + {len(blob)} bytes")
    return _HEADER.pack(_MAGIC, VERSION, kind, _SCHEMA, len(text), len(blob)) + text + blob


def decode(data: bytes) -> Message:
    """The message in these bytes.

    Raises:
        WireError: whatever is wrong with them.
    """
    if not _HEADER.size <= len(data) <= MAX_BYTES:
        raise WireError(f"message: expected {_HEADER.size} to {MAX_BYTES} bytes, got {len(data)}")
    magic, version, kind, schema, text_bytes, blob_bytes = _HEADER.unpack_from(data)
    if (magic, version, schema) != (_MAGIC, VERSION, _SCHEMA) or kind >= len(KINDS):
        raise WireError(f"message: expected version {VERSION}.{_SCHEMA:08x}, got {data[: _HEADER.size]!r}")
    text_end = _HEADER.size + text_bytes
    if text_bytes > _MAX_JSON_BYTES or text_end + blob_bytes != len(data) or blob_bytes % _LANDMARKS_BYTES:
        raise WireError(f"message: {text_bytes} + {blob_bytes} bytes announced, {len(data)} arrived")
    try:
        points = np.frombuffer(data, _LANDMARKS, offset=text_end).astype(np.float32)
        if not np.isfinite(points).all():
            raise ValueError("landmarks that are not finite")
        arrays = iter(points.reshape(-1, MESH_POINTS, 3))
        plain = json.loads(data[_HEADER.size : text_end], parse_constant=_refuse)
        message: Message = _CODECS[kind][1](plain, arrays)
        if next(arrays, None) is not None:
            raise ValueError("more landmarks than faces")
    except (TypeError, ValueError, OverflowError, RecursionError, StopIteration) as error:
        raise WireError(f"{KINDS[kind].__name__}: not a valid message: {error}") from error
    return message


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _codec(hint: Any) -> tuple[Encode, Decode, str]:
    """How to encode and to decode a type, and its description for the schema's CRC."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint)  # type: ignore[arg-type]
    if origin is Literal:
        return _literal(args)
    if origin in (Union, types.UnionType) and len(args) == 2 and args[1] is types.NoneType:
        return _optional(args[0])
    if origin is tuple:
        return _sequence(args[0]) if args[1:] == (...,) else _tuple(args)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(*args)
    if origin is np.ndarray:
        return _array(args[1])
    raise TypeError(f"{hint}: has no place on the wire")


def _scalar(kind: type, convert: Callable[[Any], Any]) -> tuple[Encode, Decode, str]:
    def decode_scalar(value: Any, _: Arrays) -> Any:
        if type(value) is not kind:
            raise ValueError(f"expected {kind.__name__}, got {type(value).__name__}")
        return value

    return lambda value, _: convert(value), decode_scalar, kind.__name__


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected str, got {type(value).__name__}")
    return str(value)


def _int() -> tuple[Encode, Decode, str]:
    def check(value: Any, _: Any = None) -> int:
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise ValueError(f"expected an integer of 64 bits, got {str(value)[:30]}")
        return value

    return lambda value, _: check(operator.index(value)), check, "int"


def _float() -> tuple[Encode, Decode, str]:
    def decode_float(value: Any, _: Arrays) -> float:
        # 1e999 is valid JSON and reads as infinity.
        if type(value) is not float or value - value != 0.0:
            raise ValueError(f"expected a finite number with a point, got {str(value)[:30]}")
        return value

    return lambda value, _: float(value), decode_float, "float"


_SCALARS: dict[Any, tuple[Encode, Decode, str]] = {
    int: _int(),
    float: _float(),
    bool: _scalar(bool, bool),
    str: _scalar(str, _string),
}


def _literal(allowed: tuple[Any, ...]) -> tuple[Encode, Decode, str]:
    def check(value: Any, _: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"expected one of {allowed}, got {str(value)[:30]}")
        return value

    return check, check, str(allowed)


def _optional(hint: Any) -> tuple[Encode, Decode, str]:
    put, get, text = _codec(hint)
    if get_origin(hint) is np.ndarray:
        put, get = _refuse_pixels, _refuse_pixels  # null in the JSON already says "in the blob"
    return (
        lambda value, arrays: None if value is None else put(value, arrays),
        lambda value, arrays: None if value is None else get(value, arrays),
        f"{text}?",
    )


def _items(value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or length not in (None, len(value)):
        raise ValueError(f"expected {'some' if length is None else length} items, got {str(value)[:30]}")
    return value


def _sequence(hint: Any) -> tuple[Encode, Decode, str]:
    put, get, text = _codec(hint)
    return (
        lambda value, arrays: [put(item, arrays) for item in value],
        lambda value, arrays: tuple([get(item, arrays) for item in _items(value)]),
        f"({text}…)",
    )


def _tuple(hints: tuple[Any, ...]) -> tuple[Encode, Decode, str]:
    puts, gets, texts = zip(*map(_codec, hints), strict=True)
    return (
        lambda value, arrays: [put(item, arrays) for put, item in zip(puts, value, strict=True)],
        lambda value, arrays: tuple(
            [get(item, arrays) for get, item in zip(gets, _items(value, len(gets)), strict=True)]
        ),
        f"({','.join(texts)})",
    )


def _mapping(key: Any, item: Any) -> tuple[Encode, Decode, str]:
    """Pairs, as keys need not be strings."""
    put, get, text = _sequence(tuple[key, item])

    def decode_mapping(value: Any, arrays: Arrays) -> dict[Any, Any]:
        pairs = get(value, arrays)
        if len(mapping := dict(pairs)) != len(pairs):
            raise ValueError("a key that comes twice")
        return mapping

    return lambda value, arrays: put(value.items(), arrays), decode_mapping, f"map{text}"


def _array(dtype: Any) -> tuple[Encode, Decode, str]:
    """Landmarks go into the blob; pixels go nowhere, so a message that has any is refused at either end."""
    if get_args(dtype) != (np.float32,):
        return _refuse_pixels, _refuse_pixels, "pixels"

    def put(value: NDArray[np.float32], arrays: list[bytes]) -> None:
        if not np.isfinite(value).all():
            raise ValueError("landmarks that are not finite")
        arrays.append(value.astype(_LANDMARKS, copy=False).tobytes())

    def get(value: Any, arrays: Arrays) -> NDArray[np.float32]:
        if value is not None:
            raise ValueError(f"expected null for landmarks, got {str(value)[:30]}")
        return next(arrays)

    return put, get, "landmarks"


def _refuse_pixels(_: Any, __: Any) -> NoReturn:
    raise ValueError("pixels do not travel: put them into a ring and send the reference")


def _dataclass(cls: type) -> tuple[Encode, Decode, str]:
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    put, get, text = _tuple(tuple(hints[name] for name in names))
    described = f"{cls.__name__}[{','.join(names)}]{text}"
    return (
        lambda value, arrays: put([getattr(value, name) for name in names], arrays),
        lambda value, arrays: cls(*get(value, arrays)),
        described,
    )


_CODECS = [_codec(kind) for kind in KINDS]
_SCHEMA = zlib.crc32("".join(text for _, _, text in _CODECS).encode())
