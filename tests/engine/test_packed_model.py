"""A model whose matrices stay quantized gives the very bits of the dense one, in less memory."""

import math
from collections import Counter

import pytest
import torch

import tiny
from slant.artifact.recipe import Grid, Recipe
from slant.model.checkpoint import Checkpoint
from slant.model.hqq import QuantizedCheckpoint
from slant.model.network import Model
from slant.model.qwen3_5.blocks import Attention
from slant.model.qwen3_5.config import QUANTIZABLE
from slant.model.weights import Weights
from slant_kernels.merged import MergedMatrix, Scratch, merge
from slant_kernels.quantized import QuantizedMatrix, dequantize, layout

CPU = torch.device("cpu")
UNIFORM = Recipe({role: Grid(4, 32) for role in QUANTIZABLE})
MIXED = Recipe(
    {
        "linear_attn.in_proj_qkv.weight": Grid(4, 32),
        "linear_attn.in_proj_z.weight": Grid(2, 64),
        "self_attn.k_proj.weight": Grid(8, 64),
        "self_attn.q_proj.weight": Grid(8, 64),
        "mlp.gate_proj.weight": Grid(3, 32),
        "mlp.down_proj.weight": Grid(3, 128),
        "layers.0.mlp.down_proj.weight": None,
    }
)


@pytest.mark.parametrize("recipe", [UNIFORM, MIXED], ids=["uniform", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["grouped", "attention first and last"])
@torch.inference_mode()
def test_packed_equals_dense_bit_for_bit(tiny_checkpoint, shape, dtype, recipe):
    source = QuantizedCheckpoint(Checkpoint.open(tiny_checkpoint(shape)), recipe, CPU)
    dense = Model(Weights(source, dtype, CPU), 128)
    small = Model(Weights(source, dtype, CPU, Scratch(dtype, CPU)), 128)
    assert isinstance(small.blocks[0].gate_up, MergedMatrix)
    ids, lengths = torch.randint(0, tiny.VOCABULARY, (3, 70)), torch.tensor([70, 1, 33])
    assert torch.equal(small(ids, lengths), dense(ids, lengths))
    prefix, other = (model.prefix(torch.arange(5, 12)) for model in (small, dense))
    assert torch.equal(small(ids, lengths, prefix), dense(ids, lengths, other))


@torch.inference_mode()
def test_the_mlp_of_many_tokens_dequantizes_each_matrix_once(tiny_checkpoint, monkeypatch):
    """210 tokens in parts of 32, the last of 18, which together are what the whole is."""
    source = QuantizedCheckpoint(Checkpoint.open(tiny_checkpoint("grouped")), UNIFORM, CPU)
    model = Model(Weights(source, torch.float32, CPU, Scratch(torch.float32, CPU)), 128)
    ids, lengths = torch.randint(0, tiny.VOCABULARY, (3, 70)), torch.tensor([70, 1, 33])
    whole = model(ids, lengths)
    monkeypatch.setattr("slant.model.qwen3_5.blocks.MLP_TOKENS", 32)
    times: Counter[QuantizedMatrix] = Counter()
    for module in ("merged", "quantized_linear"):
        monkeypatch.setattr(
            f"slant_kernels.{module}.dequantize",
            lambda q, *args, **named: times.update([q]) or dequantize(q, *args, **named),
        )
    torch.testing.assert_close(model(ids, lengths), whole)
    assert set(times.values()) == {1}
    assert {block.gate_up.parts[0] for block in model.blocks} <= times.keys()


def test_one_grid_is_one_matrix_and_one_scratch_serves_all(tiny_checkpoint):
    source = QuantizedCheckpoint(Checkpoint.open(tiny_checkpoint("grouped")), UNIFORM, CPU)
    scratch = Scratch(torch.float32, CPU)
    model = Model(Weights(source, torch.float32, CPU, scratch), 16)
    matrices: list[MergedMatrix] = []
    for block in model.blocks:
        holders = [block, block.mixer]
        values = [value for holder in holders for value in vars(holder).values()]
        values += block.mixer.in_kvq if isinstance(block.mixer, Attention) else []
        matrices += [value for value in values if isinstance(value, MergedMatrix)]
    assert len(matrices) == 4 * len(model.blocks) + 1, "the last block's query and gate are a matrix of their own"
    assert all(len(matrix.parts) == 1 and matrix.scratch is scratch for matrix in matrices)
    assert len(scratch.take()) == max(math.prod(matrix.shape) for matrix in matrices)
    assert scratch.take().data_ptr() == scratch.take().data_ptr()


def random_part(n, k, bits, group_size, seed):
    generator = torch.Generator().manual_seed(seed)
    codes, groups = layout((n, k), bits, group_size)
    return QuantizedMatrix(
        torch.randint(0, 256, codes, dtype=torch.uint8, generator=generator),
        torch.rand(groups, generator=generator).half(),
        torch.randn(groups, generator=generator).half(),
        bits,
        group_size,
        (n, k),
    )


def test_parts_keep_their_order_and_their_values():
    parts = [
        random_part(3, 70, 4, 64, 0),
        random_part(2, 70, 4, 64, 1),
        torch.randn(4, 70),
        random_part(5, 70, 3, 32, 2),
        random_part(1, 70, 4, 64, 3),
    ]
    matrix = merge(parts, Scratch(torch.float32, CPU), CPU)
    assert [part.shape[0] for part in matrix.parts] == [5, 4, 5, 1]
    expected = torch.cat([p if isinstance(p, torch.Tensor) else dequantize(p, torch.float32) for p in parts])
    assert matrix.shape == (15, 70)
    assert torch.equal(matrix.dense(), expected)


def test_nothing_quantized_is_a_plain_tensor():
    parts = [torch.randn(2, 6), torch.randn(3, 6)]
    matrix = merge(parts, Scratch(torch.bfloat16, CPU), CPU)
    assert torch.equal(matrix, torch.cat(parts).bfloat16())
