"""Which files of a folder or hub id are the model, as transformers chooses them; or what the folder holds instead.

transformers reads ``model.safetensors`` if there is one, else the shards that ``model.safetensors.index.json`` names.
With ``adapter_config.json`` it loads a base and attaches the adapter: ``slant.model.adapter`` does that. Files of other
names and formats are never read, so what is said of them are hints.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from slant.artifact import MANIFEST
from slant.errors import CheckpointError, reason
from slant.files import read_object
from slant.stand_ins import refuse_stand_in

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SMALL = (CONFIG, "tokenizer.json", "slant.json", ADAPTER, MANIFEST)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What folders of other tools hold, by pattern: a name, and the way out.
_OTHERS = {
    "*.gguf": ("GGUF", "give the checkpoint that it was converted from"),
    "*.onnx": ("ONNX", "give the checkpoint that it was exported from"),
    "*.bin": ("pickles of PyTorch", "load them with transformers and save them with save_pretrained"),
    "*.pt": ("pickles of PyTorch", "load them with transformers and save them with save_pretrained"),
    "*.pth": ("pickles of PyTorch", "load them with transformers and save them with save_pretrained"),
    "*.ckpt": ("pickles of PyTorch", "load them with transformers and save them with save_pretrained"),
    "*.h5": ("TensorFlow", "load it with transformers and save it with save_pretrained"),
    "*.msgpack": ("Flax", "load it with transformers and save it with save_pretrained"),
    "*.npz": ("NumPy or MLX", "give the checkpoint that it was converted from"),
    "*.distcp": ("a distributed checkpoint of torch", "gather it into model.safetensors first"),
    "*/*.distcp": ("FSDP's sharded state", "gather it into model.safetensors first (accelerate merge-weights)"),
    "global_step*": ("DeepSpeed's sharded state", "gather it first (zero_to_fp32.py, which stands beside it)"),
    "rank*.engine": ("TensorRT-LLM", "give the checkpoint that it was built from"),
    "openvino_model.xml": ("OpenVINO", "give the checkpoint that it was converted from"),
}


@dataclass(frozen=True)
class WeightFiles:
    """``files``: each with the keys that the index promises to be in it, None without one; ``index``: its content."""

    files: Mapping[Path, set[str] | None]
    index: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def resolve(model: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model: itself, or the downloaded snapshot of a hub id, of its newest revision if None."""
    name = str(model).strip()
    path = Path(name)
    try:
        path = path.expanduser()
        if name and path.is_dir():
            return _checked(path)
        exists = name and path.exists()
    except RuntimeError as error:  # of expanduser
        raise CheckpointError(f"{path} is no path here: {error}") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}; check its permissions.") from None
        exists = False
    if exists:
        raise CheckpointError(
            f"{path} is a file; give the folder that holds config.json and the safetensors files, such as "
            f"{path.parent}."
        )
    hub_id = name.rstrip("/")
    if not _HUB_ID.fullmatch(hub_id):
        raise CheckpointError(f"{name[:200]!r} is neither a folder nor a hub id such as owner/name.")
    return _checked(_snapshot(hub_id, revision))


def has_weights(folder: Path) -> bool:
    """Whether there are files that transformers would take for the whole weights."""
    return (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter and no whole weights. Raises CheckpointError if it holds both."""
    if not (folder / ADAPTER).is_file():
        return False
    if has_weights(folder):
        raise CheckpointError(
            f"{folder} holds whole weights and {ADAPTER}, and transformers would apply the adapter to these weights: "
            f"remove {ADAPTER} if it is merged into them, or move the adapter to a folder of its own and give that."
        )
    return True


def weight_files(folder: Path) -> WeightFiles:
    """The safetensors files of a checkpoint folder. Raises CheckpointError if there are none, saying what there is."""
    if shards := sorted(folder.glob("shard-*-model-*-of-*.safetensors")):
        raise CheckpointError(
            f"{shards[0]} is of a distributed checkpoint, in pieces of tensors; gather it into {WEIGHTS} first."
        )
    if not (folder / CONFIG).is_file():
        refuse_stand_in(folder / CONFIG)
        raise CheckpointError(f"{folder / CONFIG} does not exist; {_way_out(folder)}")
    config = read_object(folder / CONFIG, CheckpointError)
    _refuse_quantized(folder / CONFIG, config)
    named = config.get("transformers_weights", WEIGHTS)
    if named not in (WEIGHTS, INDEX):
        raise CheckpointError(
            f"{folder / CONFIG} names the file {named} (transformers_weights); "
            f"rename it to {WEIGHTS} and remove the key."
        )
    if (folder / WEIGHTS).is_file() and named == WEIGHTS:
        return WeightFiles({folder / WEIGHTS: None}, notes=tuple(_notes(folder)))
    if (folder / INDEX).is_file():
        return _sharded(folder)
    for name in (WEIGHTS, INDEX):
        refuse_stand_in(folder / name)
    raise CheckpointError(f"{folder} has no {WEIGHTS}; {_way_out(folder)}")


def _sharded(folder: Path) -> WeightFiles:
    path = folder / INDEX
    index = read_object(path, CheckpointError)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} is damaged (it has no weight_map of keys to files); download it again.")
    promised: dict[Path, set[str]] = {}
    for key, name in weight_map.items():
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise CheckpointError(f"{path} is damaged ({key} is in {name!r}, no safetensors file); download it again.")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CheckpointError(f"{path} names {name}, a file outside of its folder; save the checkpoint again.")
        promised.setdefault(folder / name, set()).add(key)
    return WeightFiles(dict(sorted(promised.items())), index, tuple(_notes(folder)))


def _notes(folder: Path) -> Iterator[str]:
    if (folder / WEIGHTS).is_file() and (folder / INDEX).exists():
        yield f"{WEIGHTS} is read, as transformers does, and not the shards that {INDEX} names."
    # Other programs keep in the cache what they read themselves; the listing is there if all files were asked for.
    listing = folder.parent.parent / "trees" / f"{folder.name}.json"
    if folder.parent.name == "snapshots" and not (folder / "slant.json").exists() and not listing.exists():
        yield "the cached copy has no slant.json, and the hub was not asked for one: the default prompt is used."


def _refuse_quantized(path: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a config.json that says that the weights are quantized."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config", "quantization"):
            if not (found := part.get(key)):
                continue
            method = found.get("quant_method") if isinstance(found, dict) else None
            kind = f"by {method}" if method else "by MLX" if key == "quantization" else "by an unnamed method"
            raise CheckpointError(
                f"{path} says that the weights are quantized {kind} ({key}), which slant does not read; "
                "give the unquantized checkpoint, and quantize that with slant if it shall be small."
            )


def _way_out(folder: Path) -> str:
    """What a folder without readable weights holds instead, and what to do."""
    inside = sorted(found.parent for name in (CONFIG, ADAPTER) for found in folder.glob(f"*/{name}"))
    if inside:
        return f"the model seems to be in {' or '.join(str(path) for path in dict.fromkeys(inside[:3]))}: give that."
    if shards := sorted(folder.glob("*-of-*.safetensors")):
        return f"there are shards, such as {shards[0].name}, but no {INDEX} to say which belong: download that too."
    if found := sorted(folder.glob("*.safetensors")):
        return (
            f"{found[0].name} is not a name that transformers reads: if it is the whole model, "
            f"save it with save_pretrained, or rename it to {WEIGHTS}."
        )
    for pattern, (kind, advice) in _OTHERS.items():
        if found := sorted(folder.glob(pattern)):
            return f"{found[0].relative_to(folder)} is {kind}, which is not read: {advice}."
    if folder.parent.name == "snapshots":
        hub_id = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
        return (
            f"if {hub_id} has it, the cached copy is partial: download the rest, with HF_HUB_OFFLINE unset; "
            "if it has it in a folder, download that and give its path."
        )
    return "give the folder of a saved model or a hub id."


def _checked(folder: Path) -> Path:
    for name in _SMALL:
        refuse_stand_in(folder / name)
    return folder


def _snapshot(hub_id: str, revision: str | None) -> Path:
    """The snapshot in the Hugging Face cache, downloaded as far as it is not there yet."""
    from huggingface_hub import snapshot_download

    # The hub's "*" matches "/" too: without the second pattern whole exports in folders of their own would come along.
    wanted: dict[str, Any] = {
        "allow_patterns": ["*.json", "*.safetensors", "*.txt"],
        "ignore_patterns": ["*/*"],
        "revision": revision,
    }
    try:
        try:
            return Path(snapshot_download(hub_id, **wanted))
        except OSError as error:
            # Offline, of a partial copy: its weights may do, and opening them says what is missing.
            if hasattr(error, "snapshot_path"):
                return Path(snapshot_download(hub_id, allow_patterns=[*_SMALL, INDEX], revision=revision))
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            return Path(snapshot_download(hub_id, **wanted, local_files_only=True))  # a cache that is not ours to write
    except Exception as error:  # the hub client raises a family of its own, network errors and OSError
        raise CheckpointError(
            f"{hub_id} is no local folder and could not be fetched from the hub: {reason(error)}."
        ) from None
