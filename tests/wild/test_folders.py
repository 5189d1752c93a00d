"""Which files of a folder are the model: those that transformers reads, or a refusal naming what is there instead."""

import itertools
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import classifier
import oracle
import tiny
from slant import Engine
from slant.errors import CheckpointError, SlantError
from slant.model.checkpoint import Checkpoint
from slant.model.folder import resolve
from slant.model.source import open_model
from slant.tensor_files import headers

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b\nsize 135\n"
PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return classifier.write(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, single):
    """The same model in shards."""
    folder = tmp_path_factory.mktemp("sharded")
    tiny.save("grouped", folder, max_shard_size="20KB")
    for name in ("tokenizer.json", "slant.json"):
        shutil.copy(single / name, folder)
    return folder


@pytest.fixture
def folder(single, tmp_path):
    return shutil.copytree(single, tmp_path / "model")


@pytest.fixture
def shards(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "model")


def refused(folder):
    """The sentence that every way of loading refuses the folder with."""
    with pytest.raises(SlantError) as caught:
        Engine.load(folder, weights="fp32", device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_json(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def other_weights(folder, name):
    """Tensors of the same shapes with other values."""
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(5)
    moved = {key: tensor + torch.randn(tensor.shape, generator=generator) for key, tensor in tensors.items()}
    save_file(moved, folder / name, metadata={"format": "pt"})
    return moved


# What transformers reads


def test_single_file_wins_over_shards_and_an_index(shards, single, caplog):
    """A merged model.safetensors saved into the folder of the base (as in neph0s/CoSER#3, an index left behind)."""
    shutil.copy(single / "model.safetensors", shards)
    other_weights(shards, "model.safetensors")
    assert np.abs(oracle.ours(shards) - oracle.ours(single)).max() > 0.1
    oracle.agree(shards)
    assert any("index.json" in note for note in Checkpoint.open(shards).notes)
    assert "model.safetensors is read, as transformers does" in caplog.text


def test_damaged_index_beside_the_single_file_is_not_read(folder):
    (folder / "model.safetensors.index.json").write_text("{")
    oracle.agree(folder)


def test_shards_agree_with_transformers(shards):
    oracle.agree(shards)
    assert Checkpoint.open(shards).notes == ()


def test_folder_named_like_the_single_file(shards):
    (shards / "model.safetensors").mkdir()
    oracle.agree(shards)


def test_link_to_nothing_named_like_the_single_file(shards):
    (shards / "model.safetensors").symlink_to("gone")
    oracle.agree(shards)


def test_files_that_the_index_does_not_name_are_not_read(shards, single):
    """mlx-swift-lm#408, mlx-vlm#1464: an auxiliary file beside the shards."""
    save_file({"model.norm.weight": torch.zeros(48), "draft.weight": torch.zeros(3)}, shards / "extra.safetensors")
    shutil.copy(single / "model.safetensors", shards / "consolidated.safetensors")
    oracle.agree(shards)


def test_index_that_promises_less_than_its_shards_hold(shards):
    edit_json(
        shards / "model.safetensors.index.json",
        lambda index: index | {"weight_map": {name: name for name in set(index["weight_map"].values())}},
    )
    with pytest.raises(SlantError, match="lacks"):  # a key that no shard has
        Checkpoint.open(shards)
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    files = sorted(index["weight_map"])
    held = {next(iter(load_file(shards / name))): name for name in files}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": held}))
    oracle.agree(shards)


def test_shards_in_a_folder_of_their_own(shards):
    (shards / "weights").mkdir()
    for path in shards.glob("*.safetensors"):
        path.rename(shards / "weights" / path.name)
    edit_json(
        shards / "model.safetensors.index.json",
        lambda index: index | {"weight_map": {key: f"weights/{name}" for key, name in index["weight_map"].items()}},
    )
    oracle.agree(shards)


@pytest.mark.parametrize("path", ["../{}", "/tmp/{}", "weights/../../{}"])
def test_index_that_names_files_elsewhere(shards, path):
    edit_json(
        shards / "model.safetensors.index.json",
        lambda index: index | {"weight_map": {key: path.format(name) for key, name in index["weight_map"].items()}},
    )
    assert "outside of its folder" in refused(shards)


def test_tensor_in_two_shards_names_both(shards):
    first, second = sorted(shards.glob("*.safetensors"))[:2]
    tensors = load_file(first)
    save_file(load_file(second) | {next(iter(tensors)): next(iter(tensors.values())) + 1}, second)
    message = refused(shards)
    assert first.name in message
    assert second.name in message


@pytest.mark.parametrize("index", [{"metadata": {"total_size": 3}}, {"weight_map": {}}, {"weight_map": ["a"]}, []])
def test_index_without_a_map(shards, index):
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json is damaged" in refused(shards)


def test_adapter_beside_whole_weights(folder):
    """peft leaves it there, and transformers attaches it again (huggingface/peft#1381)."""
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    message = refused(folder)
    assert "adapter_config.json" in message
    assert "remove" in message


def test_weights_that_the_config_names(folder):
    edit_json(folder / "config.json", lambda config: config | {"transformers_weights": "best.safetensors"})
    shutil.copy(folder / "model.safetensors", folder / "best.safetensors")
    assert "names the file best.safetensors (transformers_weights)" in refused(folder)


def test_what_a_training_leaves_beside_the_model(folder):
    """transformers' Trainer and DeepSpeed, in checkpoint-500."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "zero_to_fp32.py", "latest"):
        (folder / name).write_bytes(b"\x80\x02}q\x00.")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "global_step500").mkdir()
    oracle.agree(folder)


def test_weights_of_deepspeed_that_were_not_gathered(folder):
    """Its ZeRO-3 saves tensors without elements, and its state beside them."""
    tensors = load_file(folder / "model.safetensors")
    save_file({key: torch.empty(0) for key in tensors}, folder / "model.safetensors")
    (folder / "global_step500").mkdir()
    message = refused(folder)
    assert "[0]" in message
    assert "ZeRO" in message


def _single(folder, single):
    shutil.copy(single / "model.safetensors", folder)
    other_weights(folder, "model.safetensors")


MIXTURES = {
    "another single file": _single,
    "an empty single file": lambda folder, single: (folder / "model.safetensors").write_bytes(b""),
    "a folder as single file": lambda folder, single: (folder / "model.safetensors").mkdir(),
    "a consolidated file": lambda folder, single: shutil.copy(
        single / "model.safetensors", folder / "consolidated.safetensors"
    ),
    "a damaged index": lambda folder, single: (folder / "model.safetensors.index.json").write_text("{"),
    "no index": lambda folder, single: (folder / "model.safetensors.index.json").unlink(missing_ok=True),
    "a lost shard": lambda folder, single: max(folder.glob("model-*.safetensors")).unlink(),
    "a pickle": lambda folder, single: (folder / "pytorch_model.bin").write_bytes(b"PK"),
    "an adapter's configuration": lambda folder, single: (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(single)})
    ),
    "a quantization of none": lambda folder, single: edit_json(
        folder / "config.json", lambda config: config | {"quantization_config": None}
    ),
    "no architecture": lambda folder, single: edit_json(
        folder / "config.json", lambda config: config | {"architectures": None}
    ),
}


PAIRS = [pair for pair in itertools.combinations(MIXTURES, 2) if sum("single file" in name for name in pair) < 2]


@pytest.mark.parametrize("pair", PAIRS, ids=", ".join)
def test_mixtures_agree_with_transformers_or_are_refused(shards, single, pair):
    for name in pair:
        MIXTURES[name](shards, single)
    try:
        scores = oracle.ours(shards)
    except SlantError:
        assert str(shards) in refused(shards)
        return
    np.testing.assert_allclose(scores, oracle.theirs(shards, single), atol=1e-4, rtol=0)


# What stands in for a file


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (LFS, "git lfs pull"),
        (PAGE, "web page"),
        ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        ("", "is empty;"),
        ("Entry not found", "Entry not found"),
        ("Invalid username or password.", "Invalid username"),
    ],
)
def test_stand_in_is_named(folder, name, content, word):
    """HeaderTooLarge of a pointer: codefuse-ai/MFTCoder#20, microsoft/OmniParser#34."""
    (folder / name).write_text(content)
    message = refused(folder)
    assert str(folder / name) in message
    assert word in message


@pytest.mark.parametrize("content", [LFS, PAGE, ""])
def test_stand_in_for_a_shard_or_the_index(shards, content):
    index = shards / "model.safetensors.index.json"
    kept = index.read_text()
    index.write_text(content)
    assert str(index) in refused(shards)
    index.write_text(kept)
    shard = max(shards.glob("*.safetensors"))
    shard.write_text(content)
    assert f"{shard} is " in refused(shards)


@pytest.mark.parametrize(
    ("start", "word"), [(b"GGUF\x03", "GGUF"), (b"PK\x03\x04", "torch.save"), (pickle.dumps({}, 2), "pickle")]
)
def test_another_format_under_the_name(folder, start, word):
    (folder / "model.safetensors").write_bytes(start + bytes(300))
    assert word in refused(folder)


def test_answer_of_a_server_in_place_of_weights(folder):
    (folder / "model.safetensors").write_text('{"error":"Repository not found"}')
    assert "Repository not found" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "slant.json"])
def test_pipe_in_place_of_a_file(folder, name):
    """Opening one waits for ever."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{folder / name} is no regular file" in refused(folder)


def test_links_to_nothing(shards):
    for path in (min(shards.glob("*.safetensors")), shards / "model.safetensors.index.json", shards / "config.json"):
        path.unlink()
        path.symlink_to("../blobs/gone")
        assert f"{path} is a link to a file that is gone" in refused(shards)


def test_unreadable_file_is_named(folder, monkeypatch):
    """As another user's file; the tests may run as root, who reads everything."""
    path = folder / "model.safetensors"
    opened = Path.open

    def refuse(self, *arguments, **options):
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("slant.tensor_files.safe_open", lambda *_, **__: refuse(path))
    assert f"{path} cannot be read: Permission denied" in refused(folder)


# Folders that hold something else


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("model.Q4_K_M.gguf", "GGUF"),
        ("pytorch_model.bin", "pickles of PyTorch"),
        ("consolidated.00.pth", "pickles of PyTorch"),
        ("model.pt", "pickles of PyTorch"),
        ("last.ckpt", "pickles of PyTorch"),
        ("model.onnx", "ONNX"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("openvino_model.xml", "OpenVINO"),
        ("weights.npz", "MLX"),
        ("global_step500", "DeepSpeed"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "FSDP"),
        ("model-00001-of-00002.safetensors", "no model.safetensors.index.json"),
        ("consolidated.safetensors", "consolidated.safetensors is not a name"),
        ("model.fp16.safetensors", "model.fp16.safetensors is not a name"),
        ("shard-00000-model-00001-of-00001.safetensors", "distributed checkpoint"),
    ],
)
@pytest.mark.parametrize("config", [True, False])
def test_folder_of_another_tool(folder, name, word, config):
    (folder / "model.safetensors").unlink()
    if not config:
        (folder / "config.json").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\x00" * 64)
    message = refused(folder)
    assert word in message
    assert str(folder) in message


@pytest.mark.parametrize("inner", ["checkpoint-500", "merged"])
def test_folder_above_the_model(folder, tmp_path, inner):
    folder.rename(tmp_path / inner)
    (tmp_path / "trainer_state.json").write_text("{}")
    assert f"the model seems to be in {tmp_path / inner}" in refused(tmp_path)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "by fp8"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "by awq"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "by gptq"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "by bitsandbytes"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "by compressed-tensors"),
        ({"quantization_config": {"quant_method": "torchao"}}, "by torchao"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"text_config": {"quantization_config": {"quant_method": "modelopt"}}}, "by modelopt"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "by MLX"),
    ],
)
def test_quantized_checkpoint_names_the_method(folder, settings, word):
    edit_json(folder / "config.json", lambda config: config | settings)
    message = refused(folder)
    assert word in message
    assert "unquantized" in message


def test_null_quantization_is_none(folder):
    edit_json(folder / "config.json", lambda config: config | {"quantization_config": None})
    oracle.ours(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8, torch.int8, torch.float64])
def test_dtype_that_is_not_computed(folder, dtype):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].to(dtype)
    save_file(tensors, folder / "model.safetensors")
    message = refused(folder)
    assert "model.layers.0.mlp.up_proj.weight" in message
    assert "F32" in message


def test_mlx_conversion_is_refused_by_its_metadata(folder):
    """Its norms are shifted by one, which no shape shows (ml-explore/mlx-lm#1623)."""
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata={"format": "mlx"})
    assert "MLX" in refused(folder)


def test_mlx_conversion_is_known_by_its_convolutions(folder):
    tensors = load_file(folder / "model.safetensors")
    key = "model.layers.0.linear_attn.conv1d.weight"
    save_file(tensors | {key: tensors[key].movedim(2, 1).contiguous()}, folder / "model.safetensors")
    message = refused(folder)
    assert "MLX" in message
    assert key in message


# Safetensors files that are none


def header(content, data=b""):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 0),
        header(b"no json"),
        header(b"\xff\xfe"),
        header([]),
        header({"model.norm.weight": {"dtype": "F32", "shape": [48], "data_offsets": [0, 10**9]}}, bytes(192)),
        header({"model.norm.weight": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        header({"model.norm.weight": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        header({"__metadata__": {"format": 3}}),
        header(
            {
                "model.norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "lm_head.weight": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            bytes(12),
        ),
    ],
)
def test_damaged_header_is_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    message = refused(folder)
    assert str(folder / "model.safetensors") in message


def test_tensor_without_elements_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"model.norm.weight": torch.empty(0)}, folder / "model.safetensors")
    assert "[0]" in refused(folder)


# How a folder is given


def test_paths_as_people_type_them(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    for spelled in ("~/model", f"{folder}/", str(folder / ".." / "model"), f" {folder}"):
        assert Checkpoint.open(spelled).tensors


def test_home_of_nobody():
    with pytest.raises(CheckpointError, match="is no path here"):
        resolve("~no-such-user-here/model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_file_of_the_folder(folder, name):
    message = refused(folder / name)
    assert "is a file" in message
    assert f"such as {folder}." in message


@pytest.mark.parametrize("name", ["", " ", "https://huggingface.co/owner/name", "a/b/c", "\0", "x" * 5000])
def test_no_name_of_a_model(name):
    with pytest.raises(CheckpointError, match="hub id"):
        resolve(name)


def test_read_only_folder(folder):
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    before = sorted(path.name for path in folder.iterdir())
    oracle.ours(folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    folder.chmod(0o755)


@pytest.fixture
def cached(single, tmp_path, monkeypatch):
    """A function that puts the named files into the hub's cache, as of owner/name, and goes offline."""

    def put(*names):
        repository = tmp_path / "hub" / "models--owner--name"
        snapshot = repository / "snapshots" / ("a" * 40)
        for made in (snapshot, repository / "refs", repository / "blobs"):
            made.mkdir(parents=True)
        (repository / "refs" / "main").write_text("a" * 40)
        for name in names:
            shutil.copy(single / name, repository / "blobs" / name)
            (snapshot / name).symlink_to(f"../../blobs/{name}")
        return repository

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return put


WHOLE = "config.json", "model.safetensors", "tokenizer.json", "slant.json"


def test_whole_snapshot_offline(cached, single):
    cached(*WHOLE)
    np.testing.assert_array_equal(oracle.ours("owner/name"), oracle.ours(single))


def test_partial_snapshot_offline(cached):
    cached("config.json")
    message = refused("owner/name")
    assert "owner/name" in message
    assert "model.safetensors" in message


def listed(repository, *names):
    """Note in the cache that the hub has these files, as a download does."""
    files = {name: {"size": 1, "blob_id": "b" * 40} for name in names}
    (repository / "trees").mkdir()
    (repository / "trees" / f"{'a' * 40}.json").write_text(json.dumps({"format_version": 1, "files": files}))


def test_snapshot_that_lacks_what_is_not_read(cached, single):
    """Kept in the cache by transformers, which reads fewer files than the hub has."""
    listed(cached(*WHOLE), *WHOLE, "preprocessor_config.json", "consolidated.safetensors", "onnx/model.json")
    np.testing.assert_array_equal(oracle.ours("owner/name"), oracle.ours(single))


@pytest.mark.parametrize("name", ["slant.json", "tokenizer.json"])
def test_snapshot_that_lacks_what_scores_depend_on(cached, name):
    listed(cached(*(other for other in WHOLE if other != name)), *WHOLE)
    message = refused("owner/name")
    assert "owner/name" in message
    assert name in message


def test_snapshot_that_may_lack_a_prompt(cached):
    cached("config.json", "model.safetensors", "tokenizer.json")
    assert any("slant.json" in note for note in open_model("owner/name").notes)


def test_snapshot_of_a_hub_that_has_no_prompt(cached):
    names = "config.json", "model.safetensors", "tokenizer.json"
    listed(cached(*names), *names)
    assert open_model("owner/name").notes == ()


def test_blob_that_is_gone(cached):
    (cached(*WHOLE) / "blobs" / "model.safetensors").unlink()
    assert "is a link to a file that is gone" in refused("owner/name")


def test_cache_that_cannot_be_written(cached, monkeypatch, single):
    """A shared cache, mounted read-only."""
    cached(*WHOLE)
    import huggingface_hub

    whole = huggingface_hub.snapshot_download

    def download(*arguments, local_files_only=False, **options):
        if not local_files_only:
            raise OSError(30, "Read-only file system")
        return whole(*arguments, local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    np.testing.assert_array_equal(oracle.ours("owner/name"), oracle.ours(single))


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("tokenizer.model",), ()])
def test_folder_without_a_fast_tokenizer(folder, names):
    (folder / "tokenizer.json").unlink()
    for name in names:
        (folder / name).write_text("{}")
    message = refused(folder)
    assert "tokenizer.json" in message
    assert all(name in message for name in names[:1])


def test_a_tensor_name_without_end_is_not_printed(tmp_path):
    save_file({"x" * 5000: torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="name is of 5000 characters"):
        headers({tmp_path / "model.safetensors": None})


def test_folders_of_a_repository_are_not_downloaded(monkeypatch, single):
    """Whole exports (original/, onnx/) lie beside many models; the hub's own filter tells what comes."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    names = ["config.json", "model.safetensors", "merges.txt", "original/model.safetensors", "onnx/config.json"]
    asked = []

    def download(hub_id, *, allow_patterns, ignore_patterns=None, **options):
        asked.extend(filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        return str(single)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("owner/name") == single
    assert asked == names[:3]
