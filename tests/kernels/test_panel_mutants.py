"""Products in panels compiled with one fault each: the checks of ``test_panel_products`` see every one."""

import faults
import pytest
import torch
from test_panel_products import assert_product, made, randn

FAULTS = {
    "none": ("", ""),
    "the last panel is written whole": ("columns < PANEL ? part : out", "columns < 0 ? part : out"),
    "a strip starts from zero": ("k0 == 0);", "true);"),
    "the first strip adds to what was there": ("k0 == 0);", "false);"),
    "groups of 32": ("(k0 + k) / args.group)", "(k0 + k) / RUN)"),
    "the zero is added": ("- zero) * scale", "+ zero) * scale"),
    "fields in another order": ("8 * (at % 4) + width * (at / 4)", "8 * (at / 4) + width * (at % 4)"),
    "three bits without the upper": ("(field(2, 1, k) & 1) << 2", "(field(2, 1, k) & 0) << 2"),
    "halves exchanged": ("= w << 16;", "= w & 0xffff0000;"),
    "rounded towards zero": ("(b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000", "b & 0xffff0000"),
    "ties away from zero": ("0x7fff + ((b >> 16) & 1)) & 0xffff0000", "0x8000) & 0xffff0000"),
    "not rounded": ("ROUND ? rounded(first) : first", "first"),
    "a strip's depth of the first": (
        "return args.K - k0 < most ? args.K - k0 : most;",
        "return args.K < most ? args.K : most;",
    ),
    "x of the first strip": ("kernel(place(tile, k0)", "kernel(place(tile, 0)"),
    "the second half of a panel from the first": ("right = operands(strip + LANES)", "right = operands(strip)"),
}
SOURCES = ("panels.cpp", "packing.cpp")

pytestmark = faults.marks


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """One path only."""


def check():
    """What the tests of products check, at a few sizes that reach every branch."""
    for dtype in (torch.float32, torch.bfloat16):
        for bits, group_size in ((2, 64), (3, 128), (4, 32), (8, 64), (16, 0)):
            matrix, weight = made(bits, group_size, 35, 672)
            for rows in (3, 700):
                x = randn(rows, 672, dtype=dtype, seed=1)
                wide = torch.full((rows, 64), 7.0, dtype=dtype, device="cpu")
                matrix.multiply(x, wide[:, :35])
                assert_product(wide[:, :35], x, weight)
                assert (wide[:, 35:] == 7).all()
            x = torch.eye(672, dtype=dtype, device="cpu")
            assert torch.equal(matrix.multiply(x), weight.to(dtype).T)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault, tmp_path):
    faults.check_sees(FAULTS[fault], check, SOURCES, tmp_path)
