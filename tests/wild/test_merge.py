"""``slant merge`` and every other command that takes an adapter's folder in place of a checkpoint."""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import classifier
import oracle
from slant import Engine
from slant.cli.app import run
from slant.errors import SlantError
from slant.evaluation.reference import Reference
from slant.model.checkpoint import Checkpoint
from slant.model.merge import merge_adapter
from slant.model.source import open_artifact, open_checkpoint
from wild.test_adapters import SHAPES, TARGETS, attach

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return attach(base, tmp_path_factory.mktemp("adapter"))


def command(capsys, *words):
    code = run(list(map(str, words)))
    printed = capsys.readouterr()
    return code, " ".join((printed.out + printed.err).split())


@pytest.mark.parametrize("shape", ["plain", "patterns", "head", "head and embedding", "both saved", "a module saved"])
def test_merged_checkpoint_holds_the_bits_of_peft(base, tmp_path, shape):
    folder = attach(base, tmp_path / "adapter", **SHAPES[shape])
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft.PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(tmp_path / "theirs")
    merge_adapter(folder, tmp_path / "ours")
    ours, theirs = (load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key
    oracle.agree(tmp_path / "ours")


@pytest.mark.parametrize("shape", ["plain", "head", "embedding", "head and embedding", "head saved", "embedding saved"])
def test_merged_with_a_tied_base(tied, tmp_path, shape):
    folder = attach(tied, tmp_path / "adapter", **SHAPES[shape])
    merge_adapter(folder, tmp_path / "merged")
    oracle.agree(tmp_path / "merged")
    np.testing.assert_allclose(oracle.ours(tmp_path / "merged"), oracle.theirs(folder, tied), atol=1e-4, rtol=0)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is (shape == "plain")


def test_shards_dtypes_and_other_files_stay(base, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    for name in ("tokenizer.json", "slant.json"):
        shutil.copy(base / name, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text("{{ messages }}")
    folder = attach(tmp_path / "base", tmp_path / "adapter", dtype=torch.bfloat16)
    merge_adapter(folder, tmp_path / "merged")
    old, new = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("base", "merged"))
    assert new == [name for name in old if name != "generation_config.json" or name in new]
    oracle.agree(tmp_path / "merged")
    merged = peft.PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
    for info in Checkpoint.open(tmp_path / "merged").tensors.values():
        with safe_open(info.file, "pt") as file:
            assert torch.equal(file.get_tensor(info.key), merged[info.key]), info.key


def test_vision_adapters_are_merged_too(tmp_path):
    base = classifier.write(tmp_path / "base", "multimodal")
    model = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    trained = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=[*TARGETS, "qkv"]))
    for name, tensor in trained.named_parameters():
        if "lora_B" in name:
            tensor.data += torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)) * 0.1
    trained.save_pretrained(tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    theirs = trained.merge_and_unload().state_dict()
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    assert any(
        "visual" in key and not torch.equal(ours[key], load_file(base / "model.safetensors")[key]) for key in ours
    )
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key


def test_vision_adapter_of_another_base(base, tmp_path):
    multimodal = classifier.write(tmp_path / "base", "multimodal")
    folder = attach(multimodal, tmp_path / "adapter", target_modules=["q_proj"])
    key = "base_model.model.model.visual.blocks.0.attn.qkv.lora_{}.weight"
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors |= {key.format("A"): torch.ones(4, 9), key.format("B"): torch.ones(9, 4)}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj", "qkv"]}))
    with pytest.raises(SlantError, match=r"shape \[9, 9\]"):
        merge_adapter(folder, tmp_path / "out")
    with pytest.raises(SlantError, match=r"has no visual\.blocks"):
        merge_adapter(folder, tmp_path / "out", base)
    assert not (tmp_path / "out").exists()


def test_index_of_a_head_that_was_tied(tied, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(tied, dtype=torch.float32)
    model.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    for name in ("tokenizer.json", "slant.json"):
        shutil.copy(tied / name, tmp_path / "base")
    merge_adapter(attach(tmp_path / "base", tmp_path / "adapter", **SHAPES["head"]), tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert "lm_head.weight" in index["weight_map"]
    assert "total_size" not in index["metadata"]
    oracle.agree(tmp_path / "out")


def test_sum_beyond_the_dtype_it_is_stored_in(base, tmp_path):
    """F16 ends at 65,504: scored, since it is merged in fp32, and not written as infinity."""
    small = shutil.copytree(base, tmp_path / "base")
    tensors = {key: tensor.half() for key, tensor in load_file(small / "model.safetensors").items()}
    save_file(tensors, small / "model.safetensors")
    folder = attach(small, tmp_path / "adapter", lora_alpha=8e6)
    oracle.ours(folder)
    with pytest.raises(SlantError, match=r"beyond torch\.float16"):
        merge_adapter(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrapped_names_of_the_base_are_not_written_again(base, adapter, tmp_path):
    wrapped = shutil.copytree(base, tmp_path / "base")
    tensors = load_file(wrapped / "model.safetensors")
    save_file({f"_orig_mod.{key}": tensor for key, tensor in tensors.items()}, wrapped / "model.safetensors")
    merge_adapter(adapter, tmp_path / "merged", wrapped)
    merge_adapter(adapter, tmp_path / "plain")
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == tensors.keys()
    np.testing.assert_array_equal(oracle.ours(tmp_path / "merged"), oracle.ours(tmp_path / "plain"))


def test_command(base, adapter, tmp_path, capsys):
    moved = shutil.copytree(adapter, tmp_path / "moved")
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone"}))
    code, said = command(capsys, "merge", moved, tmp_path / "out")
    assert code == 2
    assert f"slant merge {moved} OUT --base BASE" in said
    assert not (tmp_path / "out").exists()
    assert command(capsys, "merge", moved, tmp_path / "out", "--base", base)[0] == 0
    np.testing.assert_allclose(oracle.ours(tmp_path / "out"), oracle.ours(adapter), atol=1e-5, rtol=0)
    code, said = command(capsys, "merge", moved, tmp_path / "out", "--base", base)
    assert code == 2
    assert "exists" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("{base}", "{tmp}/out"), "is a whole checkpoint"),
        (("{base}", "{tmp}/out", "--base", "{base}"), "is no adapter"),
        (("{adapter}", "{tmp}/out", "--base", "{adapter}"), "is an adapter"),
        (("{adapter}", "{tmp}/none/out"), "does not exist"),
        (("{adapter}", "{tmp}/out", "--base", "{small}"), "is an adapter of another model"),
        (("{tmp}/nowhere", "{tmp}/out"), "neither a folder"),
    ],
)
def test_what_cannot_be_merged(base, adapter, tmp_path, capsys, words, sentence):
    small = classifier.write(tmp_path / "small", "linear last")
    places = {"base": base, "adapter": adapter, "small": small, "tmp": tmp_path}
    code, said = command(capsys, "merge", *(word.format(**places) for word in words))
    assert code == 2
    assert sentence in said
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_failure_leaves_nothing(adapter, tmp_path, monkeypatch):
    written = []

    def stop(done, total):
        written.append(done)
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_adapter(adapter, tmp_path / "out", progress=stop)
    assert written == list(range(1, 31))
    assert list(tmp_path.iterdir()) == []


def test_peak_is_a_tensor_and_not_the_model(adapter, tmp_path, monkeypatch):
    """What is alive at once while a checkpoint is merged: counted, not measured."""
    import weakref

    from slant import tensor_files

    read, alive, most = tensor_files.read, weakref.WeakSet(), []

    def counted(info):
        tensor = read(info)
        alive.add(tensor)
        most.append(len(alive))
        return tensor

    monkeypatch.setattr(tensor_files, "read", counted)
    merge_adapter(adapter, tmp_path / "out")
    assert max(most) <= 5


# Other commands take the adapter itself


@pytest.mark.parametrize("weights", ["hqq8", "hqq4"])
def test_quantized_while_loading(adapter, tmp_path, weights):
    merge_adapter(adapter, tmp_path / "merged")
    ours = oracle.ours(adapter, weights=weights)
    np.testing.assert_allclose(ours, oracle.ours(tmp_path / "merged", weights=weights), atol=1e-4, rtol=0)
    assert np.abs(ours - oracle.ours(adapter)).max() > 1e-3


def test_quantize_and_inspect(adapter, base, tmp_path, capsys):
    merge_adapter(adapter, tmp_path / "merged")
    assert command(capsys, "quantize", adapter, tmp_path / "small")[0] == 0
    assert command(capsys, "quantize", tmp_path / "merged", tmp_path / "same")[0] == 0
    np.testing.assert_allclose(oracle.ours(tmp_path / "small"), oracle.ours(tmp_path / "same"), atol=1e-4, rtol=0)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= open_artifact(
        tmp_path / "small"
    ).manifest.source.keys()
    code, said = command(capsys, "inspect", adapter)
    assert code == 0
    assert "an adapter of" in said


def test_artifact_with_pointers(adapter, tmp_path, capsys):
    assert command(capsys, "quantize", adapter, tmp_path / "small")[0] == 0
    (tmp_path / "small" / "layers-00.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SlantError, match="git lfs pull"):
        Engine.load(tmp_path / "small", device="cpu")


def test_drift_of_an_adapter(adapter, tmp_path, capsys):
    (tmp_path / "texts.csv").write_text("text\none\ntwo words\n")
    texts = ("--texts", tmp_path / "texts.csv", "--weights", "hqq8", "--device", "cpu")
    for reference in ("bf16", "fp32"):
        code, said = command(capsys, "drift", adapter, *texts, "--reference", reference)
        assert code == 0, said


def test_other_adapter_does_not_go_on_with_an_unfinished_artifact(adapter, base, tmp_path, monkeypatch):
    """The plan of a stopped run knows the adapter by its hash."""
    from slant.quantize.job import quantize_checkpoint

    def stop(done, total):
        if done == 20:
            raise KeyboardInterrupt

    recipe = open_checkpoint(adapter).config.recipe(8)
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(adapter, tmp_path / "small", recipe, progress=stop)
    other = attach(base, tmp_path / "other", seed=9)
    with pytest.raises(SlantError, match="unfinished artifact with another source"):
        quantize_checkpoint(other, tmp_path / "small", recipe)


def test_reference_attaches_the_adapter(adapter, base):
    reference = oracle.answers(Reference.load(adapter).model, base)
    np.testing.assert_allclose(reference, oracle.theirs(adapter, base), atol=1e-5, rtol=0)


def test_bf16_and_offloaded_engines(adapter, tmp_path):
    merge_adapter(adapter, tmp_path / "merged")
    for weights in ("bf16", "fp32"):
        whole = oracle.ours(tmp_path / "merged", weights=weights)
        np.testing.assert_array_equal(oracle.ours(adapter, weights=weights), whole)
        engine = Engine.offloaded(adapter, weights=weights, device="cpu")
        again = np.stack([score.logits for score in engine.score(classifier.TEXTS)])
        np.testing.assert_array_equal(again, whole)
