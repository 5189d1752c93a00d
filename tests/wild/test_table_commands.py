"""Every command reads a table alike, says once what it found out about it, and names options that it has."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import toy
import typer

from slant.bench.texts import read
from slant.cli import app as cli
from slant.cli.options import read_template
from slant.demo import FOLDER
from slant.prompt.prompt import Prompt
from slant.tables.labelled import LabelledTexts
from slant.training.data import Examples, TrainingTable

COMMANDS = typer.main.get_command(cli.app).commands
LINES = [("text", "gold", ""), ('one; "two"', "0", ""), ("three", "4", ""), ("two\nlines, é", "0", "")]
READING = {"score", "evaluate", "drift", "bench", "quantize", "finetune"}


def exported(folder: Path, name: str = "in.csv", mark: str = ";", encoding: str = "utf-16") -> Path:
    """A table as a spreadsheet program exports it, with an empty last column."""
    cells = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in line] for line in LINES]
    content = "".join(mark.join(line) + "\r\n" for line in cells).encode(encoding)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, list[str]]:
    code = cli.run([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


@pytest.mark.parametrize("command", sorted(READING))
def test_the_options_are_those_of_all_commands(command: str) -> None:
    found = {name for option in COMMANDS[command].params for name in option.opts}
    assert {"--delimiter", "--encoding", "--input-format", "--format", "--text-column"} <= found


@pytest.mark.parametrize("command", ["score", "evaluate", "drift"])
def test_an_exported_table_is_read_and_its_kind_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = exported(tmp_path)
    code, _, err = run(
        capsys,
        *{
            "score": ["score", path, "--model", "demo", "--output", tmp_path / "out.csv"],
            "evaluate": ["evaluate", path, "--model", "demo", "--labels-column", "gold"],
            "drift": ["drift", "demo", "--texts", path, "--labels-column", "gold", "--reference", "fp32"],
        }[command],
    )
    assert code == 0, err
    said = [line for line in err if str(path) in line]
    assert [line.partition(str(path))[2].split(",")[0].split(";")[0] for line in said] == [
        " is UTF-16", " is separated by semicolons", " has empty or repeated column names",
    ]  # fmt: skip
    assert all(line.startswith("slant: ") for line in said)


def test_training_benchmark_and_calibration_read_it_too(tmp_path: Path) -> None:
    texts = [line[0] for line in LINES[1:]]
    prompt = Prompt.load(FOLDER)
    for name in ("in.csv", "in.csv.gz", "in.tsv"):
        for mark in (";", "\t", "|", ","):
            path = exported(tmp_path, name, mark)
            given: dict = {"delimiter": None, "encoding": "utf-8", "input_format": None, "text_column": "text"}
            assert read(path, rows=9, **given) == texts
            assert list(LabelledTexts.read(path, **given).texts) == texts  # quantize and drift
            rows = Examples.read([TrainingTable(path, labels_column="gold")], prompt).rows
            assert [row.text for row in rows] == texts
    path = exported(tmp_path, "in.csv", "~")
    assert len(Examples.read([TrainingTable(path, labels_column="gold", delimiter="~")], prompt).rows) == len(texts)


def test_finetune_passes_its_options_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = toy.base(tmp_path / "base")
    lines = "".join(f"{text}~{label}\n" for text, label in toy.rows(40)).encode("cp1252")
    (tmp_path / "in.csv").write_bytes(b"text~label\n" + lines + "caf\xe9~0\n".encode("cp1252"))
    words = ["finetune", base, "--data", tmp_path / "in.csv", "--output", tmp_path / "new", "--max-tokens", "200"]
    quick = ["--epochs", "1", "--batch-size", "40", "--accumulation", "1", "--warmup-steps", "0"]
    code, _, err = run(capsys, *words, *quick)
    assert code == 2
    assert "--encoding: cp1252" in err[-1] or "no column" in err[-1]
    code, _, err = run(capsys, *words, *quick, "--encoding", "cp1252", "--delimiter", "~")
    assert code == 0, err


def test_predictions_are_read_whatever_separates_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported(tmp_path)
    for name, mark in (("p.csv", ";"), ("p.tsv", "\t"), ("p.csv", "|"), ("p.csv.gz", ","), ("p.tab", "\t")):
        content = f"label{mark}id\n0{mark}1\n4{mark}2\n1{mark}3\n".encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        figures = tmp_path / "figures.json"
        words = ["evaluate", path, "--labels-column", "gold", "--predictions", tmp_path / name, "--json", figures]
        code, _, err = run(capsys, *words)
        assert code == 0, err
        assert json.loads(figures.read_text())["sides"][0]["accuracy_of_all"] == pytest.approx(2 / 3)


def test_advice_about_predictions_names_no_option_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # --input-format is that of TABLE; it says nothing about the predictions.
    path = exported(tmp_path)
    (tmp_path / "p.dat").write_text("label\n0\n4\n1\n")
    (tmp_path / "p.csv").write_bytes(b"PAR1\x15\x04")
    for name, message in (("p.dat", "rename the file."), ("p.csv", "name it .parquet.")):
        code, _, err = run(capsys, "evaluate", path, "--labels-column", "gold", "--predictions", tmp_path / name)
        assert code == 2
        assert err[-1].endswith(message)
        assert "--" not in err[-1]


def test_windows_line_ends_of_a_template_are_said_by_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "prompt.txt"
    template.write_bytes("\ufeff".encode() + (FOLDER / "../prompt/prompt.txt").read_bytes())
    outputs = []
    for words in ([], ["--template", template]):
        source, out = FOLDER / "passages.jsonl", tmp_path / f"out{len(words)}.csv"
        code, _, err = run(capsys, "score", source, "--model", "demo", "--output", out, "--weights", "fp32", *words)
        assert (code, err) == (0, [])
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1], "a byte order mark moves no score"
    template.write_bytes(template.read_bytes().replace(b"\n", b"\r\n"))
    assert "\r\n" in str(read_template(template))
