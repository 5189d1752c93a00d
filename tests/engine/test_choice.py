"""What "auto", "auto-8bit" and "auto-4bit" come to, by speed and by memory."""

import re
from itertools import chain

import pytest
import torch

import tiny
from slant.cli.app import run
from slant.demo import FOLDER
from slant.engine import Engine
from slant.errors import SlantError
from slant.model.source import open_model
from slant.options import AUTO, LoadOptions
from slant.prompt.prompt import Prompt
from slant.quantize.job import quantize_checkpoint
from slant.runtime import choice
from slant.runtime.choice import allowed, alternatives
from slant.runtime.classifier import resolve
from slant.runtime.memory import tiers
from slant_kernels import native
from slant_kernels.cpu import instruction_set

CPU = torch.device("cpu")
TEXTS = ["The council voted.", "Rain."]


@pytest.fixture
def speeds(monkeypatch):
    """Sets the speeds of weights on this processor."""
    return lambda **found: monkeypatch.setitem(choice.PRODUCTS, choice.row(CPU), found)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact") / "model"
    return quantize_checkpoint(FOLDER, folder, tiny.recipe(4))


def load(weights, **options):
    return Engine.load(FOLDER, LoadOptions(weights=weights, device="cpu", max_tokens=256, **options))


def found(name):
    """The alternatives for the demo, by their weights."""
    options = LoadOptions(weights=name, device="cpu", max_tokens=256)
    source = open_model(FOLDER)
    prompt = Prompt.load(FOLDER, max_tokens=256)
    return {one.weights: one for one in alternatives(source, prompt, options, resolve)}


def test_the_fastest_is_taken_and_answers_as_if_it_were_named(speeds):
    speeds(int8=1.5, hqq8=0.8)
    chosen, named = load("auto-8bit"), load("int8")
    assert (chosen.options, chosen.tier) == (named.options, named.tier)
    assert (chosen.score(TEXTS).logits == named.score(TEXTS).logits).all()
    assert re.fullmatch(
        r"weights int8, computed in \w+, resident, .* MB predicted: the fastest of int8, auto, hqq8 within .* GB",
        chosen.description,
    )


def test_what_is_slower_here_is_not(speeds):
    speeds(int8=0.5, hqq8=0.8)
    chosen, plain = load("auto-8bit"), load("auto")
    assert chosen.options == plain.options
    assert (chosen.score(TEXTS).logits == plain.score(TEXTS).logits).all()


def test_auto_takes_no_weights_that_drift(speeds):
    speeds(int8=9.0, hqq4=9.0)
    assert set(found("auto")) == {"auto"}
    assert load("auto").options.weights in ("bf16", "fp32")
    assert set(found("auto-8bit")) == {"auto", "int8", "hqq8"}
    assert set(found("auto-4bit")) == {"auto", "w4a8", "int8", "hqq8", "hqq4"}


def test_what_fits_is_taken_though_it_is_slower(speeds):
    least = {name: one.least for name, one in found("auto-4bit").items()}
    first, *others = sorted(least, key=lambda name: least[name])
    assert least[first] < least[others[0]]
    speeds(**dict.fromkeys(least, 2.0) | {first: 0.1})
    engine = load("auto-4bit", memory=least[first])
    assert engine.options.weights == first
    assert all(f"{name} needs" in engine.description for name in others)
    assert engine.score(TEXTS[0]).error is None


def test_if_nothing_fits_the_smallest_is_named():
    least = min(found("auto-4bit").values(), key=lambda one: one.least)
    with pytest.raises(SlantError, match=rf"auto-4bit allows {least.weights} take least: .* is not enough memory: .*"):
        load("auto-4bit", memory=least.least - 1)
    smallest = min(tiers(least.request), key=lambda tier: tier.peak)
    assert least.least <= smallest.peak


def test_an_artifact_is_computed_as_it_is(artifact):
    assert allowed(open_model(artifact), "auto-4bit", CPU) == ["auto"]
    engine = Engine.load(artifact, weights="auto-4bit", device="cpu", max_tokens=256)
    assert engine.options.weights == "artifact"


def test_without_hqq_its_weights_are_left_out(monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    assert allowed(open_model(FOLDER), "auto-4bit", CPU) == ["auto", "int8"]


@pytest.mark.parametrize(("target", "fp8"), [("sm_80", False), ("sm_90", True)])
def test_of_a_gpu_what_it_multiplies(target, fp8, monkeypatch):
    monkeypatch.setattr(choice, "target", lambda device: target)
    names = allowed(open_model(FOLDER), "auto-8bit", torch.device("cuda"))
    assert names == ["auto", *(["fp8"] if fp8 else []), "hqq8"]


def test_speeds_are_of_known_processors_and_weights():
    assert {weights for row in choice.PRODUCTS.values() for weights in row} <= set(chain(*AUTO.values()))
    assert native.level() is None or choice.row(CPU) in choice.PRODUCTS or instruction_set() == "neon"


def test_the_command_line_says_what_was_taken(tmp_path, capsys, speeds):
    speeds(int8=2.0)
    (tmp_path / "in.txt").write_text("Rain.\n", encoding="utf-8")
    command = ["score", str(tmp_path / "in.txt"), "--model", "demo", "--max-tokens", "256", "--device", "cpu"]
    assert run([*command, "--output", str(tmp_path / "a.jsonl")]) == 0
    assert "weights" not in capsys.readouterr().err
    assert run([*command, "--output", str(tmp_path / "b.jsonl"), "--weights", "auto-8bit"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "weights" in line]
    assert re.match(r"slant: weights int8, computed in .*: the fastest of int8, auto, hqq8 within ", line)
