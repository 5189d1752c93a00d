"""The published shapes of the model, and checkpoints of them cut to a few layers, whose values do not matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from slant.model.config import ModelConfig
from slant.model.registry import parse_config

_COMMON: dict[str, Any] = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "vocab_size": 248320,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "full_attention_interval": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25},
    "max_position_embeddings": 262144,
    "tie_word_embeddings": True,
}
SMALL: dict[str, Any] = _COMMON | {
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "linear_num_value_heads": 16,
}
LARGE: dict[str, Any] = _COMMON | {
    "hidden_size": 2560,
    "intermediate_size": 9216,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "linear_num_value_heads": 32,
}


NARROW: dict[str, Any] = {  # changes to a quarter of the arithmetic, with the same proportions
    "hidden_size": 512,
    "intermediate_size": 1792,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 8,
}


def small(**changes: Any) -> ModelConfig:
    """The shape of 0.8 billion parameters, with changes."""
    return parse_config(SMALL | changes)


def large(**changes: Any) -> ModelConfig:
    """The shape of 4 billion parameters, with changes."""
    return parse_config(LARGE | changes)


def write_small(folder: Path, **changes: Any) -> Path:
    """A checkpoint in bf16 of the small shape with changes; every weight is 0.01."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL | changes))
    tensors = {
        "model." + name: torch.full(size, 0.01, dtype=torch.float32 if len(size) == 1 else torch.bfloat16)
        for name, size in small(**changes).shapes().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
