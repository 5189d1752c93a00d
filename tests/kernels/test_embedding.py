"""The embedding gather at awkward shapes, against the fp32 reference."""

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
