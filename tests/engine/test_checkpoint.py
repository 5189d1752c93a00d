"""Opening checkpoints: every naming and storage that is in use, and a clear refusal of what is damaged."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from slant.errors import CheckpointError
from slant.evaluation.reference import last_logits, load_model
from slant.model.checkpoint import Checkpoint
from slant.model.network import Model
from slant.model.registry import parse_config
from slant.model.weights import Weights
from slant.tensor_files import EMBEDDING, HEAD

IDS = [[3, 1, 4, 1, 5, 9, 2, 6]]


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    """A private copy of the grouped, untied checkpoint."""
    return shutil.copytree(tiny_checkpoint("grouped"), tmp_path / "model")


def edit(folder, change):
    """Rewrite model.safetensors after ``change(tensors)``."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def hidden(folder):
    checkpoint = Checkpoint.open(folder)
    model = Model(Weights(checkpoint, torch.float32, torch.device("cpu")), 64)
    with torch.inference_mode():
        return model(torch.tensor(IDS), torch.tensor([len(IDS[0])]))


def refused(folder):
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_expected_shapes_are_those_of_transformers():
    for shape in tiny.SHAPES:
        model = tiny.build(shape)
        theirs = {name.removeprefix("model."): tuple(t.shape) for name, t in model.state_dict().items()}
        del theirs[HEAD]
        assert parse_config(model.config.to_dict()).shapes() == theirs


def test_sharded_equals_single(folder, tmp_path):
    tiny.save("grouped", tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    assert torch.equal(hidden(tmp_path / "sharded"), hidden(folder))


def test_multimodal_naming_skips_vision_and_mtp(tiny_checkpoint, tmp_path):
    multimodal = shutil.copytree(tiny_checkpoint(tiny.MULTIMODAL), tmp_path / "model")
    edit(multimodal, lambda tensors: tensors.update({"mtp.fc.weight": torch.ones(3)}))
    checkpoint = Checkpoint.open(multimodal)
    assert checkpoint.tensors[EMBEDDING].key == "model.language_model.embed_tokens.weight"
    assert checkpoint.tensors.keys() == checkpoint.config.shapes().keys()
    assert "mtp.fc.weight" in checkpoint.skipped
    assert any(key.startswith("model.visual.") for key in checkpoint.skipped)


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_text_model_under_another_prefix(folder, prefix):
    expected = hidden(folder)

    def rename(tensors):
        for key in [key for key in tensors if key.startswith("model.")]:
            tensors[prefix + key.removeprefix("model.")] = tensors.pop(key)

    edit(folder, rename)
    assert torch.equal(hidden(folder), expected)


def test_mixed_dtypes_are_converted(folder):
    expected = hidden(folder)

    def mix(tensors):
        for index, (key, tensor) in enumerate(sorted(tensors.items())):
            tensors[key] = tensor.to((torch.float32, torch.bfloat16, torch.float16)[index % 3])

    edit(folder, mix)
    assert {info.dtype for info in Checkpoint.open(folder).tensors.values()} == {"F32", "BF16", "F16"}
    torch.testing.assert_close(hidden(folder), expected, atol=0.2, rtol=0)
    truth = last_logits(load_model(folder, torch.float32), IDS, range(tiny.VOCABULARY))
    checkpoint = Checkpoint.open(folder)
    model = Model(Weights(checkpoint, torch.float32, torch.device("cpu")), 64)
    x = model(torch.tensor(IDS), torch.tensor([len(IDS[0])]))
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + checkpoint.read("norm.weight").float())
    ours = x @ checkpoint.read(HEAD).float().T
    torch.testing.assert_close(ours, truth, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_head_in_the_file_wins_over_the_tied_flag(folder, tied):
    edit_config(folder, tie_word_embeddings=tied)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.head == HEAD
    assert torch.equal(checkpoint.head_rows(tiny.ANSWERS), checkpoint.read(HEAD)[list(tiny.ANSWERS)])
    assert any("lm_head" in note for note in checkpoint.notes) == tied


def test_tied_head_is_the_embedding(tiny_checkpoint):
    checkpoint = Checkpoint.open(tiny_checkpoint("tied"))
    assert torch.equal(checkpoint.head_rows([7, 2]), checkpoint.read(EMBEDDING)[[7, 2]])


def test_only_the_answers_rows_of_the_head_are_read(folder, monkeypatch):
    checkpoint, read = Checkpoint.open(folder), []
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: read.append(name))
    assert checkpoint.head_rows(tiny.ANSWERS).shape == (5, 48)
    assert read == []


@pytest.mark.parametrize("name", ["layers.1.linear_attn.A_log", "norm.weight", "layers.3.self_attn.k_norm.weight"])
def test_missing_tensor_is_named(folder, name):
    edit(folder, lambda tensors: tensors.pop("model." + name))
    assert name in refused(folder)


def test_missing_untied_head_is_named(folder):
    edit(folder, lambda tensors: tensors.pop(HEAD))
    assert HEAD in refused(folder)


def test_unexpected_tensor_is_named(folder):
    edit(folder, lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(2)}))
    assert "layers.0.mlp.up_proj.lora_A.weight" in refused(folder)


def test_wrong_shape_is_named_with_both_shapes(folder):
    edit(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(47)}))
    message = refused(folder)
    assert "model.norm.weight" in message
    assert "[47]" in message
    assert "[48]" in message


def test_foreign_dtype_is_named(folder):
    edit(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(48, dtype=torch.int8)}))
    assert "I8" in refused(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_file_is_named(folder, keep):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    assert str(path) in refused(folder)


def test_missing_shard_is_named(tmp_path):
    tiny.save("grouped", tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    assert shard.name in refused(tmp_path)


def test_key_missing_from_its_shard_is_named(tmp_path):
    tiny.save("grouped", tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    tensors = load_file(shard)
    key = sorted(tensors)[0]
    del tensors[key]
    save_file(tensors, shard)
    assert key in refused(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_damaged_index_is_named(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    assert "index.json" in refused(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff"])
def test_damaged_config_is_named(folder, content):
    (folder / "config.json").write_text(content, encoding="latin-1")
    assert "config.json" in refused(folder)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"architectures": ["Qwen3_5ForSequenceClassification"]}, "Qwen3_5ForSequenceClassification"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.1}}, "partial_rotary_factor"),
    ],
)
def test_config_that_is_not_computed_here_is_refused(folder, settings, word):
    edit_config(folder, **settings)
    assert word in refused(folder)


def test_folder_without_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in refused(folder)


def test_no_such_model(tmp_path, monkeypatch):
    assert "neither a folder nor a hub id" in refused(tmp_path / "nowhere")
    (tmp_path / "file.safetensors").touch()
    assert "is a file" in refused(tmp_path / "file.safetensors")
    assert "config.json" in refused(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "owner/model-that-is-not-cached" in refused("owner/model-that-is-not-cached")
