"""The embedding gather at awkward shapes, against the fp32 reference."""

import pytest
import torch
from ops import randn

from slant_kernels import embedding


def test_embedding_zeroes_the_padding():
    table = randn(10, 6)
    table[9] = torch.nan
    ids, lengths = torch.tensor([[1, 2, 9, 9], [3, 4, 5, 6]]), torch.tensor([2, 4])
    out = embedding.embedding(ids, lengths, table)
    assert torch.equal(out, embedding.embedding_reference(ids, lengths, table))
    assert out[0, 2:].eq(0).all()


@pytest.mark.parametrize("pad", [-1, 10, -(2**62), 2**62])
def test_a_padded_position_may_hold_any_id(pad):
    table, lengths = randn(10, 6), torch.tensor([1, 3])
    ids = torch.tensor([[9, pad, pad], [0, 9, 5]])
    assert torch.equal(embedding.embedding(ids, lengths, table), embedding.embedding_reference(ids, lengths, table))


@pytest.mark.parametrize("T", [1, 63, 64, 65, 127])
def test_embedding_in_the_models_dtype(T):
    table, lengths = randn(50, 40, dtype=torch.bfloat16), torch.tensor([T, 1, (T + 1) // 2])
    ids = torch.arange(3 * T).view(3, T) % 50
    out = embedding.embedding(ids, lengths, table)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, embedding.embedding_reference(ids, lengths, table))


def test_embedding_of_real_rows_and_strided_ids():
    table, lengths = randn(30, 2560, dtype=torch.bfloat16), torch.tensor([3, 2])
    ids = torch.arange(16).view(2, 8)[:, ::2]
    assert torch.equal(embedding.embedding(ids, lengths, table), embedding.embedding_reference(ids, lengths, table))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.gpu
def test_embedding_reads_a_table_in_pinned_memory(path):
    if path == "torch":
        pytest.skip("only the kernel does")
    table = torch.randn(10, 2560, device="cpu").bfloat16().pin_memory()
    ids, lengths = torch.tensor([[1, 2, 9], [3, 4, 5]]), torch.tensor([2, 3])
    out = embedding.embedding(ids, lengths, table)
    assert torch.equal(out.cpu(), embedding.embedding_reference(ids.cpu(), lengths.cpu(), table))
