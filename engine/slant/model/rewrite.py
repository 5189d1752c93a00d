"""A checkpoint written anew with some of its tensors changed: what a training, or an adapter, makes of its base.

The files are not saved from a model: what is not changed, vision and multi-token-prediction tensors included, keeps its
bytes and dtype, and its name too unless a tool had wrapped it. One tensor is in memory at a time. A head that was tied
to the embedding can become a matrix of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from slant import tensor_files
from slant.artifact.shards import stream
from slant.errors import CheckpointError
from slant.files import first_with, write_whole
from slant.model.checkpoint import Checkpoint
from slant.model.folder import CONFIG, INDEX
from slant.model.names import canonical, is_usual
from slant.tensor_files import EMBEDDING, HEAD, ITEMSIZE, TensorInfo, headers

TEXTS = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "slant.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "LICENSE",
)


def rewrite(
    checkpoint: Checkpoint,
    folder: Path,
    changed: Callable[[str, Tensor], Tensor],
    *,
    texts: Sequence[Path],
    own_head: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """Write ``checkpoint`` with changed tensors to ``folder``, with the tokenizer and the like.

    changed: gives what is stored in place of the tensor of a canonical name, in the same shape and dtype.
    texts: the folders that each of ``TEXTS`` is copied from, the first of them that has it.
    own_head: give a head that is tied to the embedding a tensor of its own: what ``changed`` makes of the embedding's.
    progress: called with (tensors written, tensors in all).

    Returns the SHA-256 of each safetensors file. Raises CheckpointError for a dtype other than F32, BF16 and F16.
    """
    untied = own_head and checkpoint.head == EMBEDDING
    found = {path: list(headers({path: None}).values()) for path in checkpoint.weights.files}
    total, done = sum(map(len, found.values())) + untied, 0
    weight_map: dict[str, str] = {}
    written: dict[str, str] = {}
    for path, infos in found.items():
        tensors = {_key(checkpoint, info): (canonical(info.key), info) for info in infos}
        if untied and (embedding := checkpoint.tensors[EMBEDDING]).file == path:
            tensors[HEAD] = HEAD, embedding

        def read(key: str, tensors: dict[str, tuple[str, TensorInfo]] = tensors) -> Tensor:
            nonlocal done
            name, info = tensors[key]
            tensor = changed(name, tensor_files.read(info))
            progress(done := done + 1, total)
            return tensor

        name = str(path.relative_to(checkpoint.folder))
        (folder / name).parent.mkdir(exist_ok=True)
        layout = {key: (_stored(info), info.shape) for key, (_, info) in tensors.items()}
        written[name] = write_whole(folder / name, stream(layout, read))[1]
        weight_map |= dict.fromkeys(tensors, name)
    if index := checkpoint.weights.index:
        metadata = index.get("metadata") or {}
        kept = {key: value for key, value in metadata.items() if not (untied and key == "total_size")}
        write_whole(folder / INDEX, _json({**index, "metadata": kept, "weight_map": dict(sorted(weight_map.items()))}))
    config = json.loads((checkpoint.folder / CONFIG).read_bytes())
    write_whole(folder / CONFIG, _json(_untied(config) if own_head else config))
    for name in TEXTS:
        if (path := first_with(texts, name)).exists():
            shutil.copyfile(path, folder / name)
    return written


def _key(checkpoint: Checkpoint, info: TensorInfo) -> str:
    """The key of a tensor in the new file: the old one, unless a tool had wrapped the model."""
    name = canonical(info.key)
    if name not in checkpoint.tensors:
        return f"model.{name}" if info.key.endswith(f"model.{name}") else name
    if name == HEAD or is_usual(info.key, name):
        return name if name == HEAD else info.key
    return f"{checkpoint.config.network_prefix[checkpoint.config.architecture]}.{name}"


def _stored(info: TensorInfo) -> str:
    if info.dtype not in ITEMSIZE:
        raise CheckpointError(f"{info.key} is stored as {info.dtype}; give the {', '.join(ITEMSIZE)} checkpoint.")
    return info.dtype


def _untied(config: dict[str, Any]) -> dict[str, Any]:
    parts = {"text_config": _untied(config["text_config"])} if "text_config" in config else {}
    return {**config, **parts, "tie_word_embeddings": False}


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
