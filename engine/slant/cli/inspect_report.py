"""What a checkpoint is, before any of its weights are read: architecture, tensors, answers, predicted memory."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slant.artifact import MANIFEST
from slant.artifact.certificate import Certificate, parse
from slant.artifact.recipe import QUANTIZING, W4A8
from slant.bench.predict import tokens_per_second
from slant.cores import cores
from slant.evaluation.formatting import terminal_table
from slant.model.source import Source, open_model
from slant.options import AUTO, LoadOptions
from slant.prompt.prompt import Prompt
from slant.runtime.choice import alternatives
from slant.runtime.classifier import check_vocabulary, is_bf16, resolve
from slant.runtime.free_memory import host_memory
from slant.runtime.memory import MemoryRequest, human, tiers
from slant.runtime.resolved import DTYPES, FP8, INT8, TOKEN_BUDGETS, ResolvedOptions, choose_dtype
from slant.tensor_files import EMBEDDING, HEAD, TensorInfo

_GROUPS = {"linear_attn": "DeltaNet", "self_attn": "attention", "mlp": "MLP"}


def report(model: str | Path, options: LoadOptions) -> RenderableType:
    """Everything ``slant inspect`` prints; raises SlantError if the checkpoint could not be used."""
    checkpoint = open_model(model)
    limit = resolve(checkpoint, options).max_tokens
    prompt = Prompt.load(checkpoint.folders, template=options.template, labels=options.labels, max_tokens=limit)
    check_vocabulary(checkpoint, prompt)
    notes = [Text(f"note: {note}", style="yellow") for note in checkpoint.notes]
    stored, source = checkpoint.certificate, f"the certificate in {checkpoint.folder / MANIFEST}"
    certificates = [] if stored is None else [certificate(parse(stored, source))]
    tables = [architecture(checkpoint), tensors(checkpoint), answers(prompt), *certificates, host()]
    parts = [*tables, memory(checkpoint, prompt), alternatives_here(checkpoint, prompt, options)]
    return Group(*notes, *(part for table in parts for part in (Text(), table)))


def architecture(checkpoint: Source) -> Table:
    """The model's shape, from its configuration."""
    c = checkpoint.config
    rows = {
        "folder": ", an adapter of ".join(map(str, checkpoint.folders)),
        "architecture": c.architecture,
        **c.description(),
        "vocabulary": f"{c.vocab_size}, head {'its own' if checkpoint.head == HEAD else 'tied to the embedding'}",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), value)
    return table


def tensors(checkpoint: Source) -> Table:
    """Tensors by part of the model, with parameters and bytes by dtype as stored."""
    groups: dict[str, list[TensorInfo]] = defaultdict(list)
    for name, info in checkpoint.tensors.items():
        part = next((label for key, label in _GROUPS.items() if f".{key}." in name), "norms")
        groups[{EMBEDDING: "embedding", HEAD: "head"}.get(name, part)].append(info)
    rows = []
    for part, infos in [*groups.items(), ("total", list(checkpoint.tensors.values()))]:
        parameters, size = sum(math.prod(info.shape) for info in infos), sum(info.nbytes for info in infos)
        stored = ", ".join(sorted({info.dtype for info in infos}))
        rows.append((part, str(len(infos)), f"{parameters:,}", human(size), stored))
    heads = "part", "tensors", "parameters", "bytes", "stored as"
    caption = f"{len(checkpoint.skipped)} vision and multi-token-prediction tensors skipped"
    return terminal_table(heads, rows, title="Tensors", caption=caption, show_lines=True)


def answers(prompt: Prompt) -> Table:
    """The answer tokens, each checked to be one token after the prompt."""
    classes = enumerate(zip(prompt.labels, prompt.answer_ids, prompt.label_names, strict=True))
    rows = [(str(index), repr(answer), str(token), name) for index, (answer, token, name) in classes]
    one = len(prompt.encode(["a"])[0].ids)
    caption = f"prompt of a one-letter text: {one} tokens, of which {len(prompt.prefix_ids)} are a fixed prefix"
    table = terminal_table(("class", "answer", "token", "label"), rows, left=0, title="Answers", caption=caption)
    table.columns[1].justify = table.columns[3].justify = "left"
    return table


def certificate(certified: Certificate) -> Table:
    """What drift was measured, on what."""
    figures = certified.drift.overall.figures
    rows = {
        "texts": f"{certified.drift.rows}, measured on {certified.date} on {certified.device}",
        "against": f"{certified.reference}, {certified.method}",
        "label flips": f"{figures.flips} ({figures.flip_rate:.2%})",
        "|Δp| mean / p99 / most": f"{figures.delta.mean:.4f} / {figures.delta.p99:.4f} / {figures.delta.maximum:.4f}",
        "KL(reference || ours)": f"{figures.kl.mean:.2e} nats",
        "|Δ expected| mean": f"{figures.expected.mean:.4f}",
        "stable beyond a margin of": f"{figures.gap.p99:.4f}",
    }
    return terminal_table(("figure", "value"), rows.items(), left=2, title="Certificate")


def host() -> Table:
    """The cores and the memory that this process may use on the CPU."""
    room = host_memory()
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("CPU", style="bold"), str(cores()))
    free = "unknown" if room is None else f"{human(room.free)} free of {human(room.limit)}: {room.source}"
    table.add_row(Text("CPU memory", style="bold"), free)
    return table


def alternatives_here(checkpoint: Source, prompt: Prompt, options: LoadOptions) -> Table:
    """What each of the weights would take on this machine, and how fast it would be."""
    auto = "auto-4bit" if checkpoint.recipe is None else "auto"
    found = list(alternatives(checkpoint, prompt, replace(options, weights=auto), resolve))
    device = found[0].options.device
    rate = tokens_per_second(checkpoint.config, found[0].options) if device.type == "cpu" else None
    rows = []
    for one in sorted(found, key=lambda one: -one.speed):
        drift = next(name for name, taken in AUTO.items() if one.weights == "auto" or one.weights in taken)
        name = f"auto: {one.options.weights}" if one.weights == "auto" else one.weights
        tier, peak = ("does not fit", one.least) if one.tier is None else (one.tier.name, one.tier.peak)
        tokens = "" if rate is None else f"{rate * one.speed:,.0f}"
        rows.append((name, drift, tier, human(peak), tokens))
    heads = "weights", "allowed by", "tier", "peak", "tokens/s"
    caption = "tokens/s of auto: a few blocks like the model's, timed now; of others by a table of the instruction set"
    return terminal_table(heads, rows, left=3, title=f"Alternatives on this {device.type}", caption=caption)


def memory(checkpoint: Source, prompt: Prompt) -> Table:
    """Predicted bytes on the device, by device and tier: see ``slant.runtime.memory``."""
    heads = "device", "weights", "tier", "weights", "prefix", "batches", "peak"
    table = terminal_table(heads, (), left=3, title="Predicted memory")
    named = {"artifact": "auto"} if checkpoint.recipe else {"bf16": "bf16", "hqq8": "hqq8", "hqq4": "hqq4"}
    known = {"cpu": {**named, "fp32": "fp32", INT8: INT8, W4A8: W4A8}, "cuda": {**named, FP8: FP8}}
    for device, weights in known.items():
        shown: set[tuple[str, int]] = set()  # resident weights are dense, whatever they were quantized to
        for name, option in weights.items():
            recipe = checkpoint.recipe or (
                checkpoint.config.recipe(QUANTIZING[option]) if option in QUANTIZING else None
            )
            where = torch.device(device)
            dtype = choose_dtype(option, where) if device == "cpu" else DTYPES.get(option, torch.bfloat16)
            options = ResolvedOptions(
                weights=option,
                dtype=dtype,
                device=where,
                max_tokens=prompt.max_tokens,
                truncation=prompt.truncation,
                token_budget=TOKEN_BUDGETS[device],
                narrow=dtype == torch.float32 and option != "fp32" and (option == "bf16" or is_bf16(checkpoint)),
            )
            for tier in tiers(MemoryRequest.of(checkpoint.config, recipe, prompt, options)):
                if (tier.name, tier.peak) not in shown:
                    shown.add((tier.name, tier.peak))
                    sizes = tier.weights, tier.prefix, tier.activations, tier.peak
                    table.add_row(device, name, tier.name, *map(human, sizes))
        table.add_section()
    budgets = " and ".join(f"{tokens:,} tokens on {device}" for device, tokens in TOKEN_BUDGETS.items())
    table.caption = (
        f"batches of {budgets}, or one text of {prompt.max_tokens:,} tokens; {torch.get_num_threads()} CPU threads; on "
        "cuda formulas, not measured"
    )
    return table
