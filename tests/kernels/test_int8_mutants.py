"""The int8 product in C++ compiled with one fault each: the checks of ``test_int8_matrix`` see every one."""

import faults
import pytest
import test_int8_matrix as checks
import torch

from slant_kernels import cpu

FAULTS = {
    "none": ("", ""),
    "the zero of the activations stays": ("(int16_t)(x[k + i] - 128)", "(int16_t)x[k + i]"),
    "weights without a sign": ("(ints)(word >> 8)", "(ints)(word >> 8 & 255)"),
    "activations in the order of k": ("out[k + i % 2 * 2 + i / 2]", "out[k + i]"),
    "the lower bytes below the upper": (
        "strip + (p + 1) * PANEL + n, (ints)(word >> 8)",
        "strip + (p + 1) * PANEL + n, (ints)word",
    ),
    "sums start from what was there": ("memset(sums, 0, 4 * rows * PANEL)", "memset(sums, 0, 4 * PANEL)"),
    "weights of the first strip": ("p0 * PANEL) / 2", "0 * PANEL) / 2"),
    "activations of the first strip": ("x + r * pairs + p0, pairs", "x + r * pairs, pairs"),
    "the last rows of a block are left out": ("r < rows; r += TALL", "r + TALL <= rows; r += TALL"),
    "scales of the first panel": ("load(args.w_scales + column + n)", "load(args.w_scales + n)"),
    "tokens' scales of the first block": ("args.x_scales[first + r]", "args.x_scales[r]"),
    "blocks over the first one": ("(first + r) * args.N + column", "r * args.N + column"),
    "the last column is left out": ("memcpy(out, edge, count", "memcpy(out, edge, (count - 1)"),
    "NaN is smaller than any number": ("size > most ? size : most;", "(vec)size > (vec)most ? size : most;"),
    "infinity is a scale": ("largest / 127 + 0 * largest;", "largest / 127;"),
}

pytestmark = [*faults.marks, pytest.mark.usefixtures("poison")]


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """One path only."""


def check():
    """Checks of the op on its C++, at a few sizes that reach every branch."""
    for outer, inner in ((96, 516), (5, 1028)):
        for rows in (1, 7, 129):
            with pytest.MonkeyPatch.context() as patch:
                checks.test_sums_are_exact(rows, outer, inner, patch)
    for inner, outer in ((65, 31), (1024, 64)):
        checks.test_products_are_those_of_the_codes(inner, outer)
    for dtype in (torch.float32, torch.bfloat16):
        checks.test_all_ways_scale_alike(dtype, None)
    for value in (torch.nan, torch.inf):
        checks.test_a_token_that_is_not_finite_gets_nan_and_alone(value, 128)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "has", lambda name: name == faults.LEVEL)  # or oneDNN would multiply
    faults.check_sees(FAULTS[fault], check, ("int8.cpp",), tmp_path)
