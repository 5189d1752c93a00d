"""Names of tensors as tools really write them: read by one rule, or refused naming the key; never a wrong score."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import classifier
import oracle
import tiny
from slant.errors import CheckpointError
from slant.model.checkpoint import Checkpoint
from slant.model.names import canonical
from slant.model.registry import parse_config

NETWORK = "model."
NAMES = sorted(parse_config(tiny.text_config("grouped").to_dict()).shapes()) + ["lm_head.weight", "visual.patch.weight"]
WRITTEN = {
    # transformers before 5.5.2, of Qwen3_5ForConditionalGeneration (huggingface/transformers#45216, #45357)
    "model.language_model.language_model.": lambda key: key.replace(NETWORK, "model.language_model.language_model.", 1),
    "model.language_model.language_model.language_model.": lambda key: key.replace(
        NETWORK, "model.language_model.language_model.language_model.", 1
    ),
    # torch.compile, saved without unwrapping (huggingface/transformers#25205)
    "_orig_mod.": lambda key: "_orig_mod." + key,
    "torch.compile of each layer": lambda key: key.replace(".mlp.", "._orig_mod.mlp.").replace(".0.", ".0._orig_mod."),
    # peft, saved without merging into the base's own names
    "base_model.model.": lambda key: "base_model.model." + key,
    "language_model.": lambda key: "language_model." + key,
    "model.lm_head": lambda key: "model." + key if key.startswith("lm_head") else key,
    # older multimodal classes
    "language_model.model.": lambda key: key.replace(NETWORK, "language_model.model.", 1),
    "module.": lambda key: "module." + key,  # DistributedDataParallel, DeepSpeed
    "_orig_mod.module.": lambda key: "_orig_mod.module." + key,
    "FSDP and activation checkpointing": lambda key: "_fsdp_wrapped_module." + key.replace(
        ".mlp.", "._fsdp_wrapped_module._checkpoint_wrapped_module.mlp."
    ),
    "_forward_module.": lambda key: "_forward_module." + key,  # Lightning Fabric
    "pretrained_model.": lambda key: "pretrained_model." + key,  # trl's model with a value head
}  # fmt: skip
USUAL = {
    "": lambda key: key.removeprefix(NETWORK),  # the text model saved alone
    "model.language_model.": lambda key: key.replace(NETWORK, "model.language_model.", 1),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return classifier.write(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def truth(plain):
    return oracle.ours(plain)


@pytest.fixture
def folder(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "model")


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def rename(folder, name):
    edit(folder, lambda tensors: {name(key): tensor for key, tensor in tensors.items()})


def refused(folder):
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "incomplete" not in message
    return message


@pytest.mark.parametrize("written", WRITTEN | USUAL)
def test_scores_are_those_of_the_plain_names(folder, truth, written):
    rename(folder, (WRITTEN | USUAL)[written])
    np.testing.assert_array_equal(oracle.ours(folder), truth)


@pytest.mark.parametrize("written", WRITTEN)
def test_unusual_names_are_noted(folder, written):
    rename(folder, WRITTEN[written])
    assert any("unusual" in note for note in Checkpoint.open(folder).notes)


@pytest.mark.parametrize("written", USUAL)
def test_usual_names_are_not(folder, written):
    rename(folder, USUAL[written])
    assert Checkpoint.open(folder).notes == ()


def test_truth_is_that_of_transformers(plain, truth):
    np.testing.assert_allclose(truth, oracle.theirs(plain), atol=1e-4, rtol=0)


def test_where_transformers_reads_a_name_slant_agrees(folder):
    rename(folder, lambda key: "model." + key if key.startswith("lm_head") else key.removeprefix(NETWORK))
    oracle.agree(folder)


@pytest.mark.parametrize(
    "visual", ["model.visual.", "visual.", "model.language_model.visual.", "_orig_mod.model.visual.", "module.visual."]
)
def test_vision_tensors_are_skipped_under_any_prefix(folder, truth, visual):
    # model.language_model.visual: transformers up to 5.5.3 (huggingface/transformers#45357)
    extra = {visual + "blocks.0.attn.qkv.weight": torch.ones(3), "mtp.layers.0.mlp.up_proj.weight": torch.ones(2)}
    edit(folder, lambda tensors: tensors | extra)
    assert Checkpoint.open(folder).skipped == sorted(extra)
    np.testing.assert_array_equal(oracle.ours(folder), truth)


def test_two_keys_of_one_tensor_are_both_named(folder):
    edit(folder, lambda tensors: tensors | {"_orig_mod.lm_head.weight": tensors["lm_head.weight"].clone()})
    message = refused(folder)
    assert "_orig_mod.lm_head.weight" in message
    assert " lm_head.weight" in message


def test_unknown_prefix_is_named(folder):
    rename(folder, lambda key: "student." + key)
    assert "whose prefix student. slant does not know" in refused(folder)


def test_one_layer_under_another_prefix_is_named(folder):
    rename(folder, lambda key: key.replace("model.layers.2.", "model.blocks.2."))
    assert "model.blocks.2." in refused(folder)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight", "merge"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight", "merge"),
        ("model.layers.0.mlp.up_proj.lora_B.weight", "merge"),
        ("lm_head.modules_to_save.default.weight", "merge"),
        ("lm_head.original_module.weight", "merge"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "unquantized"),
        ("model.layers.0.mlp.up_proj.qweight", "unquantized"),
        ("model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", "unquantized"),
        ("model.layers.4.mlp.up_proj.weight", "config.json"),
        ("v_head.summary.weight", "config.json"),
    ],
)
def test_what_a_foreign_tensor_is(folder, key, word):
    edit(folder, lambda tensors: tensors | {key: torch.ones(2, 2)})
    message = refused(folder)
    assert key in message
    assert word in message


def test_incomplete_checkpoint_lists_what_it_lacks(folder):
    edit(folder, lambda tensors: {key: tensor for key, tensor in tensors.items() if ".layers.3." not in key})
    with pytest.raises(CheckpointError, match=r"lacks 11 of 56 tensors \(layers.3.input_layernorm.weight, "):
        Checkpoint.open(folder)


WRAPPERS = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module"]
OUTER = ["model", "language_model", "base_model", "pretrained_model", *WRAPPERS]


@given(st.data())
def test_wrappers_anywhere_leave_the_name(data):
    name = data.draw(st.sampled_from(NAMES))
    parts = data.draw(st.lists(st.sampled_from(OUTER), max_size=6))
    for part in name.split("."):
        parts += [*data.draw(st.lists(st.sampled_from(WRAPPERS), max_size=2)), part]
    assert canonical(".".join(parts)) == name


def test_every_name_of_the_model_is_its_own_canonical_name(plain):
    for name in Checkpoint.open(plain).tensors:
        assert canonical(name) == name


def test_multimodal_folder_agrees_with_transformers(tmp_path):
    oracle.agree(classifier.write(tmp_path, tiny.MULTIMODAL))
