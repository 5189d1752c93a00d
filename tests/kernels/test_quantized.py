"""The layout of quantized matrices: packing and its inverse, dequantization against the description."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops import randn

from slant_kernels.quantized import (
    BITS,
    GROUP_SIZES,
    QuantizedMatrix,
    dequantize,
    dequantize_reference,
    layout,
    nbytes,
    pack,
    unpack,
)

SHAPES = [
    (1, 1),
    (3, 31),
    (2, 32),
    (5, 33),
    (4, 63),
    (4, 64),
    (7, 65),
    (2, 127),
    (3, 128),
    (3, 129),
    (6, 200),
    (1, 384),
]


def random_codes(rows, columns, bits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**bits, (rows, columns), dtype=torch.uint8, generator=generator, device="cpu").to(
        torch.get_default_device()
    )


def random_matrix(rows, columns, bits, group_size, seed=0):
    (_, _), groups = layout((rows, columns), bits, group_size)
    scales = randn(*groups, seed=seed).abs().half() + 0.01
    zeros = randn(*groups, seed=seed + 1).half() * 2 ** (bits - 3)
    packed = pack(random_codes(rows, columns, bits, seed), bits)
    return QuantizedMatrix(packed, scales, zeros, bits, group_size, (rows, columns))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(BITS), st.integers(1, 9), st.integers(1, 400), st.integers(0, 2**32))
def test_unpack_is_the_inverse_of_pack(bits, rows, columns, seed):
    codes = random_codes(rows, columns, bits, seed)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == layout((rows, columns), bits, 64)[0]
    assert torch.equal(unpack(packed, bits, columns), codes)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(BITS), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32))
def test_pack_is_the_inverse_of_unpack(bits, rows, blocks, seed):
    """Every bit of a packed row is used, and once."""
    columns = 128 * blocks
    generator = torch.Generator().manual_seed(seed)
    shape, _ = layout((rows, columns), bits, 64)
    packed = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device="cpu")
    assert torch.equal(pack(unpack(packed, bits, columns), bits), packed)


def test_padding_is_code_0():
    for bits in BITS:
        packed = pack(torch.full((2, 65), 2**bits - 1, dtype=torch.uint8), bits)
        padded = packed.shape[1] * 8 // bits
        assert padded > 65
        assert unpack(packed, bits, padded)[:, 65:].eq(0).all()


def test_four_bits_pair_a_column_with_the_one_32_further():
    codes = random_codes(3, 128, 4)
    packed = pack(codes, 4)
    assert torch.equal(packed[:, :32], codes[:, :32] | codes[:, 32:64] << 4)
    assert torch.equal(packed[:, 32:], codes[:, 64:96] | codes[:, 96:] << 4)


def test_three_bits_are_a_plane_of_two_and_a_plane_of_one():
    codes = random_codes(2, 256, 3)
    packed = pack(codes, 3).view(2, 2, 48)
    assert torch.equal(packed[:, :, :32].flatten(1), pack(codes & 3, 2))
    for k in range(128):
        i, j = divmod(k, 32)
        assert torch.equal(packed[:, 0, 32 + j % 16] >> 4 * (j // 16) + i & 1, codes[:, k] >> 2)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_dequantize_equals_the_reference(shape, bits, group_size):
    q = random_matrix(*shape, bits, group_size)
    truth = dequantize_reference(q)
    assert torch.equal(dequantize(q, torch.float32), truth)
    assert torch.equal(dequantize(q, torch.bfloat16), truth.bfloat16())


@pytest.mark.parametrize("bits", BITS)
def test_the_difference_is_rounded_before_the_product(bits):
    """Zeros so small that a code less a zero takes more than fp32's 24 bits; with larger ones both orders agree."""
    q = random_matrix(16, 128, bits, 64)
    q = QuantizedMatrix(q.codes, q.scales, q.zeros / 4096 / 2**bits, bits, 64, q.shape)
    assert torch.equal(dequantize(q, torch.float32), dequantize_reference(q))


@pytest.mark.parametrize("bits", BITS)
def test_dequantize_writes_into_out_and_nowhere_else(bits):
    """Several tiles of rows and of blocks, of a matrix that is a view of rows of another."""
    whole = random_matrix(80, 300, bits, 64)
    q = QuantizedMatrix(whole.codes[5:75], whole.scales[:, 5:75], whole.zeros[:, 5:75], bits, 64, (70, 300))
    memory = torch.full((72, 300), 7.0, dtype=torch.float16, device=q.codes.device)
    assert dequantize(q, torch.float16, memory[1:71]).data_ptr() == memory[1].data_ptr()
    assert torch.equal(memory[1:71], dequantize_reference(q).to(memory))
    assert memory[[0, 71]].eq(7).all()


def test_an_out_that_does_not_fit_is_refused():
    q = random_matrix(4, 6, 4, 64)
    memory = torch.zeros(6, 6, device=q.codes.device)
    for out in (memory, memory[:4].half(), memory[:, :4].T):
        with pytest.raises(ValueError, match="not contiguous"):
            dequantize(q, torch.float32, out)


def test_padded_codes_do_not_matter():
    q = random_matrix(3, 70, 4, 32)
    padded = unpack(q.codes, 4, 128)
    padded[:, 70:] = 15
    other = QuantizedMatrix(pack(padded, 4), q.scales, q.zeros, 4, 32, (3, 70))
    assert torch.equal(dequantize(other, torch.float32), dequantize(q, torch.float32))


def test_dequantize_in_several_steps_equals_one(monkeypatch):
    q = random_matrix(50, 100, 3, 32)
    whole = dequantize(q, torch.float32)
    monkeypatch.setattr("slant_kernels.quantized._ROWS_AT_A_TIME", 700)
    assert torch.equal(dequantize(q, torch.float32), whole)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_nbytes_is_what_is_held(shape, bits):
    for group_size in GROUP_SIZES:
        assert random_matrix(*shape, bits, group_size).nbytes == nbytes(shape, bits, group_size)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_nothing_is_padded_in_the_published_shapes(bits, group_size):
    for rows, columns in ((9216, 2560), (2560, 9216), (2560, 4096), (3584, 1024)):
        assert nbytes((rows, columns), bits, group_size) == rows * columns * (bits / 8 + 4 / group_size)


def test_a_mismatch_is_refused():
    q = random_matrix(4, 100, 4, 64)
    for change in (
        {"codes": q.codes[:, 1:]},
        {"codes": q.codes.short()},
        {"scales": q.scales.T},
        {"zeros": q.zeros.float()},
        {"bits": 5},
        {"group_size": 48},
        {"shape": (4, 200)},
    ):
        with pytest.raises(ValueError, match=r"not torch|groups of"):
            QuantizedMatrix(**(vars(q) | change))
