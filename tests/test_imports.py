"""Importing does nothing: no CUDA, no Triton driver, no process, and no library that only some commands need."""

import json
from pathlib import Path

import pytest

import child

ROOT = Path(__file__).resolve().parents[1]
SUITE = ("compile_kernels", "harness.rows", "gpu.kernels", "gpu.tune", "gpu_suite")

BEFORE = """
import importlib, json, pkgutil, sys

STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec", "os.spawn")
processes, calls = [], []

import torch

sys.addaudithook(lambda event, args: processes.append(event) if event in STARTS else None)
lazy_init = torch.cuda._lazy_init

def noted():
    calls.append("torch.cuda._lazy_init")
    lazy_init()

torch.cuda._lazy_init = noted
"""
IMPORTS = """
for root in ("slant", "slant_kernels"):
    package = importlib.import_module(root)
    for info in pkgutil.walk_packages(package.__path__, root + "."):
        importlib.import_module(info.name)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
AFTER = """
eager = {"fla", "hqq", "matplotlib", "pandas", "transformers"} & set(sys.modules)
driver = None
if "triton" in sys.modules:
    from triton.runtime import driver
ours = [name for name in sys.modules if name.partition(".")[0] in ("slant", "slant_kernels")]
print(json.dumps({
    "modules": len(ours), "cuda": torch.cuda.is_initialized(), "calls": calls, "processes": processes,
    "eager": sorted(eager), "drivers": [name for name in ("_active", "_default") if getattr(driver, name, None)],
}))
"""
MUTANT = """
import subprocess
import torch, hqq
from triton.runtime import driver
driver.set_active("some driver")
subprocess.run(["true"])
try:
    torch.cuda.current_device()
except Exception:
    pass
"""


def run(script, *modules):
    return json.loads(child.python("-c", script, *modules).stdout.splitlines()[-1])


def test_imports_initialise_nothing():
    found = run(BEFORE + IMPORTS + AFTER, *SUITE)
    files = [file for root in ("engine", "kernels") for file in (ROOT / root).rglob("*.py")]
    assert found == {
        "modules": len(files), "cuda": False, "calls": [], "processes": [], "eager": [], "drivers": [],
    }  # fmt: skip


def test_what_they_must_not_do_is_seen():
    """Each of them in one module that does all."""
    pytest.importorskip("triton")
    found = run(BEFORE + MUTANT + AFTER)
    assert "torch.cuda._lazy_init" in found["calls"]
    assert "subprocess.Popen" in found["processes"]
    assert "hqq" in found["eager"]
    assert found["drivers"] == ["_active"]
