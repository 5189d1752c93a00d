"""The tensors of a Qwen3.5 text model: names, shapes, and which of them may be quantized.

Only the large projections are ever quantized. in_proj_a and in_proj_b, convolutions, norms, A_log and dt_bias are 0.1 %
of the weights and sensitive; embedding and head stay as they are, because rows of them are looked up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from slant.model.config import Shapes
from slant.tensor_files import EMBEDDING

if TYPE_CHECKING:
    from slant.model.qwen3_5.config import Qwen3_5Config

LayerType = Literal["linear_attention", "full_attention"]
# Multimodal, older multimodal and text-only files; the most specific first.
PREFIXES = ("model.language_model.", "language_model.model.", "model.")
SKIPPED = r"(model\.)?(visual|mtp)\."
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


def shapes(config: Qwen3_5Config) -> Shapes:
    """Canonical names and shapes of the text model's tensors, without the head, in the order of the forward."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    v_heads = config.linear_num_value_heads
    linear_attention: Shapes = {
        "linear_attn.in_proj_qkv.weight": (config.conv_dim, hidden),
        "linear_attn.in_proj_z.weight": (config.value_dim, hidden),
        "linear_attn.in_proj_b.weight": (v_heads, hidden),
        "linear_attn.in_proj_a.weight": (v_heads, hidden),
        "linear_attn.conv1d.weight": (config.conv_dim, 1, config.linear_conv_kernel_dim),
        "linear_attn.A_log": (v_heads,),
        "linear_attn.dt_bias": (v_heads,),
        "linear_attn.norm.weight": (config.linear_value_head_dim,),
        "linear_attn.out_proj.weight": (hidden, config.value_dim),
    }
    full_attention: Shapes = {
        "self_attn.q_proj.weight": (2 * config.num_attention_heads * head, hidden),  # query and output gate
        "self_attn.k_proj.weight": (config.num_key_value_heads * head, hidden),
        "self_attn.v_proj.weight": (config.num_key_value_heads * head, hidden),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "self_attn.o_proj.weight": (hidden, config.num_attention_heads * head),
    }
    found: Shapes = {EMBEDDING: (config.vocab_size, hidden)}
    for index, kind in enumerate(config.layer_types):
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


def merged_shapes(config: Qwen3_5Config) -> set[tuple[int, int]]:
    """(N, K) of the matrices that a model multiplies by, each of them projections of one input stacked by rows."""
    c, query = config, config.num_attention_heads * config.head_dim
    shapes = {(2 * c.intermediate_size, c.hidden_size), (c.hidden_size, c.intermediate_size)}
    if "linear_attention" in c.layer_types:
        shapes |= {(c.conv_dim + c.value_dim, c.hidden_size), (c.hidden_size, c.value_dim)}
    if "full_attention" in c.layer_types:
        shapes |= {(2 * (query + c.num_key_value_heads * c.head_dim), c.hidden_size), (c.hidden_size, query)}
    return shapes


def flops(config: Qwen3_5Config) -> tuple[float, float]:
    """FLOPs of a row of T tokens are ``a * T + b * T * T``: a of the linear layers, b of the causal attentions.

    The last block, which works for one position, counts with its keys and values, or its DeltaNet inputs, only.
    """
    last = f"layers.{config.num_hidden_layers - 1}."
    one_position = [last + part for part in ("mlp.", "self_attn.q_proj", "self_attn.o_proj", "linear_attn.out_proj")]
    matrices = {name: shape for name, shape in shapes(config).items() if len(shape) == 2 and name != EMBEDDING}
    token = sum(2 * math.prod(shape) for name, shape in matrices.items() if not name.startswith(tuple(one_position)))
    attentions = config.layer_types[:-1].count("full_attention")
    return float(token), 2.0 * attentions * config.num_attention_heads * config.head_dim


def prefix_bytes(config: Qwen3_5Config, itemsize: int, tokens: int) -> int:
    """The state that the prompt's prefix of ``tokens`` leaves."""
    attention = 2 * config.num_key_value_heads * config.head_dim * tokens * itemsize
    state = config.linear_num_value_heads * config.linear_key_head_dim * config.linear_value_head_dim * 4
    conv = (config.linear_conv_kernel_dim - 1) * config.conv_dim * itemsize
    return sum(attention if kind == "full_attention" else state + conv for kind in config.layer_types)
