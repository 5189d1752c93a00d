"""The demo checkpoint in each way to hold it, and random token sequences for it."""

from functools import cache

import numpy as np
import torch

import tiny
from slant.batching.buckets import STEP
from slant.batching.plan import Planner
from slant.demo import FOLDER
from slant.model.checkpoint import Checkpoint
from slant.model.hqq import QuantizedCheckpoint
from slant.model.network import Model
from slant.model.weights import Weights
from slant.runtime.execution import Head
from slant.runtime.offload import OffloadRunner
from slant.runtime.resolved import FP8
from slant.runtime.runner import Runner
from slant_kernels.merged import Scratch
from slant_kernels.quantized import QuantizedMatrix, pack

CPU = torch.device("cpu")
ANSWERS = (15, 16, 17, 18, 19)
PREFIX = tuple(range(5, 12))
MAX_TOKENS, BUDGET = 512, 600
LENGTHS = (1, 5, 16, 30, 63, 64, 65, 130, 300)


@cache
def source(recipe=None):
    """The checkpoint, or seen through a recipe and quantized once."""
    checkpoint = Checkpoint.open(FOLDER)
    if recipe in (None, FP8):
        return checkpoint
    quantized = QuantizedCheckpoint(checkpoint, tiny.recipe(recipe), CPU)
    quantized.quantized = cache(lambda name: nearest(checkpoint.read(name), quantized.recipe.grid(name)))
    return quantized


def nearest(weight, grid):
    """Codes by rounding between each group's least and greatest weight: hqq's solver need not be installed here."""
    if grid is None:
        return None
    (rows, columns), groups = weight.shape, -(-weight.shape[1] // grid.group_size)
    last = weight.float()[:, -1:].expand(-1, groups * grid.group_size - columns)
    grouped = torch.cat([weight.float(), last], dim=1).view(rows, groups, grid.group_size)
    least, most = grouped.amin(2), grouped.amax(2)
    scales = ((most - least) / (2**grid.bits - 1)).clamp(min=1e-4)
    codes = ((grouped - least[..., None]) / scales[..., None]).round().to(torch.uint8).flatten(1)[:, :columns]
    zeros = -least / scales - 2 ** (grid.bits - 1)
    parts = pack(codes.contiguous(), grid.bits), scales.T.contiguous().half(), zeros.T.contiguous().half()
    return QuantizedMatrix(*parts, grid.bits, grid.group_size, (rows, columns))


def head(device):
    norm, rows = source().read("norm.weight"), source().head_rows(ANSWERS)
    return Head(norm.to(device, torch.float32), rows.to(device, torch.float32), source().config.rms_norm_eps)


def weights(device, recipe=None, dtype=torch.bfloat16, *, quantized=True, home=None):
    """For a model that computes on ``device``; they are held on ``home``, by default there too."""
    if recipe == FP8:
        return Weights(source(), dtype, home or device, eight_bit=FP8)
    scratch = Scratch(dtype, device) if recipe and quantized else None
    return Weights(source(recipe), dtype, home or device, scratch)


@cache
def model(device, recipe=None, dtype=torch.bfloat16, quantized=True):
    return Model(weights(device, recipe, dtype, quantized=quantized), MAX_TOKENS)


def planner(device, token_budget=BUDGET):
    return Planner(token_budget, MAX_TOKENS, step=STEP[device.type])


def runner(network, capture=None, token_budget=BUDGET):
    return Runner(network, head(network.device), PREFIX, planner(network.device, token_budget), capture)


def offloaded(device, recipe):
    made, plan = weights(device, recipe, home=CPU), planner(device)
    return OffloadRunner.from_host_memory(made, device, head(device), PREFIX, plan, MAX_TOKENS)


def sequences(lengths=LENGTHS, prefix=PREFIX, seed=0):
    rng = np.random.default_rng(seed)
    vocabulary = source().config.vocab_size
    return [np.array([*prefix, *rng.integers(0, vocabulary, n)], dtype=np.int32) for n in lengths]


def logits(executor, texts):
    """fp32 ``[len(texts), 5]`` in the order of the texts."""
    found = np.full((len(texts), len(ANSWERS)), np.nan, dtype=np.float32)
    for result in executor.run(texts):
        found[list(result.rows)] = result.logits
    assert np.isfinite(found).all()
    return found


def batch(device, lengths, width, seed=0):
    """Random ids ``[len(lengths), width]`` and the lengths, on the device."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, source().config.vocab_size, (len(lengths), width), generator=generator)
    return ids.to(device), torch.tensor(lengths).to(device)
