"""What a training leaves: adapters in peft's format, and merged into a copy of the base's files, tensor by tensor.

The files are not saved from a model: what was not trained, vision and multi-token-prediction tensors included, keeps
its bytes, name and dtype. A trained matrix is rounded once, from fp32 to its dtype. A head that was tied to the
embedding becomes a matrix of its own.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slant.artifact.shards import safetensors
from slant.errors import CheckpointError
from slant.files import write_whole
from slant.model.checkpoint import Checkpoint
from slant.tensor_files import EMBEDDING, HEAD, ITEMSIZE, opened

INDEX = "model.safetensors.index.json"
COPIED = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "LICENSE",
)


def merge(
    checkpoint: Checkpoint,
    deltas: Mapping[str, Tensor],
    answer_ids: Sequence[int],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """Write ``checkpoint`` plus ``deltas`` to ``folder``, its tokenizer included; one file is in memory at a time.

    deltas: fp32, by canonical names; that of ``HEAD`` has one row for each of ``answer_ids``.
    progress: called with (files written, files in all).

    Returns the SHA-256 of each safetensors file. Raises CheckpointError for a dtype other than F32, BF16 and F16.
    """
    canonical = {info.key: name for name, info in checkpoint.tensors.items()}
    embedding, untied = checkpoint.tensors[EMBEDDING], checkpoint.head == EMBEDDING
    index = copy.deepcopy(checkpoint.weights.index)
    names = [str(path.relative_to(checkpoint.folder)) for path in checkpoint.weights.files]
    written = {}
    for done, name in enumerate(names, 1):
        tensors: dict[str, Tensor] = {}
        with opened(checkpoint.folder / name) as file:
            for key in file.keys():  # noqa: SIM118 (it is no mapping)
                if (dtype := file.get_slice(key).get_dtype()) not in ITEMSIZE:
                    raise CheckpointError(f"{key} is stored as {dtype}; give the {', '.join(ITEMSIZE)} checkpoint.")
                tensors[key] = _merged(file.get_tensor(key), canonical.get(key), deltas, answer_ids)
            if untied and name == embedding.file.name:
                tensors[HEAD] = _merged(file.get_tensor(embedding.key), HEAD, deltas, answer_ids)
        written[name] = write_whole(folder / name, safetensors(tensors))[1]
        progress(done, len(names))
    if index:
        if untied:
            index["weight_map"][HEAD] = embedding.file.name
            index.get("metadata", {}).pop("total_size", None)
        write_whole(folder / INDEX, _json(index))
    write_whole(folder / "config.json", _json(_untied(json.loads((checkpoint.folder / "config.json").read_bytes()))))
    for name in COPIED:
        if (checkpoint.folder / name).exists():
            shutil.copyfile(checkpoint.folder / name, folder / name)
    return written


def write_adapter(network: Any, checkpoint: Checkpoint, answer_ids: Sequence[int], base: str, folder: Path) -> None:
    """Write the adapters of an ``AnswerNetwork`` so that ``PeftModel.from_pretrained(base_model, folder)`` takes them.

    The head's second factor gets a row of zeros for each token that is no answer.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(exist_ok=True)
    blocks = checkpoint.config.network_prefix[checkpoint.config.architecture]
    tensors: dict[str, Tensor] = {}
    for key, tensor in get_peft_model_state_dict(network).items():
        place, _, name = key.removeprefix("base_model.model.").partition(".")
        if place == "head" and name == "lora_B.weight":
            wide = torch.zeros(checkpoint.config.vocab_size, tensor.shape[1], dtype=tensor.dtype, device="cpu")
            wide[list(answer_ids)] = tensor.detach().cpu()
            tensor = wide
        tensors[f"base_model.model.{'lm_head' if place == 'head' else blocks}.{name}"] = tensor.detach().cpu()
    write_whole(folder / "adapter_model.safetensors", safetensors(tensors))
    config = network.peft_config[network.active_adapter]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.target_modules = sorted("lm_head" if name == "head" else name for name in config.target_modules)
    config.save_pretrained(folder)


def _merged(base: Tensor, name: str | None, deltas: Mapping[str, Tensor], answer_ids: Sequence[int]) -> Tensor:
    delta = deltas.get(name) if name else None
    if delta is None:
        return base
    if name != HEAD:
        return (base.float() + delta).to(base.dtype)
    rows, head = list(answer_ids), base.clone()
    head[rows] = (base[rows].float() + delta).to(base.dtype)
    return head


def _untied(config: dict[str, Any]) -> dict[str, Any]:
    parts = {"text_config": _untied(config["text_config"])} if "text_config" in config else {}
    return {**config, **parts, "tie_word_embeddings": False}


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
