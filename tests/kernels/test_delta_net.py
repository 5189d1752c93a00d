"""Convolution and delta rule together at awkward shapes, against the fp32 reference."""

import pytest
import torch
from ops import randn

from slant_kernels import delta_inputs, delta_net, delta_rule


@pytest.mark.parametrize("B", [1, 3, 9])
@pytest.mark.parametrize("T", [1, 2, 64, 65, 200, 600])
def test_delta_net_tiles_equal_one_pass(B, T):
    """Tiles of rows and tokens, each continued from the one before, against the token-by-token references."""
    H, Hv, K, V = 1, 2, 8, 12
    C = 2 * H * K + Hv * V
    mixed, a, b = randn(B, T, C), randn(B, T, Hv, seed=1), randn(B, T, Hv, seed=2)
    weights = randn(4, C, seed=3), randn(Hv, seed=4), randn(Hv, seed=5), H, K
    before, recurrent = randn(1, 3, C, seed=6), randn(1, Hv, K, V, seed=7)
    out, (last, final) = delta_net.delta_net(mixed, a, b, *weights, (before, recurrent), keep_state=True)
    inputs = delta_inputs.delta_inputs_reference(mixed, a, b, *weights, before)
    expected, expected_final = delta_rule.delta_rule_reference(*inputs, recurrent)
    torch.testing.assert_close(out, expected, atol=5e-5, rtol=5e-5)
    torch.testing.assert_close(final, expected_final, atol=5e-5, rtol=5e-5)
    assert torch.equal(last, torch.cat([before.expand(B, -1, -1), mixed], dim=1)[:, -3:])
