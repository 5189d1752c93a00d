"""Embedding gather for a right-padded batch.

    out[b, t] = table[ids[b, t]]  for t < lengths[b],  else 0

Shapes: ids ``[B, T]``, lengths ``[B]``, table ``[V, D]`` -> ``[B, T, D]``. The ids of padding are never looked up and
may be any: zeros stay finite through every op, and no op lets padding change the tokens before it. The ids of texts
must lie in the table: the kernel does not check them.

The table may stay in pinned host memory: the kernel reads its rows over the bus, 2 D bytes a token in bf16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch
from slant_kernels.launch import Config, Table, jit, power_of_2, tl


def embedding_reference(ids: Tensor, lengths: Tensor, table: Tensor) -> Tensor:
    out = torch.zeros(*ids.shape, table.shape[1], dtype=table.dtype, device=ids.device)
    for b, length in enumerate(lengths.tolist()):
        for t in range(length):
            out[b, t] = table[ids[b, t]]
    return out


# A row of 2560 bf16 is at most 4 loads of 16 bytes a thread.
ROW = Table({("", ""): Config(num_warps=4)})


@jit()
def _embedding_kernel(p_ids, p_lengths, p_table, p_out, D: tl.constexpr, BD: tl.constexpr):
    """One position of one text."""
    i_t, i_b = tl.program_id(0), tl.program_id(1)
    i_row = i_b.to(tl.int64) * tl.num_programs(0) + i_t
    o_d = tl.arange(0, BD)
    m_d = o_d < D
    row = tl.zeros([BD], p_out.dtype.element_ty)
    if i_t < tl.load(p_lengths + i_b):
        i_id = tl.load(p_ids + i_row).to(tl.int64)
        row = tl.load(p_table + i_id * D + o_d, mask=m_d, other=0.0)
    tl.store(p_out + i_row * D + o_d, row, mask=m_d)


def embedding(ids: Tensor, lengths: Tensor, table: Tensor) -> Tensor:
    """Rows of the table, zeros at the padding; on the device of the ids."""
    if launch.on_gpu(ids):
        return _embedding(ids.contiguous(), lengths.contiguous(), table)
    padding = torch.arange(ids.shape[1], dtype=torch.int64, device=ids.device) >= lengths[:, None]
    return F.embedding(ids.masked_fill(padding, 0), table).masked_fill_(padding[..., None], 0)


def _embedding(ids: Tensor, lengths: Tensor, table: Tensor) -> Tensor:
    (B, T), D = ids.shape, table.shape[1]
    assert table.is_contiguous()
    out = torch.empty(B, T, D, dtype=table.dtype, device=ids.device)
    launch.launch(_embedding_kernel, (T, B), ROW.find(ids.device), ids, lengths, table, out, D=D, BD=power_of_2(D))
    return out
