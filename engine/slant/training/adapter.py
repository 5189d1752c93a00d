"""The adapters beside the merged checkpoint, in peft's format, for the base as plain transformers loads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slant.artifact.shards import safetensors
from slant.files import write_whole
from slant.model.checkpoint import Checkpoint

_HEAD = "lm_head"


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
            wide[torch.tensor(answer_ids, dtype=torch.int64, device="cpu")] = tensor.detach().cpu()
            tensor = wide
        tensors[f"base_model.model.{_HEAD if place == 'head' else blocks}.{name}"] = tensor.detach().cpu()
    write_whole(folder / "adapter_model.safetensors", safetensors(tensors))
    config = network.peft_config[network.active_adapter]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.target_modules = sorted(_HEAD if name == "head" else name for name in config.target_modules)
    config.save_pretrained(folder)
