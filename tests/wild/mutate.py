"""Random damage to JSON values, for property tests and fuzzing: what a hand, a tool or a disk may make of a file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

# Each kind and the edges of its range; NaN and infinity are what Python's own json module writes and reads.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 4096, 2**31, 2**63, 10**12, 10**400, -(10**12),
    0.0, -0.0, 0.5, 1.0, 1e-6, 4096.0, -1.5, 1e308, 1e-320, float("nan"), float("inf"), -float("inf"),
    "", " ", "true", "false", "null", "8", "1e-6", "NaN", "default", "mrope", "silu", "none", "ä\ud800", "x" * 10_000,
    [], {}, [None], [1], ["8"], [[]], {"": None}, {"a": 1},
)  # fmt: skip


def mutated(value: Any, random: Random, keys: Sequence[str] = ()) -> Any:
    """A copy of a JSON value with one to three random changes; ``keys`` are names that objects may gain or change to.

    A key or item goes, gets a value of any kind, the same in another kind, a neighbouring number or the value of
    another place, is wrapped, nested one level deeper, renamed, or copied.
    """
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        value = _once(value, random, keys)
    return value


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in list(items) for place in ((value, key), *places(part))]


def _once(value: Any, random: Random, keys: Sequence[str]) -> Any:
    found = places(value)
    if not found or random.random() < 0.02:
        return _other(value, random, [value])
    parent, key = random.choice(found)
    values = [place[name] for place, name in found]
    change = random.choice(("other", "other", "other", "delete", "rename", "add", "nest", "lift"))
    if change == "other":
        parent[key] = _other(parent[key], random, values)
    elif change == "delete":
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(random.randrange(len(parent) + 1), copy.deepcopy(random.choice([*values, *VALUES])))
    elif change == "rename":
        parent[_name(key, random, keys)] = parent.pop(key)
    elif change == "add":
        parent[_name(key, random, keys)] = _other(parent[key], random, values)
    elif change == "nest":
        parent[key] = {random.choice([key, *keys]): parent[key]}
    elif isinstance(parent[key], dict):  # its entries move up a level, over what is there
        parent.update(parent.pop(key))
    return value


def _name(key: str, random: Random, keys: Sequence[str]) -> str:
    return random.choice([key.upper(), key + "s", f"_{key}", "", key.replace("_", "-"), *keys])


def _other(value: Any, random: Random, values: list[Any]) -> Any:
    near: list[Any] = [[value], {"value": value}, str(value), [value, value]]
    if isinstance(value, int | float):
        near += [value * 2, value + 1, value - 1, -value, bool(value)]
        near += [value / 2, int(value / 2), float(value)] if abs(value) < 2**63 else []
    elif isinstance(value, str | list):
        near += [value[1:], value[::-1], value + value]
    pool: Sequence[Any] = random.choice((near, VALUES, values))
    return copy.deepcopy(random.choice(pool))
