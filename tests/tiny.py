"""Tiny random Qwen3.5 checkpoints, saved by transformers, for comparing the engine with it."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3_5Config, Qwen3_5ForCausalLM, Qwen3_5ForConditionalGeneration, Qwen3_5TextConfig

from slant.artifact.recipe import NAMED, Recipe
from slant.model.checkpoint import Checkpoint
from slant.model.config import ModelConfig
from slant.model.hqq import QuantizedCheckpoint
from slant.model.registry import ARCHITECTURES
from slant.runtime.execution import Head

L, F = "linear_attention", "full_attention"
VOCABULARY = 96
ANSWERS = (15, 16, 17, 18, 19)

_BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "layer_types": [L, L, L, F],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    "tie_word_embeddings": False,
}

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "equal heads": {"linear_num_key_heads": 3, "linear_num_value_heads": 3, "layer_types": [L, F, L, F]},
    "odd heads": {
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "linear_num_key_heads": 1,
        "linear_num_value_heads": 5,
        "hidden_size": 40,
    },
    "attention first and last": {"layer_types": [F, L, F]},
    "linear last": {"layer_types": [F, L, L]},
    "one attention layer": {"layer_types": [F]},
    "one linear layer": {"layer_types": [L]},
    "real head sizes": {
        "layer_types": [L, F],
        "hidden_size": 128,
        "head_dim": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25},
    },
}
MULTIMODAL = "multimodal"


def text_config(shape: str) -> Qwen3_5TextConfig:
    settings = _BASE | SHAPES[shape]
    return Qwen3_5TextConfig(**settings, num_hidden_layers=len(settings["layer_types"]))


def build(shape: str, seed: int = 0) -> Any:
    """A random fp32 model whose every tensor matters: no zero norms, no uniform gates."""
    torch.manual_seed(seed)
    if shape == MULTIMODAL:
        vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 48}
        text = text_config("tied").to_dict()
        model: Any = Qwen3_5ForConditionalGeneration(
            Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=True)
        )
    else:
        model = Qwen3_5ForCausalLM(text_config(shape))
    randomize(model)
    return model.eval()


@torch.no_grad()
def randomize(model: Any) -> None:
    for name, tensor in model.named_parameters():
        if name.endswith("A_log"):
            tensor.uniform_(-3, 2)
        elif name.endswith("dt_bias"):
            tensor.uniform_(-3, 1)
        elif tensor.ndim == 1:
            tensor.add_(torch.randn_like(tensor) * 0.2)
        else:
            tensor.normal_(std=tensor[0].numel() ** -0.5 if "embed" not in name else 1.0)


def save(shape: str, folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    build(shape).to(dtype).save_pretrained(folder, **options)
    return folder


def recipe(bits: int | str, group_size: int = 64) -> Recipe:
    """The architecture's recipe for a number of bits, or for a name like "hqq4"."""
    config = ARCHITECTURES["Qwen3_5ForCausalLM"].config.parse(text_config("grouped").to_dict())
    return config.recipe(bits if isinstance(bits, int) else NAMED[bits], group_size)


def weight_bytes(config: ModelConfig, itemsize: int, answers: int) -> int:
    """Resident weights: matrices at ``itemsize`` bytes an element, the rest and the ``answers`` head rows in fp32."""
    sizes = [math.prod(shape) * (itemsize if len(shape) == 2 else 4) for shape in config.shapes().values()]
    return sum(sizes) + answers * config.hidden_size * 4


def head(source: Checkpoint | QuantizedCheckpoint, device: torch.device | None = None) -> Head:
    norm, rows = source.read("norm.weight"), source.head_rows(ANSWERS)
    return Head(norm.to(device, torch.float32), rows.to(device, torch.float32), 1e-6)


def quantized(folder: Path, recipe: Recipe) -> QuantizedCheckpoint:
    """A checkpoint seen through a recipe, on the CPU, that quantizes each matrix once however often it is read."""
    source = QuantizedCheckpoint(Checkpoint.open(folder), recipe, torch.device("cpu"))
    source.quantized = cache(source.quantized)  # type: ignore[method-assign]
    return source
