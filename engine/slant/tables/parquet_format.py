"""Parquet: read and written by row groups, in constant memory; an input's columns keep their types."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from slant.errors import TableError, reason
from slant.tables.arrow_format import DAMAGED, batch_table
from slant.tables.rows import Chunk, InputTable, as_text

ROW_GROUP = 64 << 20  # bytes of Arrow data gathered for one row group


def read_parquet(
    stream: IO[bytes], start: bytes, name: str, column: str | None, window: int, needed: Collection[str]
) -> InputTable:
    """The table in an open file, which begins with ``start``. Raises TableError if it cannot be read."""
    if not stream.seekable():
        raise TableError(
            f"{name}: Parquet is read from its end, so it cannot come through a pipe or packed; give a file's name."
        )
    if start.startswith(b"PARE"):
        raise TableError(f"{name} is an encrypted Parquet file; write it without encryption.")
    if start and not start.startswith(b"PAR1"):
        raise TableError(
            f"{name} is not a readable Parquet file: it begins with {start[:20]!r}; name it as what it is, or give "
            "--input-format."
        )
    try:
        # By default the whole file is read ahead, and without a buffer size a row group's whole columns.
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        schema = file.schema_arrow
        names = list(schema.names)
    except DAMAGED as error:
        raise TableError(f"{name} is not a readable Parquet file: {reason(error)}; get the file again.") from error
    first = 0

    def skip(rows: int) -> int:
        """Row groups are read apart, so that the rows after a skipped one come in the same batches."""
        nonlocal first
        passed = 0
        while first < file.num_row_groups and passed + (size := file.metadata.row_group(first).num_rows) <= rows:
            passed, first = passed + size, first + 1
        return passed

    def batches() -> Iterator[pa.RecordBatch]:
        for group in range(first, file.num_row_groups):
            yield from file.iter_batches(batch_size=window, row_groups=[group], use_threads=False)

    return batch_table(schema, names, batches, file.metadata.num_rows, name, column, needed, skip)


def check_schema(schema: pa.Schema) -> None:
    """Raise TableError for columns that Parquet has no type for."""
    try:
        pq.write_table(schema.empty_table(), pa.BufferOutputStream())
    except DAMAGED as error:
        raise TableError(f"Parquet cannot hold the input's columns: {reason(error)}; write jsonl or csv.") from error


def output_schema(columns: pa.Schema, added: pa.Schema) -> pa.Schema:
    """The input's columns keep their types, nulls allowed (a damaged input may have some), or are strings."""
    return pa.schema([*(field.with_nullable(True) for field in columns), *added], metadata=columns.metadata)


def output_batch(
    chunk: Chunk, answers: Sequence[Sequence[object]], columns: pa.Schema, added: pa.Schema
) -> pa.RecordBatch:
    """A chunk beside its answers, as ``output_schema`` has it."""
    arrays = [_column(chunk, field) for field in columns]
    for values, kind in zip(zip(*answers, strict=True), added.types, strict=True):
        arrays.append(pa.array(map(as_text, values) if kind == pa.string() else values, kind))
    return pa.RecordBatch.from_arrays(arrays, schema=output_schema(columns, added))


def _column(chunk: Chunk, field: pa.Field) -> pa.Array:
    if not isinstance(chunk.rows, pa.RecordBatch):
        texts = pa.array(map(as_text, chunk.column(field.name)), pa.string())
        return texts if field.type == pa.string() else texts.cast(field.type)
    if field.name not in chunk.rows.schema.names:
        return pa.nulls(len(chunk.errors), field.type)
    values = chunk.rows.column(field.name)
    return values if values.type == field.type else values.cast(field.type)


@contextmanager
def parquet_writer(file: IO[bytes], schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """A function that writes a batch; the file is completed at the end of the block, unless it raises."""
    writer = pq.ParquetWriter(file, schema)
    held: list[pa.RecordBatch] = []
    size = 0

    def write(batch: pa.RecordBatch) -> None:
        nonlocal size
        held.append(batch)
        size += batch.nbytes
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
