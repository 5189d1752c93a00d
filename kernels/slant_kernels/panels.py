"""Matrices in panels of output columns, in the order in which a CPU multiplies by them: layout and packing.

y = x W^T with W ``[N, K]``. A panel is P consecutive columns of y (rows of W); P is as wide as two vectors of fp32 of
the library in use (``native.panel``), N is padded to whole panels with zeros, and K is a multiple of 32. A product
reads each panel once, from beginning to end.

words           int32 ``[N / P, K bits / 32, P]``. With codes, lane n of panel p belongs to column p P + n, and a word
                holds 32 / bits consecutive k of it. ``word >> bits j & mask``, with the field's mask in all four bytes,
                leaves a code in each byte, and byte i is the code of the word's k = 4 j + i:

    bits   k a word   byte i holds
    8      4          k = i
    4      8          k = 4 j + i    in bits 4 j, 4 j + 1, ...     j = 0, 1
    2      16         k = 4 j + i    in bits 2 j, 2 j + 1          j = 0 ... 3
    3      32         three words: the lower two bits of k = 0 ... 15 and of 16 ... 31 as for 2 bits, then the upper
           in three   bits of all 32, k = 4 j + i in bit j of byte i, j = 0 ... 7

scales, zeros   fp16 ``[N / P, G, P]``, of the groups of ``quantized``, whose formula gives the numbers.

With 16 bits a word holds two numbers in bf16 and no scales belong to it: words ``[N / P, K, P / 2]``, stored in rows
of P, where lane n of k has column p P + n in its lower half and p P + P / 2 + n in its upper half. A vector of words
becomes two of fp32, of neighbouring columns, by one shift and one mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEP = 32  # K is a multiple of it


def pack_codes(codes: Tensor, bits: int, panel: int) -> Tensor:
    """Codes uint8 ``[N, K]`` -> words int32 ``[ceil(N / panel), K bits / 32, panel]``; the codes of padding are 0."""
    if bits == 3:
        lower, upper = _words(codes & 3, 2).unflatten(1, (-1, 2)), _words(codes >> 2, 1)
        words = torch.cat([lower, upper[:, :, None]], dim=2).flatten(1)
    else:
        words = _words(codes, bits)
    return _panels(words, panel).transpose(1, 2).contiguous()


def pack_groups(values: Tensor, panel: int) -> Tensor:
    """Scales or zeros ``[G, N]`` -> ``[ceil(N / panel), G, panel]``."""
    return _panels(values.T, panel).transpose(1, 2).contiguous()


def pack_numbers(weight: Tensor, panel: int) -> Tensor:
    """bf16 ``[N, K]`` -> words int32 ``[ceil(N / panel), K / 2, panel]``."""
    halves = _panels(weight.view(torch.int16), panel).unflatten(1, (2, panel // 2))
    return halves.permute(0, 3, 2, 1).contiguous().view(torch.int32).view(len(halves), -1, panel)


def _words(fields: Tensor, width: int) -> Tensor:
    """Fields of ``width`` bits ``[N, K]`` -> int32 ``[N, K width / 32]``."""
    first, *others = fields.unflatten(1, (-1, 8 // width, 4)).unbind(2)
    words = first.clone(memory_format=torch.contiguous_format)
    for index, field in enumerate(others, 1):
        words |= field << width * index
    return words.view(torch.int32)[..., 0]


def _panels(rows: Tensor, panel: int) -> Tensor:
    """``[N, ...]`` -> ``[ceil(N / panel), panel, ...]``."""
    return F.pad(rows, (0, 0, 0, -len(rows) % panel)).unflatten(0, (-1, panel))
