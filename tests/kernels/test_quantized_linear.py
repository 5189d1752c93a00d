"""The quantized linear layer at awkward shapes, fused and dequantized first, against the fp32 reference."""

import pytest
import torch
from ops import assert_bf16, randn
from test_quantized import random_matrix

from slant_kernels import launch
from slant_kernels import quantized_linear as module
from slant_kernels.launch import Config, Table
from slant_kernels.quantized import (
    BITS,
    GROUP_SIZES,
    QuantizedMatrix,
    dequantize,
    dequantize_reference,
    pack,
    unpack,
)
from slant_kernels.quantized_linear import quantized_linear, quantized_linear_reference

# (M, N, K): one of each; ragged in all; several tiles of M in whole steps; K of three runs
SHAPES = [(1, 1, 1), (17, 35, 200), (37, 5, 256), (5, 20, 96)]
TILES = list({repr(tile): tile for _, tile in sorted(module.TILES.rows.items())}.values())


@pytest.fixture
def small(monkeypatch):
    """Tiles of 16, so that small shapes have several; no splits."""
    set_tiles(monkeypatch, Config({"BN": 16, "BM": 16, "BK": 64}))
    set_programs(monkeypatch, 1)


def set_tiles(monkeypatch, tile):
    monkeypatch.setattr(module, "TILES", Table({(rows, ""): tile for rows in (*map(str, module.CLASSES), "more")}))


def set_programs(monkeypatch, programs):
    config = Config({"PROGRAMS": programs})
    monkeypatch.setattr(module, "PROGRAMS", Table({(str(rows), ""): config for rows in module.CLASSES}))


def fused(path):
    if path == "torch":
        pytest.skip("the CPU dequantizes first")
    return module._fused


def normal(q):
    """The matrix with scales that keep sums near one, and every sign of zero."""
    return QuantizedMatrix(
        q.codes, (q.scales / 2 ** (q.bits - 1) / q.shape[1] ** 0.5).half(), q.zeros, q.bits, q.group_size, q.shape
    )


def assert_linear(y, x, q):
    """Twice the error of torch's bf16 product with the same bf16 weights, which is at least that of rounding once."""
    reference = quantized_linear_reference(x, q)
    assert_bf16(y, reference, x @ dequantize_reference(q).to(x.device, x.dtype).T)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_linear(shape, bits, group_size, small):
    M, N, K = shape
    x, q = randn(M, K, dtype=torch.bfloat16), normal(random_matrix(N, K, bits, group_size))
    assert_linear(quantized_linear(x, q), x, q)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("step", [64, 128])
def test_fused_in_fp32_is_exact(step, bits, group_size, path, monkeypatch):
    """Without rounding of weights and results only the order of sums is left: errors of 1e-6, not of 1e-2."""
    set_tiles(monkeypatch, Config({"BN": 32, "BM": 32, "BK": step}))
    set_programs(monkeypatch, 4)
    x, q = randn(17, 608), normal(random_matrix(20, 608, bits, group_size))  # two splits; 4.75 steps of 128
    if torch.get_default_device().type == "cpu":
        y = fused(path)(x, q)
        torch.testing.assert_close(y, quantized_linear_reference(x, q), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("tile", TILES, ids=[str(dict(tile.blocks)) for tile in TILES])
def test_every_committed_tile(tile, path, monkeypatch):
    set_tiles(monkeypatch, tile)
    x = randn(tile.blocks["BM"] + 3, 192, dtype=torch.bfloat16)
    q = normal(random_matrix(tile.blocks["BN"] + 3, 192, 4, 64))
    assert_linear(fused(path)(x, q), x, q)


@pytest.mark.parametrize("M", [0, 1, 16, 17, 256, 257, 769])
def test_both_ways_by_the_number_of_tokens(M, path, monkeypatch):
    dense = []
    monkeypatch.setattr(module, "dequantize", lambda *args: dense.append(1) or dequantize(*args))
    x, q = randn(1, M, 32, dtype=torch.bfloat16), normal(random_matrix(8, 32, 8, 32))
    y = quantized_linear(x, q)
    assert y.shape == (1, M, 8)
    assert bool(dense) == (path == "torch" or M in (0, 257, 769))
    if M:
        assert_linear(y, x, q)


def test_few_rows_split_k(path, monkeypatch):
    """64 rows are one tile, so that K is cut in three, of 4, 4 and 2 steps. Two programs a token add them, to the same
    sum each time."""
    monkeypatch.setattr(module, "SUM", Table({("", ""): Config({"BD": 32})}))
    linear, launches = fused(path), []
    run = launch.launch
    monkeypatch.setattr(launch, "launch", lambda *args, **named: launches.append(args[1]) or run(*args, **named))
    x, q = randn(9, 1280, dtype=torch.bfloat16), normal(random_matrix(64, 1280, 4, 64))
    y = linear(x, q)
    assert launches == [(1, 1, 3), (9, 2)]
    assert_linear(y, x, q)
    assert torch.equal(linear(x, q), y)


def test_what_surrounds_x_does_not_leak(small):
    """x is a slice of NaN: columns before and after, rows after."""
    memory = torch.full((30, 400), torch.nan, dtype=torch.bfloat16, device=torch.get_default_device())
    x, q = memory[:21, 64:264], normal(random_matrix(20, 200, 4, 64))
    x.copy_(randn(21, 200, dtype=torch.bfloat16))
    assert_linear(quantized_linear(x, q), x, q)
    assert_linear(quantized_linear(x[:1], q), x[:1], q)
    memory[:21, 200:400].T.copy_(randn(200, 21, dtype=torch.bfloat16))
    turned = randn(200, 21, dtype=torch.bfloat16).T
    assert_linear(quantized_linear(turned, q), turned, q)


@pytest.mark.parametrize("bits", BITS)
def test_padded_codes_do_not_matter(bits, small):
    q, x = normal(random_matrix(6, 70, bits, 32)), randn(4, 70, dtype=torch.bfloat16)
    padded = unpack(q.codes, bits, q.codes.shape[1] * 8 // bits)
    padded[:, 70:] = 2**bits - 1
    other = QuantizedMatrix(pack(padded, bits), q.scales, q.zeros, bits, 32, (6, 70))
    assert not torch.equal(other.codes, q.codes)
    assert torch.equal(quantized_linear(x, other), quantized_linear(x, q))


def test_rows_of_a_matrix_are_a_view_of_it(small):
    q, x = normal(random_matrix(40, 128, 4, 64)), randn(4, 128, dtype=torch.bfloat16)
    part = QuantizedMatrix(q.codes[8:29], q.scales[:, 8:29], q.zeros[:, 8:29], 4, 64, (21, 128))
    assert torch.equal(quantized_linear(x, part), quantized_linear(x, q)[:, 8:29])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_scratch_is_written_and_the_result_is_the_same(dtype, monkeypatch):
    monkeypatch.setattr(module, "FUSED", Table({("", ""): Config({"M": 0})}))
    q, x = normal(random_matrix(7, 65, 4, 32)), randn(2, 3, 65, dtype=dtype)
    scratch = torch.full((500,), torch.nan, dtype=dtype, device=x.device)
    y = quantized_linear(x, q, scratch)
    assert y.dtype == dtype
    assert torch.equal(y, quantized_linear(x, q))
    assert torch.equal(scratch[:455].view(7, 65), dequantize(q, dtype))
    assert scratch[455:].isnan().all()


def test_fp16(small):
    q, x = normal(random_matrix(20, 130, 4, 64)), randn(19, 130, dtype=torch.float16)
    error = (quantized_linear(x, q).float() - quantized_linear_reference(x, q)).abs().max()
    dense = (x @ dequantize_reference(q).to(x.device, x.dtype).T).float() - quantized_linear_reference(x, q)
    assert error <= 2 * dense.abs().max() + 1e-6


def test_a_misfit_is_refused():
    q = normal(random_matrix(7, 65, 4, 32))
    with pytest.raises(ValueError, match="rows of 130 elements"):
        quantized_linear(randn(2, 130), q)
    with pytest.raises(ValueError, match="too small"):
        quantized_linear(randn(2, 65), q, randn(454))
    with pytest.raises(ValueError, match="not contiguous"):
        quantized_linear(randn(2, 65), q, randn(455, dtype=torch.bfloat16))
