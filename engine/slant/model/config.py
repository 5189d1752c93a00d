"""The part of a Qwen3.5 ``config.json`` that the text model needs, as a frozen dataclass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from slant.errors import CheckpointError

LayerType = Literal["linear_attention", "full_attention"]

# The defaults of transformers' Qwen3_5TextConfig: it may leave out of a saved file what equals them.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 248320,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
}
_ARCHITECTURES = ("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Qwen3.5 text model; names are those of ``config.json``, sizes in elements.

    ``rotary_dim`` is the number of leading dimensions of a head that are rotated.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    layer_types: tuple[LayerType, ...]
    rope_theta: float
    rotary_dim: int
    tie_word_embeddings: bool

    @property
    def key_dim(self) -> int:
        """Width of q, and of k, in a DeltaNet layer."""
        return self.linear_num_key_heads * self.linear_key_head_dim

    @property
    def value_dim(self) -> int:
        """Width of v, z and the output in a DeltaNet layer."""
        return self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def conv_dim(self) -> int:
        """Channels of a DeltaNet layer's convolution: q, k and v."""
        return 2 * self.key_dim + self.value_dim

    @classmethod
    def read(cls, path: Path) -> ModelConfig:
        """Read ``config.json`` of the multimodal or the text-only form.

        Raises CheckpointError if the file is missing or damaged, or describes a model that is not computed here.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist; give the folder of a saved model or a hub id.") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} cannot be read as JSON ({error}); save or download the model again."
            ) from None
        return cls.parse(raw, source=str(path))

    @classmethod
    def parse(cls, raw: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
        """The configuration from the decoded JSON; ``source`` names the file in errors."""
        if not isinstance(raw, Mapping):
            raise CheckpointError(f"{source} is not a JSON object.")
        text = raw.get("text_config", raw)
        model_type = str(raw.get("model_type"))
        if model_type not in ("qwen3_5", "qwen3_5_text"):
            raise CheckpointError(
                f"{source} describes a {model_type!r} model; slant computes the Qwen3.5 family (qwen3_5)."
            )
        architecture = (raw.get("architectures") or [_ARCHITECTURES["text_config" not in raw]])[0]
        if architecture not in _ARCHITECTURES:
            raise CheckpointError(
                f"{source} names the architecture {architecture}; slant reads {' and '.join(_ARCHITECTURES)}."
            )
        for key, computed in {"hidden_act": "silu", "attention_bias": False}.items():
            if text.get(key, computed) != computed:
                raise CheckpointError(f"{source} sets {key} to {text[key]!r}; only {computed!r} is computed here.")
        sizes = {key: text.get(key, default) for key, default in _DEFAULTS.items()}
        for key, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, type(_DEFAULTS[key])) or size <= 0:
                raise CheckpointError(f"{source} sets {key} to {size!r}; a positive number is needed.")
        theta, rotary_dim = _rope(text, sizes["head_dim"], source)
        config = cls(
            architecture=architecture,
            layer_types=_layer_types(text, sizes["num_hidden_layers"], source),
            rope_theta=theta,
            rotary_dim=rotary_dim,
            # A multimodal file's own flag wins over that of its text part, as in transformers.
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            **sizes,
        )
        for heads, groups in (
            ("num_attention_heads", "num_key_value_heads"),
            ("linear_num_value_heads", "linear_num_key_heads"),
        ):
            if sizes[heads] % sizes[groups]:
                raise CheckpointError(
                    f"{source}: {heads} ({sizes[heads]}) is not a multiple of {groups} ({sizes[groups]})."
                )
        return config


def _layer_types(text: Mapping[str, Any], layers: int, source: str) -> tuple[LayerType, ...]:
    interval = text.get("full_attention_interval", 4)
    default = ["full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(layers)]
    types = tuple(text.get("layer_types") or default)
    if len(types) != layers or not set(types) <= set(get_args(LayerType)):
        raise CheckpointError(f"{source}: layer_types must name {layers} layers, each one of {get_args(LayerType)}.")
    return types


def _rope(text: Mapping[str, Any], head_dim: int, source: str) -> tuple[float, int]:
    """Theta and the number of rotated dimensions, from ``rope_parameters`` or the older top-level keys."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):  # text positions make mrope plain rotary
        raise CheckpointError(f"{source} asks for {kind!r} rotary scaling; only plain rotary is computed here.")
    theta = float(rope.get("rope_theta", text.get("rope_theta", 10000.0)))
    factor = float(rope.get("partial_rotary_factor", text.get("partial_rotary_factor", 0.25)))
    rotary_dim = int(head_dim * factor)
    if not 0 < rotary_dim <= head_dim or rotary_dim % 2:
        raise CheckpointError(
            f"{source}: {rotary_dim} rotated dimensions of a head of {head_dim}; an even number is needed."
        )
    return theta, rotary_dim
