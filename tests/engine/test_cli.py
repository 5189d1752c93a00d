"""The command line: one clear line and the right exit code, whatever goes wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake import LABELS, Engine
from rich.console import Console

from slant import __version__
from slant.cli import app as cli
from slant.cli import demo as show
from slant.cli.progress import Progress
from slant.scores import Score

FAKE = [sys.executable, str(Path(__file__).with_name("fake.py"))]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
SLANT = [sys.executable, "-c", "from slant.cli.start import main; main()"]


@pytest.fixture
def slant(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]):  # type: ignore[no-untyped-def]
    """Runs the command line in this process with the fake engine: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.run([str(argument) for argument in arguments])
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    module = type(sys)("slant.engine")
    module.Engine = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slant.engine", module)
    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "in.csv").write_text("text,id\none,1\ntwo words,2\n")
    return tmp_path / "in.csv"


def line(err: str) -> str:
    """The single line on stderr."""
    assert err.startswith("slant: ")
    assert err.count("\n") == 1
    assert err.endswith(".\n")
    return err


def test_version_and_help(slant) -> None:  # type: ignore[no-untyped-def]
    assert slant("--version") == (0, f"slant {__version__}\n", "")
    code, out, err = slant()
    assert (code, err) == (0, "")
    assert "score" in out
    assert "demo" in out
    for command in ("score", "demo", "inspect"):
        code, out, err = slant(command, "--help")
        assert (code, err) == (0, "")
        assert "Usage: slant " + command in out


def test_help_and_version_do_not_import_torch() -> None:
    for argument in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *SLANT[1:], argument], capture_output=True, text=True, check=True
        )
        assert "slant.cli.app" in done.stderr
        slow = {"torch", "numpy", "pyarrow", "transformers"}
        assert not slow & {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}


def test_help_of_no_command_imports_torch() -> None:
    """It answers at once: what is slow to import is imported by the work."""
    script = """
import sys, typer
from slant.cli import app
for command in typer.main.get_command(app.app).commands:
    assert app.run([command, "--help"]) == 0
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage: -c ") + done.stdout.count("Usage: slant ") == 10
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "slant.cli.bench" in loaded
    assert not loaded & {"torch", "numpy", "pyarrow", "transformers", "slant.engine", "slant.bench"}


def test_a_wrong_table_is_told_before_torch_is_imported() -> None:
    script = """
import sys
from slant.cli import app
assert app.run(["score", "absent.csv", "--model", "demo"]) == 2
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "absent.csv cannot be read" in done.stderr


def test_score_to_a_file_is_silent(slant, table: Path) -> None:  # type: ignore[no-untyped-def]
    target = table.with_name("out.jsonl")
    assert slant("score", table, "--model", "m", "--output", target) == (0, "", "")
    assert [json.loads(row)["id"] for row in target.read_text().splitlines()] == ["1", "2"]


@pytest.mark.parametrize("output_format", ["csv", "jsonl"])
def test_score_to_stdout(slant, table: Path, output_format: str) -> None:  # type: ignore[no-untyped-def]
    arguments = [] if output_format == "jsonl" else ["--output-format", "csv"]
    code, out, err = slant("score", table, "--model", "m", *arguments)
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out))) if arguments else [json.loads(row) for row in out.splitlines()]
    assert [row["text"] for row in rows] == ["one", "two words"]
    assert slant("--version")[0] == 0, "stdout is still open"


def test_rows_with_errors_are_counted(slant, table: Path) -> None:  # type: ignore[no-untyped-def]
    with table.open("a") as file:
        file.write("too,many,fields\nfew\n")
    code, out, err = slant("score", table, "--model", "m", "--prefix", "my_")
    assert (code, out.count("\n")) == (0, 4)
    assert line(err) == "slant: 2 of 4 rows have an error; see the my_error column.\n"


@pytest.mark.parametrize("columns", ["80", "120"])
def test_demo_in_a_pipe(slant, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:  # type: ignore[no-untyped-def]
    from slant.demo import passages

    monkeypatch.setenv("COLUMNS", columns)
    code, out, err = slant("demo")
    assert (code, err) == (0, "")
    assert "\x1b" not in out, "no colours in a pipe"
    lines = out.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert len(lines) == 6 * len(passages()) + 3
    assert "texts/s" in lines[-3]
    assert "tokens/s" in lines[-3]
    assert "not a political instrument" in lines[-1]


def test_demo_says_so_when_the_model_fails(slant, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(Engine, "answer", lambda self, text: Score.failed("It is broken.", 5))
    code, _, err = slant("demo")
    assert code == 2
    assert "It is broken" in line(err)


def test_inspect(slant, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    module = type(sys)("slant.cli.inspect_report")
    module.report = lambda model, options: f"{model} {options.max_tokens}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slant.cli.inspect_report", module)
    code, out, err = slant("inspect", "folder", "--max-tokens", "99")
    assert (code, err) == (0, "")
    assert out == "folder 99\n"


def test_every_option_of_the_engine_arrives(slant, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    seen: dict[str, object] = {}
    monkeypatch.setattr(
        Engine, "load", lambda model, options, progress: seen.update(vars(options), model=model) or Engine()
    )
    (table.with_name("template.txt")).write_bytes("é {article}\r\n".encode())
    (table.with_name("labels.json")).write_text('{"1": "yes", "0": "no"}')
    options = (
        f"--model m --weights fp32 --device cuda:1 --max-tokens 99 --truncation middle --threads 3 --max-flip-rate 0.5 "
        f"--template {table.with_name('template.txt')} --labels {table.with_name('labels.json')} "
        f"--text-column text --window 7 --format csv --encoding utf-8 --output-format csv --memory 4GB --deterministic "
        f"--token-budget 99 --special-tokens parse"
    )
    assert slant("score", table, *options.split())[0] == 0
    assert seen == {
        "model": "m",
        "weights": "fp32",
        "device": "cuda:1",
        "max_tokens": 99,
        "token_budget": 99,
        "truncation": "middle",
        "special_tokens": "parse",
        "threads": 3,
        "memory": "4GB",
        "deterministic": True,
        "max_flip_rate": 0.5,
        "template": "é {article}\r\n",
        "labels": {"1": "yes", "0": "no"},
    }
    assert slant("score", table, "--model", "demo")[0] == 0
    assert (Path(str(seen["model"])) / "passages.jsonl").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Missing argument 'IN...'"),
        ("in.csv", "Missing option '--model'"),
        ("in.csv --model m --bogus", "No such option"),
        ("in.csv --model m --weights int1", "Invalid value for '--weights'"),
        ("in.csv --model m --window 0", "Invalid value for '--window'"),
        ("in.csv --model m --text-column body", "no column 'body'; its columns are: text, id"),
        ("absent.csv --model m", "absent.csv cannot be read: No such file"),
        ("*.none --model m", "no file matches *.none"),
        ("in.csv --model m --output in.csv", "the input itself"),
        ("in.csv --model m --output old.csv", "exists"),
        ("in.csv --model m --output absent/out.csv", "does not exist"),
        ("in.csv --model m --template absent.txt", "absent.txt cannot be read: No such file or directory"),
        ("in.csv --model m --template latin.txt", "latin.txt is not UTF-8"),
        ("in.csv --model m --labels old.csv", "old.csv cannot be read as JSON"),
        ("in.csv --model m --labels list.json", "list.json must map each answer"),
        ("empty.csv --model m", "is empty"),
        ("latin.txt --model m", "byte 0xe9"),
        ("in.csv --model broken", "unexpected ZeroDivisionError: two lines; run it again with --debug"),
        ("in.csv --model m --output /dev/full --output-format csv", "/dev/full: No space left on device"),
        ("in.csv --model m --output /dev/full --output-format parquet", "/dev/full: No space left on device"),
    ],
)
def test_problems_are_one_line_and_exit_2(
    slant, table: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(table.parent)
    Path("old.csv").write_text("precious")
    Path("list.json").write_text('["far left"]')
    Path("empty.csv").touch()
    Path("latin.txt").write_bytes(b"{article} caf\xe9\n")
    before = set(table.parent.iterdir())
    code, out, err = slant("score", *arguments.split())
    assert (code, out) == (2, "")
    assert message in line(err)
    assert set(table.parent.iterdir()) == before
    assert Path("old.csv").read_text() == "precious"


def test_debug_shows_the_traceback(slant, table: Path) -> None:  # type: ignore[no-untyped-def]
    for arguments in (
        ["score", table, "--model", "broken", "--debug"],
        ["--debug", "score", table, "--model", "broken"],
    ):
        code, _, err = slant(*arguments)
        assert code == 2
        assert "Traceback" in err
        assert "ZeroDivisionError" in err


def test_interrupt(slant, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "stream", interrupted)
    target = table.with_name("out.csv")
    code, _, err = slant("score", table, "--model", "m", "--output", target)
    assert code == 130
    line(err)
    assert list(table.parent.iterdir()) == [table]


def test_stdin_to_stdout() -> None:
    done = subprocess.run([*FAKE, "score", "-", "--model", "m"], input=b"one\n\ntwo\r\n", capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [json.loads(row)["text"] for row in done.stdout.splitlines()] == ["one", "", "two"]


def test_parquet_through_pipes(tmp_path: Path) -> None:
    command = [*FAKE, "score", "-", "--model", "m"]
    done = subprocess.run([*command, "--output-format", "parquet"], input=b"one\n", capture_output=True)
    assert done.stdout[:4] == done.stdout[-4:] == b"PAR1"
    (tmp_path / "in.parquet").write_bytes(done.stdout)
    command += ["--format", "parquet", "--prefix", "x_"]
    with (tmp_path / "in.parquet").open("rb") as file:
        again = subprocess.run(command, stdin=file, capture_output=True)
    assert json.loads(again.stdout)["x_label"] == json.loads(again.stdout)["label"]
    again = subprocess.run(command, input=done.stdout, capture_output=True)
    assert again.returncode == 2
    assert "cannot come through a pipe" in line(again.stderr.decode())


@pytest.mark.parametrize("output_format", ["csv", "jsonl", "parquet"])
def test_full_stdout(table: Path, output_format: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*FAKE, "score", table, "--model", "m", "--output-format", output_format],
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 2
    assert line(done.stderr.decode()) == "slant: stdout: No space left on device.\n"


def test_full_stdout_of_the_version() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*SLANT, "--version"], stdout=full, stderr=subprocess.PIPE, env=BUFFERED)
    assert (done.returncode, line(done.stderr.decode())) == (2, "slant: stdout: No space left on device.\n")


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("word\n" * 50_000)
    command = [*FAKE, "score", str(tmp_path / "in.txt"), "--model", "m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.parametrize(("kill", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_killed_in_the_middle(tmp_path: Path, kill: str, code: int) -> None:
    (tmp_path / "in.txt").write_text("word\n" * 50)
    command = [*FAKE, "score", "in.txt", "--model", "m", "--window", "1", "--output", "out.csv"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env={**os.environ, "FAKE_DELAY": "0.02"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    ) as process:
        while not (tmp_path / "out.csv.parts" / "00000003.part").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(getattr(signal, kill))
        assert process.wait() == code
    assert {path.name for path in tmp_path.iterdir()} == {"in.txt", "out.csv.parts"}
    hidden = [path for path in tmp_path.rglob(".*") if kill != "SIGKILL"]
    assert not hidden
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"in.txt", "out.csv"}
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 51


def score(*probabilities: float) -> Score:
    p = np.array(probabilities, dtype=np.float32)
    return Score.of(np.log(p), p, [f"label {i}" for i in range(len(p))], tokens=9, dropped=0)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_passage_fits_its_terminal(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    answer = Score.of(
        np.zeros(5, np.float32), np.array([0.9, 0.05, 0.05, 0, 0], np.float32), LABELS, tokens=9, dropped=0
    )
    with console.capture() as capture:
        console.print(show.passage("many words of a long text " * 30, answer, LABELS, console))
    lines = capture.get().splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= min(width, show.WIDEST)
    assert "…" in lines[2]
    assert "far left" in lines[4]
    assert "expected 0.15" in lines[4]
    assert [
        row.rstrip().endswith(percent)
        for row, percent in zip(lines, ("90.0%", "5.0%", "5.0%", "0.0%", "0.0%"), strict=True)
    ]
    bars = [sum(row.count(block) for block in "█" + show.BLOCKS[1:]) for row in lines]
    assert bars[0] > bars[1] == bars[2] > bars[3] == bars[4] == 0


def test_bars_of_other_labels_and_of_ascii() -> None:
    for count in (2, 16):
        console = Console(width=80, file=io.TextIOWrapper(io.BytesIO(), "ascii"), force_terminal=False)
        answer = score(*[1 / count] * count)
        names = [f"label {i}" for i in range(count)]
        with console.capture() as capture:
            console.print(show.passage("short", answer, names, console))
        assert capture.get().count("#") > 0
        assert len(capture.get().splitlines()) == max(count, 3)


def test_a_stage_begins_its_bar_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input of unknown length has no total, whatever the loading had; the numbers of other stages are gone."""
    from slant.tables.bulk import Summary

    monkeypatch.setenv("FORCE_COLOR", "1")
    seen = []
    with Progress() as progress:
        for stage, done, total in (("loading", 3, 4), ("loading", 4, 4), ("merging", 1, 9)):
            progress.of(stage)(done, total)
            seen += [(task.description, task.completed, task.total) for task in progress.tasks]
        progress.scored(Summary(rows=1234, errors=0, tokens=5000, seconds=2.0, done=None))
        seen += [(task.description, task.completed, task.total) for task in progress.tasks]
    assert seen == [("loading", 3, 4), ("loading", 4, 4), ("merging", 1, 9), ("1,234 rows", 0, None)]


def test_progress_shows_rates_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from slant.tables.bulk import Summary

    for forced in (False, True):
        if forced:
            monkeypatch.setenv("FORCE_COLOR", "1")
            monkeypatch.setenv("COLUMNS", "100")
        with Progress(keep=True) as progress:
            progress("loading", 3, 4)
            progress.scored(Summary(rows=1234, errors=0, tokens=5000, seconds=2.0, done=1.0))
        out, err = capsys.readouterr()
        assert out == ""
        assert ("617 texts/s" in err and "2,500 tokens/s" in err and "100%" in err) == forced
        assert bool(err) == forced
