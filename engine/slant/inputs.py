"""What may be given to score: a str, or an iterable of str in an order.

The types of other libraries are known by what they have, and by name: none is imported for it.
"""

from __future__ import annotations

import array
import io
import numbers
import os
from collections import UserString
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Set
from typing import Any

ROWS = (list, tuple, dict, set)


def texts_of(texts: Any) -> Iterator[object]:
    """The texts one by one, with those of pyarrow as Python's own and every library's missing value as None.

    What is wrong with one of them is left to its row. Raises TypeError, at once, for what is no ordered collection of
    texts: it names the type and says what to pass instead.
    """
    if (advice := _advice(texts)) is not None:
        raise TypeError(f"a text as a str, or an iterable of them, can be scored, not {_type(texts)}: {advice}.")
    return map(_plain, texts)


def _type(x: object) -> str:
    name = type(x).__name__
    return "None" if x is None else f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _advice(texts: Any) -> str | None:
    """What to pass in place of the texts; None where they are fine."""
    name = type(texts).__name__
    if isinstance(texts, bytes | bytearray | memoryview):
        return "decode it first, as in data.decode()"
    if isinstance(texts, UserString):
        return "pass str(text), or [str(text)] for one row"
    if hasattr(texts, "column_names") or (hasattr(texts, "columns") and not isinstance(texts, Mapping)):
        return f"pass the column that holds the texts, such as {'table' if name == 'Table' else 'frame'}['text']"
    if isinstance(texts, Mapping):
        return "pass the texts in it, such as its values()"
    if isinstance(texts, ItemsView):
        return "pass values() or keys()"
    if isinstance(texts, Set) and not isinstance(texts, KeysView):
        return "it has no order that scores could have; pass sorted(texts)"
    if isinstance(texts, os.PathLike):
        return "read it first, or give it to slant.tables.bulk.score_table"
    if isinstance(texts, io.IOBase):
        return "pass its lines, such as read().splitlines(), or give its path to slant.tables.bulk.score_table"
    if name in ("Score", "Scores"):
        return "pass the texts, not their scores"
    if hasattr(texts, "as_py"):
        return "pass as_py() of it"
    if getattr(texts, "ndim", 1) == 0:
        return "it is a single value; pass a str, or a list of str"
    if getattr(texts, "ndim", 1) != 1:
        return f"it has {texts.ndim} dimensions; pass one column, such as array[:, 0]"
    if isinstance(texts, array.array | type) or not (isinstance(texts, Iterable) or hasattr(texts, "__getitem__")):
        return "pass a list of str"
    if isinstance(texts, list | tuple) and texts and all(isinstance(text, ROWS) for text in texts):
        inside = "row['text']" if isinstance(texts[0], Mapping) else "row[0]"
        return (
            f"its rows are of type {type(texts[0]).__name__}; pass the text of each, such as [{inside} for row in rows]"
        )
    return None


def _plain(text: Any) -> object:
    if isinstance(text, str):
        return text
    if hasattr(text, "as_py"):
        return text.as_py()
    if type(text).__name__ in ("NAType", "NaTType") or (isinstance(text, numbers.Number) and text != text):
        return None
    return text
