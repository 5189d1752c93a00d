"""Commands in a shell: streams that are closed or full, signals at any moment, odd surroundings."""

import json
import os
import random
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slant.demo import FOLDER

FAKE = [sys.executable, str(Path(__file__).parents[1] / "engine" / "fake.py")]  # an engine without a model: no torch
REAL = [sys.executable, "-c", "from slant.cli.start import main; main()"]
SCORE = ["score", "in.csv", "--model", "m"]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in.csv").write_text("text\n" + "Rain.\n" * 20)
    return tmp_path


def shell(folder, command, redirection="", **variables):
    """Run a command with a redirection of sh; gives exit code, and stdout and stderr where they are not redirected."""
    kept = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"} | variables
    line = f"{shlex.join(command)} {redirection}"
    options = {"cwd": folder, "env": kept, "capture_output": True, "text": True, "preexec_fn": take_interrupts}
    done = subprocess.run(["sh", "-c", line], check=False, **options)
    return done.returncode, done.stdout, done.stderr


def take_interrupts():
    """Also where the tests run in the background, and so ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def names(folder):
    return {path.name for path in folder.iterdir()}


STREAMS = {
    ">&-": (2, "slant: stdout is closed.\n"),
    "<&- --output out.csv": (0, ""),
    ">&- --output out.csv": (0, ""),
    "2>&- --output out.csv": (0, ""),
    "<&- >&- 2>&- --output out.csv": (0, ""),
    ">/dev/full": (2, "slant: stdout: No space left on device.\n"),
    "--output /dev/full --output-format csv": (2, "slant: /dev/full: No space left on device.\n"),
    "--output no/out.csv 2>/dev/full": (2, ""),
    "--output no/out.csv 2>&-": (2, ""),
    "--output /proc/out.csv": (2, "slant: /proc/out.csv: No such file or directory.\n"),
}


@pytest.mark.parametrize("redirection", STREAMS)
def test_streams_that_are_closed_or_full(folder, redirection):
    code, _, errors = shell(folder, [*FAKE, *SCORE], redirection)
    assert (code, errors) == STREAMS[redirection]
    assert names(folder) == {"in.csv"} | ({"out.csv"} if code == 0 else set())
    if code == 0:
        assert len((folder / "out.csv").read_text().splitlines()) == 21


def test_stdin_that_is_closed(folder):
    command = [*FAKE, "score", "-", "--model", "m", "--output", "out.csv"]
    assert shell(folder, command, "<&-")[::2] == (2, "slant: stdin cannot be read: Bad file descriptor.\n")
    assert names(folder) == {"in.csv"}


@pytest.mark.parametrize(("rows", "left"), [(500, []), (2000, ["out.csv.parts"])])
def test_a_disk_that_is_full(folder, rows, left):
    """As a limit on the size of a file, which is met in the same place: nothing half-written is left."""
    (folder / "in.csv").write_text("text\n" + "Rain.\n" * rows)
    command = [*FAKE, *SCORE, "--output", "out.csv", *(["--window", "100"] if left else [])]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "slant: out.csv: File too large.\n")
    assert names(folder) == {"in.csv", *left}
    if left:  # what was finished stays, and goes on where there is room
        assert subprocess.run(command, cwd=folder, check=False).returncode == 0
        assert len((folder / "out.csv").read_text().splitlines()) == rows + 1
        assert names(folder) == {"in.csv", "out.csv"}


@pytest.fixture
def mounted(tmp_path):
    """Mounts a small file system at a folder, and takes it away; skips where that is not allowed."""
    at = tmp_path / "mounted"
    at.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", at], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("no file system can be mounted here")
        return at

    yield mount
    subprocess.run(["umount", at], capture_output=True, check=False)


@pytest.mark.parametrize("ending", ["csv", pytest.param("parquet", marks=pytest.mark.slow)])
def test_a_small_disk_that_is_full_while_scoring_or_joining(folder, mounted, ending):
    """What is finished stays, and the job goes on when there is room."""
    at = mounted("size=300k")
    lines = "".join(f"Rain on day {i} {random.Random(i).randbytes(30).hex()}.\n" for i in range(2000))
    (folder / "in.csv").write_text(f"text\n{lines}")
    command = [*FAKE, *SCORE, "--output", f"mounted/out.{ending}", "--window", "100"]
    code, _, errors = shell(folder, command)
    assert code == 2
    assert re.fullmatch(r"slant: .*/out\.(csv|parquet)(\.parts/.*)?: No space left on device\.\n", errors), errors
    assert names(at) == {f"out.{ending}.parts"}
    assert not list(at.rglob(".*"))
    subprocess.run(["mount", "-o", "remount,size=20m", at], check=True)
    assert shell(folder, command)[::2] == (0, "")
    assert names(at) == {f"out.{ending}"}
    assert shell(folder, [*FAKE, *SCORE, "--output", f"whole.{ending}", "--window", "100"])[0] == 0
    assert (at / f"out.{ending}").read_bytes() == (folder / f"whole.{ending}").read_bytes()


@pytest.mark.parametrize("window", ["10", "100"])
def test_a_folder_that_is_read_only(folder, mounted, window):
    at = mounted("size=1m,ro")
    command = [*FAKE, *SCORE, "--output", "mounted/out.csv", "--window", window]
    assert shell(folder, command)[::2] == (2, "slant: mounted/out.csv: Read-only file system.\n")
    assert names(at) == set()


def test_a_file_that_breaks_off_among_others_is_exit_code_2(folder):
    (folder / "b.parquet").write_bytes(b"PAR1 not really PAR1")
    code, out, errors = shell(folder, [*FAKE, "score", "in.csv", "b.parquet", "--model", "m"])
    assert (code, len(out.splitlines())) == (2, 20)
    assert errors.startswith("slant: b.parquet is not a readable Parquet file: ")
    assert errors.endswith(
        "The other files are scored.\nslant: 1 of the inputs could not be read whole, as said above.\n"
    )


def test_summary_and_page_are_written(folder):
    options = ["--json", "s.json", "--html", "s.html", "--group-column", "text", "--output", "out.csv"]
    assert shell(folder, [*FAKE, *SCORE, *options])[::2] == (0, "")
    assert json.loads((folder / "s.json").read_text())["duplicates"] == 19
    assert "Expected score by text" in (folder / "s.html").read_text()
    code, _, errors = shell(folder, [*FAKE, *SCORE, "--json", "in.csv"])
    assert (code, errors) == (2, "slant: in.csv is the input; name another file for the report.\n")


WAITING = """
import sys
from slant.cli import start
watch = start.Signals.watch
start.Signals.watch = lambda signals: (watch(signals), print("begun", flush=True))
start.main()
"""
BEFORE = {"ignored": signal.SIG_IGN, "usual": signal.SIG_DFL}


def interrupted(command, folder, numbers, after, before=signal.SIG_DFL):
    """Send signals so many seconds after the command's main() has begun; gives exit code and stderr."""

    def prepare():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, before)

    kept = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepare, env=kept
    ) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(after)
        for number in numbers:
            process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    return process.returncode, errors


COMMANDS = {  # what is made, and within how many seconds
    "score": ("score in.csv --model demo --output out.csv --threads 1", "out.csv", 6),
    "quantize": ("quantize demo out --device cpu", "out", 6),
    "compile": ("compile demo --target sm_90 --output out --max-tokens 128", "out", 14),
    "finetune": ("finetune demo --data labelled.csv --output out --epochs 1 --accumulation 1 --warmup-steps 1"
                 " --max-tokens 100 --save-steps 2", "out", 12),
    "merge": ("merge adapter out", "out", 3),
}  # fmt: skip


def check_interrupted(folder, kind, seed):
    """A signal at a random moment: the conventional code, a line at most, the target whole or absent, nothing else."""
    chosen = random.Random(seed)
    numbers = chosen.choice([[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT], [signal.SIGHUP]])
    command, target, seconds = COMMANDS[kind]
    before = names(folder)
    after = chosen.uniform(0, seconds)
    code, errors = interrupted([sys.executable, "-c", WAITING, *command.split()], folder, numbers, after)
    print(kind, [number.name for number in numbers], f"{after:.2f} s", code, errors)
    left = names(folder) - before
    assert code in (128 + numbers[0], 0)
    assert errors == ("slant: interrupted.\n" if code else "")
    assert code or target in left
    assert left <= {target, *([f"{target}.partial"] if kind in ("quantize", "finetune") else [])}
    if kind in ("quantize", "merge"):  # the unfinished run goes on, or leaves nothing
        assert not any(path.name.endswith(".part") for path in folder.rglob("*"))
    if "out.csv" in left:
        assert len((folder / target).read_text().splitlines()) == 21
    if kind == "quantize" and left == {"out"}:
        assert (folder / "out" / "artifact.json").exists()
    return code


@pytest.mark.parametrize(("kind", "seed"), [("score", 1), ("score", 2), ("quantize", 3)])
def test_an_interruption_at_a_random_moment(folder, kind, seed):
    check_interrupted(folder, kind, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 115))
@pytest.mark.parametrize("kind", ["score", "quantize"])
def test_more_interruptions_at_random_moments(folder, kind, seed):
    check_interrupted(folder, kind, seed)


def test_a_signal_that_was_ignored_stays_so(folder):
    """nohup, and jobs in the background of a script."""
    code, errors = interrupted(
        [sys.executable, "-c", WAITING, "inspect", "demo"], folder, [signal.SIGINT, signal.SIGHUP], 0, signal.SIG_IGN
    )
    assert (code, errors) == (0, "")


LOST = """
import sys, time
from slant.cli import app, start
class Finalized:
    def __del__(self):
        import os, signal
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
def command(arguments):
    Finalized()
    time.sleep(60)
app._invoke = command
start.main()
"""
ANOTHER = """
import os, signal
from slant.cli import app, start
def command(arguments):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("initialization failed")
app._invoke = command
start.main()
"""


SWALLOWED = """
import os, signal
from slant.cli import app, start
def command(arguments):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        return 0
app._invoke = command
start.main()
"""


@pytest.mark.parametrize("script", [LOST, ANOTHER, SWALLOWED])
def test_an_interrupt_that_python_or_a_library_loses(folder, script):
    assert shell(folder, [sys.executable, "-c", script]) == (130, "", "slant: interrupted.\n")


SURROUNDINGS = {
    "no home": ("", {"HOME": ""}),
    "home that is read-only": ("", {"HOME": "/proc", "XDG_CACHE_HOME": "/proc"}),
    "no room for temporary files": ("", {"TMPDIR": "/proc"}),
    "ASCII": ("", {"PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}),
    "a narrow terminal": ("", {"COLUMNS": "1", "TERM": "dumb", "NO_COLOR": "1"}),
    "warnings as errors": ("", {"PYTHONWARNINGS": "error"}),
    "optimized": ("", {"PYTHONOPTIMIZE": "2"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize(
    "command",
    ["score in.csv --model demo", "inspect demo", "demo", "quantize demo out", "drift demo", "drift --help",
     "bench demo --lengths 100 --texts 1 --seconds 0", "evaluate in.csv --model demo --labels-column text"],
)  # fmt: skip
def test_odd_surroundings(folder, name, command):
    (folder / "in.csv").write_text("text\n0\n1\n")
    code, out, errors = shell(folder, [*REAL, *command.split()], **SURROUNDINGS[name][1])
    assert (code, errors) == (0, "")
    assert out or command.startswith("quantize")


@pytest.mark.slow
def test_a_working_folder_that_is_gone(folder):
    gone = folder / "gone"
    gone.mkdir()
    command = [*REAL, "score", str(folder / "in.csv"), "--model", str(FOLDER), "--output", str(folder / "out.csv")]
    assert shell(gone, command, f"; code=$?; rmdir {shlex.quote(str(gone))}; exit $code")[0] == 0
    script = f"rmdir {shlex.quote(str(gone))}; {shlex.join(command)} --force"
    gone.mkdir()
    code, _, errors = shell(gone, ["sh", "-c", script])
    assert (code, errors) == (2, "slant: the working folder was deleted; change to one that exists.\n")


@pytest.mark.parametrize("name", ["a\nb.csv", "a\udcff.csv", "ñ 🙂.csv", "-x.csv", "missing \x1b[31m.csv"])
def test_odd_names_in_messages(folder, name):
    code, _, errors = shell(folder, [*FAKE, "score", "--model", "m", "--", name], PYTHONIOENCODING="ascii")
    assert code == 2
    assert errors.startswith("slant: ")
    assert errors.count("\n") == 1
    (folder / name).write_text("text\nRain.\n")
    assert shell(folder, [*FAKE, "score", "--model", "m", "--output", "out.csv", "--", name])[::2] == (0, "")
