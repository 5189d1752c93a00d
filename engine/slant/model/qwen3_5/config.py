"""The part of a Qwen3.5 ``config.json`` that the text model needs, as a frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from slant.errors import CheckpointError
from slant.model.config import ModelConfig, Shapes
from slant.model.qwen3_5 import tensors
from slant.model.qwen3_5.tensors import LayerType

if TYPE_CHECKING:
    from torch import Tensor

    from slant.model.qwen3_5.blocks import Block
    from slant.model.weights import Weights

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


@dataclass(frozen=True)
class Qwen3_5Config(ModelConfig):
    """Shape of a Qwen3.5 text model; names are those of ``config.json``, sizes in elements.

    ``rotary_dim`` is the number of leading dimensions of a head that are rotated.
    """

    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    rope_theta: float
    rotary_dim: int

    # by architecture, the module of transformers' class that holds the blocks
    network_prefix: ClassVar[Mapping[str, str]] = {
        "Qwen3_5ForConditionalGeneration": "model.language_model",
        "Qwen3_5ForCausalLM": "model",
    }
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_5", "qwen3_5_text")
    prefixes: ClassVar[tuple[str, ...]] = tensors.PREFIXES
    skipped: ClassVar[str] = tensors.SKIPPED
    quantizable: ClassVar[tuple[str, ...]] = tensors.QUANTIZABLE
    sensitive: ClassVar[tuple[str, ...]] = tensors.SENSITIVE
    not_int8: ClassVar[tuple[str, ...]] = tensors.NOT_INT8

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
    def parse(cls, raw: Mapping[str, Any], source: str = "config.json") -> Qwen3_5Config:
        """The configuration from the decoded JSON of the multimodal or the text-only form.

        ``source`` names the file in errors. Raises CheckpointError if it describes a model that is not computed here.
        """
        text = raw.get("text_config", raw)
        architecture = (raw.get("architectures") or [list(cls.network_prefix)["text_config" not in raw]])[0]
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

    def shapes(self) -> Shapes:
        return tensors.shapes(self)

    def description(self) -> dict[str, str]:
        kinds = {kind: self.layer_types.count(kind) for kind in get_args(LayerType)}
        return {
            "layers": f"{self.num_hidden_layers}: {kinds['linear_attention']} Gated DeltaNet, "
            f"{kinds['full_attention']} full attention",
            "hidden / intermediate": f"{self.hidden_size} / {self.intermediate_size}",
            "attention": f"{self.num_attention_heads} query heads, {self.num_key_value_heads} key/value heads of "
            f"{self.head_dim}, {self.rotary_dim} rotated, theta {self.rope_theta:g}",
            "DeltaNet": f"{self.linear_num_key_heads} key heads of {self.linear_key_head_dim}, "
            f"{self.linear_num_value_heads} value heads of {self.linear_value_head_dim}, "
            f"convolution {self.linear_conv_kernel_dim}",
        }

    def block(self, weights: Weights, index: int) -> Block:
        from slant.model.qwen3_5.blocks import Block

        return Block(self, weights, index)

    def rotary(self, max_tokens: int) -> tuple[Tensor, Tensor]:
        from slant_kernels.rotary import rotary_tables

        return rotary_tables(max_tokens, self.rotary_dim, self.rope_theta)

    def flops(self) -> tuple[float, float]:
        return tensors.flops(self)

    def prefix_bytes(self, itemsize: int, tokens: int) -> int:
        return tensors.prefix_bytes(self, itemsize, tokens)

    def merged_shapes(self) -> set[tuple[int, int]]:
        return tensors.merged_shapes(self)

    def activation_bytes(self, itemsize: int, rows: int, length: int, device_type: str = "cpu") -> int:
        from slant.model.qwen3_5 import memory

        return memory.activation_bytes(self, itemsize, rows, length, device_type)

    def text_network(self, config: Any) -> Any:
        from transformers import Qwen3_5TextModel

        return Qwen3_5TextModel(config)


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
