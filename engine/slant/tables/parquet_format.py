"""Parquet: read and written by row groups, in constant memory; an input's columns keep their types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from slant.errors import TableError
from slant.tables.rows import Chunk, InputTable, as_text, check_columns

ROW_GROUP = 64 << 20  # bytes of Arrow data gathered for one row group


def read_parquet(stream: IO[bytes], name: str, column: str | None, window: int) -> InputTable:
    """The table in an open file. Raises TableError if it cannot be read or its text column holds no text."""
    if not stream.seekable():
        raise TableError(f"{name}: Parquet is read from its end, so it cannot come through a pipe; give a file's name.")
    try:
        # By default the whole file is read ahead, and without a buffer size a row group's whole columns.
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{name} is not a readable Parquet file: {error}") from error
    schema = file.schema_arrow
    check_columns(name, schema.names, column)
    if column is not None:
        kind = schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise TableError(f"{name}: the column {column!r} holds {kind}, not text.")

    def chunks() -> Iterator[Chunk]:
        end = 0
        try:
            for batch in file.iter_batches(batch_size=window):
                end += len(batch)
                texts, errors = _texts(batch, column)
                yield Chunk(batch, texts, errors, end)
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{name} is damaged after row {end}: {error}") from error

    return InputTable(schema, file.metadata.num_rows, chunks())


def _texts(batch: pa.RecordBatch, column: str | None) -> tuple[list[object], list[str | None]]:
    errors: list[str | None] = [None] * len(batch)
    if column is None:
        return [None] * len(batch), errors
    with suppress(UnicodeDecodeError):
        return batch.column(column).to_pylist(), errors
    texts: list[object] = []
    for row, value in enumerate(batch.column(column).cast(pa.binary()).to_pylist()):
        try:
            texts.append(None if value is None else value.decode())
        except UnicodeDecodeError:
            texts.append(None)
            errors[row] = "The text is not valid UTF-8."
    return texts, errors


@contextmanager
def parquet_writer(
    file: IO[bytes], columns: pa.Schema, added: pa.Schema
) -> Iterator[Callable[[Chunk, Sequence[Sequence[object]]], None]]:
    """A function that writes a chunk and its answers; the file is completed at the end of the block, unless it raises.

    The input's columns keep their types, or are strings if it came as text.
    """
    schema = pa.schema([*columns, *added], metadata=columns.metadata)
    writer = pq.ParquetWriter(file, schema)
    held: list[pa.RecordBatch] = []
    size = 0

    def write(chunk: Chunk, answers: Sequence[Sequence[object]]) -> None:
        nonlocal size
        if isinstance(chunk.rows, pa.RecordBatch):
            arrays = chunk.rows.columns
        else:
            arrays = [pa.array(map(as_text, chunk.column(name)), pa.string()) for name in columns.names]
        for values, kind in zip(zip(*answers, strict=True), added.types, strict=True):
            arrays.append(pa.array(map(as_text, values) if kind == pa.string() else values, kind))
        held.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        size += held[-1].nbytes
        if size > ROW_GROUP:
            flush()

    def flush() -> None:
        nonlocal size
        writer.write_table(pa.Table.from_batches(held, schema))
        held.clear()
        size = 0

    try:
        yield write
        if held:
            flush()
        writer.close()
    except BaseException:
        with suppress(OSError):
            file.close()
        with suppress(OSError, ValueError):
            writer.close()
        writer.is_open = False  # else pyarrow ends the file properly when it collects its writer
        raise
