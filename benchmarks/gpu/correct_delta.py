"""The delta rule in every committed configuration: lengths of every remainder, and inputs that are hard for it.

Each is run twice, and the bits must be equal: a race shows there. A miscompilation at chunks of 64 rows and 4 warps was
reported for another implementation on Hopper, which no interpreter shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu.findings import Check, Finding, Place, distances, equal, worst
from gpu.tune import lookups
from slant_kernels.delta_rule import delta_rule, delta_rule_reference
from slant_kernels.delta_rule_kernel import SERIAL
from slant_kernels.launch import Config

Inputs = tuple[Tensor, ...]
Heads = tuple[int, int, int]  # key heads, value heads, their width
HEADS: dict[str, Heads] = {"4b": (16, 32, 128), "0.8b": (16, 16, 128)}
TINY_HEADS: dict[str, Heads] = {"tiny": (1, 1, 16)}
# A share of the norm: what products of bf16 make, and what three of tf32 for one of fp32 do; as the tests have it.
LEAST = {torch.bfloat16: 0.005, torch.float32: 5e-5}


def checks(place: Place) -> list[Check]:
    """This GPU's own configurations first, and all of the first model's heads before the second's."""
    every, hard, long = tuple(range(1, 131)), (130, 1000), (192, 1000, 4096)
    models, configs = HEADS, configurations(place.target)
    if place.dry:  # in the interpreter, where a chunk takes a fifth of a second
        every, hard, long, models, configs = (1, 66), (17,), (70,), TINY_HEADS, configs[:1]
    return [
        Check(f"delta_rule {what}", f"{model} {name}", "fp32" if dtype == torch.float32 else "bf16", run)
        for model, heads in models.items()
        for name, config, dtype in configs
        for what, run in (
            ("every length", partial(prefixes, place, heads, dtype, config, every)),
            *((kind, partial(whole, place, heads, dtype, config, kind, hard)) for kind in HARD),
            ("long", partial(whole, place, heads, dtype, config, "random", long)),
        )
    ]


def configurations(target: str) -> list[tuple[str, Config, torch.dtype]]:
    """Each different one with the rows of the table that it stands in, those for the target first."""
    rows: dict[tuple[object, ...], list[tuple[str, str]]] = {}
    for (kind, of), config in SERIAL.rows.items():
        key = tuple(config.blocks.items()), config.num_warps, config.num_stages, config.registers, kind == "fp32"
        rows.setdefault(key, []).append((kind, of))

    def own(slots: Sequence[tuple[str, str]]) -> int:
        return 0 if any(of == target for _, of in slots) else 1 if any(not of for _, of in slots) else 2

    found = []
    for slots in sorted(rows.values(), key=own):
        name = ", ".join(" ".join(filter(None, slot)) for slot in slots)
        found.append((name, SERIAL.rows[slots[0]], torch.float32 if slots[0][0] == "fp32" else torch.bfloat16))
    return found


def forced(place: Place, config: Config, inputs: Inputs, state: Tensor, keep: bool) -> Inputs:
    with place.kernels(), lookups(lambda slot: config if slot[0] == "delta_rule_kernel.SERIAL" else None):
        out, final = delta_rule(*inputs, state, keep)
    return (out,) if final is None else (out, final)


def judged(place: Place, config: Config, inputs: Inputs, state: Tensor, truth: Inputs) -> Iterator[Finding]:
    """With the final state and without, each twice; beside twice what the torch path errs."""
    note, least = f"T = {inputs[2].shape[1]}", LEAST[inputs[2].dtype]
    with place.torch_path():
        theirs = delta_rule(*inputs, state, True)
    for keep in (True, False):
        outs, again = (forced(place, config, inputs, state, keep) for _ in range(2))
        yield equal(outs, again, f"{note}, keep_state {keep}, twice")
        for out, other, wanted, what in zip(outs, theirs, truth, ("outputs", "state"), strict=False):
            bound = max(2 * distances(other, wanted)[0], least)
            yield Finding(distances(out, wanted)[0], bound, f"{note}, keep_state {keep}, {what}")


def prefixes(
    place: Place, heads: Heads, dtype: torch.dtype, config: Config, lengths: Sequence[int]
) -> Iterable[Finding]:
    """Every length of one text: outputs are the first of the longest one's, states are kept on the way."""
    inputs, state = random(place, heads, dtype, max(lengths))
    exact, outs, states = [x.double() for x in inputs], [], [state.double()]
    for t in range(max(lengths)):
        out, final = delta_rule_reference(*(x[:, t : t + 1] for x in exact), states[-1])
        outs.append(out)
        states.append(final)
    truth = torch.cat(outs, dim=1)
    return worst(
        finding
        for T in lengths
        for finding in judged(place, config, tuple(x[:, :T] for x in inputs), state, (truth[:, :T], states[T]))
    )


def whole(
    place: Place, heads: Heads, dtype: torch.dtype, config: Config, kind: str, lengths: Sequence[int]
) -> Iterable[Finding]:
    found: list[Finding] = []
    for T in lengths:
        inputs, state = random(place, heads, dtype, T)
        inputs = HARD[kind](*inputs) if kind in HARD else inputs
        truth = delta_rule_reference(*(x.double() for x in inputs), state.double())
        found += judged(place, config, inputs, state, truth)
    return worst(found)


def random(place: Place, heads: Heads, dtype: torch.dtype, T: int, B: int = 1) -> tuple[Inputs, Tensor]:
    """Inputs as ``delta_inputs`` leaves them, and a state of a prefix."""
    (H, Hv, K), generator = heads, torch.Generator(place.device).manual_seed(T)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=place.device, generator=generator)

    q, k = (F.normalize(normal(B, T, H, K), dim=-1) for _ in range(2))
    v, g, beta = normal(B, T, Hv, K), -normal(B, T, Hv).exp(), torch.sigmoid(2 * normal(B, T, Hv))
    return ((q * K**-0.5).to(dtype), k.to(dtype), v.to(dtype), g, beta), normal(1, Hv, K, K)


def equal_keys(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Inputs:
    return q, k[:, :1].expand_as(k).contiguous(), v, torch.zeros_like(g), torch.ones_like(beta)


def near_keys(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Inputs:
    near = F.normalize(k[:, :1].float() + 0.1 * k.float(), dim=-1).to(k.dtype)
    return q, near, v, 0.01 * g, beta.sqrt()


def steep(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Inputs:
    return q, k, v, 30 * g, beta


def closed(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Inputs:
    g = g.clone()
    g[:, 10:20] = g[:, 30:31] = -1e4
    return q, k, v, g, beta


HARD: dict[str, Callable[..., Inputs]] = {
    "equal keys": equal_keys,
    "near keys": near_keys,
    "steep decay": steep,
    "closed gates": closed,
}
