"""Convolution, split, norms and gates at awkward shapes, against the fp32 reference."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from ops import LENGTHS, assert_bf16, assert_fp32, randn

from slant_kernels import delta_inputs

H, HV, K, V = 2, 4, 8, 12
C = 2 * H * K + HV * V
CASES = [*itertools.product((T for T in LENGTHS if T < 100), (0, 1, 2)), (127, 1), (200, 2)]


def arguments(T, dtype=torch.float32, initial_rows=0):
    """mixed, a and b are slices, as the model gives them."""
    mixed = randn(2, T, C + 5, dtype=dtype)[..., :C]
    a, b = randn(2, T, 2 * HV, dtype=dtype, seed=1).chunk(2, dim=2)
    initial = randn(initial_rows, 3, C, dtype=dtype, seed=6) if initial_rows else None
    return mixed, a, b, randn(4, C, seed=3), randn(HV, seed=4), randn(HV, seed=5), H, K, initial


@pytest.mark.parametrize(("T", "initial_rows"), CASES)
def test_delta_inputs(T, initial_rows):
    args = arguments(T, initial_rows=initial_rows)
    for out, reference in zip(
        delta_inputs.delta_inputs(*args), delta_inputs.delta_inputs_reference(*args), strict=True
    ):
        assert_fp32(out, reference)


@pytest.mark.parametrize("T", [1, 65])
def test_delta_inputs_in_bf16(T, path):
    """q, k and v are rounded once, as they are written."""
    args = arguments(T, torch.bfloat16, initial_rows=1)
    out, reference = delta_inputs.delta_inputs(*args), delta_inputs.delta_inputs_reference(*args)
    for ours, theirs in zip(out[:3], reference[:3], strict=True):
        assert_bf16(ours, theirs, theirs.bfloat16())
    for ours, theirs in zip(out[3:], reference[3:], strict=True):
        assert_fp32(ours, theirs)


def test_delta_inputs_copies_what_it_cannot_read_in_place():
    """Rows that do not follow one another, channels that are not side by side, and one token for all rows."""
    args = arguments(5, initial_rows=1)
    expected = delta_inputs.delta_inputs(*args)
    mixed = torch.stack([args[0], args[0]], dim=2)[:, :, 0]
    for other in (mixed.repeat(1, 2, 1)[:, :5], mixed.mT.contiguous().mT):
        for ours, theirs in zip(delta_inputs.delta_inputs(other, *args[1:]), expected, strict=True):
            assert torch.equal(ours, theirs)
    one = args[0][:, :1].expand(-1, 5, -1)
    for ours, theirs in zip(
        delta_inputs.delta_inputs(one, *args[1:]), delta_inputs.delta_inputs(one.clone(), *args[1:]), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_decay_at_the_ends_of_its_range():
    """softplus of what overflows exp, and of what vanishes beside 1: the relative error stays small."""
    mixed, _, b, *rest = arguments(40)
    a = torch.linspace(-80, 80, 2 * 40 * HV).view(2, 40, HV)
    a[0, 0] = 1e4
    out = delta_inputs.delta_inputs(mixed, a, b, *rest).g
    x = (a + rest[2]).double()
    # torch's softplus is x above 20, and log1p(exp(x)) below.
    expected = -rest[1].double().exp() * F.softplus(x)
    torch.testing.assert_close(out.double(), expected, atol=0, rtol=2e-5)
