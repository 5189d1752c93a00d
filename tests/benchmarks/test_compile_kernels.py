"""The table of compiled kernels is what the code compiles to, and the bounds hold. No GPU is needed."""

import json
from pathlib import Path

import pytest

pytest.importorskip("triton")
import triton

import child
import compile_kernels
import compiled

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "compile_kernels.py"
TABLE = BENCHMARKS / "results" / "compiled_kernels.jsonl"


@pytest.fixture(scope="module")
def mutants():
    return json.loads(child.python(Path(__file__).with_name("mutants.py")).stdout)


CURRENT = """
import compile_kernels, compiled
print(compile_kernels.check(list(compiled.LIMITS), compile_kernels.cases(), compiled.read(compile_kernels.TABLE), ()))
"""


def skip_with_another_triton():
    if {row["triton"] for row in compiled.read(TABLE).values()} != {triton.__version__}:
        pytest.skip(f"the table was made with another Triton than {triton.__version__}")


def test_the_table_is_current_and_within_the_bounds():
    """By the keys of what the cases launch, which hash the code; nothing is compiled."""
    skip_with_another_triton()
    assert child.python("-c", CURRENT).stdout == "[]\n"


@pytest.mark.slow
def test_a_sample_compiles_to_what_it_says():
    skip_with_another_triton()
    child.python(SCRIPT, "--check", "--target", "sm_90", "--sample")


@pytest.mark.slow
def test_every_row_compiles_to_what_it_says():
    child.python(SCRIPT, "--check")


def test_wrong_tables_are_caught(mutants):
    said = mutants["tables"]
    assert said["right"] == said["registers, from the table"] == []
    assert "is not what the table says (table, compiled): {'registers': (1, " in said["registers"][0]
    assert "bytes of shared memory" in said["shared"][0]
    assert "4 bytes spilled" in said["spill"][0]
    assert "is not in the table" in said["missing"][0]
    assert said["stale"] == ["a row of swiglu.swiglu on sm_86 is stale"]


def test_a_configuration_that_no_case_uses_is_named():
    committed = set(compile_kernels.tables())
    assert ("norm.ROW", "", "") in committed
    assert compile_kernels.unused(committed) == []
    assert compile_kernels.unused(committed - {("norm.ROW", "", "")}) == ["no case uses norm.ROW['', '']"]


def test_a_sample_has_each_kernel_and_shape_of_launch():
    rows = [
        {"kernel": kernel, "target": "sm_90", "warps": warps, "stages": 1, "key": f"{kernel}{warps}{i}"}
        for kernel in "ab" for warps in (4, 8) for i in range(3)
    ]  # fmt: skip
    assert compile_kernels.sample(rows) == {"a40", "a80", "b40", "b80"}


def test_faults_of_kernels_are_named(mutants):
    found = mutants["faults"]
    assert found["sound"] == found["other blocks"] == found["other warps"] == []
    assert "bytes of shared memory, 101376 are there" in found["shared"][0]
    assert found["shared elsewhere"] == []
    assert "bytes spilled, 0 allowed" in found["spills"][0]
    assert "no matrix units" in found["no matrix unit"][0]
    assert "_product_kernel" in found["does not compile"][0]
    assert all(len(faults) <= 1 for faults in found.values())


def test_row_says_what_the_binary_is(mutants):
    row = mutants["rows"][0]
    assert (row["kernel"], row["target"], row["warps"], row["matrix"]) == ("__main__.product", "sm_90", 4, "wgmma")
    assert row["arguments"] == "p_x *bf16:16, p_y *bf16:16"
    assert "BM=64" in row["constants"]
    assert row["dot"]


def test_keys_differ_by_all_that_a_binary_depends_on(mutants):
    """Constants, options and target; what did not compile has none."""
    keys = [row["key"] for row in mutants["rows"]]
    assert len(set(keys)) == len(keys) == len(mutants["faults"]) - 1


def test_amd_assembly_is_read():
    """Spilling on purpose takes that compiler a quarter of a minute."""
    counts = {"vgpr_count": 512, "vgpr_spill_count": 3, "sgpr_spill_count": 2, "private_segment_fixed_size": 16}
    assembly = "v_mfma_f32_32x32x8_bf16\n" + "".join(f"    .{name}: {n}\n" for name, n in counts.items())
    assert compiled._amd(assembly) == {"registers": 512, "stack": 16, "spill": 12, "matrix": "mfma"}


def test_key_follows_code_and_not_comments(mutants):
    """The sources that a key is made of: the kernel and the function it calls, without comments and docstrings."""
    text = "\n".join(mutants["sources"])
    assert "def _held_kernel" in text
    assert "return x + 1" in text
    assert "comment" not in text
    assert "Two passes" not in text


def test_a_spill_is_allowed_to_one_kernel_dtype_and_target():
    """And no more is allowed than the table has."""
    rows = compiled.read(TABLE).values()
    seen = {}
    for row in rows:
        if most := max(row["stack"], row["spill"]):
            kind = compiled._kind(row), row["target"]
            seen[kind] = max(seen.get(kind, 0), most)
    bounds = {(kind, target): most for kind, by_target in compiled.SPILLS.items() for target, most in by_target.items()}
    assert bounds == seen
    row = next(row for row in rows if row["spill"])
    assert compiled.fault(row) == ""
    for change in ({"target": "sm_75", "dot": False}, {"arguments": "p_x *fp16:16"}, {"kernel": "norm.rms_norm"}):
        assert "bytes spilled, 0 allowed" in compiled.fault(row | change)
    assert "bytes spilled" in compiled.fault(row | {"spill": 10**5})
