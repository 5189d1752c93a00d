"""A checkpoint's tensors on their way into a model: read one at a time, merged, converted, or left quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from slant.model.config import ModelConfig
from slant.tensor_files import TensorInfo, finite, read_into, read_panels
from slant_kernels.linear import EIGHT_BIT, Weight
from slant_kernels.merged import Part, Scratch, in_panels, merge
from slant_kernels.onednn import reorder
from slant_kernels.panels import packed
from slant_kernels.quantized import QuantizedMatrix


class Tensors(Protocol):
    """What a model's weights are read from, by canonical names.

    ``quantized`` gives a matrix in its quantized form, None where there is none; ``read`` gives every tensor dense, and
    ``as_stored`` says where it lies in a file just as ``read`` gives it, None where it does not.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...
    def read(self, name: str) -> Tensor: ...
    def as_stored(self, name: str) -> TensorInfo | None: ...
    def rows(self, name: str, ids: Sequence[int]) -> Tensor: ...
    def quantized(self, name: str) -> QuantizedMatrix | None: ...


class Weights:
    """Reads tensors of a source into memory of their own, for activations of ``dtype``.

    Dense matrices are of ``storage``, ``dtype`` if not given; bf16 for activations in fp32 takes half the memory.
    With ``scratch``, matrices that the source holds quantized stay so, to be made dense in it when they are used; with
    ``panels`` they stay so to be multiplied as they are, on a CPU, and so are those in bf16 for activations in fp32;
    else everything is dense; ``reordered``: in oneDNN's blocked layout, which gives the same results; and
    with ``eight_bit``, a key of ``EIGHT_BIT``, in 8 bits, to be multiplied by activations of 8 bits; and with ``w4a8``
    quantized matrices stay so, to be multiplied by those.
    """

    def __init__(
        self,
        source: Tensors,
        dtype: torch.dtype,
        device: torch.device,
        scratch: Scratch | None = None,
        *,
        storage: torch.dtype | None = None,
        panels: bool = False,
        reordered: bool = False,
        eight_bit: str | None = None,
        w4a8: bool = False,
        ahead: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """ahead: matrices that were read before, in the dtype of ``storage`` and on its device."""
        self.source, self.dtype, self.device, self.scratch = source, dtype, device, scratch
        self.storage, self.panels, self.reordered, self.eight_bit = storage or dtype, panels, reordered, eight_bit
        self.w4a8 = w4a8
        self._ahead = ahead
        self._passing = Scratch(self.storage, device)  # memory that is touched already is read into faster

    def matrix(self, *names: str) -> Weight:
        """The named matrices of linear layers stacked by rows: dense, or merged from quantized parts."""
        if self.scratch is not None:
            return merge([self._part(name) for name in names], self.scratch, self.device)
        if self.eight_bit and self.source.config.is_8_bit(names[0]):
            return EIGHT_BIT[self.eight_bit].matrix(self._stacked(names, passing=True))
        if (self.panels or self.w4a8) and any(parts := [self.source.quantized(name) for name in names]):
            stacked = [self._dense(name) if part is None else part for part, name in zip(parts, names, strict=True)]
            return in_panels(stacked, self.storage, w4a8=self.w4a8)
        if self.panels and self.storage != self.dtype:
            stored = [info for name in names if (info := self.source.as_stored(name)) is not None]
            matrix = read_panels(stored) if len(stored) == len(names) else None
            return matrix or packed(self._stacked(names, passing=True))
        if self.reordered and self.storage == self.dtype:
            return reorder(self._stacked(names, passing=True))
        return self._stacked(names)

    def dense(self, *names: str) -> Tensor:
        """The named matrices stacked by rows, in the dtype that dense ones are stored in."""
        return self._ahead[names[0]] if names[0] in self._ahead else self._stacked(names)

    def _stacked(self, names: Sequence[str], *, passing: bool = False) -> Tensor:
        """As ``dense``; if it is only ``passing``, in memory that the next such call uses again."""
        shapes = [self.source.tensors[name].shape for name in names]
        rows, columns = [shape[0] for shape in shapes], shapes[0][1]
        if passing:
            self._passing.reserve(sum(rows) * columns)
            merged = self._passing.take()[: sum(rows) * columns].view(-1, columns)
        else:
            merged = torch.empty(sum(rows), columns, dtype=self.storage, device=self.device)
        self._fill(names, merged.split(rows))
        return merged

    def on_host(self, name: str, owner: object) -> Tensor:
        """A matrix in the model's dtype in host memory; page-locked while the owner lives, if the device is a GPU."""
        from slant.model.host_memory import lock, pages

        rows, columns = self.source.tensors[name].shape
        memory = pages(rows * columns * self.dtype.itemsize)
        matrix = memory.view(self.dtype).view(rows, columns)
        self._fill([name], [matrix])
        if self.device.type == "cuda":
            lock(owner, [memory])
        return matrix

    def fp32(self, name: str) -> Tensor:
        """A small tensor (norm, gate, convolution) that is computed in fp32."""
        return self.source.read(name).to(device=self.device, dtype=torch.float32, copy=True)

    def _part(self, name: str) -> Part:
        matrix = self.source.quantized(name)
        return self._dense(name) if matrix is None else matrix

    def _dense(self, name: str) -> Tensor:
        rows, columns = self.source.tensors[name].shape
        dense = torch.empty(rows, columns, dtype=self.storage, device=self.device)
        self._fill([name], [dense])
        return dense

    def _fill(self, names: Sequence[str], targets: Sequence[Tensor]) -> None:
        """Read tensors into memory; raises CheckpointError as ``_copy`` does."""
        stored = {name: info for name in names if (info := self.source.as_stored(name)) is not None}
        places = dict(zip(names, targets, strict=True))
        done = dict(zip(stored, read_into(list(stored.values()), [places[name] for name in stored]), strict=True))
        for name, target in places.items():
            if not done.get(name):
                self._copy(name, target)

    def _copy(self, name: str, target: Tensor) -> None:
        """The tensor in the memory and dtype of ``target``; raises CheckpointError for values beyond that dtype."""
        tensor = self.source.read(name)
        target.copy_(tensor)
        if tensor.dtype == torch.float32 != target.dtype:
            problem, advice = "too large for bfloat16", "load it with the weights fp32"
            finite(target, self.source.tensors[name], problem=problem, advice=advice)
