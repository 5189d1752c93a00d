"""Arrow IPC files and streams, Feather included; and what Parquet and they share, Arrow record batches.

Their columns keep their types. A batch is held at a time, as the file has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import IO

import pyarrow as pa

from slant.errors import TableError, reason
from slant.tables.columns import missing, tell_apart
from slant.tables.rows import Chunk, InputTable
from slant.tables.signatures import ARROW

# What pyarrow raises for a file it cannot make sense of; of a file that lies about sizes, too.
DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, MemoryError)

STRINGS = ("string", "large_string", "string_view")
BYTES = ("binary", "large_binary", "binary_view", "fixed_size_binary")  # which may be texts in UTF-8


def read_arrow(
    stream: IO[bytes], start: bytes, name: str, column: str | None, window: int, needed: Collection[str]
) -> InputTable:
    """The table in an open file, which begins with ``start``. Raises TableError if it cannot be read."""
    if not ARROW.match(start):
        raise TableError(f"{name} is not an Arrow or Feather file; name it as what it is, or give --input-format.")
    if start.startswith(b"ARROW1") and not stream.seekable():
        raise TableError(f"{name}: an Arrow file is read from its end; give its name, unpacked, or an Arrow stream.")
    try:
        open_ = pa.ipc.open_file if start.startswith(b"ARROW1") else pa.ipc.open_stream
        opened = open_(stream, options=pa.ipc.IpcReadOptions(use_threads=False))
        schema = opened.schema
        names = list(schema.names)
    except DAMAGED as error:
        raise TableError(f"{name} is not a readable Arrow file: {reason(error)}; get the file again.") from error

    def batches() -> Iterator[pa.RecordBatch]:
        whole = (
            iter(opened)
            if isinstance(opened, pa.RecordBatchReader)
            else map(opened.get_batch, range(opened.num_record_batches))
        )
        for batch in whole:
            batch.validate(full=True)  # offsets out of bounds would be read
            for begin in range(0, len(batch), window):
                yield batch.slice(begin, window)

    return batch_table(schema, names, batches, None, name, column, needed)


def batch_table(
    schema: pa.Schema,
    names: list[str],
    batches: Callable[[], Iterable[pa.RecordBatch]],
    total: int | None,
    name: str,
    column: str | None,
    needed: Collection[str],
    skip: Callable[[int], int] = lambda rows: 0,
) -> InputTable:
    """A table of record batches with a name for each column. Raises TableError if its column of texts holds none."""
    own = tell_apart(name, names, needed)
    if column is not None and column not in own:
        raise missing(name, column, own, "--text-column")
    if own != names:
        fields = [field.with_name(new) for field, new in zip(schema, own, strict=True)]
        kept = {key: value for key, value in (schema.metadata or {}).items() if key != b"pandas"}
        schema = pa.schema(fields, metadata=kept or None)  # pandas would look for the old names
    place = None if column is None else own.index(column)
    kind = pa.null() if place is None else schema.field(place).type
    if isinstance(kind, pa.BaseExtensionType) and _holds(kind.storage_type, *STRINGS):
        kind = kind.storage_type
    if not _holds(kind, *STRINGS, *BYTES, "null"):
        raise TableError(
            f"{name}: the column {column!r} holds {kind}, not text; choose another with --text-column, or write it as "
            "strings."
        )
    decoded = column if _holds(kind, *BYTES) else None

    end = 0

    def passed(rows: int) -> int:
        nonlocal end
        end = skip(rows)
        return end

    def chunks() -> Iterator[Chunk]:
        nonlocal end
        try:
            for batch in batches():
                end += len(batch)
                batch = pa.RecordBatch.from_arrays(batch.columns, schema=schema) if own != names else batch
                texts, errors = _texts(None if place is None else batch.column(place), len(batch))
                yield Chunk(batch, texts, errors, end, decoded)
        except DAMAGED as error:
            raise TableError(f"{name} is damaged after row {end}: {reason(error)}; get the file again.") from error
        if total not in (None, end):  # a column that ends early ends the reading, at a row that the window decides
            raise TableError(f"{name} is damaged after row {end}: it should have {total}; get the file again.")

    return InputTable(schema, total, chunks(), passed)


def _holds(kind: pa.DataType, *names: str) -> bool:
    """Whether the values, however they are stored, are of one of these types."""
    while pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    return any(getattr(pa.types, f"is_{name}")(kind) for name in names)


def _texts(column: pa.Array | None, rows: int) -> tuple[list[object], list[str | None]]:
    errors: list[str | None] = [None] * rows
    if column is None:
        return [None] * rows, errors
    column = column.storage if isinstance(column.type, pa.BaseExtensionType) else column
    with suppress(UnicodeDecodeError):
        values = column.to_pylist()
        if not _holds(column.type, *BYTES):
            return values, errors
    texts: list[object] = []
    for row, value in enumerate(column.cast(pa.binary()).to_pylist()):
        try:
            texts.append(None if value is None else value.decode())
        except UnicodeDecodeError:
            texts.append(None)
            errors[row] = "The text is not valid UTF-8."
    return texts, errors
