"""A checkpoint's tensors on their way into a model: read one at a time, merged, converted, or left quantized."""

from __future__ import annotations

import torch
from torch import Tensor

from slant.hostmemory import lock, pages
from slant.source import Tensors
from slant_kernels.packed import Part, Scratch, Weight, packed


class Weights:
    """Reads tensors of a source into memory of their own.

    With ``scratch``, matrices that the source holds quantized stay so, to be made dense in it when they are used;
    else everything is dense.
    """

    def __init__(
        self, source: Tensors, dtype: torch.dtype, device: torch.device, scratch: Scratch | None = None
    ) -> None:
        self.source, self.dtype, self.device, self.scratch = source, dtype, device, scratch

    def matrix(self, *names: str) -> Weight:
        """The named matrices of linear layers stacked by rows, in the model's dtype or packed."""
        if self.scratch is None:
            return self.dense(*names)
        return packed([self._part(name) for name in names], self.scratch, self.device)

    def dense(self, *names: str) -> Tensor:
        """The named matrices stacked by rows, in the model's dtype."""
        infos = [self.source.tensors[name] for name in names]
        rows = [info.shape[0] for info in infos]
        merged = torch.empty(sum(rows), infos[0].shape[1], dtype=self.dtype, device=self.device)
        for name, part in zip(names, merged.split(rows), strict=True):
            part.copy_(self.source.read(name))
        return merged

    def on_host(self, name: str, owner: object) -> Tensor:
        """A matrix in the model's dtype in host memory; page-locked while the owner lives, if the device is a GPU."""
        rows, columns = self.source.tensors[name].shape
        memory = pages(rows * columns * self.dtype.itemsize)
        matrix = memory.view(self.dtype).view(rows, columns).copy_(self.source.read(name))
        if self.device.type == "cuda":
            lock(owner, [memory])
        return matrix

    def fp32(self, name: str) -> Tensor:
        """A small tensor (norm, gate, convolution) that is computed in fp32."""
        return self.source.read(name).to(device=self.device, dtype=torch.float32, copy=True)

    def _part(self, name: str) -> Part:
        matrix = self.source.quantized(name)
        return self.source.read(name) if matrix is None else matrix
