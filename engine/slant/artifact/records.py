"""Frozen dataclasses to plain JSON values and back, strictly: what does not fit its type is refused by name."""

from __future__ import annotations

import dataclasses
import math
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_plain(record: Any) -> Any:
    """Dicts, lists, numbers, strings and None for a dataclass (of dataclasses, tuples and the like)."""
    if dataclasses.is_dataclass(record):
        return {field.name: to_plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, tuple):
        return [to_plain(part) for part in record]
    return record


def from_plain(kind: type[T], value: Any, name: str = "") -> T:
    """The ``kind`` that ``to_plain`` made ``value`` of; ``name`` begins the path that errors name.

    Raises ValueError for a missing, unknown or mistyped entry, and for a number that is not finite.
    """
    return _read(kind, value, name or kind.__name__.lower())


def _read(kind: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, name)
    if get_origin(kind) in (Union, UnionType):
        if value is None and NoneType in get_args(kind):
            return None
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
        return _read(kind, value, name)
    if get_origin(kind) is tuple:  # tuple[X, ...] is the only form in use
        if not isinstance(value, list):
            raise ValueError(f"{name} is {value!r}, not a list")
        return tuple(_read(get_args(kind)[0], part, f"{name}[{i}]") for i, part in enumerate(value))
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{name} is {value!r}, not {getattr(kind, '__name__', kind)}")


def _record(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}, not an object")
    fields = get_type_hints(kind)
    for key in fields.keys() ^ value.keys():
        raise ValueError(f"{name}.{key} is {'missing' if key in fields else 'unknown'}")
    return kind(**{key: _read(part, value[key], f"{name}.{key}") for key, part in fields.items()})
