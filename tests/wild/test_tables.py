"""CSV as people export it: separators, line ends, encodings and headers of other programs than slant's authors use."""

from __future__ import annotations

import codecs
import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from fake import Engine

from slant.errors import TableError
from slant.tables.bulk import score_table
from slant.tables.labelled import LabelledTexts

ROWS = [("1", "plain"), ("2", 'a "quoted", b; c'), ("3", "two\nlines\tand | more"), ("4", "Größe 🙂")]


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """What is said about inputs."""
    said: list[str] = []
    handler, log = logging.Handler(), logging.getLogger("slant.tables")
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield said
    log.removeHandler(handler)


def table(folder: Path, content: str | bytes, name: str = "in.csv") -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def run(source: Path, prefix: str = "", **options: object) -> list[dict]:
    """The scored rows; ``got`` gives their cells."""
    target = source.with_name("scored.jsonl")
    score_table(Engine(), source, target, force=True, prefix=prefix, **options)  # type: ignore[arg-type]
    rows = [json.loads(line) for line in target.read_bytes().splitlines()]
    for row in rows:
        assert (row[prefix + "error"] is None) == (row[prefix + "label"] is not None)
    return rows


def got(rows: list[dict], *names: str) -> list[tuple]:
    return [tuple(row[name] for name in names or ("id", "text")) for row in rows]


def refused(source: Path, **options: object) -> str:
    with pytest.raises(TableError) as caught:
        score_table(lambda: pytest.fail("loads a model for nothing"), source, source.with_name("out.csv"), **options)  # type: ignore[arg-type]
    assert str(source) in str(caught.value)
    return str(caught.value)


# Separators


def written(path: Path, delimiter: str, encoding: str = "utf-8", **dialect: object) -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter, **dialect).writerows([("id", "text"), *ROWS])  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "tab"])
@pytest.mark.parametrize(("delimiter", "name"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_the_header_shows_the_separator(
    tmp_path: Path, notes: list[str], delimiter: str, name: str, ending: str
) -> None:
    path = written(tmp_path / f"in.{ending}", delimiter)
    assert got(run(path)) == ROWS
    usual = delimiter == ("," if ending == "csv" else "\t")
    assert len(notes) == (not usual)
    assert usual or (f"is separated by {'vertical ' * (delimiter == '|')}{name}" in notes[0] and "--delim" in notes[0])


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ":", "~", "\x01", "tab", "\\t"])
def test_the_separator_is_given(tmp_path: Path, notes: list[str], delimiter: str) -> None:
    path = written(tmp_path / "in.csv", "\t" if delimiter in ("tab", "\\t") else delimiter)
    assert got(run(path, delimiter=delimiter)) == ROWS
    assert not notes


@pytest.mark.parametrize(
    "content",
    [
        "a;b;c,text\n1,2\n",  # a name with semicolons
        "text\na;b\nc\td\n",  # one column, whose texts have every separator
        'x|text,"multi\nline",text\n1,2,3\n',  # a header of two lines
        '"a;text","b\ttext",text\n1,2,3\n',
        'id;text,text\n1,2\n',
    ],
)  # fmt: skip
def test_a_comma_file_is_read_as_ever(tmp_path: Path, notes: list[str], content: str) -> None:
    path = table(tmp_path, content)
    with path.open(newline="") as file:
        expected = list(csv.DictReader(file))
    assert [{name: row[name] for name in expected[0]} for row in run(path)] == expected
    assert not notes


def test_excels_first_line_names_the_separator(tmp_path: Path, notes: list[str]) -> None:
    for start, mark in (("sep=;\r\n", ";"), ('"sep=|"\n', "|"), ("\ufeffsep=,\n", ","), ("sep=\t\n", "\t")):
        rows = run(table(tmp_path, f"{start}id{mark}text\r\n1{mark}a\r\n2{mark}b{mark}c\r\n"))
        assert got(rows) == [("1", "a"), ("2", "b")]
        assert "Line 4" in rows[1]["error"]
    assert not notes
    assert got(run(table(tmp_path, "sep=;\nid|text\n1|a\n"), delimiter="|")) == [("1", "a")]


@pytest.mark.parametrize("delimiter", ["", "::", "x", "7", '"', "\n", "\0", "semicolon"])
def test_what_cannot_separate(tmp_path: Path, delimiter: str) -> None:
    with pytest.raises(TableError, match=r"the delimiter is .*; give one character"):
        run(table(tmp_path, "id,text\n"), delimiter=delimiter)


def test_a_wrong_separator_is_told(tmp_path: Path) -> None:
    assert "with --delimiter ';' it has" in refused(table(tmp_path, "id;text\n1;a\n"), delimiter=",")
    assert "with --delimiter tab it has" in refused(table(tmp_path, "id\ttext\n1\ta\n"), delimiter=",")
    message = refused(table(tmp_path, '{"text": "a"}\n', "in.jsonl"), delimiter=";")
    assert "a delimiter is for csv and tsv; leave out --delimiter" in message


def test_the_columns_are_listed_as_they_are_separated(tmp_path: Path) -> None:
    assert "its columns are: id, Body;" in refused(table(tmp_path, "id;Body\n1;a\n"))


@pytest.mark.parametrize("dialect", ["excel", "excel-tab", "unix"])
def test_pythons_dialects(tmp_path: Path, dialect: str) -> None:
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, dialect).writerows([("id", "text"), *ROWS])
    assert got(run(tmp_path / "in.csv")) == ROWS


def test_backslashes_are_text_and_what_they_break_is_told(tmp_path: Path) -> None:
    # As Spark and MySQL escape quotes: such a row has an error, and the others are read.
    path = table(tmp_path, 'id,text\n1,"a \\"b\\" c"\n2,a\\,b\n3,"c:\\\\d"\n')
    rows = run(path)
    assert [row["error"] is None for row in rows] == [False, False, True]
    assert rows[0]["text"] == '1,"a \\"b\\" c"'
    assert rows[2]["text"] == "c:\\\\d"


# Line ends


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "mixed", "mixed, blank"])
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_line_ends(tmp_path: Path, end: str, format: str) -> None:
    lines = {"csv": ["id,text", "1,a", "2,b", "3,c"], "jsonl": [json.dumps({"id": i, "text": i}) for i in "123"]}[
        format
    ]
    ends = {"mixed": ["\n", "\r\n", "\r", ""], "mixed, blank": ["\n\n", "\r\n\r\n\r", "\r\r", "\n \n"[2:]]}
    content = "".join(line + mark for line, mark in zip(lines, ends.get(end, [end] * 4), strict=False))
    assert [row["id"] for row in run(table(tmp_path, content, f"in.{format}"))] == ["1", "2", "3"]


def test_lines_that_end_as_on_old_macs(tmp_path: Path) -> None:
    for content, texts in [
        ("one\rtwo\r", ["one", "two"]),
        ("one\rtwo", ["one", "two"]),
        ("one\rstill one\ntwo\r\n", ["one\rstill one", "two"]),
        ("one\r", ["one"]),
    ]:
        assert [row["text"] for row in run(table(tmp_path, content, "in.txt"))] == texts


def test_empty_lines_are_no_rows_and_are_counted(tmp_path: Path) -> None:
    """As in microsoft/graphrag#2424."""
    for name, content in {
        "in.csv": "\n\r\ntext,id\n\n\na,1\n\n,,\n",
        "in.jsonl": '\n\r\n \t\n{"text": "a", "id": "1"}\n\n\n\nbroken\n\n',
    }.items():
        rows = run(table(tmp_path, content, name))
        assert [row["error"] is None for row in rows] == [True, False]
        assert "Line 8" in rows[1]["error"]


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be marked", "utf-32-be marked"])
@pytest.mark.parametrize("format", ["csv", "jsonl", "json", "txt", "tsv"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, notes: list[str], encoding: str, format: str) -> None:
    """As in pandas-dev/pandas#4793, UKGovernmentBEIS/inspect_ai#5353."""
    texts = [text.replace("\n", " ") for _, text in ROWS]
    content = {
        "csv": "text\n" + "".join('"' + text.replace('"', '""') + '"\n' for text in texts),
        "tsv": "text\n" + "".join('"' + text.replace('"', '""') + '"\n' for text in texts),
        "jsonl": "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts),
        "json": json.dumps([{"text": text} for text in texts], ensure_ascii=False),
        "txt": "\n".join(texts),
    }[format]
    codec = encoding.removesuffix(" marked")
    data = (content if codec == encoding else "\ufeff" + content).encode(codec)
    for given in ("utf-8", "utf_8", "UTF8", "latin-1", codec):
        assert [row["text"] for row in run(table(tmp_path, data, f"in.{format}"), encoding=given)] == texts
    assert all("as its byte order mark says" in note for note in notes)
    assert len(notes) == (1 if codec == "utf-8-sig" else 4)


@pytest.mark.parametrize(
    ("given", "codec"),
    [
        ("utf_8", "utf-8"), ("UTF8", "utf-8"), ("U8", "utf-8"), ("utf-8-sig", "utf-8"), ("cp65001", "utf-8"),
        ("latin-1", "latin-1"), ("ISO-8859-1", "latin-1"), ("windows-1252", "cp1252"), ("mac_roman", "mac_roman"),
        ("utf-16-le", "utf-16-le"), ("UTF-16BE", "utf-16-be"), ("gb18030", "gb18030"), ("shift_jis", "utf-8"),
    ],
)  # fmt: skip
def test_encodings_by_any_name(tmp_path: Path, given: str, codec: str) -> None:
    text = "plain" if given == "shift_jis" else "Größe"
    assert got(run(table(tmp_path, f"text\n{text}\n".encode(codec)), encoding=given), "text") == [(text,)]


@pytest.mark.parametrize("encoding", ["klingon", "", "hex", "rot13", "zip", "utf-8\0", "\ud800"])
def test_no_encoding_is_one_sentence(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(TableError, match="is no encoding Python knows"):
        run(table(tmp_path, "text\na\n"), encoding=encoding)


def test_what_is_not_utf_8_is_told_with_what_it_may_be(tmp_path: Path) -> None:
    message = refused(table(tmp_path, "text,id\na,1\ncafé,2\n".encode("cp1252")))
    assert "line 3 is not utf-8 (byte 0xe9 at offset 15, 'é' in cp1252)" in message
    assert "name its encoding with --encoding: cp1252" in message
    assert "--encoding: latin-1" in refused(table(tmp_path, b"text\n\x81\n"))
    for codec in ("utf-16-le", "utf-16-be"):
        for name in ("in.csv", "in.txt"):
            assert f"give --encoding {codec}" in refused(table(tmp_path, "text\nabc\n".encode(codec), name))
    with pytest.raises(TableError, match="line 2 is not utf-16"):
        run(table(tmp_path, codecs.BOM_UTF16_LE + "text\na".encode("utf-16-le")[:-1]))


def test_nuls_are_text(tmp_path: Path) -> None:
    assert got(run(table(tmp_path, "text\n\0\0a\0\n")), "text") == [("\0\0a\0",)]


# Headers


@pytest.mark.parametrize(
    ("header", "names", "changed"),
    [
        ("id,text,", ["id", "text", "column_3"], 1),
        (",text", ["column_1", "text"], 1),  # pandas' index
        ("text,x,x,x", ["text", "x", "x_2", "x_3"], 2),
        ("x,text,x_2,x,,column_5", ["x", "text", "x_2", "x_3", "column_6", "column_5"], 2),
        (",,text,,", ["column_1", "column_2", "text", "column_4", "column_5"], 4),
        (" ,text", [" ", "text"], 0),
    ],
)
def test_empty_and_repeated_names(
    tmp_path: Path, notes: list[str], header: str, names: list[str], changed: int
) -> None:
    cells = [f"cell {i}" for i in range(len(names))]
    (row,) = run(table(tmp_path, f"{header}\n{','.join(cells)}\n"))
    assert [row[name] for name in names] == cells
    assert len(notes) == bool(changed)
    assert not changed or notes[0].count(" is ") == changed


def test_the_column_of_texts_must_be_one(tmp_path: Path) -> None:
    assert "two columns of the same name, 'text'; rename one" in refused(table(tmp_path, "text,id,text\na,1,b\n"))
    for name in ("gold", "group"):
        path = table(tmp_path, f"text,gold,group,{name}\na,0,g,1\n")
        with pytest.raises(TableError, match=f"two columns of the same name, '{name}'"):
            LabelledTexts.read(path, labels_column="gold", keep=["group"])


@pytest.mark.parametrize(
    ("header", "suggested"),
    [("Text,id", "Text"), (" text,id", "' text'"), ("id,text ", "'text '"), ("TEXT;id", "TEXT"), ("'text',id", None)],
)
def test_a_name_spelled_otherwise_is_suggested(tmp_path: Path, header: str, suggested: str | None) -> None:
    message = refused(table(tmp_path, f"{header}\na,b\n"))
    assert f"did you mean --text-column {suggested or ''}" in message


def test_a_long_list_of_columns_is_cut(tmp_path: Path) -> None:
    message = refused(table(tmp_path, ",".join(f"c{i}" for i in range(5000)) + "\n"))
    assert "c19 and 4980 more; choose one with --text-column" in message


def test_labels_spelled_otherwise_are_suggested(tmp_path: Path) -> None:
    path = table(tmp_path, "text;Gold \na;0\n")
    with pytest.raises(TableError, match="no column 'gold' for the labels; its columns are: text, Gold ; did you mean"):
        LabelledTexts.read(path, labels_column="gold")


def test_short_and_long_rows_keep_their_error(tmp_path: Path) -> None:
    rows = run(table(tmp_path, "id;text\n1;a\n2\n3;c;d\n"))
    assert [row["error"] and row["error"][:7] for row in rows] == [None, "Line 3:", "Line 4:"]
    assert "Not kept: 'd'" in rows[2]["error"]


# What other programs write


FRAME = pd.DataFrame({"id": [n for n, _ in ROWS], "text": [text for _, text in ROWS]})


@pytest.mark.parametrize(
    "options",
    [
        {"sep": ";", "encoding": "utf-16"},
        {"sep": "\t", "encoding": "utf-8-sig", "lineterminator": "\r\n"},
        {"quoting": csv.QUOTE_ALL, "sep": "|"},
        {"index": True},
        {"sep": ";", "compression": "gzip"},
        {"compression": "bz2", "quoting": csv.QUOTE_NONNUMERIC},
    ],
)
def test_pandas_csv(tmp_path: Path, options: dict) -> None:
    FRAME.to_csv(tmp_path / "in.csv", **{"index": False, **options})
    assert got(run(tmp_path / "in.csv")) == ROWS


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t"), ("tab", "\t")])
def test_the_output_is_separated_as_its_ending_says(tmp_path: Path, ending: str, delimiter: str) -> None:
    source, target = written(tmp_path / "in.csv", ";"), tmp_path / f"out.{ending}"
    score_table(Engine(), source, target)
    with target.open(newline="", encoding="utf-8") as file:
        assert [(row["id"], row["text"]) for row in csv.DictReader(file, delimiter=delimiter, strict=True)] == ROWS
    assert got(run(target, prefix="again_")) == ROWS
