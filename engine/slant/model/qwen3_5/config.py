"""The part of a Qwen3.5 ``config.json`` that the text model needs, as a frozen dataclass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from slant.errors import CheckpointError
from slant.model.config import ModelConfig, Shapes
from slant.tensor_files import EMBEDDING

if TYPE_CHECKING:
    from torch import Tensor

LayerType = Literal["linear_attention", "full_attention"]
SKIPPED = r"(visual|mtp)\."
# By public reports the projections back into the residual stream suffer most from quantization.
SENSITIVE = ("linear_attn.out_proj.weight", "self_attn.o_proj.weight")
QUANTIZABLE = (
    "linear_attn.in_proj_qkv.weight",
    "linear_attn.in_proj_z.weight",
    "linear_attn.out_proj.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
)
# Small, and a gate's error is in every later state.
NOT_INT8 = ("linear_attn.in_proj_a.weight", "linear_attn.in_proj_b.weight")


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
    skipped: ClassVar[str] = SKIPPED
    quantizable: ClassVar[tuple[str, ...]] = QUANTIZABLE
    sensitive: ClassVar[tuple[str, ...]] = SENSITIVE
    not_int8: ClassVar[tuple[str, ...]] = NOT_INT8

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
        """Canonical names and shapes of the text model's tensors, without the head, in the order of the forward."""
        hidden, inner, head = self.hidden_size, self.intermediate_size, self.head_dim
        v_heads = self.linear_num_value_heads
        linear_attention: Shapes = {
            "linear_attn.in_proj_qkv.weight": (self.conv_dim, hidden),
            "linear_attn.in_proj_z.weight": (self.value_dim, hidden),
            "linear_attn.in_proj_b.weight": (v_heads, hidden),
            "linear_attn.in_proj_a.weight": (v_heads, hidden),
            "linear_attn.conv1d.weight": (self.conv_dim, 1, self.linear_conv_kernel_dim),
            "linear_attn.A_log": (v_heads,),
            "linear_attn.dt_bias": (v_heads,),
            "linear_attn.norm.weight": (self.linear_value_head_dim,),
            "linear_attn.out_proj.weight": (hidden, self.value_dim),
        }
        full_attention: Shapes = {
            "self_attn.q_proj.weight": (2 * self.num_attention_heads * head, hidden),  # query and output gate
            "self_attn.k_proj.weight": (self.num_key_value_heads * head, hidden),
            "self_attn.v_proj.weight": (self.num_key_value_heads * head, hidden),
            "self_attn.q_norm.weight": (head,),
            "self_attn.k_norm.weight": (head,),
            "self_attn.o_proj.weight": (hidden, self.num_attention_heads * head),
        }
        found: Shapes = {EMBEDDING: (self.vocab_size, hidden)}
        for index, kind in enumerate(self.layer_types):
            layer = {
                "input_layernorm.weight": (hidden,),
                **(linear_attention if kind == "linear_attention" else full_attention),
                "post_attention_layernorm.weight": (hidden,),
                "mlp.gate_proj.weight": (inner, hidden),
                "mlp.up_proj.weight": (inner, hidden),
                "mlp.down_proj.weight": (hidden, inner),
            }
            found.update({f"layers.{index}.{name}": shape for name, shape in layer.items()})
        found["norm.weight"] = (hidden,)
        return found

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

    def rotary(self, max_tokens: int) -> tuple[Tensor, Tensor]:
        from slant_kernels.rotary import rotary_tables

        return rotary_tables(max_tokens, self.rotary_dim, self.rope_theta)

    def flops(self) -> tuple[float, float]:
        """FLOPs of a row of T tokens are ``a * T + b * T * T``: a of the linear layers, b of the causal attentions.

        The last block, which works for one position, counts with its keys and values, or its DeltaNet inputs, only.
        """
        last = f"layers.{self.num_hidden_layers - 1}."
        parts = ("mlp.", "self_attn.q_proj", "self_attn.o_proj", "linear_attn.out_proj")
        one_position = tuple(last + part for part in parts)
        matrices = {name: shape for name, shape in self.shapes().items() if len(shape) == 2 and name != EMBEDDING}
        token = sum(2 * math.prod(shape) for name, shape in matrices.items() if not name.startswith(one_position))
        attentions = self.layer_types[:-1].count("full_attention")
        return float(token), 2.0 * attentions * self.num_attention_heads * self.head_dim

    def prefix_bytes(self, itemsize: int, tokens: int) -> int:
        """The state that the prompt's prefix of ``tokens`` leaves."""
        attention = 2 * self.num_key_value_heads * self.head_dim * tokens * itemsize
        state = self.linear_num_value_heads * self.linear_key_head_dim * self.linear_value_head_dim * 4
        conv = (self.linear_conv_kernel_dim - 1) * self.conv_dim * itemsize
        return sum(attention if kind == "full_attention" else state + conv for kind in self.layer_types)

    def merged_shapes(self) -> set[tuple[int, int]]:
        """(N, K) of the matrices that a model multiplies by, each of them projections of one input stacked by rows."""
        c, query = self, self.num_attention_heads * self.head_dim
        shapes = {(2 * c.intermediate_size, c.hidden_size), (c.hidden_size, c.intermediate_size)}
        if "linear_attention" in c.layer_types:
            shapes |= {(c.conv_dim + c.value_dim, c.hidden_size), (c.hidden_size, c.value_dim)}
        if "full_attention" in c.layer_types:
            shapes |= {(2 * (query + c.num_key_value_heads * c.head_dim), c.hidden_size), (c.hidden_size, query)}
        return shapes

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
