"""New tensors state dtype and device, so that the defaults of the program around the engine do not matter."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKERS = {
    *("empty", "zeros", "ones", "full", "eye", "tensor", "as_tensor", "asarray", "scalar_tensor"),
    *("arange", "linspace", "rand", "randn", "randint", "randperm"),
}


def without(tree: ast.AST) -> list[int]:
    """The lines of calls like ``torch.empty(3)`` that leave dtype or device to torch's defaults."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
    made = (call for call in calls if ast.unparse(call.func) in {f"torch.{name}" for name in MAKERS})
    return [call.lineno for call in made if not {"dtype", "device"} <= {keyword.arg for keyword in call.keywords}]


@pytest.mark.parametrize("folder", ["engine/slant", "kernels/slant_kernels"])
def test_dtype_and_device_are_stated(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [f"{path}:{line}" for path in files for line in without(ast.parse(path.read_text(encoding="utf-8")))]
    assert not found


def test_what_is_left_to_defaults_is_found():
    source = 'a = torch.empty(2)\nb = torch.ones(2, dtype=x.dtype, device="cpu")\nc = torch.arange(4, device=d)'
    assert without(ast.parse(source)) == [1, 3]
