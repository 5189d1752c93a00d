"""Matrices in panels: the layout against its description."""

import pytest
import torch
from ops import randn
from test_quantized import random_codes

from slant_kernels.panels import pack_codes, pack_groups, pack_numbers
from slant_kernels.quantized import BITS

PANELS = (8, 16, 32)


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """One path only."""


def code(words, bits, panel, n, k):
    """The code of column n at k, straight from the header."""
    lane = words[n // panel, :, n % panel].tolist()

    def field(word, width, position):
        j, i = divmod(position, 4)
        return word % 2**32 >> 8 * i + width * j & 2**width - 1

    if bits != 3:
        return field(lane[k * bits // 32], bits, k % (32 // bits))
    block, inside = divmod(k, 32)
    lower, upper = lane[3 * block + inside // 16], lane[3 * block + 2]
    return field(lower, 2, inside % 16) + 4 * field(upper, 1, inside)


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("bits", BITS)
def test_codes(bits, panel):
    codes = random_codes(2 * panel + 3, 96, bits)
    words = pack_codes(codes, bits, panel)
    assert words.dtype == torch.int32
    assert words.shape == (3, 3 * bits, panel)
    assert words.is_contiguous()
    assert words[2, :, 3:].eq(0).all()
    found = [[code(words, bits, panel, n, k) for k in range(96)] for n in range(len(codes))]
    assert found == codes.tolist()


@pytest.mark.parametrize("panel", PANELS)
def test_numbers(panel):
    numbers = randn(panel + 3, 64).bfloat16()
    words = pack_numbers(numbers, panel)
    assert words.shape == (2, 32, panel)
    lanes = words.view(2, 64, panel // 2)
    lower, upper = lanes << 16, lanes & -(1 << 16)
    found = torch.cat([lower, upper], dim=2).view(torch.float32).transpose(1, 2).flatten(0, 1)
    assert torch.equal(found[: panel + 3], numbers.float())
    assert found[panel + 3 :].eq(0).all()


@pytest.mark.parametrize("panel", PANELS)
def test_groups(panel):
    values = randn(5, panel + 3).half()
    packed = pack_groups(values, panel)
    assert packed.shape == (2, 5, panel)
    assert torch.equal(packed.transpose(1, 2).flatten(0, 1)[: panel + 3], values.T)
