"""Damage to files and JSON values: what disks, editors, other tools and hostile hands do to them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

# Where parsers and sizes break: empty, negative, beyond 32, 53 and 64 bits, beyond a double, no number at all.
NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    255,
    256,
    65536,
    2**31 - 1,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**30,
    0.0,
    -0.5,
    1e-30,
    1e308,
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "true", "0", "8", "nan", "F32", "BF16", "F8_E4M3", "layers.0", "\ud800", "\0", "é" * 5),
    *NUMBERS,
    *(float("nan"), float("inf"), float("-inf"), [], {}, [None], [[]], {"": None}, [0, 0], ["x"] * 3),
)
PIECES = (
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b'"',
        b'""',
        b",",
        b";",
        b"\t",
        b"\r",
        b"\n",
        b"\r\n",
        b"\\",
        b"\\ud800",
    ),
    *(b"{", b"}", b"[", b"]", b"[" * 2000, b"null", b"NaN", b"-Infinity", b"1e999", b"-1", b"99999999999999999999"),
    *(b"PAR1", b"\x1f\x8b", b"version https://git-lfs.github.com/spec/v1\n", b"\xe2\x80\xae", b"text", b"a" * 5000),
)


def damaged_bytes(data: bytes, random: Random) -> bytes:
    """One to a few changes of a file's bytes; now and then it is cut, emptied or written twice."""
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((0, 1, 1, 4, 16, 256)))
        kind = random.randrange(8)
        if kind == 0:
            middle = bytes(random.randrange(256) for _ in range(max(1, min(end - start, 16))))
        elif kind == 1:
            middle = random.choice(PIECES)
        elif kind == 2:
            middle = data[start:end] * random.choice((0, 2, 50))
        elif kind == 3:
            other = random.randrange(len(data) + 1)
            middle = data[other : other + end - start]
        elif kind == 4:
            middle = str(random.choice(NUMBERS)).encode()
        elif kind == 5 and start < len(data):
            middle = bytes([data[start] ^ 1 << random.randrange(8)]) + data[start + 1 : end]
        elif kind == 6 and random.random() < 0.2:
            start, end, middle = random.choice(((start, len(data), b""), (0, start, b""), (end, end, data)))
        else:
            middle = data[start:end][::-1]
        data = data[:start] + middle + data[end:]
    return data


def damaged_json(value: Any, random: Random) -> Any:
    """The decoded JSON with one to three entries replaced, removed, renamed, moved, wrapped or added."""
    value = json.loads(json.dumps(value))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        entry = _entry(value, random)
        if entry is None or random.random() < 0.01:
            value = random.choice(VALUES)
        else:
            _damage(*entry, random, value)
    return value


def _damage(holder: Any, key: Any, random: Random, root: Any) -> None:
    old = holder[key]
    kind = random.randrange(8)
    if kind <= 2:
        holder[key] = random.choice(VALUES)
    elif kind == 3 and isinstance(old, (int, float)) and not isinstance(old, bool):
        holder[key] = random.choice((old + 1, old - 1, -old, old * 2, str(old), float(old), old // 2 if old else 1))
    elif kind == 3:
        holder[key] = random.choice(([old], {"default": old}, str(old), [old, old]))
    elif kind == 4:
        del holder[key]
    elif kind == 5 and isinstance(holder, dict):
        holder[random.choice((key + " ", key.upper(), "_" + key, "", "x." + key))] = holder.pop(key)
    elif kind == 6:
        other, place = _entry(root, random) or (holder, key)
        holder[key] = json.loads(json.dumps(other[place]))
    elif isinstance(holder, dict):
        holder[f"new{random.randrange(3)}"] = random.choice(VALUES)
    else:
        holder.insert(key, random.choice(VALUES))


def _entry(value: Any, random: Random) -> tuple[Any, Any] | None:
    """A container in ``value`` and a key of it; every level is as likely as the next, however many entries it has."""
    found = None
    while isinstance(value, (dict, list)) and value and (found is None or random.random() < 0.7):
        key = random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        found, value = (value, key), value[key]
    return found
