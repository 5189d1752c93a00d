"""The blocks of a Qwen3.5 text model: Gated DeltaNet and gated full attention, each with its MLP.

The last block needs every position's keys and values (or recurrent state) but answers for one position only: its query,
gate, output projection and MLP run on one row a text.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn.functional import softplus

from slant.model.block import Part, State, at_last
from slant.model.qwen3_5.config import Qwen3_5Config
from slant.model.weights import Weights
from slant.tensor_files import finite
from slant_kernels.attention import causal_attention, last_attention
from slant_kernels.delta_net import delta_net
from slant_kernels.fp8 import Fp8Matrix, Fp8Rows, empty_rows
from slant_kernels.linear import Weight, linear, unpacked
from slant_kernels.norm import add_rms_norm, add_rms_norm_fp8, gated_rms_norm, gated_rms_norm_fp8
from slant_kernels.rotary import gate_heads, gate_heads_fp8, keys_values, norm_rotary
from slant_kernels.swiglu import swiglu, swiglu_fp8

# For gate and up at a time: as many fill any device, and of more these projections are most of the memory.
MLP_TOKENS = 4096


class DeltaNet(Part):
    """Gated DeltaNet mixer: projections, convolution, delta rule, gated norm."""

    def __init__(self, config: Qwen3_5Config, weights: Weights, name: str) -> None:
        self.config = config
        self.in_qkvz = weights.matrix(f"{name}.in_proj_qkv.weight", f"{name}.in_proj_z.weight")
        self.in_ab = weights.matrix(f"{name}.in_proj_a.weight", f"{name}.in_proj_b.weight")
        self.conv_weight = weights.fp32(f"{name}.conv1d.weight").squeeze(1).T.contiguous()
        self.A_log = weights.fp32(f"{name}.A_log")
        self.dt_bias = weights.fp32(f"{name}.dt_bias")
        # Minus the log of the decay at an input of zero. Where it is infinite, the decay between two positions is NaN.
        decay = self.A_log.exp() * softplus(self.dt_bias)
        finite(decay, weights.source.tensors[f"{name}.A_log"], problem="infinite as exp(A_log) softplus(dt_bias)")
        self.norm = weights.fp32(f"{name}.norm.weight")
        self.out = weights.matrix(f"{name}.out_proj.weight")

    def __call__(
        self, x: Tensor, rotary: State, state: State | None, keep_state: bool = False
    ) -> tuple[Tensor, State | None]:
        o, z, state = self._mix(x, state, keep_state)
        return self._project(o, z), state

    def last(self, x: Tensor, rotary: State, state: State | None, lengths: Tensor) -> Tensor:
        """The output at each text's last position, ``[B, 1, hidden]``.

        The recurrence runs over all positions: it is the path to the last one.
        """
        o, z, _ = self._mix(x, state)
        return self._project(at_last(o, lengths), at_last(z, lengths))

    def matrices(self) -> Iterator[tuple[Weight, tuple[str, ...]]]:
        yield self.in_qkvz, ("linear_attn.in_proj_qkv.weight", "linear_attn.in_proj_z.weight")
        yield self.in_ab, ("linear_attn.in_proj_a.weight", "linear_attn.in_proj_b.weight")
        yield self.out, ("linear_attn.out_proj.weight",)

    def _mix(self, x: Tensor, state: State | None, keep_state: bool = False) -> tuple[Tensor, Tensor, State | None]:
        c = self.config
        mixed, z = linear(x, self.in_qkvz).split([c.conv_dim, c.value_dim], dim=-1)
        a, b = linear(x, self.in_ab).chunk(2, dim=-1)
        heads = c.linear_num_key_heads, c.linear_key_head_dim
        o, state = delta_net(mixed, a, b, self.conv_weight, self.A_log, self.dt_bias, *heads, state, keep_state)
        return o, z.unflatten(-1, o.shape[2:]), state

    def _project(self, o: Tensor, z: Tensor) -> Tensor:
        if isinstance(self.out, Fp8Matrix):
            return linear(gated_rms_norm_fp8(o, z, self.norm, self.config.rms_norm_eps), self.out)
        return linear(gated_rms_norm(o, z, self.norm, self.config.rms_norm_eps).flatten(2), self.out)


class Attention(Part):
    """Gated full attention mixer with q/k norm and partial rotary positions."""

    def __init__(self, config: Qwen3_5Config, weights: Weights, name: str, last: bool) -> None:
        self.config = config
        names = [f"{name}.{part}_proj.weight" for part in "kvq"]
        # One matrix; but the last block's query and gate are wanted at one position only.
        self.in_kvq = tuple(weights.matrix(*part) for part in ([names[:2], names[2:]] if last else [names]))
        self.kv_width = 2 * config.num_key_value_heads * config.head_dim
        self.q_norm = weights.fp32(f"{name}.q_norm.weight")
        self.k_norm = weights.fp32(f"{name}.k_norm.weight")
        self.out = weights.matrix(f"{name}.o_proj.weight")

    def __call__(
        self, x: Tensor, rotary: State, state: State | None, keep_state: bool = False
    ) -> tuple[Tensor, State | None]:
        parts = [linear(x, matrix) for matrix in self.in_kvq]
        kv, qg = parts if len(parts) == 2 else parts[0].tensor_split((self.kv_width,), dim=-1)
        k, v = self._keys_values(kv, rotary, state)
        before = k.shape[2] - x.shape[1]
        q, gate = self._query_gate(qg, rotary, before)
        o = self._gated(causal_attention(q, k, v, before), gate)
        return linear(o, self.out), (k, v) if keep_state else None

    def last(self, x: Tensor, rotary: State, state: State | None, lengths: Tensor) -> Tensor:
        """The output at each text's last position, ``[B, 1, hidden]``."""
        in_kv, in_qg = self.in_kvq
        k, v = self._keys_values(linear(x, in_kv), rotary, state)
        cos, sin = (table[lengths - 1, None] for table in rotary)
        q, gate = self._query_gate(linear(at_last(x, lengths), in_qg), (cos, sin))
        prefix = k.shape[2] - x.shape[1]
        return linear(self._gated(last_attention(q, k, v, lengths + prefix), gate), self.out)

    def matrices(self) -> Iterator[tuple[Weight, tuple[str, ...]]]:
        k, v, q = (f"self_attn.{part}_proj.weight" for part in "kvq")
        yield from zip(self.in_kvq, ((k, v, q),) if len(self.in_kvq) == 1 else ((k, v), (q,)), strict=True)
        yield self.out, ("self_attn.o_proj.weight",)

    def _keys_values(self, kv: Tensor, rotary: State, state: State | None) -> State:
        kv = kv.unflatten(-1, (2, self.config.num_key_value_heads, self.config.head_dim))
        return keys_values(kv, self.k_norm, *rotary, self.config.rms_norm_eps, state)

    def _query_gate(self, qg: Tensor, rotary: State, before: int = 0) -> tuple[Tensor, Tensor]:
        q, gate = qg.unflatten(-1, (self.config.num_attention_heads, 2, self.config.head_dim)).unbind(3)
        return norm_rotary(q, self.q_norm, *rotary, self.config.rms_norm_eps, before), gate

    def _gated(self, o: Tensor, gate: Tensor) -> Tensor | Fp8Rows:
        return gate_heads_fp8(o, gate) if isinstance(self.out, Fp8Matrix) else gate_heads(o, gate)


class Block(Part):
    """Norm, mixer, norm, MLP; the residual stream is carried beside the mixer's and MLP's output."""

    def __init__(self, config: Qwen3_5Config, weights: Weights, index: int) -> None:
        name = f"layers.{index}"
        self.eps, self.inner_width = config.rms_norm_eps, config.intermediate_size
        self.mixer: DeltaNet | Attention
        if config.layer_types[index] == "linear_attention":
            self.mixer = DeltaNet(config, weights, f"{name}.linear_attn")
        else:
            self.mixer = Attention(config, weights, f"{name}.self_attn", last=index == config.num_hidden_layers - 1)
        self.input_norm = weights.fp32(f"{name}.input_layernorm.weight")
        self.post_norm = weights.fp32(f"{name}.post_attention_layernorm.weight")
        self.gate_up = weights.matrix(f"{name}.mlp.gate_proj.weight", f"{name}.mlp.up_proj.weight")
        self.down = weights.matrix(f"{name}.mlp.down_proj.weight")

    def __call__(
        self, x: Tensor, residual: Tensor | None, rotary: State, state: State | None, keep_state: bool = False
    ) -> tuple[Tensor, Tensor, State | None]:
        x, residual = add_rms_norm(x, residual, self.input_norm, self.eps)
        x, state = self.mixer(x, rotary, state, keep_state)
        return *self._mlp(x, residual), state

    def last(
        self, x: Tensor, residual: Tensor | None, rotary: State, state: State | None, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, residual = add_rms_norm(x, residual, self.input_norm, self.eps)
        return self._mlp(self.mixer.last(x, rotary, state, lengths), at_last(residual, lengths))

    def matrices(self) -> Iterator[tuple[Weight, tuple[str, ...]]]:
        yield from self.mixer.matrices()
        yield self.gate_up, ("mlp.gate_proj.weight", "mlp.up_proj.weight")
        yield self.down, ("mlp.down_proj.weight",)

    def _mlp(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.gate_up, Fp8Matrix) and isinstance(self.down, Fp8Matrix):
            rows, residual = add_rms_norm_fp8(x, residual, self.post_norm, self.eps)
            narrow = empty_rows((rows.rows, self.inner_width), x)
            for few, place in zip(rows.split(MLP_TOKENS), narrow.split(MLP_TOKENS), strict=True):
                swiglu_fp8(self.gate_up.multiply(few), place)
            return self.down.multiply(narrow).view_as(x), residual
        x, residual = add_rms_norm(x, residual, self.post_norm, self.eps)
        inputs = x.flatten(0, 1)
        parts = inputs.split(MLP_TOKENS)
        gate_up = self.gate_up if len(parts) == 1 else unpacked(self.gate_up)
        inner = x.new_empty(len(inputs), self.inner_width)
        for part, out in zip(parts, inner.split(MLP_TOKENS), strict=True):
            swiglu(linear(part, gate_up), out)
        return linear(inner, self.down).view_as(x), residual
