"""Random tables through random writers: the same rows come back, in order, and the errors are those of the bad rows.

And random bytes: refused in a sentence, or every row is there.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake import Engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_check import FORMATS, MEMORY, OUTPUTS, PREFIX, check_bytes, read_back

from slant.tables.bulk import score_table
from slant.tables.labelled import LabelledTexts

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [
        "",
        " ",
        "a,b;c\td|e",
        'quote " and ""',
        "two\nlines",
        "\r\n",
        "\r",
        "NaN",
        "null",
        "שלום",
        "🙂\u2028",
        "nul\0",
        "\ufeffx",
    ]
)
ROWS = st.lists(st.tuples(TEXTS, st.none() | TEXTS), min_size=1, max_size=6)


@dataclass
class Written:
    """A file as some program writes it, the rows (id, text) in it, and the rows that must have an error."""

    ending: str
    data: bytes
    rows: list[tuple[object, object]]
    bad: set[int] = field(default_factory=set)
    options: dict[str, object] = field(default_factory=dict)


@st.composite
def as_csv(draw: st.DrawFn) -> Written:
    """By Python's csv or pandas, in any dialect; rows may be short, long or followed by empty lines."""
    rows = [(name, text or "") for name, text in draw(ROWS)]
    mark = draw(st.sampled_from(",;\t|"))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"]))
    options = {"encoding": encoding} if encoding == "utf-16-le" else {}
    out, bad = io.StringIO(newline=""), set()
    if draw(st.booleans()):
        frame = pd.DataFrame(rows, columns=["id", "text"])
        frame.to_csv(out, sep=mark, lineterminator=end, index=draw(st.booleans()), quoting=csv.QUOTE_ALL)
    else:
        writer = csv.writer(out, delimiter=mark, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerow(("id", "text"))
        for i, row in enumerate(rows):
            kind = draw(st.sampled_from(["whole", "whole", "short", "long", "blank"]))
            writer.writerow(row[:1] if kind == "short" else (*row, "more") if kind == "long" else row)
            if kind in ("short", "long"):
                bad.add(i)
            out.write(end * (kind == "blank"))
    return Written(draw(st.sampled_from(["csv", "tsv", "tab"])), out.getvalue().encode(encoding), rows, bad, options)


@st.composite
def as_json(draw: st.DrawFn) -> Written:
    """An array, or lines with empty and broken ones among them."""
    rows = draw(ROWS)
    ascii_only, lines = draw(st.booleans()), draw(st.booleans())
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
    objects = [{"id": name, "text": text, "more": [text, {"x": name}]} for name, text in rows]
    bad = {i for i, (_, text) in enumerate(rows) if text is None}
    if not lines:
        content = json.dumps(objects, ensure_ascii=ascii_only, indent=draw(st.sampled_from([None, 0, 2])))
        return Written("json", content.encode(encoding), rows, bad)
    end, written, found, out = draw(st.sampled_from(["\n", "\r\n", "\n\n", "\r"])), [], set(), list[tuple]()
    for i, (row, object) in enumerate(zip(rows, objects, strict=True)):
        if i and draw(st.integers(0, 3)) == 0:
            found.add(len(out))
            out.append((None, "{broken"))
            written.append("{broken")
        found |= {len(out)} if i in bad else set()
        out.append(row)
        written.append(json.dumps(object, ensure_ascii=ascii_only))
    return Written(draw(st.sampled_from(["jsonl", "ndjson"])), end.join(written).encode(encoding), out, found)


@st.composite
def as_arrow(draw: st.DrawFn) -> Written:
    """Parquet, Feather or an Arrow stream, with any type that can hold texts."""
    rows = draw(ROWS)
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), "dictionary", "pandas"]
    kind = draw(st.sampled_from(kinds))
    texts = pa.array([text for _, text in rows], pa.string())
    if kind == "dictionary":
        texts = texts.dictionary_encode()
    elif kind != "pandas":
        texts = pa.array([text and (text.encode() if "binary" in str(kind) else text) for _, text in rows], kind)
    table = pa.table({"id": [name for name, _ in rows], "text": texts, "n": list(range(len(rows)))})
    out, ending = io.BytesIO(), draw(st.sampled_from(["parquet", "arrow", "feather"]))
    if kind == "pandas":
        table = pa.Table.from_pandas(table.to_pandas().set_index("n"))
    if ending == "parquet":
        codec = draw(st.sampled_from(["snappy", "zstd", "gzip", "none"]))
        pq.write_table(table, out, row_group_size=draw(st.integers(1, 4)), compression=codec)
    else:
        with (pa.ipc.new_file if ending == "feather" else pa.ipc.new_stream)(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=draw(st.integers(1, 4)))
    return Written(ending, out.getvalue(), rows, {i for i, (_, text) in enumerate(rows) if text is None})


def packed(draw: st.DrawFn, written: Written) -> tuple[str, bytes]:
    codec = draw(st.sampled_from([None, None, "gzip", "zstd", "bz2", "lz4"]))
    if codec is None or written.ending in ("parquet", "arrow", "feather"):
        return f"in.{written.ending}", written.data
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, codec) as stream:
        stream.write(written.data)
    ending = {"gzip": ".gz", "zstd": ".zst", "bz2": ".bz2", "lz4": ".lz4"}[codec]
    return f"in.{written.ending}{draw(st.sampled_from([ending, '']))}", out.getvalue().to_pybytes()


def comes_back(data: st.DataObject, kind: st.SearchStrategy[Written]) -> None:
    written = data.draw(kind)
    name, content = packed(data.draw, written)
    ending, window = data.draw(st.sampled_from(OUTPUTS)), data.draw(st.integers(1, 4))
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        source, target = Path(folder, name), Path(folder, f"out.{ending}")
        source.write_bytes(content)
        summary = score_table(Engine(), source, target, prefix=PREFIX, window=window, **written.options)
        rows = read_back(target, ("id", "text"))
        read = LabelledTexts.read(source, labels_column="id", **written.options)
    assert summary.rows == len(rows) == len(written.rows)
    assert summary.errors == len(written.bad)
    for i, (row, (id, text)) in enumerate(zip(rows, written.rows, strict=True)):
        assert bool(row[PREFIX + "error"]) == (i in written.bad), row
        assert (row.get("id") or "") == (id or "")  # CSV has no null
        assert (row.get("text") or "") == (text or "") or i in written.bad, "a short row has no text"
        if i not in written.bad:
            assert int(row[PREFIX + "label"]) == Engine().answer(text).label
            assert read.texts[i] == text
            assert read.values[i] == id


@pytest.mark.parametrize("count", [pytest.param(25, id="some"), pytest.param(1500, id="many", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [as_csv, as_json, as_arrow], ids=lambda kind: kind.__name__)
def test_random_tables_come_back(kind: object, count: int) -> None:
    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data: st.DataObject) -> None:
        comes_back(data, kind())  # type: ignore[operator]

    run()


# Bytes


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with a few bytes changed, cut, doubled, or put in that mean something in a table."""
    data = bytearray(content)
    signs = [
        b'"',
        b"\n",
        b"\r",
        b",",
        b";",
        b"\t",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"text"',
        b"\\",
    ]
    for _ in range(draw.choice([0, 1, 1, 2, 4, 12])):
        place, what = draw.randrange(len(data) + 1), draw.random()
        if what < 0.4 and place < len(data):
            data[place] = draw.randrange(256)
        elif what < 0.6:
            del data[place : place + draw.randrange(1, 20)]
        elif what < 0.8:
            data[place:place] = draw.choice(signs)
        else:
            data[place:place] = data[max(0, place - 30) : place]
    return bytes(data)


def seeds() -> dict[str, list[bytes]]:
    """Small tables by their endings."""
    rows = [{"id": i, "text": text} for i, text in enumerate(["a", 'b "c", d', "e\nf", "ü", ""])]
    frame, table = pd.DataFrame(rows), pa.Table.from_pylist(rows)
    streams = {}
    for kind, new in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
        out = io.BytesIO()
        with new(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        streams[kind] = out.getvalue()
    return {
        "csv": [frame.to_csv(sep=mark).encode(codec) for mark in ",;" for codec in ("utf-8", "utf-16")],
        "tsv": [frame.to_csv(sep="\t", lineterminator="\r").encode()],
        "jsonl": [frame.to_json(orient="records", lines=True).encode()],
        "json": [json.dumps(rows, indent=indent).encode() for indent in (None, 1)] + [b'{"text": "a"}'],
        "parquet": [frame.to_parquet(row_group_size=2), frame.astype("category").to_parquet()],
        "arrow": list(streams.values()),
        "txt": [b"a\nb\r\nc", b"a\rb"],
        "csv.gz": [gzip.compress(frame.to_csv().encode(), mtime=0)],
    }


@pytest.mark.parametrize("count", [pytest.param(40, id="some"), pytest.param(2500, id="many", marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", [*FORMATS, "csv.gz"])
def test_damaged_tables(format: str, count: int) -> None:
    draw, found, whole = random.Random(count), set(), seeds()[format]
    for _ in range(count):
        found.add(check_bytes(damaged(draw.choice(whole), draw), format) is None)
    assert found == {True, False}, "some are scored, and some are refused"
