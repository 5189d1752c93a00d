"""Products of quantized weights and 8-bit activations compiled with one fault each: the op's checks see every one."""

import faults
import pytest
import test_w4a8 as checks
import torch

FAULTS = {
    "none": ("", ""),
    "codes from zero up": ("(zero + (float)(1 << (BITS - 1)))", "zero"),
    "the groups' shift is added": ("- load(shifts + j) * x.sums", "+ load(shifts + j) * x.sums"),
    "the shift of a strip's first group": ("scales += PANEL, shifts += PANEL", "scales += PANEL"),
    "scales of the first strip": ("(panel * groups + g0 + g) * PANEL", "(panel * groups + g) * PANEL"),
    "activations' scales of a tile's first row": ("x.scales[g + i * groups]", "x.scales[g]"),
    "the next field of a word": ("FIELD * (q % FIELDS)", "FIELD * ((q + 1) % FIELDS)"),
    "three bits without the upper": ("(run + 2 * PANEL) >> q % 8 & 0x01010101) << 2", "(run + 2 * PANEL) & 0u) << 2"),
    "three bits, the first word twice": ("run + q % 8 / 4 * PANEL", "run"),
    "eight bits are added in pairs of bytes": ("PAIRS && BITS == 8;", "PAIRS && BITS > 8;"),
    "pairs are added in int16 for a whole group": (
        "q0 += 8) {\n            shorts part[R][2] = {};\n            for (int64_t q = q0; q < q0 + 8; q++)",
        "q0 += quads) {\n            shorts part[R][2] = {};\n            for (int64_t q = q0; q < q0 + quads; q++)",
    ),
    "signs on the side of the weights": ("pairs_of_bytes(left, factor)", "pairs_of_bytes(factor, left)"),
    "the last rows of a block are left out": ("r < rows; r += TALL", "r + TALL <= rows; r += TALL"),
    "rows lie next to one another": ("(first + r) * args.x_row", "(first + r) * args.K"),
    "blocks over the first one": ("(first + r) * args.out_row", "r * args.out_row"),
    "activations are cut, not rounded": ("_mm256_cvtps_epi32", "_mm256_cvttps_epi32"),
    "NaN is smaller than any number": ("size > most ? size : most;", "(vec)size > (vec)most ? size : most;"),
}

pytestmark = [*faults.marks, pytest.mark.usefixtures("poison")]


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """One path only."""


def check():
    """Checks of the op on its C++, at a few sizes that reach every branch."""
    for bits in checks.BITS:
        for rows, group_size in ((1, 64), (7, 128), (129, 32)):
            checks.test_sums_are_exact(rows, bits, group_size, faults.LEVEL)
        checks.test_products_are_those_of_what_the_codes_stand_for(bits, 544)
    checks.test_bf16_rounds_the_result()
    checks.test_rows_lie_where_they_are()
    for bits in (8, 4):
        checks.test_a_row_that_is_not_finite_gets_nan_and_alone(torch.nan, bits)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault, tmp_path):
    faults.check_sees(FAULTS[fault], check, ("w4a8.cpp", "packing.cpp"), tmp_path)
