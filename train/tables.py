"""TOML tables → frozen dataclasses, every mistake said in one line."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pipeline.errors import UsageError

T = TypeVar("T")


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """An instance of a dataclass from a table; nested dataclasses from nested ones.

    Args:
        cls: its fields are int, float, bool, str, literals, tuples, mappings, dataclasses, or one of these or
            None. Its `__post_init__` raises ValueError for values out of range.
        table: as tomllib reads it.
        where: begins the message, e.g. `cednn.toml: phase.0`.

    Raises:
        UsageError: an unknown or missing key, a wrong type, a value out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for key in table:
        if key not in fields:
            raise UsageError(f"{where}: unknown key {key!r}; known are {', '.join(fields)}")
    for name, f in fields.items():
        if (
            f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
            and name not in table
        ):
            raise UsageError(f"{where}: missing key {name!r}")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return cls(**values)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        rest = [a for a in arguments if a is not type(None)]
        return None if value is None else _value(rest[0], value, where)
    if origin is Literal:
        if value not in arguments or type(value) is bool:
            raise UsageError(f"{where}: expected one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where}: expected a list, got {value!r}")
        return tuple(_value(arguments[0], item, f"{where}.{i}") for i, item in enumerate(value))
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected a table, got {value!r}")
        return from_table(kind, value, where)  # type: ignore[arg-type]
    if origin is not None:  # Mapping[str, Any]
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected a table, got {value!r}")
        return dict(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise UsageError(f"{where}: expected {names[kind]}, got {value!r}")
    return value


def plain(value: Any) -> Any:
    """A dataclass as tables and lists that JSON takes, `from_table`'s inverse."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value
