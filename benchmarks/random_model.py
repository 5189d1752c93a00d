"""Writes a random checkpoint of a published shape: speed does not depend on the weights' values.

Run ``python benchmarks/random_model.py 0.8b FOLDER``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from slant.model.checkpoint import expected_shapes
from slant.model.config import ModelConfig

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
SHAPES: dict[str, dict[str, Any]] = {
    "0.8b": _COMMON
    | {
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "linear_num_value_heads": 16,
    },
    "4b": _COMMON
    | {
        "hidden_size": 2560,
        "intermediate_size": 9216,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "linear_num_value_heads": 32,
    },
}


def write(shape: str, folder: Path, seed: int = 0) -> Path:
    """Write config.json and a bf16 model.safetensors (A_log and norms fp32) unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHAPES[shape], indent=2))
    path = folder / "model.safetensors"
    if path.exists():
        return folder
    config = ModelConfig.parse(SHAPES[shape])
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, size in expected_shapes(config).items():
        if name.endswith("A_log"):
            tensor = torch.empty(size).uniform_(0.01, 16, generator=generator).log()
        elif len(size) == 1:
            tensor = torch.ones(size) if name.endswith(("dt_bias", "linear_attn.norm.weight")) else torch.zeros(size)
        else:
            tensor = torch.empty(size, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)
        tensors["model." + name] = tensor
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.rename(path)
    return folder


if __name__ == "__main__":
    print(write(sys.argv[1], Path(sys.argv[2])))
