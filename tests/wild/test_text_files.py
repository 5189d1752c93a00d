"""Files that people write by hand: template, labels, slant.json and recipe, as their editors and shells save them.

A byte order mark is no text: Notepad, Excel and PowerShell write one, and before a template it would enter the prompt.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slant.artifact.recipe import Recipe
from slant.cli.options import read_labels, read_template
from slant.errors import PromptError, RecipeError, SlantError
from slant.files import read_json, read_text
from slant.prompt.prompt import _settings

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
LABELS = {"0": "links", "1": "öde Mitte"}
RULES = {"mlp.up_proj.weight": {"bits": 4, "group_size": 64}}
READERS = {
    "template": (read_template, "Émile: {article}\n"),
    "labels": (read_labels, LABELS),
    "slant.json": (_settings, {"template": "é {article}", "labels": LABELS}),
    "recipe": (lambda path: Recipe.read(path).json(), {"rules": RULES}),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-16-be marked", "utf-32-be marked"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, kind: str, encoding: str) -> None:
    read, content = READERS[kind]
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    codec = encoding.removesuffix(" marked")
    (tmp_path / "file").write_bytes((text if codec == encoding else "\ufeff" + text).encode(codec))
    assert read(tmp_path / "file") == (tuple(content.values()) if kind == "slant.json" else content)


@pytest.mark.parametrize("text", ["a\r\nb {article}\r\n", "a\nb", "a\rb", "", "\n", "\ufeff", "x\ufeffy", "a\0"])
def test_all_else_in_a_file_stays(tmp_path: Path, text: str) -> None:
    for encoding in ENCODINGS[1:]:
        (tmp_path / "file").write_bytes(text.encode(encoding))
        assert read_text(tmp_path / "file") == text


def test_windows_line_ends_in_a_template_are_kept_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"one\r\n{article}\r\n")
    assert read_template(tmp_path / "prompt.txt") == "one\r\n{article}\r\n"
    assert "prompt.txt has Windows line ends (CR LF)" in capsys.readouterr().err
    (tmp_path / "prompt.txt").write_bytes(b"one\n{article}\n")
    read_template(tmp_path / "prompt.txt")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"line\ncaf\xe9", "file is not UTF-8: byte 0xe9 in line 2; save it as UTF-8."),
        (b"\xef\xbb\xbfline\ncaf\xe9", "file is not UTF-8: byte 0xe9 in line 2"),
        (b"\xff\xfea", "file is not UTF-16: byte 0x61 in line 1"),
        (b"\xff\xfe\0\0abcd", "file is not UTF-32"),
    ],
)
def test_what_is_no_text_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    for read, kind in (
        (read_text, SlantError),
        (lambda path: _settings(path), PromptError),
        (Recipe.read, RecipeError),
    ):
        with pytest.raises(kind) as caught:
            read(tmp_path / "file")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "file cannot be read as JSON: Expecting value"),
        ('{"0": "a", "1": "b", "0": "c"}', "the key '0' is there twice"),
        ("[" * 100_000, "file cannot be read as JSON: maximum recursion depth"),
        ("[" + "1" * 5000 + "]", "file cannot be read as JSON: Exceeds the limit"),
    ],
)
def test_what_is_no_json_is_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(SlantError, match=message):
        read_json(tmp_path / "file")


@pytest.mark.parametrize("content", ["null", "[]", '"x"', '{"0": 1}', '{"0": null}'])
def test_labels_are_names(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(SlantError, match="must map each answer to its name"):
        read_labels(tmp_path / "labels.json")


def test_a_folder_or_nothing_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(SlantError, match="cannot be read: "):
            read_template(path)
