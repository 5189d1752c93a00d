"""The quantized folder: what it gives, what it refuses, and that a stop loses nothing."""

import json
import math
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import child
import classifier
import tiny
from precision import NATIVE_BF16
from slant.artifact import manifest, shards
from slant.artifact.manifest import FileInfo, Manifest
from slant.artifact.reader import Artifact, QuantizedInfo
from slant.artifact.recipe import NAMED, Grid, Recipe
from slant.artifact.shards import safetensors
from slant.cli import app as cli
from slant.demo import FOLDER, passages
from slant.engine import Engine
from slant.errors import CheckpointError, OutOfMemoryError, RecipeError, SlantError
from slant.files import sha256, write_whole
from slant.model.checkpoint import Checkpoint
from slant.model.hqq import QuantizedCheckpoint
from slant.model.source import open_artifact, open_model
from slant.options import LoadOptions
from slant.quantize import job
from slant.quantize.job import quantize_checkpoint
from slant.tensor_files import HEAD

TEXTS = [passage["text"] for passage in passages()][:4]
DATA = Path(__file__).parents[1] / "data"
KILL = Path(__file__).with_name("kill_quantize.py")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return classifier.write(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def small(checkpoint):
    """An artifact of a few kilobytes whose head is its own. Not to be changed."""
    return quantize_checkpoint(checkpoint, checkpoint.with_name("small"), tiny.recipe(4))


@pytest.fixture
def folder(small, tmp_path):
    """A private copy of it."""
    return shutil.copytree(small, tmp_path / "artifact")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refused(folder, error=CheckpointError):
    with pytest.raises(error) as caught:
        open_artifact(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def rehash(folder, name):
    """Make the manifest agree with a changed file."""
    old = Manifest.read(folder)
    info = FileInfo((folder / name).stat().st_size, sha256(folder / name))
    replace(old, files={**old.files, name: info}).write(folder)


@pytest.mark.parametrize("name", NAMED)
def test_the_artifact_scores_as_the_checkpoint_quantized_in_memory(name, tmp_path):
    made = quantize_checkpoint(FOLDER, tmp_path / "demo", tiny.recipe(name))
    artifact = open_artifact(made)
    view = QuantizedCheckpoint(Checkpoint.open(FOLDER), tiny.recipe(name), torch.device("cpu"))
    for tensor in artifact.tensors:
        expected = view.head_rows(artifact.manifest.answers) if tensor == HEAD else view.read(tensor)
        assert torch.equal(artifact.read(tensor), expected)
    ours = Engine.load(made, device="cpu").score(TEXTS)
    assert ours.error == [None] * len(TEXTS)
    np.testing.assert_array_equal(ours.logits, Engine.load(FOLDER, weights=name, device="cpu").score(TEXTS).logits)


@NATIVE_BF16
def test_an_artifact_is_computed_in_either_dtype(small, checkpoint):
    fp32, bf16, full = (
        Engine.load(model, weights=weights, device="cpu").score(classifier.TEXTS).logits
        for model, weights in ((small, "fp32"), (small, "bf16"), (checkpoint, "fp32"))
    )
    assert 0 < np.abs(fp32 - bf16).max() < np.abs(fp32 - full).max()


@pytest.mark.parametrize("name", NAMED)
def test_bytes_are_those_of_the_arithmetic(name, tmp_path):
    made = quantize_checkpoint(FOLDER, tmp_path / "demo", tiny.recipe(name))
    source, artifact = Checkpoint.open(FOLDER), open_artifact(made)
    expected = 2.0 * len(artifact.manifest.answers) * source.config.hidden_size  # the head's rows, bf16
    for tensor, shape in source.config.shapes().items():
        grid = artifact.recipe.grid(tensor)
        if grid is None:
            expected += source.tensors[tensor].nbytes
        else:  # codes, and two bytes each for a group's scale and zero
            expected += math.prod(shape) * grid.bits / 8 + shape[0] * math.ceil(shape[1] / grid.group_size) * 4
    assert sum(info.nbytes for info in artifact.tensors.values()) == expected
    stored = sum(path.stat().st_size for path in made.glob("*.safetensors"))
    assert expected < stored < 1.02 * expected


def test_what_is_quantized_and_what_stays(small, checkpoint):
    artifact, source = open_artifact(small), Checkpoint.open(checkpoint)
    assert artifact.tensors.keys() == source.tensors.keys()
    for name, info in artifact.tensors.items():
        matrix = artifact.quantized(name)
        assert (matrix is not None) == isinstance(info, QuantizedInfo) == (artifact.recipe.grid(name) is not None)
        if name != HEAD:
            assert artifact.read(name).shape == info.shape == source.tensors[name].shape
        if matrix is not None:
            assert info.nbytes == matrix.nbytes
        elif name != HEAD:
            assert torch.equal(artifact.read(name), source.read(name))
    assert torch.equal(artifact.rows("embed_tokens.weight", [3, 1]), source.rows("embed_tokens.weight", [3, 1]))


def test_the_same_bytes_again(checkpoint, small, tmp_path):
    """No time, path or order of threads gets into the folder."""
    assert contents(quantize_checkpoint(checkpoint, tmp_path / "b", tiny.recipe(4))) == contents(small)


WITHOUT_HQQ = """
import json, sys
sys.modules["hqq"] = None
from slant.engine import Engine
from slant.errors import CheckpointError
from slant.artifact.recipe import Recipe
from slant.quantize.job import quantize_checkpoint
made, texts = sys.argv[1], json.loads(sys.argv[2])
print(json.dumps(Engine.load(made, device="cpu", threads=1).score(texts).logits.tolist()))
try:
    quantize_checkpoint(made, made + "-other", Recipe({}))
except CheckpointError as error:
    print(error)
"""


def test_an_artifact_loads_without_hqq_and_without_its_source(tmp_path):
    source = classifier.write(tmp_path / "source")
    made = quantize_checkpoint(source, tmp_path / "made", tiny.recipe(4))
    scores = Engine.load(made, device="cpu").score(classifier.TEXTS)
    shutil.rmtree(source)
    logits, refusal = child.python("-c", WITHOUT_HQQ, made, json.dumps(classifier.TEXTS)).stdout.splitlines()
    np.testing.assert_array_equal(np.float32(json.loads(logits)), scores.logits)
    assert "pip install hqq" in refusal
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_version_1_still_loads():
    stored = json.loads((DATA / "artifact-v1-scores.json").read_text())
    artifact = open_artifact(DATA / "artifact-v1")
    grids = {info.grid.bits for info in artifact.tensors.values() if isinstance(info, QuantizedInfo)}
    assert grids == {8, 4, 3, 2}
    scores = Engine.load(DATA / "artifact-v1", weights="fp32", device="cpu").score(stored["texts"])
    np.testing.assert_allclose(scores.logits, stored["logits"], atol=1e-4, rtol=0)


def test_prompt_and_labels_come_along(small):
    engine = Engine.load(small, device="cpu")
    assert engine.prompt.template == classifier.TEMPLATE
    assert engine.prompt.labels == classifier.LABELS


def test_other_labels_need_rows_that_are_not_kept(small):
    with pytest.raises(CheckpointError, match="quantize the checkpoint again"):
        Engine.load(small, labels={"a": "first", "b": "second"}, device="cpu")
    two = Engine.load(small, labels={"2": "right", "0": "left"}, device="cpu").score(classifier.TEXTS)
    all_three = Engine.load(small, device="cpu").score(classifier.TEXTS)
    np.testing.assert_allclose(two.logits, all_three.logits[:, [2, 0]], atol=1e-6)


def test_a_tied_head_serves_any_labels(tmp_path):
    source = classifier.write(tmp_path / "tied", "tied")
    labels = {"x": "first", "y": "second"}
    made = quantize_checkpoint(source, tmp_path / "made", tiny.recipe(8))
    assert HEAD not in open_artifact(made).tensors
    assert Engine.load(made, labels=labels, device="cpu").score("text").error is None
    own = quantize_checkpoint(
        source, tmp_path / "own", tiny.recipe(8), options=LoadOptions(labels=labels, template="<{article}>")
    )
    engine = Engine.load(own, device="cpu")
    assert (engine.labels, engine.prompt.template) == (("first", "second"), "<{article}>")


def test_weights_by_name(small, checkpoint):
    with pytest.raises(SlantError, match="leave weights at auto"):
        open_model(small, "hqq2")
    with pytest.raises(SlantError, match="hqq5"):
        Engine.load(checkpoint, weights="hqq5", device="cpu")
    assert isinstance(open_model(small), Artifact)
    assert isinstance(open_model(checkpoint), Checkpoint)


def test_the_command_line(tmp_path, capfd):
    target, rules = tmp_path / "made", tmp_path / "recipe.json"
    assert cli.run(["quantize", "demo", str(target), "--bits", "3", "--group-size", "32", "--device", "cpu"]) == 0
    assert open_artifact(target).recipe == tiny.recipe(3, 32)
    assert cli.run(["quantize", "demo", str(target)]) == cli.FAILURE
    rules.write_text(json.dumps({"rules": {"layers.2.mlp.up_proj.weight": {"bits": 2, "group_size": 128}}}))
    assert cli.run(["quantize", "demo", str(target), "--recipe", str(rules), "--force", "--device", "cpu"]) == 0
    assert open_artifact(target).recipe == Recipe.read(rules)
    assert cli.run(["quantize", "demo", str(target), "--bits", "5", "--force"]) == cli.FAILURE
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split()[0] for line in err.splitlines()] == ["slant:", "slant:"]
    assert "--force" in err
    assert "bits is 5" in err


# ---- what is refused


def test_a_flipped_bit_anywhere_is_caught(folder):
    draw = random.Random(0)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        spread = [round(i * (len(content) - 1) / 24) for i in range(25)]
        for position in spread + draw.choices(range(len(content)), k=15):
            changed = bytearray(content)
            changed[position] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            assert path.name in refused(folder)
        path.write_bytes(content)
    open_artifact(folder)


def test_every_third_byte_of_the_manifest_counts(folder):
    path = folder / "artifact.json"
    content = path.read_bytes()
    for position in range(0, len(content), 3):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="artifact"):
            Manifest.read(folder)


@pytest.mark.parametrize("name", [path.name for path in sorted((DATA / "artifact-v1").iterdir())])
def test_a_truncated_missing_or_longer_file_is_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content + b" "):
        path.write_bytes(damaged)
        message = refused(folder)
        assert name in message
        assert ("bytes instead of" if damaged else "is empty") in message or name == "artifact.json"
    path.unlink()
    assert name in refused(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "layers-04.safetensors", "sub"])
def test_a_foreign_file_is_named(folder, name):
    (folder / name).mkdir() if name == "sub" else (folder / name).touch()
    assert name in refused(folder)


def test_files_that_nobody_reads_may_be_there(folder):
    for name in ("README.md", "LICENSE", ".gitattributes"):
        (folder / name).touch()
    open_artifact(folder)


def test_a_shard_of_another_artifact_is_refused(folder, checkpoint, tmp_path):
    other = quantize_checkpoint(checkpoint, tmp_path / "other", tiny.recipe(3))
    shutil.copy(other / "layers-01.safetensors", folder)
    assert "layers-01.safetensors" in refused(folder)
    rehash(folder, "layers-01.safetensors")
    assert "layers.1." in refused(folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: t.pop("layers.0.mlp.up_proj.weight.zeros"), "up_proj.weight.zeros"),
        (lambda t: t.update(extra=torch.ones(2)), "extra"),
        (lambda t: t.update({"layers.0.linear_attn.A_log": torch.ones(3)}), "A_log"),
        (lambda t: t.update({"layers.0.linear_attn.A_log": torch.ones(4, dtype=torch.int8)}), "A_log"),
        (lambda t: t.update({"layers.0.mlp.up_proj.weight.codes": torch.ones(80, 32)}), "up_proj.weight.codes"),
    ],
)
def test_a_shard_that_does_not_fit_is_named(folder, change, word):
    path = folder / "layers-00.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    rehash(folder, path.name)
    assert word in refused(folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"version": 2}, "version is 2"),
        ({"version": True}, "changed|version"),
        ({"format": "gguf"}, "not describe"),
        ({"extra": 1}, "extra is unknown"),
        ({"certificate": 3}, "certificate is 3"),
        ({"answers": "17"}, 'answers is "17"'),
        ({"made": {"slant": "0.1.0"}}, 'made is {"slant"'),
        ({"recipe": {"rules": {"norm.weight": None}}}, "norm.weight"),
        ({"recipe": {"rules": {"layers.9.mlp.up_proj.weight": None}}}, "layers.9"),
        ({"files": {"../config.json": {"bytes": 1, "sha256": "0" * 64}}}, "config.json"),
        ({"files": {}}, "does not belong"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(folder, change, word):
    path = folder / "artifact.json"
    raw = json.loads(path.read_text()) | change
    raw.pop("sha256")
    path.write_bytes(manifest._render(raw))
    with pytest.raises(CheckpointError, match=word):
        open_artifact(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"format": NaN}', b"[" * 100_000])
def test_a_damaged_manifest_is_named(folder, content):
    (folder / "artifact.json").write_bytes(content)
    assert "artifact.json" in refused(folder)


def test_certificate_and_self_test_are_kept(folder):
    artifact = open_artifact(folder)
    artifact.annotate(certificate={"flips": 0.25, "texts": ["ä"]})
    artifact.annotate(self_test={"answers": [1, 2]})
    kept = open_artifact(folder).manifest
    assert kept == artifact.manifest
    assert kept.certificate == {"flips": 0.25, "texts": ["ä"]}
    assert kept.self_test == {"answers": [1, 2]}
    path = folder / "artifact.json"
    path.write_text(path.read_text().replace("0.25", "0.00"))
    assert "changed" in refused(folder)


# ---- writing


def test_an_existing_destination_is_spared(checkpoint, folder, tmp_path):
    with pytest.raises(CheckpointError, match="--force"):
        quantize_checkpoint(checkpoint, folder, tiny.recipe(8))
    quantize_checkpoint(checkpoint, folder, tiny.recipe(8), force=True)
    assert open_artifact(folder).recipe == tiny.recipe(8)
    for precious in (checkpoint, tmp_path):
        before = contents(precious) if precious == checkpoint else None
        with pytest.raises(CheckpointError, match="not replaced"):
            quantize_checkpoint(checkpoint, precious, tiny.recipe(8), force=True)
        assert before is None or contents(precious) == before
    with pytest.raises(CheckpointError, match="does not exist"):
        quantize_checkpoint(checkpoint, tmp_path / "no" / "where", tiny.recipe(8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact"]


def test_an_artifact_is_no_source(small, tmp_path):
    with pytest.raises(CheckpointError, match="quantized already"):
        quantize_checkpoint(small, tmp_path / "b", tiny.recipe(4))


def test_a_recipe_for_another_model_is_refused_at_once(checkpoint, tmp_path):
    with pytest.raises(RecipeError, match=r"layers\.9"):
        quantize_checkpoint(checkpoint, tmp_path / "b", Recipe({"layers.9.mlp.up_proj.weight": Grid(4)}))
    assert not list(tmp_path.iterdir())


def stop_after(done):
    def progress(now, total):
        if now == done:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def stopped(checkpoint, tmp_path):
    """Where a run with 4 bits was stopped in its third layer."""
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(checkpoint, tmp_path / "b", tiny.recipe(4), progress=stop_after(32))
    return tmp_path / "b"


def test_a_stopped_run_goes_on(checkpoint, small, stopped, monkeypatch):
    solved, calls = [], []
    original = QuantizedCheckpoint.quantized
    monkeypatch.setattr(
        QuantizedCheckpoint, "quantized", lambda self, name: solved.append(name) or original(self, name)
    )
    quantize_checkpoint(checkpoint, stopped, tiny.recipe(4), progress=lambda done, total: calls.append((done, total)))
    assert {name.split(".")[1] for name in solved if name.startswith("layers.")} == {"2", "3"}
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (len(Checkpoint.open(checkpoint).config.shapes()),) * 2
    assert contents(stopped) == contents(small)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_finished_shard_is_made_again(checkpoint, small, stopped, damage):
    path = stopped.with_name("b.partial") / "layers-01.safetensors"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content if damage == "flip" else content[:-1])
    if damage == "remove":
        path.unlink()
    quantize_checkpoint(checkpoint, stopped, tiny.recipe(4))
    assert contents(stopped) == contents(small)


def test_a_torn_journal_counts_up_to_the_tear(checkpoint, small, stopped):
    path = stopped.with_name("b.partial") / ".journal"
    path.write_bytes(path.read_bytes()[:-30])
    quantize_checkpoint(checkpoint, stopped, tiny.recipe(4))
    assert contents(stopped) == contents(small)


@pytest.mark.parametrize("what", ["recipe", "source", "made"])
def test_an_unfinished_run_of_another_kind_is_not_continued(checkpoint, stopped, tmp_path, monkeypatch, what):
    recipe = tiny.recipe(3 if what == "recipe" else 4)
    source = shutil.copytree(checkpoint, tmp_path / "source")
    if what == "source":
        tensors = load_file(source / "model.safetensors")
        tensors["model.norm.weight"] += 1
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    if what == "made":
        monkeypatch.setattr(job, "version", lambda package: "9.9")
    with pytest.raises(CheckpointError, match=rf"another {what}.*--force"):
        quantize_checkpoint(source, stopped, recipe)
    quantize_checkpoint(source, stopped, recipe, force=True)
    fresh = quantize_checkpoint(source, tmp_path / "fresh", recipe)
    assert contents(stopped) == contents(fresh)


def test_a_foreign_partial_folder_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "b.partial").mkdir()
    (tmp_path / "b.partial" / "thesis.tex").touch()
    for force in (False, True):
        with pytest.raises(CheckpointError, match="in the way"):
            quantize_checkpoint(checkpoint, tmp_path / "b", tiny.recipe(4), force=force)
    assert (tmp_path / "b.partial" / "thesis.tex").exists()


def kill(checkpoint, tmp_path, stride):
    for line in child.python(KILL, checkpoint, tmp_path, stride).stdout.splitlines():
        assert all(kind in line for kind in ("begun", "shards", "finished"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_at_any_moment_loses_nothing(checkpoint, tmp_path):
    kill(checkpoint, tmp_path, stride=60)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_at_every_moment_loses_nothing(checkpoint, tmp_path):
    kill(checkpoint, tmp_path, stride=1)


def test_safetensors_written_in_pieces_are_those_of_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PIECE", 10)
    tensors = {
        "b": torch.randn(3, 5).bfloat16(),
        "a": torch.arange(7, dtype=torch.uint8),
        "c": torch.randn(4, 4).T,
        "d": torch.randn(6).half(),
    }
    size, digest = write_whole(tmp_path / "t.safetensors", safetensors(tensors))
    found = load_file(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    content = (tmp_path / "t.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for name, info in json.loads(content[8:start]).items():
        if name != "__metadata__":
            assert (start + info["data_offsets"][0]) % tensors[name].element_size() == 0
    assert (size, digest) == ((tmp_path / "t.safetensors").stat().st_size, sha256(tmp_path / "t.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]


def test_memory_that_runs_out_loses_nothing(checkpoint, small, tmp_path, monkeypatch):
    """The same command goes on, and makes the same bytes."""
    target, original, tried = tmp_path / "artifact", QuantizedCheckpoint.quantized, []

    def full(self, name):
        tried.append(name)
        if len(tried) == 20:
            raise torch.OutOfMemoryError
        return original(self, name)

    monkeypatch.setattr(QuantizedCheckpoint, "quantized", full)
    with pytest.raises(OutOfMemoryError, match="does not fit the free memory of cpu"):
        quantize_checkpoint(checkpoint, target, tiny.recipe(4))
    assert not target.exists()
    first = len(tried)
    quantize_checkpoint(checkpoint, target, tiny.recipe(4))
    assert len(tried) - first < len(set(tried))  # what was done is not done again
    assert contents(target) == contents(small)
