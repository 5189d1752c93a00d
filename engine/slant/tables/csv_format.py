"""CSV. All cells stay strings, so that "007" and "1e5" come out as they went in.

It is read by the standard library's parser: pyarrow's drops a row of the wrong width without saying where it was, and
gives up at a quote that never closes.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator

from slant.errors import TableError
from slant.tables.rows import Record, Row, as_text, check_columns, unreadable

RECORD_LIMIT = 16 << 20  # characters a quoted field may span before its quote counts as never closed
QUOTED = re.compile(r'[",\r\n]|^\s|\s$')  # csv.writer leaves a lone \r bare, which readers take for a row's end


def read_csv(lines: Iterator[str], name: str, column: str | None) -> tuple[list[str], Iterator[Record]]:
    """The header, and the records; raises TableError for a header that cannot be used."""
    records = _records(lines)
    _, header, error = next(records, (0, [], None))
    if not header:
        raise TableError(f"{name} is empty.")
    if error:
        raise TableError(f"{name}: the header cannot be read. {error}")
    check_columns(name, header, column)
    return header, (_row(*record, header, column) for record in records)


def csv_line(cells: Iterable[object]) -> str:
    """A row, ended by a newline. Null is an empty cell; quotes are where a cell needs them."""
    texts = (as_text(cell) or "" for cell in cells)
    return ",".join('"' + text.replace('"', '""') + '"' if QUOTED.search(text) else text for text in texts) + "\n"


def _row(number: int, fields: list[str], error: str | None, header: list[str], column: str | None) -> Record:
    if error:
        return unreadable(fields[0], column, error)
    row: Row = dict(zip(header, fields, strict=False))
    if len(fields) != len(header):
        lost = ", ".join(map(repr, fields[len(header) :]))
        error = f"Line {number}: fields: {len(fields)}, columns of the header: {len(header)}."
        return row, None, f"{error} Not kept: {lost}." if lost else error
    return row, row[column] if column is not None else None, None


def _records(lines: Iterator[str]) -> Iterator[tuple[int, list[str], str | None]]:
    """Line number, fields and error of each record. Reading goes on after a line with broken quotes."""
    waiting: deque[str] = deque()  # lines that a broken record had swallowed
    taken: list[str] = []  # lines of the record being read

    def feed() -> Iterator[str]:
        while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
            taken.append(line)
            yield line

    csv.field_size_limit(RECORD_LIMIT)  # the parser knows only one limit for the whole process
    reader = csv.reader(feed(), strict=True)
    number = 1
    while True:
        number += len(taken)
        taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            never_closed = "unexpected end" in str(error) or "field limit" in str(error)
            reason = "a quote opens and never closes" if never_closed else f"broken quotes: {error}"
            waiting.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv.reader(feed(), strict=True)
            yield number, [taken[0]], f"Line {number}: {reason}."
        else:
            if fields:  # an empty line is no record
                yield number, fields, None
