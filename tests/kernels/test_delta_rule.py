"""The gated delta rule at awkward lengths, against the token-by-token recurrence."""

import pytest
import torch
import torch.nn.functional as F
from ops import randn

from slant_kernels import delta_rule, delta_rule_kernel, launch

# The interpreter takes a fifth of a second for a chunk of a head, so on that path shapes are small.
FEW_LENGTHS = (1, 63, 64, 65, 127, 128, 200)


def recurrence(T, B=2, H=2, Hv=4, K=16, V=24, decay=1.0, dtype=torch.float32):
    q, k = (F.normalize(randn(B, T, H, K, seed=s), dim=-1) for s in (0, 1))
    g = -decay * randn(B, T, Hv, seed=3).exp()
    q, k, v = (x.to(dtype) for x in (q * K**-0.5, k, randn(B, T, Hv, V, seed=2)))
    return q, k, v, g, torch.sigmoid(2 * randn(B, T, Hv, seed=4))


def assert_recurrence(args, state=None):
    """Against the reference in fp32 on the same inputs: by RMS, and in fp32 at the worst element too."""
    out, final = delta_rule.delta_rule(*args, state, keep_state=True)
    dtype = args[2].dtype
    assert (out.dtype, final.dtype) == (dtype, torch.float32)
    expected = delta_rule.delta_rule_reference(*(x.float() for x in args), state)
    for ours, theirs in zip((out.float(), final), expected, strict=True):
        assert ours.isfinite().all()
        assert (ours - theirs).square().mean().sqrt() <= 0.005 * theirs.square().mean().sqrt()
        if dtype == torch.float32:
            torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=5e-5)


def test_delta_rule_at_awkward_lengths():
    for T in FEW_LENGTHS:
        assert_recurrence(recurrence(T, B=1, H=1, Hv=1))


def test_delta_rule_at_every_length(path):
    """A text's outputs are the first of a longer text's."""
    if path == "triton":
        pytest.skip("slow there: the lengths above, and every remainder below")
    args = recurrence(200)
    expected = delta_rule.delta_rule_reference(*args)[0]
    for T in range(1, 201):
        out = delta_rule.delta_rule(*(x[:, :T] for x in args))[0]
        torch.testing.assert_close(out, expected[:, :T], atol=5e-5, rtol=5e-5)


@pytest.mark.slow
def test_delta_rule_at_every_remainder():
    for T in range(1, 130):
        assert_recurrence(recurrence(T, B=1, H=1, Hv=1, K=8, V=12))


@pytest.mark.parametrize(
    ("decay", "state_rows", "dtype"),
    [
        (0.0, 2, torch.float32),
        (1e-3, 1, torch.float32),
        (30.0, 2, torch.float32),
        (0.0, 1, torch.bfloat16),
        (1e-3, 2, torch.bfloat16),
    ],
)
def test_delta_rule_from_a_state(decay, state_rows, dtype):
    args = recurrence(70, H=1, Hv=1, K=64, decay=decay, dtype=dtype)
    assert_recurrence(args, randn(state_rows, 1, 64, 24, seed=9))


@pytest.mark.parametrize(("H", "Hv"), [(1, 1), (3, 3), (1, 5), (2, 6)])
def test_delta_rule_groups_heads(H, Hv):
    assert_recurrence(recurrence(17, H=H, Hv=Hv, B=1, K=8, V=12))


def test_delta_rule_on_one_word_repeated():
    """Equal keys, no decay, beta 1: where inverting the triangular system by doubling overflows."""
    q, k, v, g, beta = recurrence(130, B=1, H=1, Hv=1)
    k = k[:, :1].expand_as(k)
    assert_recurrence((q, k, v, torch.zeros_like(g), torch.ones_like(beta)))


@pytest.mark.parametrize(("beta", "g", "bound"), [(0.5, -0.5, 0.005), (1.0, 0.0, 0.03)])
def test_delta_rule_on_one_word_repeated_in_bf16(beta, g, bound):
    """The new values N_i = v_i - v_{i-1} cancel in the sums that bf16 has rounded them for: with no decay and beta 1
    the chunked form itself, its operands rounded and all else in fp64, errs by some 0.02."""
    q, k, v, *gates = recurrence(130, B=1, H=1, Hv=1, dtype=torch.bfloat16)
    args = q, k[:, :1].expand_as(k), v, torch.full_like(gates[0], g), torch.full_like(gates[1], beta)
    out, expected = (
        delta_rule.delta_rule(*args)[0].float(),
        delta_rule.delta_rule_reference(*(x.float() for x in args))[0],
    )
    assert (out - expected).square().mean().sqrt() <= bound * expected.square().mean().sqrt()


def test_delta_rule_forgets_everything_at_a_closed_gate():
    """A gate of -1e4 erases what came before, and leaves what comes after as exact as ever."""
    q, k, v, g, beta = recurrence(80, B=1, H=1, Hv=2)
    g[:, 10:20] = g[:, 30] = -1e4
    assert_recurrence((q, k, v, g, beta), 1e3 * randn(1, 2, 16, 24, seed=9))


def test_delta_rule_reads_slices():
    """q, k and v as slices of one tensor, as delta_inputs returns them; and without the final state."""
    args = recurrence(20, H=1, Hv=1, dtype=torch.bfloat16)
    q, k, v = torch.cat(args[:3], dim=3).split([16, 16, 24], dim=3)
    g, beta = args[3:]
    out, final = delta_rule.delta_rule(q, k, v, g, beta)
    assert final is None
    assert torch.equal(out, delta_rule.delta_rule(q.clone(), k.clone(), v.clone(), g, beta)[0])


@pytest.mark.parametrize(("shape_class", "target"), delta_rule_kernel.SERIAL.rows)
def test_delta_rule_with_each_configuration(shape_class, target, path, monkeypatch):
    if path == "torch":
        pytest.skip("has no configurations")
    if torch.cuda.is_available() and target not in ("", launch.target(torch.device("cuda"))):
        pytest.skip("a configuration of another GPU")
    found = []
    monkeypatch.setattr(delta_rule_kernel, "FEW", 0 if shape_class == "many" else 10**9)
    if not torch.cuda.is_available():
        monkeypatch.setattr(launch, "target", lambda device: target or "sm_86")
    find = delta_rule_kernel.Table.find
    monkeypatch.setattr(delta_rule_kernel.Table, "find", lambda *args: found.append(find(*args)) or found[-1])
    dtype = torch.float32 if shape_class == "fp32" else torch.bfloat16
    # 72 columns: a whole block and a part of one, whatever BV is.
    assert_recurrence(recurrence(67, B=1, H=1, Hv=1, V=72, dtype=dtype), randn(1, 1, 16, 72, seed=9))
    assert torch.cuda.is_available() or delta_rule_kernel.SERIAL.rows[shape_class, target] in found


def test_delta_rule_without_tensor_cores(path, monkeypatch):
    """On sm_75 it is torch's: the same results, in v's dtype."""
    monkeypatch.setattr(launch, "target", lambda device: "sm_75")
    monkeypatch.setattr(delta_rule, "delta_rule_chunks", None)
    assert_recurrence(recurrence(70, dtype=torch.bfloat16))
