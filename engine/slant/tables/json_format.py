"""JSON: an array of objects, read one at a time; a single object is a table of one row.

JSON Lines under the name of JSON, which many programs write, are read as such. An array that breaks off ends the job:
unlike in lines, where the next row begins cannot be told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, islice

from slant.errors import TableError
from slant.tables.jsonl_format import DECODER, checked, columns_of, read_jsonl, record
from slant.tables.rows import Record, Row, unreadable
from slant.tables.stream import LINE_LIMIT, Text

BLOCK = 1 << 20  # characters
SPACE = re.compile(r"[ \t\r\n]*")
LOOSE = json.JSONDecoder(parse_int=str)  # takes what DECODER refuses, to find its end
CUT = 16  # characters: an error so near the end or a value that ends there, may be that of a word cut in two


def read_json(text: Text, name: str, column: str | None, window: int) -> tuple[list[str], Iterator[Record]]:
    """The keys of the first ``window`` rows, and all records. Raises TableError if it is no array of objects."""
    if text.begins_with("["):
        records = _array(_Values(text, name), name, column)
        first = list(islice(records, window))
        return columns_of(first, f"{name} is not an array of JSON objects", name, column), chain(first, records)
    head: list[str] = []  # as far as the second line that is not blank
    for line in text:
        head.append(line)
        if line.strip() and len(filled := [line for line in head if line.strip()]) == 2:
            if _complete(filled[0]) or filled[1].startswith("{"):
                return read_jsonl(chain(head, text), name, column, window)
            break
    whole = "".join(chain(head, text.rest()))
    if not whole.strip():
        raise TableError(f"{name} is empty.")
    one = record(whole, "Row", 1, column)
    _refuse_other_shapes(one[0], name, column)
    columns = columns_of([one], f"{name} is not JSON that holds a table", name, column)
    return columns, iter([one])


def _complete(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_other_shapes(row: Row, name: str, column: str | None) -> None:
    """Raise TableError for an object that holds a whole table in a way of its own, not one row."""
    if column is not None and isinstance(row.get(column), str):
        return
    for key, inner in row.items():
        if isinstance(inner, (list, dict)) and inner:
            raise TableError(
                f"{name} is one object, whose {key!r} holds {len(inner)} values; write the rows as an array or as JSON "
                "Lines, for example with pandas' to_json(orient='records')."
            )


def _array(values: _Values, name: str, column: str | None) -> Iterator[Record]:
    values.skip("[")
    number = 0
    while values.peek() != "]" or number:
        number += 1
        yield values.record(number, column)
        if values.peek() == "]":
            break
        if not values.skip(","):
            raise values.error("a ',' or the array's ']' is missing", number)
    values.skip("]")
    if values.peek():
        raise values.error("something follows the array", number)


class _Values:
    """The values in a JSON text, decoded one after another, of which a block or the longest value is held."""

    def __init__(self, text: Text, name: str) -> None:
        self._text, self._name = text, name
        self._held, self._at, self._line = "", 0, 1

    def peek(self) -> str:
        """The next character that is no space, empty at the end."""
        while True:
            self._at = SPACE.match(self._held, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._held) or not self._more():
                return self._held[self._at : self._at + 1]

    def skip(self, character: str) -> bool:
        """Whether it is next; then it is passed over."""
        found = self.peek() == character
        self._at += found
        return found

    def record(self, number: int, column: str | None) -> Record:
        """The next value as a row; raises TableError if it is not JSON."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self._held, self._at)
                found = checked(value, "Row", number, column)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._held) - CUT
                if cut and self._more():
                    continue
                raise self.error(error.msg, number) from None
            except RecursionError:
                raise self.error("it is nested too deeply", number) from None
            except ValueError as error:  # a key that is there twice, a number of thousands of digits
                value, end = LOOSE.raw_decode(self._held, self._at)
                found = unreadable(self._held[self._at : end], column, f"Row {number} is not JSON: {error}.")
            size = end - self._at
            if end > len(self._held) - CUT and self._more():
                continue
            self._at += size
            return found

    def error(self, reason: str, number: int) -> TableError:
        line = self._line + self._held.count("\n", 0, self._at)
        return TableError(f"{self._name} is not JSON at row {number} of its array, from line {line}: {reason}.")

    def _more(self) -> bool:
        """Read on, and forget what was decoded; False at the end. What is held doubles, so retries cost little."""
        self._line += self._held.count("\n", 0, self._at)
        self._held, self._at = self._held[self._at :], 0
        if len(self._held) > LINE_LIMIT:
            raise TableError(f"{self._name}: a value, from line {self._line}, is longer than {LINE_LIMIT} characters.")
        block = self._text.block(max(BLOCK, len(self._held)))
        self._held += block
        return bool(block)
