"""Matrices in panels of output columns, in the order in which a CPU multiplies by them: layout, packing, product.

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

The product decodes weights in fp32, rounded to the dtype of x as ``dequantize`` does, and adds in fp32 in the order of
k: the bits of a row of y depend on that row of x only, and on no number of rows or threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import native
from slant_kernels.quantized import QuantizedMatrix

STEP = 32  # K is a multiple of it
NUMBERS = 16  # bits of what is not codes


@dataclass(frozen=True, eq=False)
class PanelMatrix:
    """W ``[N, K]`` as the header says; ``shape`` is (N, K). Numbers in bf16 have no scales, no zeros and no groups."""

    words: Tensor
    scales: Tensor | None
    zeros: Tensor | None
    bits: int
    group_size: int
    shape: tuple[int, int]

    @property
    def op(self) -> native.Op:
        return NATIVE

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.words, self.scales, self.zeros) if part is not None)

    def multiply(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x ``[..., K]``, bf16 or fp32 -> ``x W^T`` ``[..., N]`` of its dtype; into ``out`` ``[M, N]`` if given."""
        N, K = self.shape
        rows = x.reshape(-1, K)
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        y = rows.new_empty(len(rows), N) if out is None else out
        if len(rows):
            sizes = len(rows), N, K, self.bits, self.group_size, rows.stride(0), y.stride(0)
            self.op((rows, self.words, self.scales, self.zeros, y), sizes)
        return y.view(*x.shape[:-1], N) if out is None else out


NATIVE = native.Op("panels", "x words:int32 scales:fp16 zeros:fp16 out workspace", "M N K bits group x_row out_row")


def nbytes(shape: tuple[int, int], bits: int, group_size: int = STEP) -> int:
    """Bytes of a matrix ``[N, K]`` in panels; numbers in bf16 are 16 bits."""
    panel = native.panel()
    assert panel is not None
    (N, K), groups = shape, 0 if bits == NUMBERS else 2 * 2 * -(-shape[1] // group_size)
    return -(-N // panel) * panel * (K * bits // 8 + groups)


def workspace(rows: int, shape: tuple[int, int], dtype: torch.dtype) -> int:
    """Bytes that a product of so many rows of ``dtype`` works in, beside its output."""
    return NATIVE.workspace(dtype, (rows, *shape, NUMBERS, STEP, shape[1], shape[0]))


def can_pack(device: torch.device, *columns: int) -> bool:
    """Whether matrices of so many columns K can be multiplied in panels: on a CPU, by a library that is compiled."""
    return device.type == "cpu" and native.level() is not None and not any(K % STEP for K in columns)


def packed(matrix: QuantizedMatrix | Tensor) -> PanelMatrix:
    """A quantized matrix, or one in bf16, in panels of the library in use; only where ``can_pack`` says so."""
    panel = native.panel()
    assert panel is not None
    if isinstance(matrix, Tensor):
        numbers = matrix.contiguous().view(torch.uint8)
        shape = matrix.shape[0], matrix.shape[1]
        return PanelMatrix(_packed(numbers, shape, NUMBERS, panel), None, None, NUMBERS, STEP, shape)
    words = _packed(matrix.codes, matrix.shape, matrix.bits, panel)
    scales, zeros = (pack_groups(values, panel) for values in (matrix.scales, matrix.zeros))
    return PanelMatrix(words, scales, zeros, matrix.bits, matrix.group_size, matrix.shape)


PACK = native.Op("pack", "codes:uint8 words:int32", "N K bits row")


def _packed(codes: Tensor, shape: tuple[int, int], bits: int, panel: int) -> Tensor:
    """Bytes ``[N, ...]``, as ``quantized`` has them or of bf16 -> words: ``pack_codes`` and ``pack_numbers`` in C++."""
    N, K = shape
    words = torch.empty(-(-N // panel), K * bits // 32, panel, dtype=torch.int32, device="cpu")
    PACK((codes, words), (N, K, bits, codes.stride(0)))
    return words


def pack_codes(codes: Tensor, bits: int, panel: int, out: Tensor | None = None) -> Tensor:
    """Codes uint8 ``[N, K]`` -> words int32 ``[ceil(N / panel), K bits / 32, panel]``; the codes of padding are 0.

    out: where to; allocated if not given.
    """
    if bits == 3:
        lower, upper = _words(codes & 3, 2).unflatten(1, (-1, 2)), _words(codes >> 2, 1)
        words = torch.cat([lower, upper[:, :, None]], dim=2).flatten(1)
    else:
        words = _words(codes, bits)
    words = _panels(words, panel).transpose(1, 2)
    return words.contiguous() if out is None else out.copy_(words)


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
