"""The CPU ops compiled from C++, at every set of instructions this processor has, against the fp32 references."""

import math

import pytest
import torch
from ops import assert_bf16, assert_fp32, randn

from slant_kernels import attention, delta_inputs, delta_net, delta_rule, int8, native, norm, swiglu

PANEL = 32  # a multiple of every level's
DTYPES = (torch.float32, torch.bfloat16)

pytestmark = pytest.mark.usefixtures("level")


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """One path only."""


def assert_near(out, reference, rounded):
    """``rounded`` makes what is the best in bf16, where out is of it."""
    assert_fp32(out, reference) if out.dtype == torch.float32 else assert_bf16(out, reference, rounded)


# Grouped heads, unequal widths, one token, less and more than a chunk, less than a tile in the last one.
DELTA_NETS = [
    (1, 1, 1, 1, PANEL, PANEL),
    (2, 7, 2, 2, PANEL, 2 * PANEL),
    (3, 65, 1, 3, 2 * PANEL, PANEL),
    (1, 64, 2, 4, PANEL, PANEL),
    (2, 200, 1, 2, 128, 128),
]


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "T", "H", "HV", "K", "V"), DELTA_NETS)
def test_delta_net(B, T, H, HV, K, V, dtype, with_state):
    C = 2 * H * K + HV * V
    mixed = randn(B, T, C + HV * V, dtype=dtype)[..., :C]
    a, b = randn(B, T, 2 * HV, dtype=dtype, seed=1).chunk(2, dim=2)
    weights = randn(4, C, seed=3), randn(HV, seed=4), randn(HV, seed=5), H, K
    before, start = (randn(1, 3, C, dtype=dtype, seed=6), randn(1, HV, K, V, seed=7)) if with_state else (None, None)
    state = (before, start) if with_state else None
    inputs = delta_inputs.delta_inputs_reference(mixed, a, b, *weights, before)
    o, S = delta_rule.delta_rule_reference(*inputs, start)
    out, (last, final) = delta_net.delta_net(mixed, a, b, *weights, state, keep_state=True)
    assert out.dtype == dtype
    # All is fp32 but what goes in and comes out.
    bound = 2e-6 if dtype == torch.float32 else 0.003
    assert (out.float() - o).square().mean().sqrt() <= bound * o.square().mean().sqrt()
    torch.testing.assert_close(final, S, atol=5e-5, rtol=5e-5)
    assert torch.equal(last, delta_net.last_inputs(before, mixed, 4))
    again, nothing = delta_net.delta_net(mixed, a, b, *weights, state)
    assert nothing is None
    assert torch.equal(out, again)


def test_delta_net_continues_from_each_rows_own_state():
    H, HV, K, V, T = 1, 2, PANEL, PANEL, 70
    C = 2 * H * K + HV * V
    mixed, (a, b) = randn(3, T, C), randn(3, T, 2 * HV, seed=1).chunk(2, dim=2)
    weights = randn(4, C, seed=3), randn(HV, seed=4), randn(HV, seed=5), H, K
    whole, (last, S) = delta_net.delta_net(mixed, a, b, *weights, None, keep_state=True)
    first, state = delta_net.delta_net(mixed[:, :33], a[:, :33], b[:, :33], *weights, None, keep_state=True)
    rest, (rest_last, rest_S) = delta_net.delta_net(mixed[:, 33:], a[:, 33:], b[:, 33:], *weights, state, True)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(rest_S, S, atol=2e-5, rtol=2e-5)
    assert torch.equal(rest_last, last)


@pytest.mark.parametrize("log_rate", [-80.0, math.log(1e4)])
def test_delta_net_of_one_token_repeated(log_rate):
    """All keys equal, and nothing or all forgotten: the inverse must be found by substitution, and no exp overflow."""
    H, HV, K, V, T = 1, 1, PANEL, PANEL, 130
    C = 2 * H * K + HV * V
    mixed, ab = randn(1, 1, C).expand(1, T, C), randn(1, 1, 2 * HV, seed=1).expand(1, T, 2 * HV)
    gates = torch.tensor([log_rate]), torch.tensor([20.0])
    arguments = mixed, *ab.chunk(2, dim=2), randn(4, C, seed=3), *gates, H, K
    out, (_, S) = delta_net.delta_net(*arguments, None, keep_state=True)
    o, expected = delta_rule.delta_rule_reference(*delta_inputs.delta_inputs_reference(*arguments))
    torch.testing.assert_close(out, o, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(S, expected, atol=2e-5, rtol=2e-5)


def test_delta_net_gives_a_row_the_same_bits_in_any_company():
    H, HV, K, V, T = 2, 4, PANEL, PANEL, 90
    C = 2 * H * K + HV * V
    mixed, (a, b) = randn(3, T, C, dtype=torch.bfloat16), randn(3, T, 2 * HV, seed=1).bfloat16().chunk(2, dim=2)
    weights = randn(4, C, seed=3), randn(HV, seed=4), randn(HV, seed=5), H, K
    together, _ = delta_net.delta_net(mixed, a, b, *weights, None)
    for row in range(3):
        r = slice(row, row + 1)
        assert torch.equal(delta_net.delta_net(mixed[r], a[r], b[r], *weights, None)[0], together[r])


THREADS = (1, 2, 3, 8, 40)  # fewer than tasks, as many, and more: of a key head's panels, too


def with_threads(run):
    """What ``run()`` gives with each number of threads, which may be more than there are cores."""
    before = torch.get_num_threads()
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            yield run()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "H", "HV"), [(1, 1, 1), (1, 1, 3), (1, 2, 4), (3, 1, 2)])
def test_delta_net_is_the_same_bits_with_any_number_of_threads(B, H, HV, dtype):
    K, V, T = PANEL, 4 * PANEL, 90
    C = 2 * H * K + HV * V
    mixed, (a, b) = randn(B, T, C, dtype=dtype), randn(B, T, 2 * HV, seed=1).to(dtype).chunk(2, dim=2)
    weights = randn(4, C, seed=3), randn(HV, seed=4), randn(HV, seed=5), H, K
    state = randn(1, 3, C, dtype=dtype, seed=6), randn(1, HV, K, V, seed=7)
    (one, (_, S)), *others = with_threads(lambda: delta_net.delta_net(mixed, a, b, *weights, state, keep_state=True))
    assert not one.isnan().any()
    for out, (_, other) in others:
        assert torch.equal(out, one)
        assert torch.equal(other, S)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_is_the_same_bits_with_any_number_of_threads(dtype):
    q, k, v = (randn(1, heads, 100, PANEL, dtype=dtype, seed=heads) for heads in (4, 2, 2))
    one, *others = with_threads(lambda: attention.causal_attention(q, k, v))
    assert not one.isnan().any()
    assert all(torch.equal(out, one) for out in others)


# One group and several, more heads than a block has rows, a prefix, more keys than a step of values.
ATTENTIONS = [
    (1, 1, 1, 1, 0, PANEL),
    (2, 4, 2, 65, 30, PANEL),
    (2, 6, 1, 31, 7, 64),
    (1, 80, 1, 9, 2, PANEL),
    (1, 8, 2, 300, 5, 256),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "H", "G", "T", "before", "D"), ATTENTIONS)
def test_attention(B, H, G, T, before, D, dtype):
    q, k, v = (randn(B, h, before + T, D, dtype=dtype, seed=s) for s, h in enumerate((H, G, G)))
    q[:, :, before:] *= 3  # sharp enough for a wrong maximum to show
    out = attention.causal_attention(q, k, v, before)
    expected = attention.causal_attention_reference(q[:, :, before:], k, v)
    assert_near(out, expected, expected.bfloat16())


def test_attention_of_scores_that_overflow_exp():
    q, k, v = (randn(1, 1, 40, PANEL, seed=s) for s in range(3))
    q *= 400
    expected = attention.causal_attention_reference(q.double().float(), k, v)
    torch.testing.assert_close(attention.causal_attention(q, k, v), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_reads_nothing_behind_the_keys(dtype):
    q, k, v = (randn(1, 2, 70, PANEL, dtype=dtype, seed=s) for s in range(3))
    k[:, :, 43:], v[:, :, 43:] = torch.nan, torch.nan
    q, k, v = (x[:, :, :43] for x in (q, k, v))
    expected = attention.causal_attention_reference(q, k, v)
    assert_near(attention.causal_attention(q, k, v), expected, expected.bfloat16())


def test_attention_reads_heads_where_they_are():
    """Transposed and broadcast tensors, as they come from projections and a shared prefix."""
    q, k, v = (randn(2, 20, heads, PANEL, seed=heads).transpose(1, 2) for heads in (4, 2, 2))
    v = v[:1].expand(2, -1, -1, -1)
    expected = attention.causal_attention_reference(q, k, v)
    assert_fp32(attention.causal_attention(q, k, v), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, PANEL), (3, 5, 4 * PANEL), (2, 3, 4, 5 * PANEL)])
def test_norm(shape, dtype):
    x, residual, weight = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype, seed=1), randn(shape[-1], seed=2)
    expected = norm.rms_norm_reference(x, weight, 1e-6)
    assert_near(norm.rms_norm(x, weight, 1e-6), expected, expected.bfloat16())
    out, stream = norm.add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(stream, x + residual)
    expected = norm.rms_norm_reference(x + residual, weight, 1e-6)
    assert_near(out, expected, expected.bfloat16())
    assert norm.add_rms_norm(x, None, weight, 1e-6)[1] is x


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_norm(dtype):
    x, z = randn(2, 7, 3, PANEL, dtype=dtype), 20 * randn(2, 7, 5 * PANEL, dtype=dtype, seed=1)
    z, weight = z[..., 2 * PANEL :].unflatten(2, (3, PANEL)), randn(PANEL, seed=2)
    expected = norm.gated_rms_norm_reference(x, z, weight, 1e-6)
    assert_near(norm.gated_rms_norm(x, z, weight, 1e-6), expected, expected.bfloat16())


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype):
    gate_up = randn(3, 5, 6 * PANEL, dtype=dtype) * 60  # exp(-x) overflows
    expected = swiglu.swiglu_reference(gate_up)
    assert_near(swiglu.swiglu(gate_up), expected, expected.bfloat16())


@pytest.mark.parametrize("columns", [128, 768, 1536, 1024, 2048, 8192])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_in_8_bits(columns, dtype, monkeypatch):
    x = randn(3, 5, columns, dtype=dtype)
    x[1, 2], x[2, 3, 7], x[2, 4, 9] = 0, -50, math.nan
    codes, scales = int8.quantize_rows(x)
    monkeypatch.setattr(native, "levels", lambda: ())
    expected, expected_scales = int8.quantize_rows(x)
    torch.testing.assert_close(scales, expected_scales, rtol=1e-6, atol=0, equal_nan=True)
    assert scales.isnan().nonzero().tolist() == [[2, 4, 0]]
    codes, expected = codes.int().flatten(0, 1)[:-1], expected.int().flatten(0, 1)[:-1]
    assert (codes - expected).abs().max() <= 1  # where rounding falls on the other side of a half
    assert (codes != expected).float().mean() < 0.01
    assert (codes[7] == int8.ZERO).all()


@pytest.mark.parametrize(
    "out", [torch.empty(2, 32, dtype=torch.bfloat16, device="cpu"), torch.empty(32, 2, device="cpu").T]
)
def test_a_wrong_buffer_is_refused(out):
    with pytest.raises(TypeError, match=r"slant_swiglu: out is torch\.(bfloat16|float32) on cpu with strides .*, not"):
        swiglu.NATIVE((randn(2, 64), out), (2, 32))
