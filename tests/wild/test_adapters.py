"""LoRA adapters in peft's format: scored like the adapter that transformers attaches, or refused by name."""

import json
import shutil
import warnings

import numpy as np
import peft
import pytest
import torch
import transformers
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file, save_file

import classifier
import oracle
from slant.errors import SlantError
from slant.model.adapter import AdapterConfig
from slant.model.source import open_checkpoint, open_model

TARGETS = ["q_proj", "o_proj", "up_proj", "out_proj"]
SHAPES = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True, "r": 6},
    "patterns": {
        "rank_pattern": {"layers.3.self_attn.q_proj": 8, "^model.layers.0.mlp.up_proj": 2},
        "alpha_pattern": {"up_proj": 3, r".*\.1\.linear_attn\.out_proj": 40},
    },
    "patterns and rank-stabilized": {"use_rslora": True, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"o_proj": 1}},
    "all linear layers": {"target_modules": "all-linear"},
    "by expression": {"target_modules": r".*\.(0|3)\..*_proj"},
    "some layers": {"layers_to_transform": [1, 2]},
    "head": {"target_modules": [*TARGETS, "lm_head"]},
    "embedding": {"target_modules": [*TARGETS, "embed_tokens"]},
    "head and embedding": {"target_modules": ["lm_head", "embed_tokens"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "embedding saved": {"modules_to_save": ["embed_tokens"]},
    "both saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "norms saved": {"modules_to_save": ["input_layernorm", "norm"]},
    "a module saved": {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]},
    "drawn at random": {"init_lora_weights": "gaussian", "lora_dropout": 0.5},
}
TIED = [name for name in SHAPES if "head" in name or "embedding" in name or "both" in name]


def attach(base, folder, dtype=torch.float32, seed=1, **settings):
    """Save an adapter with random factors, as a training would have left it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied embeddings
        trained = peft.get_peft_model(model, peft.LoraConfig(**settings))
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in trained.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                tensor.data += torch.randn(tensor.shape, generator=generator) * 0.1
        trained.save_pretrained(folder)
    return folder


def edit_config(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def edit(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def rename(folder, name):
    edit(folder, lambda tensors: {name(key): tensor for key, tensor in tensors.items()})


pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    return attach(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    return attach(base, tmp_path_factory.mktemp("saved"), modules_to_save=["norm"])


@pytest.fixture
def adapter(made, tmp_path):
    return shutil.copytree(made, tmp_path / "adapter")


def refused(folder):
    with pytest.raises(SlantError) as caught:
        open_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("shape", SHAPES)
def test_adapter_is_scored_as_transformers_attaches_it(base, tmp_path, shape):
    folder = attach(base, tmp_path, **SHAPES[shape])
    scores = oracle.ours(folder)
    np.testing.assert_allclose(scores, oracle.theirs(folder, base), atol=1e-4, rtol=0)
    assert np.abs(scores - oracle.ours(base)).max() > 0.05


@pytest.mark.parametrize("shape", TIED)
def test_head_that_was_tied_to_the_embedding(tied, tmp_path, shape):
    """merge_and_unload adapts both where one was trained (huggingface/peft#2018); the attached adapter does not."""
    folder = attach(tied, tmp_path, **SHAPES[shape])
    np.testing.assert_allclose(oracle.ours(folder), oracle.theirs(folder, tied), atol=1e-4, rtol=0)


def test_tied_base_stays_tied_without_need(tied, tmp_path):
    folder = attach(tied, tmp_path)
    np.testing.assert_allclose(oracle.ours(folder), oracle.theirs(folder, tied), atol=1e-4, rtol=0)
    assert "lm_head.weight" not in open_checkpoint(folder).tensors


@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_are_bit_for_bit_those_of_peft(base, tmp_path, shape):
    folder = attach(base, tmp_path, **SHAPES[shape])
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = peft.PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
    checkpoint = open_checkpoint(folder)
    for name in checkpoint.tensors:
        theirs = merged[name if name == "lm_head.weight" else f"model.{name}"]
        assert torch.equal(checkpoint.read(name), theirs), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_base_of_two_bytes(base, tmp_path, dtype):
    """Not rounded before it is computed in; rounded as peft rounds it if it is computed in the base's dtype."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    small = tmp_path / "small"
    model.save_pretrained(small)
    for name in ("tokenizer.json", "slant.json"):
        shutil.copy(base / name, small)
    folder = attach(small, tmp_path / "adapter", dtype=dtype)
    np.testing.assert_allclose(oracle.ours(folder), oracle.theirs(folder, small), atol=1e-4, rtol=0)
    merged = peft.PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
    checkpoint = open_checkpoint(folder)
    for name in checkpoint.adapter.low_rank:
        assert torch.equal(checkpoint.read(name).to(dtype), merged[f"model.{name}"]), name


def test_rows_are_those_of_the_whole_matrix(base, tmp_path):
    checkpoint = open_checkpoint(attach(base, tmp_path, **SHAPES["head and embedding"]))
    for name in ("embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(checkpoint.rows(name, [7, 2, 2]), checkpoint.read(name)[[7, 2, 2]])


@pytest.mark.parametrize(
    "name",
    [
        # torch.compile: peft itself would find no tensor, and score the base (MakazhanAlpamys/Soup#335)
        lambda key: "_orig_mod." + key,
        lambda key: key.replace("base_model.model.model.", "base_model.model.model.language_model."),
        lambda key: key.replace("base_model.model.model.", "base_model.model.model._orig_mod."),
        lambda key: key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
    ],
)
def test_names_as_tools_write_them(adapter, made, name):
    """As in vllm-project/vllm#34186, where an adapter of other names is silently the base."""
    rename(adapter, name)
    np.testing.assert_array_equal(oracle.ours(adapter), oracle.ours(made))


def test_multimodal_base_with_an_adapter_of_its_text_model(tmp_path):
    base = classifier.write(tmp_path / "base", "multimodal")
    model = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    trained = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=[*TARGETS, "qkv"]))
    for name, tensor in trained.named_parameters():
        if "lora_B" in name:
            tensor.data += torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)) * 0.1
    trained.save_pretrained(tmp_path / "adapter")
    truth = oracle.answers(trained, base)
    np.testing.assert_allclose(oracle.ours(tmp_path / "adapter"), truth, atol=1e-4, rtol=0)
    assert any("vision" in note and "adapter" in note for note in open_checkpoint(tmp_path / "adapter").notes)


@pytest.mark.parametrize(
    "settings",
    [
        {"layers_to_transform": [1]},
        {"layers_to_transform": 2},
        {"layers_to_transform": [0, 1, 2, 3], "layers_pattern": "layers"},
        {"layers_to_transform": [0, 1, 2, 3], "layers_pattern": "blocks"},
        {"layers_to_transform": []},
        {"target_modules": ["q_proj"]},
        {"target_modules": ["j"]},
        {"target_modules": r".*up_proj"},
        {"target_modules": r".*_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": None},
        {"exclude_modules": ["up_proj"]},
        {"exclude_modules": r".*q_proj"},
        {"exclude_modules": ["k_proj"]},
        {"modules_to_save": None},
        {"modules_to_save": []},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["norm", "mlp"]},
        {"lora_alpha": 0},
        {"lora_alpha": -3},
        {"lora_alpha": 0.5},
        {"use_rslora": True},
        {"alpha_pattern": {"proj": 16}},
        {"alpha_pattern": {"q_pro": 16}},
        {"alpha_pattern": {".*proj": 16}},
        {"alpha_pattern": {"q_proj": 16, "layers.3.self_attn.q_proj": 2}},
        {"alpha_pattern": {r"^model\.layers\.3.*": 16}},
        {"rank_pattern": {"q_proj": 4}},
        {"task_type": "FEATURE_EXTRACTION"},
        {"lora_dropout": 0.5, "inference_mode": False},
        {"init_lora_weights": "orthogonal"},
        {"loftq_config": {"loftq_bits": 4}, "corda_config": {"a": 1}},
    ],
)
def test_changed_config_agrees_with_transformers_or_is_refused(base, saved, tmp_path, settings):
    folder = shutil.copytree(saved, tmp_path / "adapter")
    edit_config(folder, **settings)
    try:
        scores = oracle.ours(folder)
    except SlantError:
        assert str(folder) in refused(folder)
        return
    np.testing.assert_allclose(scores, oracle.theirs(folder, base), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ["proj"]},
        {"target_modules": ["layers.3.self_attn.q_proj", "embed_tokens"], "layers_to_transform": [1]},
        {"target_modules": ["model.layers.3.self_attn.q_proj"], "layers_to_transform": [1]},
        {"target_modules": r".*\.q_proj", "layers_to_transform": None},
        {"layers_to_transform": []},
        {"layers_to_transform": [3, 11]},
        {"layers_to_transform": 1},
        {"layers_to_transform": [1], "layers_pattern": ["blocks", "layers"]},
        {"exclude_modules": ["self_attn.q_proj"]},
        {"exclude_modules": r"model\.layers\.1\..*"},
        {"modules_to_save": ["mlp"]},
        {"modules_to_save": ["q"]},
    ],
)
def test_modules_are_targeted_as_peft_targets_them(adapter, settings):
    edit_config(adapter, **settings)
    ours, theirs = AdapterConfig.read(adapter), peft.LoraConfig.from_pretrained(adapter)
    roles = "self_attn.q_proj", "mlp.up_proj", "linear_attn.out_proj", "self_attn.k_proj"
    modules = [f"model.layers.{layer}.{role}" for layer in (0, 1, 3, 11) for role in roles]
    for module in (*modules, "model.embed_tokens", "lm_head", "layers.1.mlp.up_proj"):
        found = check_target_module_exists(theirs, module)
        assert ours.targets(module) == (bool(found) and "Excluded" not in type(found).__name__), module


def test_all_linear_layers_are_without_the_head(adapter):
    edit_config(adapter, target_modules="all-linear")
    config = AdapterConfig.read(adapter)
    assert config.targets("model.layers.0.mlp.up_proj")
    assert not config.targets("lm_head")
    assert not config.targets("model.embed_tokens")


def test_base_that_peft_stored_again(base, tied, tmp_path):
    """Below an adapter of the head: read in place of the base's; a tied one must be the embedding."""
    key = "base_model.model.lm_head.base_layer.weight"
    for folder, of in ((tmp_path / "untied", base), (tmp_path / "tied", tied)):
        attach(of, folder, **SHAPES["head"])
        before = oracle.ours(folder)
        edit(folder, lambda tensors: tensors | {key: tensors[key] + 0.1})
        if of == base:
            np.testing.assert_allclose(oracle.ours(folder), oracle.theirs(folder, of), atol=1e-4, rtol=0)
            assert np.abs(oracle.ours(folder) - before).max() > 0.01
        else:
            assert key in refused(folder)


@pytest.mark.parametrize("name", ["model.", "model.language_model."])
def test_adapter_of_the_text_model_on_a_multimodal_base(tmp_path, name):
    """Trained as Qwen3_5ForCausalLM, whose names lack language_model; or as the whole model."""
    base = classifier.write(tmp_path / "base", "multimodal")
    folder = attach(base, tmp_path / "adapter", target_modules=["q_proj", "up_proj"])
    truth = oracle.ours(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    trained = oracle.answers(peft.PeftModel.from_pretrained(model, folder), base)
    np.testing.assert_allclose(truth, trained, atol=1e-4, rtol=0)
    rename(folder, lambda key: key.replace("base_model.model.model.", "base_model.model." + name))
    np.testing.assert_array_equal(oracle.ours(folder), truth)


# Where the base and the texts' files are


def test_base_beside_the_adapter(adapter, base, made):
    shutil.copytree(base, adapter.parent / "its own base")
    edit_config(adapter, base_model_name_or_path="../its own base")
    np.testing.assert_array_equal(oracle.ours(adapter), oracle.ours(made))


def test_tokenizer_and_prompt_of_the_adapter_win(adapter, base):
    settings = json.loads((base / "slant.json").read_text())
    (adapter / "slant.json").write_text(json.dumps(settings | {"template": "Read: {article}\nClass: "}))
    assert np.abs(oracle.ours(adapter) - oracle.ours(adapter, template=settings["template"])).max() > 1e-3
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    before = oracle.ours(adapter)
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert np.abs(oracle.ours(adapter) - before).max() > 1e-3


def test_config_saved_beside_an_adapter_is_not_the_base(adapter, base, made):
    shutil.copy(base / "config.json", adapter)
    np.testing.assert_array_equal(oracle.ours(adapter), oracle.ours(made))


@pytest.mark.parametrize("name", ["owner/gone", "/nowhere/base", "", None])
def test_base_that_cannot_be_had(adapter, name):
    edit_config(adapter, base_model_name_or_path=name)
    message = refused(adapter)
    assert str(adapter) in message
    assert (name or "does not name the base") in message
    assert f"slant merge {adapter} OUT --base BASE" in message


def test_quantized_base_names_the_way_out(adapter, base, tmp_path):
    """As unsloth writes the 4-bit base that it trained on."""
    quantized = shutil.copytree(base, tmp_path / "quantized")
    config = json.loads((quantized / "config.json").read_text())
    (quantized / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    edit_config(adapter, base_model_name_or_path=str(quantized))
    message = refused(adapter)
    assert "bitsandbytes" in message
    assert "--base" in message


# What is not merged


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type"),
        ({"peft_type": "ADALORA"}, "peft_type"),
        ({"peft_type": None}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"bias": "lora_only"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config"),
        ({"a_field_of_tomorrow": 0.5}, "a_field_of_tomorrow"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"r": 0}, "r "),
        ({"r": "16"}, "r "),
        ({"r": True}, "r "),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": "32"}, "lora_alpha"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"use_rslora": "false"}, "use_rslora"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern.q_proj"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"alpha_pattern": {"(": 3}}, "no regular expression"),
        ({"r": 5}, "rank 5"),
        ({"rank_pattern": {"q_proj": 8}}, "rank 8"),
    ],
)
def test_what_is_not_merged_is_named(adapter, settings, word):
    edit_config(adapter, **settings)
    assert word in refused(adapter)


def test_dora_as_peft_saves_it(base, tmp_path):
    assert "use_dora" in refused(attach(base, tmp_path, use_dora=True))
    edit_config(tmp_path, use_dora=False)
    assert "lora_magnitude_vector" in refused(tmp_path)


def test_trained_tokens_as_peft_saves_them(base, tmp_path):
    attach(base, tmp_path, trainable_token_indices=[3, 4])
    edit_config(tmp_path, trainable_token_indices=None)
    assert "token_adapter" in refused(tmp_path)


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("base_model.model.model.layers.9.mlp.up_proj.lora_A.weight", torch.ones(4, 48)),  # and no lora_B
        ("base_model.model.score.weight", torch.ones(3, 48)),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_B.bias", torch.ones(80)),
        ("base_model.model.model.layers.0.mlp.up_proj.bias", torch.ones(80)),
        ("base_model.model.model.norm.weight", torch.ones(47)),
        ("base_model.model.lm_head.weight", torch.ones(97, 48)),
        ("base_model.model.model.layers.0.mlp.gate_proj.weight", torch.ones(80, 48, dtype=torch.int8)),
    ],
)
def test_tensor_that_does_not_belong(adapter, key, tensor):
    edit(adapter, lambda tensors: tensors | {key: tensor})
    assert key in refused(adapter)


def test_adapter_of_other_layers(adapter):
    rename(adapter, lambda key: key.replace("layers.3.", "layers.9."))
    assert "layers.9." in refused(adapter)
    assert "another model" in refused(adapter)


def test_adapter_of_another_width(adapter):
    edit(adapter, lambda tensors: {key: torch.cat([t, t], 1) if "lora_A" in key else t for key, t in tensors.items()})
    assert "[96]" in refused(adapter) or "96]" in refused(adapter)


@pytest.mark.parametrize("part", "AB")
def test_factors_of_two_ranks(adapter, part):
    key = f"base_model.model.model.layers.0.mlp.up_proj.lora_{part}.weight"
    edit(adapter, lambda tensors: tensors | {key: torch.ones(7, 48) if part == "A" else torch.ones(80, 7)})
    assert f"{key} " in refused(adapter)


def test_one_tensor_under_two_names(adapter):
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    again = {"_orig_mod." + key.replace("_A", f"_{part}"): torch.ones(4, 4) for part in "AB"}
    edit(adapter, lambda tensors: tensors | again)
    assert "two tensors" in refused(adapter)


def test_no_tensors(adapter):
    edit(adapter, lambda tensors: {})
    assert "no tensors" in refused(adapter)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("adapter_model.safetensors", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("adapter_config.json", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("adapter_config.json", "[]", "no JSON object"),
        ("adapter_config.json", "{", "cannot be read as JSON"),
    ],
)
def test_damaged_file(adapter, name, content, word):
    (adapter / name).write_text(content)
    assert word in refused(adapter)


def test_pickled_adapter(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "adapter_model.bin is a pickle" in refused(adapter)


def test_adapter_of_an_adapter(adapter, made):
    edit_config(adapter, base_model_name_or_path=str(made))
    assert "is an adapter" in refused(adapter)
