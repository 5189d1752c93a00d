"""The gated delta rule at awkward lengths, against the token-by-token recurrence."""

import pytest
import torch
import torch.nn.functional as F
from ops import randn

from slant_kernels import delta_rule


def recurrence(T, H=2, Hv=4, K=16, V=24, decay=1.0):
    q, k = (F.normalize(randn(2, T, H, K, seed=s), dim=-1) for s in (0, 1))
    g = -decay * randn(2, T, Hv, seed=3).exp()
    return q * K**-0.5, k, randn(2, T, Hv, V, seed=2), g, torch.sigmoid(2 * randn(2, T, Hv, seed=4))


def assert_recurrence(args, state=None):
    out, final = delta_rule.delta_rule(*args, state)
    expected, expected_final = delta_rule.delta_rule_reference(*args, state)
    for ours, theirs in ((out, expected), (final, expected_final)):
        assert ours.isfinite().all()
        assert (ours - theirs).square().mean().sqrt() <= 0.005 * theirs.square().mean().sqrt()
        torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("T", range(1, 201))
def test_delta_rule_at_every_length(T):
    assert_recurrence(recurrence(T))


@pytest.mark.parametrize("decay", [0.0, 1e-3, 30.0])
@pytest.mark.parametrize("state_rows", [1, 2])
def test_delta_rule_from_a_state(decay, state_rows):
    assert_recurrence(recurrence(100, decay=decay), randn(state_rows, 4, 16, 24, seed=9))


@pytest.mark.parametrize(("H", "Hv"), [(1, 1), (3, 3), (1, 5), (2, 6)])
def test_delta_rule_groups_heads(H, Hv):
    assert_recurrence(recurrence(70, H=H, Hv=Hv))


def test_delta_rule_on_one_word_repeated():
    """Equal keys, no decay, beta 1: where inverting the triangular system by doubling overflows."""
    q, k, v, g, beta = recurrence(130)
    k = k[:, :1].expand_as(k)
    assert_recurrence((q, k, v, torch.zeros_like(g), torch.ones_like(beta)))
