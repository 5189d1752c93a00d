"""The instruction set in use: the processor's best, under the restrictions of oneDNN and torch."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from slant_kernels import cpu, native

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the restrictions are those of x86"
)
ASKED = """
import torch
from slant_kernels import cpu, native
from slant_kernels.onednn import can_reorder
device = torch.device("cpu")
print(cpu.instruction_set(), cpu.multiplies_bf16(), can_reorder(torch.bfloat16, device))
print(*native.levels())
"""


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """One path only."""


@pytest.fixture
def processor(monkeypatch):
    """A processor with AMX, and no restriction."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name in ("amx_tile", "avx512_bf16", "vnni", "avx512", "avx2"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(cpu, "instruction_set", cpu.instruction_set.__wrapped__)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("ONEDNN_MAX_CPU_ISA", "", "amx"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", "amx"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", "avx512bf16"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni", "avx512vnni"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE", "avx512"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2_VNNI", "avx2"),
        ("DNNL_MAX_CPU_ISA", "SSE41", "x86-64"),
    ],
)
@pytest.mark.usefixtures("processor")
def test_onednn_may_be_restricted(variable, value, expected, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert cpu.instruction_set() == expected


@pytest.mark.usefixtures("processor")
def test_the_lower_restriction_counts(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert cpu.instruction_set() == "avx2"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert cpu.instruction_set() == "x86-64"


@pytest.mark.parametrize(
    ("missing", "expected", "bf16"),
    [((), "amx", True), (("amx_tile",), "avx512bf16", True), (("amx_tile", "avx512_bf16"), "avx512vnni", False)],
)
@pytest.mark.usefixtures("processor")
def test_the_processor_decides_otherwise(missing, expected, bf16, monkeypatch):
    for name in missing:
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: False)
    assert cpu.instruction_set() == expected
    assert cpu.multiplies_bf16() == bf16
    assert cpu.has("avx2")
    assert not cpu.has("neon")


@pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="this processor has no AVX2")
def test_a_newer_machine_stands_in_for_one_with_avx2():
    variables = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    found = subprocess.run([sys.executable, "-c", ASKED], env=variables, check=True, capture_output=True, text=True)
    answers, levels = found.stdout.splitlines()
    assert answers == "avx2 False False"
    assert levels in ("avx2", "")


def test_the_suite_says_what_computes(request, monkeypatch):
    monkeypatch.setattr(native, "levels", lambda: ("one", "two"))
    monkeypatch.setattr(native, "level", lambda: "one")
    config = request.config
    said = config.hook.pytest_report_header(config=config, start_path=config.rootpath)
    (line,) = (line for line in said if isinstance(line, str) and line.startswith("instruction set"))
    assert line == f"instruction set: {cpu.instruction_set()}; libraries that ops are tested on, beside torch: one, two"
