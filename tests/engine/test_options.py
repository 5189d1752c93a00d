"""Load options: validated when they are given, resolved once against device and checkpoint."""

import json
from dataclasses import replace

import pytest
import torch

import classifier
import tiny
from slant.engine import Engine
from slant.errors import SlantError
from slant.options import LoadOptions, memory_bytes, token_limit
from slant.quantize.job import quantize_checkpoint
from slant.quantize.sensitivity import plan
from slant.runtime.classifier import Classifier
from slant.runtime.resolved import resolve_options

CPU = LoadOptions(device="cpu", weights="fp32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "hqq5"}, "the weights 'hqq5' are unknown"),
        ({"truncation": "tail"}, "the truncation 'tail' is unknown"),
        ({"special_tokens": "keep"}, "the special_tokens 'keep' are unknown; use one of text, parse"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 1.5}, r"max_tokens is 1\.5"),
        ({"token_budget": True}, "token_budget is True"),
        ({"threads": -1}, "threads is -1"),
        ({"memory": "much"}, "memory is 'much', which is no size"),
        ({"memory": 0}, "memory is 0, which is no size"),
        ({"device": "tpu"}, "'tpu' is no device"),
        ({"device": "meta"}, "not on meta"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(SlantError, match=message):
        resolve_options(replace(CPU, **options), max_positions=8192, is_artifact=False)


def test_an_unknown_option_is_an_error():
    with pytest.raises(TypeError, match="weigths"):
        Engine.load("nowhere", weigths="fp32")


@pytest.mark.parametrize(
    ("given", "size"),
    [(None, None), ("auto", None), (5, 5), ("4GB", 4 * 10**9), ("900 MiB", 900 * 2**20), ("1.5k b", 0)],
)
def test_sizes_of_memory(given, size):
    if size == 0:
        with pytest.raises(SlantError, match="is no size"):
            memory_bytes(given)
    else:
        assert memory_bytes(given) == size


def test_what_is_resolved_is_what_runs():
    resolved = resolve_options(CPU, max_positions=2048, is_artifact=False)
    assert (resolved.weights, resolved.dtype, resolved.max_tokens) == ("fp32", torch.float32, 2048)
    named = replace(CPU, weights="hqq4")
    assert resolve_options(named, max_positions=2048, is_artifact=False).weights == "hqq4"
    assert resolve_options(named, max_positions=2048, is_artifact=True) == resolve_options(
        replace(CPU, weights="auto"), max_positions=2048, is_artifact=True
    )


def test_the_token_limit_is_the_models_own_where_that_is_less():
    assert [token_limit(None, 2048), token_limit(None, 40960), token_limit(100, 2048)] == [2048, 8192, 100]
    with pytest.raises(SlantError, match="max_tokens is 4096, but the model was built for 2048"):
        token_limit(4096, 2048)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A classifier that was built for 512 positions."""
    folder = classifier.write(tmp_path_factory.mktemp("short") / "model", "grouped")
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    return folder


def test_a_model_of_few_positions_needs_no_option(short, tmp_path):
    """Loading, layer offloading, quantizing and the search for bits."""
    long = "word " * 2000
    engine = Engine.load(short, CPU)
    score = engine.score(long)
    assert (score.tokens, score.truncated) == (512, True)
    assert Engine.offloaded(short, CPU).score(long).logits.tolist() == score.logits.tolist()
    small = quantize_checkpoint(short, tmp_path / "small", tiny.recipe(4))
    assert Engine.load(small, CPU).score(long).tokens == 512
    assert plan(short, [long, "One."], max_kl=10.0, by="part").texts == 2


def test_the_memory_request_is_built_in_one_place(short):
    opened = Classifier.open(short, replace(CPU, weights="hqq4", token_budget=300))
    request = opened.memory_request()
    assert (request.token_budget, request.max_tokens, request.recipe) == (300, 512, opened.source.recipe)
    assert request.recipe is not None
    assert replace(opened, options=replace(opened.options, weights="int8")).memory_request().recipe is None
