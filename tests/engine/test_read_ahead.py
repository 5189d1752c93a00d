"""The embedding is read while the tokenizer loads, where it will be held in any case."""

import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from slant import tensor_files
from slant.demo import FOLDER
from slant.engine import Engine
from slant.errors import CheckpointError, PromptError
from slant.model import weights
from slant.model.source import open_model
from slant.model.weights import Weights
from slant.options import LoadOptions
from slant.prompt.prompt import Prompt
from slant.runtime import classifier
from slant.runtime.classifier import Classifier
from slant_kernels import native
from slant_kernels.panels import packed

CPU = LoadOptions(device="cpu", weights="fp32", max_tokens=512)


@pytest.fixture
def damaged(tmp_path):
    """The demo with an embedding that is not finite."""
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (name,) = (name for name in tensors if "embed_tokens" in name)
    tensors[name][3000, 7] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_tokenizer_and_embedding_load_at_once(monkeypatch):
    """Either waits for the other to have begun."""
    begun = {"prompt": threading.Event(), "embedding": threading.Event()}
    load, read = Prompt.load, classifier._embedding

    def meet(mine, other):
        begun[mine].set()
        assert begun[other].wait(20), f"{mine} was loaded before {other} had begun"

    monkeypatch.setattr(Prompt, "load", lambda *args, **fields: meet("prompt", "embedding") or load(*args, **fields))
    monkeypatch.setattr(classifier, "_embedding", lambda *args: meet("embedding", "prompt") or read(*args))
    engine = Engine.load(FOLDER, CPU)
    assert begun["embedding"].is_set()
    assert engine.score("The council voted.").error is None


def test_what_was_read_ahead_is_what_the_model_holds():
    opened = Classifier.open(FOLDER, CPU, whole=True)
    assert opened.embedding is not None
    assert torch.equal(opened.embedding, opened.source.read("embed_tokens.weight").float())
    assert Engine.load(FOLDER, CPU).runner.model.embedding.shape == opened.embedding.shape


def test_nothing_is_read_ahead_that_the_machine_has_no_room_for(monkeypatch):
    monkeypatch.setattr(classifier, "memory_limit", lambda options: (10**6, "a container"))
    assert Classifier.open(FOLDER, CPU, whole=True).embedding is None


def test_nothing_is_read_ahead_that_may_not_be_held():
    assert Classifier.open(FOLDER, CPU).embedding is None
    with pytest.raises(Exception, match="not enough memory"):
        Engine.load(FOLDER, CPU, memory="1MB")
    small = LoadOptions(device="cpu", weights="fp32", max_tokens=512, memory="1MB")
    assert Classifier.open(FOLDER, small, whole=True).embedding is None


def narrow():
    return Weights(open_model(FOLDER), torch.float32, torch.device("cpu"), storage=torch.bfloat16, panels=True)


@pytest.mark.skipif(native.level() is None, reason="nothing is compiled, or SLANT_NATIVE is 0")
def test_panels_are_read_as_they_are_packed(monkeypatch):
    names = [f"layers.0.mlp.{part}_proj.weight" for part in ("gate", "up")]
    dense = torch.cat([open_model(FOLDER).read(name) for name in names]).bfloat16()
    expected = packed(dense)
    monkeypatch.setattr(weights, "packed", lambda matrix: pytest.fail("was packed after it was read"))
    found = narrow().matrix(*names)
    assert torch.equal(found.words, expected.words)
    x = torch.randn(3, dense.shape[1], generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.multiply(x), expected.multiply(x))


@pytest.mark.skipif(native.level() is None, reason="nothing is compiled, or SLANT_NATIVE is 0")
def test_what_cannot_be_read_into_panels_is_packed(monkeypatch):
    name = "layers.0.mlp.down_proj.weight"
    expected = narrow().matrix(name)
    monkeypatch.setattr(tensor_files, "reads", lambda dtype: False)
    assert torch.equal(narrow().matrix(name).words, expected.words)


def test_an_embedding_that_is_not_finite_is_refused(damaged):
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight in .* NaN or infinite, the first at \[3000, 7\]"):
        Engine.load(damaged, CPU)


def test_what_is_wrong_with_the_prompt_is_told_first(damaged):
    with pytest.raises(PromptError, match="exactly once"):
        Engine.load(damaged, CPU, template="no place for a text")
