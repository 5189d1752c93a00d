"""A model whose matrices are exchanged in place, and texts that are scored again after each exchange.

The residual stream of every text is kept where it enters each block, so that an exchange in a block costs the run from
there to the end, half of a whole one in the mean. The prompt's prefix depends on the weights too and is kept as one
more batch. Held: the model, and ``hidden_size`` numbers for each layer and computed token of all texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from slant.artifact.recipe import Grid
from slant.batching.batches import Ids
from slant.model.checkpoint import Checkpoint
from slant.model.hqq import quantize_matrix
from slant.model.network import Model
from slant.runtime.execution import Answers
from slant.runtime.offload import advance
from slant.runtime.runner import Runner
from slant_kernels.quantized import dequantize


class Exchange:
    """The matrices of a model by canonical name, each as in the checkpoint or quantized by a grid.

    A quantized one holds what the artifact's would: the checkpoint's own values go through the solver, not the model's.
    """

    def __init__(self, model: Model, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._device = checkpoint, model.device
        self._places = places(model)
        self._grids: dict[str, Grid] = {}

    @property
    def first(self) -> int:
        """The first layer that is not as in the checkpoint; the number of layers if all are."""
        return min(map(_layer, self._grids), default=self._checkpoint.config.num_hidden_layers)

    def set(self, grids: Mapping[str, Grid | None]) -> None:
        """Give the named matrices their grids, None for the checkpoint's values; what has its grid is not touched."""
        for name, grid in grids.items():
            if grid == self._grids.get(name):
                continue
            weight = self._checkpoint.read(name).to(self._device)
            if grid is not None:
                weight = dequantize(quantize_matrix(weight, grid.bits, grid.group_size, name), torch.float32)
            self._places[name].copy_(weight)
            self._grids.pop(name, None)
            self._grids |= {} if grid is None else {name: grid}

    def reset(self) -> None:
        """Give every matrix its values in the checkpoint."""
        self.set(dict.fromkeys(self._grids))


def places(model: Model) -> dict[str, Tensor]:
    """Canonical name -> where a loaded model holds the matrix: a view of the rows that it has in a merged one.

    The model's weights are dense.
    """
    shapes = model.config.shapes()
    found: dict[str, Tensor] = {}
    for index, block in enumerate(model.blocks):
        for matrix, parts in block.matrices():
            if parts[0] not in model.config.quantizable:
                continue
            assert isinstance(matrix, Tensor)
            names = [f"layers.{index}.{part}" for part in parts]
            found |= zip(names, matrix.split([shapes[name][0] for name in names]), strict=True)
    return found


def _layer(name: str) -> int:
    return int(name.split(".")[1])


class Replay:
    """Token sequences on their way through a resident model, from any block on.

    Batches, prefix and operations are those of ``Runner``: as long as the weights stay, so do its logits.
    """

    def __init__(self, runner: Runner, sequences: Sequence[Ids]) -> None:
        self._model, self._head = runner.model, runner.head
        self._batches = list(runner.batches(sequences))
        prefix = torch.from_numpy(runner.prefix_ids)[None]
        streams = [self._embed(prefix, torch.tensor([prefix.shape[1]], dtype=torch.int64, device=prefix.device))]
        streams += [self._embed(batch.ids, batch.lengths) for batch in self._batches]
        self._entering = [streams]
        with torch.inference_mode():
            for index in range(len(self._model.blocks)):
                self._entering.append(self._advance(index, self._entering[-1]))
        self.reference = self._logits(self._entering[-1])

    @torch.inference_mode()
    def logits(self, first: int = 0) -> Tensor:
        """fp32 ``[texts, labels]`` in the order of the sequences, if no block before ``first`` has changed."""
        streams = self._entering[first]
        for index in range(first, len(self._model.blocks)):
            streams = self._advance(index, streams)
        return self._logits(streams)

    def kl(self, first: int = 0) -> float:
        """The mean over the texts of KL(p || q) in nats: p as it was at the beginning, q as the weights are now."""
        log_p, log_q = (x.double().log_softmax(-1) for x in (self.reference, self.logits(first)))
        return max(0.0, float(F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)))  # rounding: -1e-17

    def _embed(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Residual stream ``[B, T, hidden]`` before the first block."""
        device = self._model.device
        return self._model.embed(ids.to(device), lengths.to(device))

    def _advance(self, index: int, streams: Sequence[Tensor]) -> list[Tensor]:
        """All streams, the prefix first, through one block."""
        model, (prefix, *texts) = self._model, streams
        batches, last = zip(self._batches, texts, strict=True), index + 1 == len(model.blocks)
        return [*advance(model.blocks[index], model.device, model.rotary, prefix, batches, last=last)]

    @torch.inference_mode()
    def _logits(self, streams: Sequence[Tensor]) -> Tensor:
        texts = sum(len(batch.rows) for batch in self._batches)
        found = torch.empty(texts, len(self._head.rows), dtype=torch.float32, device="cpu")
        for batch, stream in zip(self._batches, streams[1:], strict=True):
            answer = Answers(batch, self._head(stream[:, 0]))
            found[list(answer.rows)] = torch.from_numpy(answer.logits)
        return found
