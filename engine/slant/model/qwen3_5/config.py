"""The part of a Qwen3.5 ``config.json`` that the text model needs, as a frozen dataclass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from slant.errors import CheckpointError
from slant.model.config import ModelConfig, Shapes
from slant.model.qwen3_5.config_file import LayerType, Multimodal, Text
from slant.tensor_files import EMBEDDING
from slant.validation import table

if TYPE_CHECKING:
    from torch import Tensor

ADVICE = "correct the file, or save the model again"
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
NOT_IN_8_BITS = ("linear_attn.in_proj_a.weight", "linear_attn.in_proj_b.weight")


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
    not_in_8_bits: ClassVar[tuple[str, ...]] = NOT_IN_8_BITS

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
        # As transformers' AutoModelForCausalLM, which takes the text-only class whatever a text-only file names.
        architecture = "Qwen3_5ForCausalLM"
        if raw.get("model_type") == "qwen3_5":
            file = table(Multimodal, raw, source, CheckpointError, ADVICE)
            text, architecture = file.text_config, (file.architectures or [architecture])[0]
        else:
            text = table(Text, raw, source, CheckpointError, ADVICE)
        tied = text.tie_word_embeddings
        # The multimodal class asks the file's own flag, the text-only class that of the text part.
        if architecture == "Qwen3_5ForConditionalGeneration" and "tie_word_embeddings" in raw:
            tied = file.tie_word_embeddings
        theta, share = text.rotary()
        values: dict[str, Any] = {field.name: getattr(text, field.name, None) for field in fields(cls)}
        computed = {
            "architecture": architecture,
            "layer_types": text.layers(),
            "rope_theta": theta,
            "rotary_dim": int(text.head_dim * share),
            "tie_word_embeddings": tied,
        }
        config = cls(**values | computed)
        if problem := next(config._problems(text.pad_token_id), None):
            raise CheckpointError(f"{source}: {problem}; {ADVICE}.")
        return config

    def _problems(self, pad_token_id: int | None) -> Iterator[str]:
        """Fields that contradict each other."""
        if len(self.layer_types) != self.num_hidden_layers:
            yield f"layer_types names {len(self.layer_types)} layers, and num_hidden_layers is {self.num_hidden_layers}"
        if not self.rotary_dim or self.rotary_dim % 2:
            yield (
                f"partial_rotary_factor rotates {self.rotary_dim} dimensions of a head of {self.head_dim} (head_dim); "
                "an even number is computed here"
            )
        for heads, groups in (
            ("num_attention_heads", "num_key_value_heads"),
            ("linear_num_value_heads", "linear_num_key_heads"),
        ):
            if getattr(self, heads) % getattr(self, groups):
                yield f"{heads} ({getattr(self, heads)}) is not a multiple of {groups} ({getattr(self, groups)})"
        if pad_token_id is not None and not -self.vocab_size <= pad_token_id < self.vocab_size:
            yield f"pad_token_id is {pad_token_id}, outside of the vocab_size {self.vocab_size}"

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
