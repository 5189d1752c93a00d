"""The order of the training texts: batches of about one length, shuffled anew in each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from slant.training.data import Example

BUCKET_BATCHES = 16  # batches that exchange their texts


class LengthBuckets:
    """A sampler: indices of texts of given lengths, to be cut into batches of ``batch_size``.

    Texts are sorted by length into buckets of ``BUCKET_BATCHES`` batches and shuffled inside them; then the batches are
    shuffled, so that a step sees all lengths. The texts beyond whole batches are drawn at random and come last. The
    order depends on the seed, the epoch and the lengths only.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.array(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng((self.seed, self.epoch))
        shuffled = draw.permutation(len(self.lengths))
        whole = len(shuffled) - len(shuffled) % self.batch_size
        by_length = shuffled[:whole][np.argsort(self.lengths[shuffled[:whole]], kind="stable")]
        size = BUCKET_BATCHES * self.batch_size
        for start in range(0, whole, size):
            draw.shuffle(by_length[start : start + size])
        batches = draw.permutation(by_length.reshape(-1, self.batch_size))
        return iter(np.concatenate([batches.ravel(), shuffled[whole:]]).tolist())


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Right-padded ``ids`` int64 ``[n, longest]``, the position ``last`` int64 ``[n]`` of each last token, ``labels``.

    No mask: convolution, delta rule and causal attention only look back, so padding cannot reach the position that the
    loss is computed at.
    """
    ids = torch.zeros(len(examples), max(len(example.ids) for example in examples), dtype=torch.int64, device="cpu")
    for row, example in zip(ids, examples, strict=True):
        row[: len(example.ids)] = torch.from_numpy(example.ids)
    return {
        "ids": ids,
        "last": torch.tensor([len(example.ids) - 1 for example in examples], dtype=torch.int64, device="cpu"),
        "labels": torch.tensor([example.label for example in examples], dtype=torch.int64, device="cpu"),
    }
