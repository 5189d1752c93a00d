"""Commands that take long, stopped at any moment or with nowhere to write: what is made is whole, or not there."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest

from slant import Engine
from slant.demo import passages
from wild.test_adapters import attach
from wild.test_shell import COMMANDS, REAL, check_interrupted, names, shell

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")]


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return attach(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def work(tmp_path, adapter, monkeypatch):
    """A folder with what each command needs."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # of the other tests
    shutil.copytree(adapter, tmp_path / "adapter")
    lines = [f"{json.dumps(one['text'][:80], ensure_ascii=False)},{one['leaning']}" for one in passages()]
    (tmp_path / "labelled.csv").write_text("\n".join(["text,label", *(line.replace('\\"', '""') for line in lines)]))
    return tmp_path


@pytest.mark.parametrize("seed", range(200, 208))
@pytest.mark.parametrize("kind", ["compile", "finetune", "merge"])
def test_long_commands_that_are_interrupted(work, kind, seed):
    """And given again: what an interruption left is not taken for whole.

    As in unslothai/unsloth#11151: exit code 0, and the next command took what was there.
    """
    code = check_interrupted(work, kind, seed)
    again = COMMANDS[kind][0] + (" --resume" if kind == "finetune" else "")
    if code and (kind == "compile" or "out" not in names(work)):
        assert shell(work, [*REAL, *again.split()])[::2] == (0, "")
    if kind == "compile":
        check_kernels(work / "out")
    else:
        check_checkpoint(work / "out")


def check_kernels(folder):
    """Each index names files that are there, and machine code is an ELF file to its end."""
    kernels = [path for path in folder.iterdir() if list(path.glob("__grp__*"))]
    assert len(kernels) == 18
    for kernel in kernels:
        for index in kernel.glob("__grp__*.json"):
            paths = [Path(path) for path in json.loads(index.read_text())["child_paths"].values()]
            assert {path.suffix for path in paths} >= {".json", ".cubin"}
            for path in paths:
                content = path.read_bytes()
                if path.suffix == ".json":
                    json.loads(content)
                if path.suffix == ".cubin":  # the table of its sections stands at the end
                    (offset,) = struct.unpack_from("<Q", content, 0x28)
                    size, count = struct.unpack_from("<HH", content, 0x3A)
                    assert len(content) >= offset + size * count


def check_checkpoint(folder):
    assert Engine.load(folder, device="cpu").score("Rain.").error is None
    assert not list(folder.glob("**/*.part"))


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">/dev/full", "2>/dev/full", "<&- >&- 2>&-"])
@pytest.mark.parametrize("kind", ["compile", "finetune", "merge"])
def test_streams_of_long_commands(work, kind, redirection):
    """What is made is whole; that the report could not be printed is said, and in the exit code."""
    code, _, errors = shell(work, [*REAL, *COMMANDS[kind][0].split()], redirection)
    reports = kind != "merge" and redirection[0] != "2"
    what = "stdout: No space left on device" if "full" in redirection else "stdout is closed"
    assert (code, errors) == ((2, f"slant: {what}.\n" * ("2>" not in redirection)) if reports else (0, ""))
    (check_kernels if kind == "compile" else check_checkpoint)(work / "out")
