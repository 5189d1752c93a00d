"""Memory tiers: predicted bytes against held ones, the choice among them, and the same scores from each."""

import dataclasses

import numpy as np
import pytest
import torch

import published
import tiny
from peak import PeakBytes
from precision import BF16, DTYPE, WEIGHTS
from slant import Engine
from slant.demo import FOLDER, passages
from slant.errors import SlantError
from slant.model.registry import activation_bytes
from slant.options import LoadOptions, memory_bytes
from slant.runtime.classifier import Classifier
from slant.runtime.load import load_runner
from slant.runtime.memory import MemoryRequest, choose, human, tiers
from slant.runtime.offload import OffloadRunner
from slant.runtime.resolved import resolve_options
from slant_kernels import native
from slant_kernels.quantized import QuantizedMatrix, layout

CPU_TIERS = ["quantized"] if native.level() else ["resident", "quantized"]  # products in panels are as fast as dense
pytestmark = pytest.mark.usefixtures("two_threads")

TEXTS = [passage["text"] for passage in passages()][:6]
BILLIONS_4 = MemoryRequest(
    published.large(),
    tiny.recipe("hqq4"),
    torch.bfloat16,
    "cuda",
    answers=5,
    prefix_tokens=30,
    max_tokens=8192,
    token_budget=16384,
)


def options(**changes):
    return {tier.name: tier for tier in tiers(dataclasses.replace(BILLIONS_4, **changes))}


def test_the_tiers_of_four_billion_parameters():
    """The aims at 8192 tokens: hqq4 under 3 GB, offload under 1 GB."""
    found = options(token_budget=8192)
    assert list(found) == ["resident", "quantized", "quantized, host embedding", "offload"]
    peaks = [tier.peak for tier in found.values()]
    assert peaks == sorted(peaks, reverse=True)
    assert found["quantized, host embedding"].peak < 3.0e9
    assert found["offload"].peak < 1.0e9
    dense = tiny.weight_bytes(BILLIONS_4.config, 2, 5)
    assert found["resident"].weights == dense
    embedding = 248320 * 2560 * 2
    assert found["quantized"].weights - found["quantized, host embedding"].weights == embedding


def test_what_there_is_depends_on_recipe_and_device():
    assert list(options(recipe=None)) == ["resident", "offload"]
    assert list(options(device_type="cpu")) == CPU_TIERS
    assert list(options(recipe=None, device_type="cpu")) == ["resident"]


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        (None, "resident"),
        (80e9, "resident"),
        (8e9, "quantized"),
        (3.2e9, "quantized, host embedding"),
        (2e9, "offload"),
    ],
)
def test_the_fastest_that_fits_is_chosen(limit, name):
    tier = choose(BILLIONS_4, None if limit is None else int(limit))
    assert tier.name == name
    assert limit is None or tier.peak <= limit


def test_the_token_budget_shrinks_before_a_slower_tier_is_taken():
    whole = choose(BILLIONS_4, int(80e9))
    assert whole.token_budget == 16384
    needed = dataclasses.replace(BILLIONS_4, token_budget=8192)
    limit = next(tiers(needed)).peak
    tier = choose(BILLIONS_4, limit)
    assert (tier.name, tier.token_budget) == ("resident", 8192)
    assert choose(BILLIONS_4, limit - 1).name == "quantized", "the longest text alone needs as much"


def test_too_little_memory_names_the_smallest_configuration():
    smallest = r"500 MB is not enough memory: the smallest configuration, offload, needs \d\d\d MB for texts of 8192"
    with pytest.raises(SlantError, match=smallest):
        choose(BILLIONS_4, int(0.5e9))
    with pytest.raises(SlantError, match="give the weights hqq4 or a smaller max_tokens"):
        choose(dataclasses.replace(BILLIONS_4, recipe=None), int(0.5e9))
    with pytest.raises(SlantError, match="the smallest configuration, quantized, needs"):
        Engine.load(FOLDER, weights="hqq4", device="cpu", memory="1MB")


def test_what_the_error_names_is_enough():
    with pytest.raises(SlantError) as error:
        choose(BILLIONS_4, int(0.5e9))
    needed = memory_bytes(str(error.value).split("needs ")[1].split(" for")[0])
    assert choose(BILLIONS_4, int(needed * 1.005)).name == "offload", "three digits are named"


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("4GB", 4 * 10**9),
        ("4 gib", 4 * 2**30),
        ("900MB", 900 * 10**6),
        ("1.5GB", 1_500_000_000),
        ("12000", 12000),
        (5, 5),
        ("auto", None),
        (None, None),
    ],
)
def test_sizes(given, size):
    options = resolve_options(LoadOptions(device="cpu", memory=given), max_positions=512, is_artifact=False)
    assert options.memory == size


@pytest.mark.parametrize("given", ["", "4 apples", "GB", "-4GB", "4IB", 0, -1, True, "0GB"])
def test_sizes_that_are_none(given):
    with pytest.raises(SlantError, match="is no size; give auto, bytes, or one like 4GB"):
        LoadOptions(memory=given)


def opened(folder, recipe, weights=WEIGHTS, **options):
    """A classifier of the checkpoint or seen through a recipe."""
    made = Classifier.open(folder, LoadOptions(weights=weights, device="cpu", **options))
    return dataclasses.replace(made, source=tiny.quantized(folder, tiny.recipe(recipe))) if recipe else made


def on_a_gpu(made):
    """The tiers that the classifier would have there, by name."""
    return {tier.name: tier for tier in tiers(dataclasses.replace(made.memory_request(), device_type="cuda"))}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models of the 0.8B shape with three layers of one kind, and the demo's tokenizer."""
    made = {}
    for kind in ("linear_attention", "full_attention"):
        changes = {"vocab_size": 4096, "num_hidden_layers": 3, "layer_types": [kind] * 3}
        made[kind] = published.write_small(tmp_path_factory.mktemp("model"), **changes)
        (made[kind] / "tokenizer.json").write_bytes((FOLDER / "tokenizer.json").read_bytes())
    return made


def coded(source, name):
    """A matrix of zeros as the recipe would store it: bytes are counted here, and the solver has its own."""
    grid = source.recipe.grid(name)
    if grid is None:
        return None
    shape = source.tensors[name].shape
    codes, groups = layout(shape, grid.bits, grid.group_size)
    parts = torch.zeros(codes, dtype=torch.uint8), torch.zeros(groups).half(), torch.zeros(groups).half()
    return QuantizedMatrix(*parts, grid.bits, grid.group_size, shape)


@pytest.mark.parametrize("kind", ["linear_attention", "full_attention"])
@pytest.mark.parametrize(("recipe", "name"), [(None, "resident"), ("hqq4", "quantized")])
@pytest.mark.parametrize("weights", ["fp32", "narrow", BF16])
def test_the_predicted_peak_is_what_is_held(folders, kind, recipe, name, weights, monkeypatch):
    """Within 10 %, from before the weights are loaded to after the largest batch."""
    if weights == "narrow":
        monkeypatch.setattr("slant.runtime.resolved.multiplies_bf16", lambda: False)
        weights = "bf16"
    made = opened(folders[kind], recipe, weights=weights, max_tokens=512, token_budget=1024)
    tier = next(tier for tier in tiers(made.memory_request()) if tier.name == name)
    if recipe:
        made.source.quantized = lambda matrix: coded(made.source, matrix)
    texts = [np.full(128 + len(made.prompt.prefix_ids), 7, dtype=np.int32)] * 8 + [np.full(512, 7, dtype=np.int32)]
    for text in texts:
        text[: len(made.prompt.prefix_ids)] = made.prompt.prefix_ids
    with PeakBytes() as peak:
        runner = load_runner(made, tier, positions=512)
        assert len(list(runner.run(texts))) == 2, "a batch of the budget, and the longest text"
    assert 0.9 * peak.bytes <= tier.peak <= 1.1 * peak.bytes


def test_the_offload_tier_is_two_blocks_a_scratch_and_what_waits(folders):
    made = opened(folders["linear_attention"], "hqq4", max_tokens=512, token_budget=1024)
    made.source.quantized = lambda matrix: coded(made.source, matrix)
    tier = on_a_gpu(made)["offload"]
    runner = load_runner(made, tier, positions=512)
    slots = sum(slot.nbytes for slot in runner.blocks._slots)
    scratch = max(n * k for n, k in made.source.config.merged_shapes()) * DTYPE.itemsize
    waiting = 1024 * made.source.config.hidden_size * DTYPE.itemsize
    assert tier.weights == pytest.approx(slots + scratch + waiting, rel=0.01)
    assert runner.group_tokens == 1024


@pytest.mark.parametrize("recipe", ["hqq4", pytest.param("hqq8", marks=pytest.mark.slow)])
def test_every_tier_gives_the_same_bits(recipe):
    made, found = opened(FOLDER, recipe, max_tokens=512, token_budget=512), {}
    for name, tier in on_a_gpu(made).items():
        runner = load_runner(made, tier, positions=512)
        assert isinstance(runner, OffloadRunner) == (name == "offload")
        found[name] = Engine(made.prompt, runner, made.options).score(TEXTS).logits
    assert list(found) == ["resident", "quantized", "quantized, host embedding", "offload"]
    assert np.isfinite(found["resident"]).all()
    for name, logits in found.items():
        assert np.array_equal(logits, found["resident"]), name


def test_memory_is_an_option_of_load():
    sizes = {}
    made = Classifier.open(FOLDER, LoadOptions(weights="hqq4", device="cpu", max_tokens=1024))
    for tier in tiers(made.memory_request()):
        sizes[tier.name] = tier.peak
    engine = Engine.load(FOLDER, weights="hqq4", device="cpu", max_tokens=1024)
    first = CPU_TIERS[0]
    assert engine.tier.name == first
    assert engine.tier.peak == sizes[first]
    small = Engine.load(FOLDER, weights="hqq4", device="cpu", max_tokens=1024, memory=sizes[first] - 1)
    assert small.tier.name == first, "with a smaller token budget"
    assert small.tier.token_budget < engine.tier.token_budget
    assert human(1_234_000_000) == "1.23 GB"


def test_the_longest_text_and_the_batch_both_count():
    batch = activation_bytes(BILLIONS_4.config, 2, 128, 128, "cuda")
    assert options()["resident"].activations == batch
    text = activation_bytes(BILLIONS_4.config, 2, 1, 8192, "cuda")
    assert options(token_budget=1024)["resident"].activations == text
