"""Recipes, and the solver's result in our layout."""

import json
import sys

import pytest
import torch

import tiny
from slant.artifact.recipe import NAMED, Grid, Recipe
from slant.demo import FOLDER
from slant.errors import CheckpointError, RecipeError
from slant.model.checkpoint import Checkpoint
from slant.model.hqq import QuantizedCheckpoint, quantize_matrix
from slant.model.registry import parse_config
from slant_kernels.quantized import BITS, GROUP_SIZES, dequantize

# Relative error on Gaussian weights in groups of 64, as KERNELS.md has it, with one more digit.
GAUSSIAN = {8: 0.0051, 4: 0.0862, 3: 0.185, 2: 0.434}
UP = "mlp.up_proj.weight"


def gaussian(rows, columns, std=1.0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * std


def error(weight, q):
    return float((dequantize(q, torch.float32) - weight).norm() / weight.norm())


@pytest.mark.parametrize("std", [1.0, 0.02, 0.002])
@pytest.mark.parametrize("bits", BITS)
def test_gaussian_error(bits, std):
    weight = gaussian(256, 1024, std)
    found = error(weight, quantize_matrix(weight, bits, 64))
    assert 0.97 * GAUSSIAN[bits] < found < 1.01 * GAUSSIAN[bits]


def test_smaller_groups_are_closer():
    weight = gaussian(64, 1024)
    errors = [error(weight, quantize_matrix(weight, 4, group_size)) for group_size in GROUP_SIZES]
    assert errors == sorted(errors)


def test_the_solver_beats_rounding():
    from hqq.core.quantize import Quantizer

    weight = gaussian(64, 1024)
    codes, meta = Quantizer.quantize(weight, nbits=2, axis=1, optimize=False, bitpack=False, device="cpu")
    rounded = ((codes - meta["zero"]) * meta["scale"]).view_as(weight)
    assert error(weight, quantize_matrix(weight, 2, 64)) < 0.97 * float((rounded - weight).norm() / weight.norm())


def test_nothing_is_lost_to_fp16_and_the_layout():
    """Against hqq's own fp32 scales and zeros for the same elements."""
    from hqq.core.quantize import Quantizer

    weight = gaussian(8, 1024)
    codes, meta = Quantizer.quantize(weight, nbits=8, axis=1, optimize=True, bitpack=False, device="cpu")
    theirs = float((((codes - meta["zero"]) * meta["scale"]).view_as(weight) - weight).norm() / weight.norm())
    assert error(weight, quantize_matrix(weight, 8, 64)) < 1.01 * theirs


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("columns", [1, 20, 64, 100, 129, 200])
def test_the_last_group_may_be_short(bits, group_size, columns):
    weight = gaussian(16, columns)
    q = quantize_matrix(weight, bits, group_size)
    assert error(weight, q) < 1.35 * GAUSSIAN[bits]
    whole = columns - columns % group_size
    if 0 < whole < columns:
        alone = quantize_matrix(weight[:, whole:], bits, group_size)
        torch.testing.assert_close(dequantize(q, torch.float32)[:, whole:], dequantize(alone, torch.float32))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.375, 2.0**-10])
def test_constant_weights_are_exact(value):
    weight = torch.full((4, 100), value)
    for bits in BITS:
        assert torch.equal(dequantize(quantize_matrix(weight, bits, 64), torch.float32), weight)


def test_flat_groups_among_others_keep_their_value():
    """Weights of a group that hqq does not resolve: dead rows of a trained matrix, for example."""
    weight = gaussian(6, 192, 0.02)
    weight[1], weight[2, 64:128] = 0.0123, -1e-6
    weight[3, :64] = 0.5 + 1e-6 * weight[3, :64]
    for bits in BITS:
        found = dequantize(quantize_matrix(weight, bits, 64), torch.float32)
        flat = (weight.unflatten(1, (3, 64)).amax(2) - weight.unflatten(1, (3, 64)).amin(2) < 1e-5)[..., None]
        assert flat.sum() == 5
        difference = (found - weight).unflatten(1, (3, 64)).abs() * flat
        assert difference.max() < 2**-11 * 0.5
        assert difference[1:3].max() < 2**-11 * 0.0123


def test_the_number_of_threads_changes_nothing():
    weight = gaussian(128, 640, 0.02)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(quantize_matrix(weight, 4, 64))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for part in ("codes", "scales", "zeros"):
            assert torch.equal(getattr(other, part), getattr(results[0], part))


def test_the_solver_runs_in_one_thread(monkeypatch):
    """Its early stop depends on a sum over all that it is given."""
    from hqq.core.quantize import Quantizer

    seen, original = [], Quantizer.quantize

    def spy(*arguments, **options):
        seen.append((torch.get_num_threads(), arguments[0].numel()))
        return original(*arguments, **options)

    monkeypatch.setattr(Quantizer, "quantize", spy)
    threads = torch.get_num_threads()
    quantize_matrix(gaussian(300, 640), 4, 64)
    assert seen == [(1, 65536), (1, 65536), (1, 300 * 640 - 2 * 65536)]
    assert torch.get_num_threads() == threads


def test_bf16_weights_are_quantized_as_their_fp32_values():
    weight = gaussian(16, 128, 0.02).bfloat16()
    a, b = quantize_matrix(weight, 4, 64), quantize_matrix(weight.float(), 4, 64)
    assert torch.equal(a.codes, b.codes)
    assert torch.equal(a.zeros, b.zeros)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_named(bad):
    weight = gaussian(4, 64)
    weight[2, 5] = bad
    with pytest.raises(CheckpointError, match=r"layers\.7\.mlp"):
        quantize_matrix(weight, 4, 64, "layers.7.mlp.up_proj.weight")


def test_weights_beyond_fp16_are_named():
    with pytest.raises(RecipeError, match=r"layers.7.*leave it as it is"):
        quantize_matrix(1e7 * gaussian(4, 64), 4, 64, "layers.7.mlp.up_proj.weight")


def test_without_hqq_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "hqq.core.quantize", None)
    with pytest.raises(CheckpointError, match="pip install hqq"):
        quantize_matrix(gaussian(4, 64), 4, 64)


def test_the_default_recipe():
    config = Checkpoint.open(FOLDER).config
    recipe = tiny.recipe("hqq4")
    assert recipe == tiny.recipe(4, 64)
    found = {name: recipe.grid(name) for name in config.shapes()}
    for name, grid in found.items():
        kind = name.removesuffix(".weight").rpartition(".")[2]
        if kind in ("out_proj", "o_proj"):
            assert grid == Grid(8, 64)
        elif kind.startswith(("in_proj_qkv", "in_proj_z", "q_proj", "k_proj", "v_proj", "gate", "up", "down")):
            assert grid == Grid(4, 64)
        else:
            assert grid is None
    assert sum(grid is None for grid in found.values()) == 2 + 3 * 8 + 4  # the last line is what stays as it is


@pytest.mark.parametrize(("name", "bits"), NAMED.items())
def test_named_recipes(name, bits):
    grids = {key: grid.bits for key, grid in tiny.recipe(name, 32).rules.items()}
    assert grids.pop("linear_attn.out_proj.weight") == grids.pop("self_attn.o_proj.weight") == 8
    assert set(grids.values()) == {bits}
    assert {grid.group_size for grid in tiny.recipe(name, 32).rules.values()} == {32}


def test_json_and_back(tmp_path):
    recipe = Recipe({**tiny.recipe(3, 128).rules, f"layers.0.{UP}": Grid(8, 32), f"layers.11.{UP}": None})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.json()))
    assert Recipe.read(tmp_path / "recipe.json") == recipe
    assert recipe.grid(f"layers.0.{UP}") == Grid(8, 32)
    assert recipe.grid(f"layers.1.{UP}") == Grid(3, 128)
    assert recipe.grid(f"layers.11.{UP}") is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "JSON"),
        ("[]", r"recipe\.json is \[\], but must be an object"),
        ("{}", "rules"),
        ('{"rules": {}, "bits": 4}', "bits is unknown"),
        ('{"rules": []}', "rules"),
        ('{"rules": {"UP": {"group_size": 64}}}', "bits is missing"),
        ('{"rules": {"UP": {"bits": 4, "group_size": 64, "axis": 1}}}', "axis is unknown"),
        ('{"rules": {"UP": {"bits": 5, "group_size": 64}}}', "bits is 5"),
        ('{"rules": {"UP": {"bits": "4", "group_size": 64}}}', 'bits is "4", but must be an integer'),
        ('{"rules": {"UP": {"bits": 4, "group_size": 48}}}', "group_size is 48"),
        ('{"rules": {"UP": null, "UP": null}}', "twice"),
    ],
)
def test_a_damaged_recipe_is_refused(tmp_path, text, word):
    (tmp_path / "recipe.json").write_text(text.replace("UP", UP))
    with pytest.raises(RecipeError, match=word):
        Recipe.read(tmp_path / "recipe.json")


@pytest.mark.parametrize(
    "name",
    [
        f"layers.4.{UP}",
        "layers.0.self_attn.q_proj.weight",
        "mlp.up_proj",
        f"layers.00.{UP}",
        "embed_tokens.weight",
        "linear_attn.in_proj_a.weight",
        "layers.0.linear_attn.A_log",
    ],
)
def test_a_rule_for_what_is_not_there_or_cannot_be_quantized_is_refused(name):
    config = parse_config(tiny.text_config("grouped").to_dict())
    Recipe({f"layers.3.{UP}": Grid(4)}).check(config.shapes(), config.quantizable)
    with pytest.raises(RecipeError, match=name):
        Recipe({name: Grid(4)}).check(config.shapes(), config.quantizable)


def test_a_checkpoint_through_a_recipe(tiny_checkpoint):
    checkpoint = Checkpoint.open(tiny_checkpoint("grouped"))
    view = QuantizedCheckpoint(checkpoint, tiny.recipe(4), torch.device("cpu"))
    for name in checkpoint.tensors:
        same = torch.equal(view.read(name), checkpoint.read(name))
        assert same == (view.recipe.grid(name) is None)
        assert (view.quantized(name) is None) == same
