"""Convolution and delta rule together at awkward shapes, against the fp32 reference."""

import itertools

import pytest
import torch
from ops import randn

from slant_kernels import delta_inputs, delta_net, delta_rule

H, HV, K, V = 1, 2, 8, 12
C = 2 * H * K + HV * V


def run(B, T, dtype=torch.float32, keep_state=True):
    """delta_net on slices, as the model gives them, and what the token-by-token references make of the same."""
    mixed = randn(B, T, C + HV * V, dtype=dtype)[..., :C]
    a, b = randn(B, T, 2 * HV, dtype=dtype, seed=1).chunk(2, dim=2)
    weights = randn(4, C, seed=3), randn(HV, seed=4), randn(HV, seed=5), H, K
    before, recurrent = randn(1, 3, C, dtype=dtype, seed=6), randn(1, HV, K, V, seed=7)
    ours = delta_net.delta_net(mixed, a, b, *weights, (before, recurrent), keep_state)
    inputs = delta_inputs.delta_inputs_reference(mixed, a, b, *weights, before)
    o, S = delta_rule.delta_rule_reference(*inputs, recurrent)
    return ours, (o, (torch.cat([before.expand(B, -1, -1), mixed], dim=1)[:, -3:], S))


def test_delta_net(path):
    """On the torch path: tiles of rows and tokens, each continued from the one before."""
    shapes = itertools.product([1, 3, 9], [1, 2, 64, 65, 200, 600]) if path == "torch" else [(1, 1), (2, 2), (3, 66)]
    for B, T in shapes:
        (out, (last, final)), (expected, (expected_last, expected_final)) = run(B, T)
        torch.testing.assert_close(out, expected, atol=5e-5, rtol=5e-5)
        torch.testing.assert_close(final, expected_final, atol=5e-5, rtol=5e-5)
        assert torch.equal(last, expected_last)


@pytest.mark.parametrize("keep_state", [False, True])
def test_delta_net_in_bf16(keep_state, path):
    (out, state), (expected, _) = run(2, 66, torch.bfloat16, keep_state)
    assert (state is not None) == keep_state
    assert out.dtype == torch.bfloat16
    # q, k and v are rounded as well, which the recurrence alone is not charged with.
    bound = 0.01 if path == "triton" else 0.005
    assert (out.float() - expected).square().mean().sqrt() <= bound * expected.square().mean().sqrt()
