"""What the commands advise: options that the command in use has, spelled as on the command line."""

import ast
import json
import re
import shutil
from dataclasses import MISSING, fields
from inspect import signature
from pathlib import Path
from typing import get_args

import pytest
import torch
import typer

import slant
from slant.artifact.recipe import NAMED, W4A8
from slant.cli import app as cli
from slant.cli.finetune import training_recipe
from slant.cli.options import load_options
from slant.demo import FOLDER
from slant.options import AUTO, SPECIAL_TOKENS, TRUNCATIONS, WEIGHTS, LoadOptions
from slant.runtime.execution import Eager
from slant.runtime.resolved import DTYPES
from slant.training.recipe import PRECISIONS, SCHEDULES, TrainingRecipe
from slant_kernels.linear import EIGHT_BIT

COMMANDS = typer.main.get_command(cli.app).commands
FIELDS = {field.name for field in fields(LoadOptions)}
PYTHON = rf"\b({'|'.join(sorted(FIELDS))})="  # an option as Python spells it


def options(command):
    """The options of a command, each spelling of them."""
    return {name for option in COMMANDS[command].params for name in (*option.opts, *option.secondary_opts)}


def advised(message):
    """(command or "", option) for each option that a message names, and for each field of LoadOptions in its advice."""
    found = {(other, option) for other, option in re.findall(r"(?:slant (\w+) )?(--[a-z][a-z0-9-]*)", message)}
    _, _, advice = message.rpartition(";")
    words = set(re.findall(r"\w+", advice)) if ";" in message else set()
    return found | {("", "--" + name.replace("_", "-")) for name in FIELDS & words}


@pytest.fixture
def files(tmp_path):
    """Inputs of all kinds, by the names that the cases use."""
    (tmp_path / "in.csv").write_text("text,label\none,0\ntwo,1\n")
    (tmp_path / "latin.csv").write_bytes(b"text,label\ncaf\xe9,0\n")
    (tmp_path / "in.dat").write_text("text\tlabel\none\t0\n")
    (tmp_path / "answers.csv").write_text("text,label\none,0\n")
    short = shutil.copytree(FOLDER, tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    (tmp_path / "exists").mkdir()
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "something").touch()
    return tmp_path


RUNS = {
    "score": ["in.csv", "--model", "MODEL", "--output", "out.csv", "--prefix", "x_"],
    "evaluate": ["in.csv", "--model", "MODEL", "--labels-column", "label"],
    "drift": ["MODEL", "--texts", "in.csv"],
    "bench": ["MODEL", "--lengths", "100", "--texts", "1", "--seconds", "0"],
    "quantize": ["MODEL", "new", "--max-kl", "1", "--calibration", "in.csv"],
    "finetune": ["MODEL", "--data", "in.csv", "--output", "new"],
    "inspect": ["MODEL"],
    "compile": ["MODEL", "--target", "sm_90", "--output", "new"],
}
CASES = [
    *((command, line) for command, line in RUNS.items()),  # on a model that is built for fewer tokens than its template
    *(
        (command, [*(("demo" if word == "MODEL" else word) for word in line), *more])
        for command, line in RUNS.items()
        for more in (["--device", "cuda"], ["--max-tokens", "99999"], ["--max-tokens", "3"])
        if more[0] in options(command)
    ),
    *(
        (command, [{"MODEL": "demo", "in.csv": table}.get(word, word) for word in line])
        for command, line in RUNS.items()
        for table in ("latin.csv", "in.dat")
        if "in.csv" in line
    ),
    ("score", ["in.csv", "--model", "demo", "--output", "out.dat"]),
    ("score", ["in.csv", "--model", "demo", "--output", "exists.csv"]),
    ("score", ["answers.csv", "--model", "demo", "--output", "out.csv"]),
    ("score", ["in.csv", "--model", "demo", "--text-column", "body"]),
    ("score", ["in.csv", "--model", "demo", "--memory", "much"]),
    ("score", ["in.csv", "--model", "demo", "--memory", "1KB"]),
    ("score", ["in.csv", "--model", "demo", "--max-flip-rate", "0"]),
    ("score", ["in.csv", "--model", "demo", "--rescore-unstable", "demo"]),
    ("score", ["in.csv", "--model", "hqq8", "--weights", "hqq4"]),
    ("evaluate", ["in.csv", "--labels-column", "label", "--predictions", "in.dat"]),
    ("evaluate", ["in.csv", "--labels-column", "gold"]),
    ("evaluate", ["in.csv", "--model", "demo", "--labels-column", "label", "--memory", "1KB"]),
    ("drift", ["demo", "--texts", "in.csv", "--memory", "1KB"]),
    ("drift", ["hqq8", "--texts", "in.csv"]),
    ("drift", ["demo", "--texts", "in.csv", "--max-p99-delta", "-1"]),
    ("drift", ["demo", "--texts", "in.csv", "--max-p99-expected", "-1"]),
    ("bench", ["demo", "--lengths", "9000"]),
    ("bench", ["demo", "--memory", "1KB"]),
    ("bench", ["demo", "--lengths", "100", "--max-tokens", "90"]),
    ("quantize", ["demo", "exists"]),
    ("quantize", ["demo", "new"]),
    ("quantize", ["hqq8", "other"]),
    ("quantize", ["demo", "other", "--max-kl", "-1"]),
    ("finetune", ["demo", "--data", "in.csv", "--output", "new"]),
    ("finetune", ["demo", "--data", "in.csv", "--output", "other", "--text-column", "body"]),
    ("finetune", ["demo", "--data", "in.csv", "--output", "other"]),
    ("compile", ["hqq8", "--target", "sm_90", "--output", "other", "--weights", "hqq4"]),
]


def spoken(command, line, capsys):
    code = cli.run([command, *line])
    err = capsys.readouterr().err.splitlines()
    assert code == 2, (command, line)
    assert "unexpected" not in err[-1]
    return err[-1]


@pytest.mark.parametrize(("command", "line"), CASES, ids=lambda part: part if isinstance(part, str) else " ".join(part))
def test_advice_names_options_of_the_command(command, line, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("exists.csv").touch()
    if "hqq8" in line:
        assert cli.run(["quantize", "demo", "hqq8", "--bits", "8"]) == 0
    message = spoken(command, ["short" if word == "MODEL" else word for word in line], capsys)
    for other, option in advised(message):
        assert option in options(other or command), message
    assert not re.search(PYTHON, message), message


@pytest.mark.filterwarnings("ignore:a batch of")
@pytest.mark.parametrize(
    ("command", "more"), [("score", ["--deterministic"]), ("score", []), ("evaluate", []), ("drift", []), ("bench", [])]
)
def test_advice_when_memory_runs_out(command, more, files, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.chdir(files)
    monkeypatch.setattr(Eager, "submit", full)
    line = ["demo" if word == "MODEL" else word for word in RUNS[command]]
    message = spoken(command, [*line, *more], capsys)
    assert "memory" in message
    assert advised(message)
    for other, option in advised(message):
        assert option in options(other or command), message


def test_no_message_is_spelled_as_in_python():
    """A message is read on the command line as well."""
    for path in Path(slant.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and "Error" in ast.dump(node.exc.func):
                parts = [part.value for part in ast.walk(node.exc) if isinstance(part, ast.Constant)]
                message = "".join(part for part in parts if isinstance(part, str))
                assert not re.search(PYTHON, message), f"{path.name}: {message}"


@pytest.mark.parametrize(("declared", "made"), [(load_options, LoadOptions), (training_recipe, TrainingRecipe)])
def test_options_and_defaults_are_those_of_what_they_make(declared, made):
    stated = {name: option.default for name, option in signature(declared).parameters.items()}
    assert stated == {field.name: field.default for field in fields(made)}
    assert MISSING not in stated.values()


def test_choices_are_all_there_are():
    choices = {
        name: get_args(option.annotation.__origin__)
        for make in (load_options, training_recipe)
        for name, option in signature(make, eval_str=True).parameters.items()
    }
    assert choices["weights"] == WEIGHTS == (*AUTO, *DTYPES, *EIGHT_BIT, W4A8, *NAMED)
    assert choices["truncation"] == TRUNCATIONS
    assert choices["special_tokens"] == SPECIAL_TOKENS
    assert choices["schedule"] == SCHEDULES
    assert choices["precision"] == PRECISIONS


def test_a_command_shows_the_options_that_it_takes():
    assert {"--template", "--labels", "--max-tokens"} <= options("inspect")
    assert not {"--device", "--weights", "--memory"} & options("inspect")
    assert options("score") >= {"--" + name.replace("_", "-") for name in FIELDS}
    assert "--options" not in set().union(*map(options, COMMANDS))
