"""Every op at the shapes of the 4B and the 0.8B, beside its reference on the same bf16 inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu.case import BF16, Case, Draw
from gpu.device import tensors
from gpu.findings import Check, Finding, Place, compared, distances, worst
from gpu.kernel_cases import EPS, TINY, cases
from random_model import SHAPES
from slant.model.config import ModelConfig
from slant.model.registry import parse_config
from slant_kernels import attention, delta_inputs, delta_rule, digit_head, fp8, norm, quantized, rotary, swiglu
from slant_kernels.quantized import QuantizedMatrix

BATCHES = ((1, 16), (1, 128), (3, 77), (1, 2048), (8, 1024), (1, 8192))
TINY_BATCHES = ((2, 70),)
# Their results are beside what the torch path errs, since they multiply rounded numbers; all others round once.
LIKE_TORCH = ("delta_rule", "delta_net", "causal_attention", "last_attention")
EXACT = ("embedding", "dequantize")
FUSED = "_fp8"  # an op that writes its rows in 8 bits
WORST_CODE = 16 / 448 + 2**-9  # of the largest: half a step of the largest codes, after a rounding to bf16
Tensors = tuple[Tensor, ...]


def checks(place: Place) -> list[Check]:
    return [check(place, name, case) for name, case in every_case(place)] + uneven(place)


def every_case(place: Place) -> list[tuple[str, Case]]:
    """With the model's name: first one of each op, then the second ones, and so on."""
    models = {"tiny": TINY} if place.dry else {name: parse_config(SHAPES[name]) for name in ("4b", "0.8b")}
    found: list[tuple[int, str, Case]] = []
    for name, config in models.items():
        seen: dict[str, int] = {}
        for case in cases(config, TINY_BATCHES if place.dry else BATCHES, few=()):
            if not (place.dry or case.runs_on(place.target)):
                continue
            kind = f"{case.op} {case.label.split(',')[0]}" if "," in case.label else case.op
            seen[kind] = seen.get(kind, 0) + 1
            found.append((seen[kind], name, case))
    return [(name, case) for _, name, case in sorted(found, key=lambda one: one[0])]


def check(place: Place, model: str, case: Case) -> Check:
    dtype = "fp32" if case.label.endswith("fp32") else "bf16"
    return Check(f"{case.op}", f"{model} {case.label}", dtype, partial(judged, place, case))


def judged(place: Place, case: Case) -> Iterable[Finding]:
    torch.manual_seed(crc32(f"{case.op} {case.label}".encode()))
    arguments = case.make(place.device)
    with place.kernels():
        outs = tuple(tensors(case.run(*arguments)))
    if case.op == "quantize_rows":
        return worst(rows_in_8_bits(outs, *arguments))
    truth = REFERENCES[case.op.removesuffix(FUSED)](place, *arguments)
    if case.op.endswith(FUSED):
        return worst(fused(outs, *truth))
    if case.op in EXACT:
        return worst([Finding(float((out != wanted).sum()), 0.0) for out, wanted in zip(outs, truth, strict=True)])
    others: Tensors = ()
    if case.op in LIKE_TORCH:
        with place.torch_path():
            others = tuple(tensors(case.run(*arguments)))
    elif case.op == "quantized_linear":
        others = (F.linear(arguments[0], dense(place, arguments[1])),)
    # Hopper's tensor cores keep some 14 bits of the sums of products of e4m3.
    return worst(compared(outs, truth, others, factor=4 if case.op == "fp8_linear" else 2))


def dense(place: Place, q: QuantizedMatrix) -> Tensor:
    with place.torch_path():
        return quantized.dequantize(q, BF16)


def rows_in_8_bits(outs: Tensors, x: Tensor) -> Iterable[Finding]:
    """The reference's scales and codes bit for bit; rows that only fill up are nobody's."""
    for out, wanted in zip(outs, fp8.quantize_rows_reference(x), strict=True):
        yield Finding(float((out[: len(x)].float() != wanted.float()).sum()), 0.0, f"{out.dtype} that differ")


def fused(outs: Tensors, truth: Tensor, *more: Tensor) -> Iterable[Finding]:
    """Codes times scales err as the reference's codes of the exact rows do; what else the op returns is exact."""
    codes, scales, *rest = outs
    exact = truth.float().reshape(-1, codes.shape[1])
    codes, scales = codes[: len(exact)], scales[: len(exact)]
    theirs, their_scales = fp8.quantize_rows_reference(exact)
    yield Finding(float(((scales - their_scales).abs() / their_scales).max()), 2**-7, "scales")
    errors, allowed = (distances(c.float() * s, exact) for c, s in ((codes, scales), (theirs, their_scales)))
    yield Finding(errors[0], 1.01 * allowed[0], "norm of codes")
    yield Finding(errors[1], max(1.1 * allowed[1], WORST_CODE), "element of codes")
    for out, wanted in zip(rest, more, strict=True):
        yield Finding(float((out != wanted).sum()), 0.0, "residual stream")


def add_rms_norm(place: Place, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensors:
    stream = (x.float() + residual.float()).to(x.dtype)
    return norm.rms_norm_reference(stream, weight, eps), stream


def keys_values(
    place: Place, kv: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, before: tuple[Tensor, Tensor]
) -> Tensors:
    keys, values = rotary.norm_rotary_reference(kv[:, :, 0], weight, cos, sin, eps), kv[:, :, 1].transpose(1, 2)
    old = (x.expand(len(kv), -1, -1, -1).float() for x in before)
    return tuple(torch.cat(pair, dim=2) for pair in zip(old, (keys, values.float()), strict=True))


def rule(place: Place, *arguments: Tensor) -> Tensors:
    return (delta_rule.delta_rule_reference(*(x.double() for x in arguments))[0],)


def net(place: Place, mixed: Tensor, *rest: Any) -> Tensors:
    *parameters, (before, state) = rest
    inputs = delta_inputs.delta_inputs_reference(mixed, *parameters, before)
    return rule(place, *inputs, state)


def causal(place: Place, q: Tensor, k: Tensor, v: Tensor) -> Tensors:
    """In fp64 and a few queries of one head at a time, since scores of all would not fit."""
    (B, H, T, D), S, out = q.shape, k.shape[2], torch.empty(q.shape, dtype=torch.float32, device=q.device)
    keys = torch.arange(S, device=q.device)
    for b in range(B):
        for h in range(H):
            g = h // (H // k.shape[1])
            k64, v64 = k[b, g].double(), v[b, g].double()
            for start in range(0, T, 2048):
                part = slice(start, min(start + 2048, T))
                scores = q[b, h, part].double() @ k64.T / D**0.5
                seen = keys <= torch.arange(part.start, part.stop, device=q.device)[:, None] + (S - T)
                out[b, h, part] = (scores.masked_fill_(~seen, float("-inf")).softmax(-1) @ v64).float()
    return (out,)


def products_of_codes(place: Place, x: Tensor, q: QuantizedMatrix, scratch: Tensor) -> Tensors:
    return (x.double() @ dense(place, q).double().T,)


def products_in_8_bits(place: Place, x: Tensor, matrix: fp8.Fp8Matrix) -> Tensors:
    codes, scales = fp8.quantize_rows_reference(x.flatten(0, -2))
    weight = matrix.codes.double() * matrix.scales.double()[:, None]
    return ((codes.double() * scales.double() @ weight.T).view(*x.shape[:-1], -1),)


def embedded(place: Place, ids: Tensor, lengths: Tensor, table: Tensor) -> Tensors:
    padding = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
    return (table[ids.masked_fill(padding, 0)].masked_fill(padding[..., None], 0),)


def dequantized(place: Place, q: QuantizedMatrix, dtype: torch.dtype, out: Tensor) -> Tensors:
    return (quantized.dequantize_reference(q).to(dtype),)


REFERENCES: dict[str, Callable[..., Tensors]] = {
    "embedding": embedded,
    "add_rms_norm": add_rms_norm,
    "rms_norm": lambda place, *args: (norm.rms_norm_reference(*args),),
    "gated_rms_norm": lambda place, *args: (norm.gated_rms_norm_reference(*args[:3], EPS),),
    "norm_rotary": lambda place, *args: (F.pad(rotary.norm_rotary_reference(*args[:5]), (0, 0, args[5], 0)),),
    "keys_values": keys_values,
    "gate_heads": lambda place, *args: (rotary.gate_heads_reference(*args),),
    "swiglu": lambda place, *args: (swiglu.swiglu_reference(args[0]),),
    "delta_inputs": lambda place, *args: delta_inputs.delta_inputs_reference(*args),
    "delta_rule": rule,
    "delta_net": net,
    "causal_attention": causal,
    "last_attention": lambda place, *args: (
        attention.last_attention_reference(*(x.double() for x in args[:3]), args[3]),
    ),
    "digit_head": lambda place, *args: digit_head.digit_head_reference(*args),
    "quantized_linear": products_of_codes,
    "fp8_linear": products_in_8_bits,
    "dequantize": dequantized,
}


def uneven(place: Place) -> list[Check]:
    """last_attention over texts of many lengths, with NaN behind each one's keys."""
    shapes: dict[str, tuple[int, int, int]] = {"4b": (16, 4, 256), "0.8b": (8, 2, 256)}
    lengths = (1, 31, 255, 256, 257, 512, 513, 2000, 4113)
    if place.dry:
        shapes, lengths = {"tiny": (2, 1, 32)}, (1, 30)

    def run(H: int, G: int, D: int) -> Iterable[Finding]:
        torch.manual_seed(0)
        on, S, B = Draw(place.device), max(lengths), len(lengths)
        q, k, v = on.normal(B, H, 1, D), on.normal(B, G, S, D), on.normal(B, G, S, D)
        for row, length in enumerate(lengths):
            k[row, :, length:], v[row, :, length:] = torch.nan, torch.nan
        arguments = q, k, v, torch.tensor(lengths, device=place.device)
        with place.kernels():
            out = attention.last_attention(*arguments)
        with place.torch_path():
            other = attention.last_attention(*arguments)
        return worst(compared((out,), REFERENCES["last_attention"](place, *arguments), (other,)))

    return [Check("last_attention", f"{name} uneven", "bf16", partial(run, *shape)) for name, shape in shapes.items()]


def config_of(place: Place) -> ModelConfig:
    return TINY if place.dry else parse_config(SHAPES["4b"])
