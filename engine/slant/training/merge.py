"""What a training leaves: adapters in peft's format, and merged into a copy of the base's files.

A trained matrix is rounded once, from fp32 to its dtype. A head that was tied to the embedding becomes a matrix of its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slant.artifact.shards import safetensors
from slant.files import write_whole
from slant.model.checkpoint import Checkpoint
from slant.model.rewrite import rewrite
from slant.tensor_files import HEAD


def merge(
    checkpoint: Checkpoint,
    deltas: Mapping[str, Tensor],
    answer_ids: Sequence[int],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """Write ``checkpoint`` plus ``deltas`` to ``folder``, its tokenizer included; see ``rewrite``.

    deltas: fp32, by canonical names; that of ``HEAD`` has one row for each of ``answer_ids``.
    """

    def changed(name: str, base: Tensor) -> Tensor:
        if name not in deltas:
            return base
        if name != HEAD:
            return (base.float() + deltas[name]).to(base.dtype)
        rows, head = list(answer_ids), base.clone()
        head[rows] = (base[rows].float() + deltas[name]).to(base.dtype)
        return head

    return rewrite(checkpoint, folder, changed, texts=checkpoint.folders, own_head=True, progress=progress)


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
