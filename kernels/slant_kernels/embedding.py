"""Embedding gather for a right-padded batch.

    out[b, t] = table[ids[b, t]]  for t < lengths[b],  else 0

Shapes: ids ``[B, T]``, lengths ``[B]``, table ``[V, D]`` -> ``[B, T, D]``. The table's row of the padding id is never
read into the result, so no value there, NaN included, can reach a text: everything after only looks back, and a zero
stays finite through every op.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def embedding_reference(ids: Tensor, lengths: Tensor, table: Tensor) -> Tensor:
    out = torch.zeros(*ids.shape, table.shape[1], dtype=table.dtype, device=table.device)
    for b, length in enumerate(lengths.tolist()):
        for t in range(length):
            out[b, t] = table[ids[b, t]]
    return out


def embedding(ids: Tensor, lengths: Tensor, table: Tensor) -> Tensor:
    """Rows of the table, zeros at the padding."""
    padding = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
    return F.embedding(ids, table).masked_fill_(padding[..., None], 0)
