"""CSV. All cells stay strings, so that "007" and "1e5" come out as they went in.

It is read by the standard library's parser: pyarrow's drops a row of the wrong width without saying where it was, and
gives up at a quote that never closes. What separates the fields is decided by the header alone.
"""

from __future__ import annotations

import csv
import logging
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from slant.errors import TableError
from slant.tables.columns import missing, near_name, tell_apart
from slant.tables.notes import note
from slant.tables.rows import Record, Row, as_text, unreadable

RECORD_LIMIT = 64 << 20  # characters a quoted field may span before its quote counts as never closed
QUOTED = re.compile(r'[",\t\r\n]|^\s|\s$')  # csv.writer leaves a lone \r bare, which readers take for a row's end
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
EXCEL = re.compile(r'"?sep=([^"\r\n])"?[\r\n]*')  # a first line that Excel understands

log = logging.getLogger(__name__)


def read_csv(
    lines: Iterator[str], name: str, column: str | None, needed: Collection[str], usual: str, delimiter: str | None
) -> tuple[list[str], Iterator[Record]]:
    """The header, and the records; raises TableError for a header that cannot be used.

    delimiter: of the fields; None for what the header shows, which is ``usual`` unless only another one gives it the
    column of texts.
    """
    number, line = _first(lines, 0)
    given = None if delimiter is None else check_delimiter(delimiter)
    if found := EXCEL.fullmatch(line):
        given = given or found[1]
        number, line = _first(lines, number)
    separator = given or _separator(line, column, usual)
    records = _records(chain([line], lines), number, separator)
    _, header, error = next(records, (0, [], None))
    if not header:
        raise TableError(f"{name} is empty.")
    if error:
        raise TableError(f"{name}: the header cannot be read. {error}")
    if separator != usual and given is None:
        note(log, "%s is separated by %s, as its header shows (else give --delimiter).", name, SEPARATORS[separator])
    if given and column is not None and column not in header:
        other = _separator(line, column, given)
        if column in (_split(line, other) or ()):
            shown = "tab" if other == "\t" else repr(other)
            raise TableError(
                f"{name} has no column {column!r} if {given!r} separates its fields; with --delimiter {shown} it has."
            )
    columns = tell_apart(name, header, needed)
    if column is not None and column not in columns:
        raise missing(name, column, columns, "--text-column")
    return columns, (_row(*record, columns, column) for record in records)


def csv_line(cells: Iterable[object], delimiter: str = ",") -> str:
    """A row, ended by a newline. Null is an empty cell; quotes are where a cell needs them."""
    texts = (as_text(cell) or "" for cell in cells)
    quoted = ('"' + text.replace('"', '""') + '"' if QUOTED.search(text) else text for text in texts)
    return delimiter.join(quoted) + "\n"


def check_delimiter(given: str) -> str:
    """The character that is meant; raises TableError if it cannot separate fields."""
    delimiter = {"tab": "\t", "\\t": "\t"}.get(given, given)
    if len(delimiter) != 1 or delimiter in '"\r\n\0' or delimiter.isalnum():
        raise TableError(f"the delimiter is {given!r}; give one character that is no letter, digit or quote, or tab.")
    return delimiter


def _first(lines: Iterator[str], number: int) -> tuple[int, str]:
    """Number and content of the next line that is not empty; content is empty at the end."""
    for line in lines:
        number += 1
        if line.strip("\r\n"):
            return number, line
    return number, ""


def _separator(line: str, column: str | None, usual: str) -> str:
    """What separates the fields of the header, whose first line is ``line``.

    The usual one wherever it gives the column; else one that does. If none does, the one that shows most of what the
    header has, for a message, or for a table of which no column of texts is read.
    """
    split = {separator: _split(line, separator) for separator in (usual, *SEPARATORS)}
    whole = split[usual]
    if whole is None:
        return usual
    if column is not None:
        for has in (lambda fields: column in fields, lambda fields: near_name(column, fields) is not None):
            if found := next((separator for separator, fields in split.items() if fields and has(fields)), None):
                return found
    return max(split, key=lambda separator: len(split[separator] or ())) if len(whole) < 2 else usual


def _split(line: str, separator: str) -> list[str] | None:
    """The fields of a line: none if it is wrongly quoted so, None if a quoted field goes on in the next line."""
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error as error:
        return None if "unexpected end" in str(error) else []


def _row(number: int, fields: list[str], error: str | None, header: list[str], column: str | None) -> Record:
    if error:
        return unreadable(fields[0], column, error)
    row: Row = dict(zip(header, fields, strict=False))
    if len(fields) != len(header):
        lost = ", ".join(map(repr, fields[len(header) :]))
        error = f"Line {number}: fields: {len(fields)}, columns of the header: {len(header)}."
        return row, None, f"{error} Not kept: {lost}." if lost else error
    return row, row[column] if column is not None else None, None


def _records(lines: Iterator[str], number: int, separator: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Line number, fields and error of each record. Reading goes on after a line with broken quotes.

    number: that of the first line.
    """
    waiting: deque[str] = deque()  # lines that a broken record had swallowed
    taken: list[str] = []  # lines of the record being read

    def feed() -> Iterator[str]:
        while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
            taken.append(line)
            yield line

    reader = csv.reader(feed(), delimiter=separator, strict=True)
    while True:
        number += len(taken)
        taken.clear()
        programs = csv.field_size_limit(RECORD_LIMIT)  # the parser knows only one limit for the whole process
        try:
            try:
                fields = next(reader)
            finally:
                csv.field_size_limit(programs)
        except StopIteration:
            return
        except csv.Error as error:
            never_closed = "unexpected end" in str(error) or "field limit" in str(error)
            reason = "a quote opens and never closes" if never_closed else f"broken quotes: {error}"
            waiting.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv.reader(feed(), delimiter=separator, strict=True)
            yield number, [taken[0]], f"Line {number}: {reason}."
        else:
            if fields:  # an empty line is no record
                yield number, fields, None
