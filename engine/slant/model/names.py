"""Keys of safetensors files -> canonical names, by one rule for all that tools wrap a model in.

A canonical name is what the text model calls a tensor: ``layers.0.mlp.up_proj.weight``, ``lm_head.weight``. A key has
more components, each of a module around or inside the model: ``base_model.model.model.language_model.layers.0...``.
They are taken away wherever they stand; what is left must be a name that the configuration knows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from slant.errors import CheckpointError
from slant.tensor_files import HEAD, TensorInfo

# Around the text model: transformers' own classes, peft, trl's model with a value head.
OUTER = {"model", "language_model", "base_model", "pretrained_model"}
# Anywhere: torch.compile, FSDP, activation checkpointing, Fabric, DistributedDataParallel and DeepSpeed.
ANYWHERE = {
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "module",
}
USUAL = {"", "model.", "model.language_model."}
UNMERGED = re.compile(r"\.(lora_\w+|base_layer|modules_to_save|original_module|token_adapter)\b")
QUANTIZED = re.compile(
    r"\.(qweight|qzeros|g_idx|weight_packed|weight_scale|weight_scale_inv|weight_shape|weight_zero_point|input_scale"
    r"|scales|biases|SCB|absmax|quant_map|quant_state\b.*|weight\.(absmax|quant_map|quant_state\b.*))$"
)


def canonical(key: str) -> str:
    """The key without what is wrapped around the model and its modules."""
    parts = [part for part in key.split(".") if part not in ANYWHERE]
    start = next((index for index, part in enumerate(parts) if part not in OUTER), len(parts))
    return ".".join(parts[start:])


def name_tensors(
    found: Iterable[TensorInfo], known: Collection[str], skipped: str
) -> tuple[dict[str, TensorInfo], list[str]]:
    """The tensors by canonical name, and the sorted keys of those whose canonical name the pattern ``skipped`` matches.

    known: the canonical names that a checkpoint may have. Raises CheckpointError for a key of no such name, naming what
    it is where that is plain, and for two keys of one name.
    """
    tensors: dict[str, TensorInfo] = {}
    others: list[str] = []
    for info in found:
        name = canonical(info.key)
        if re.match(skipped, name):
            others.append(info.key)
        elif name not in known:
            raise CheckpointError(f"{info.file} has {_unknown(info.key, known)}")
        elif name in tensors:
            raise CheckpointError(
                f"{tensors[name].key} in {tensors[name].file} and {info.key} in {info.file} are both {name}; "
                "keep the one that belongs to the model, and save it again."
            )
        else:
            tensors[name] = info
    return tensors, sorted(others)


def prefix_notes(tensors: dict[str, TensorInfo]) -> Iterator[str]:
    """A sentence on keys with unusual prefixes, if there are any."""
    unusual = [info.key for name, info in tensors.items() if not is_usual(info.key, name)]
    if unusual:
        yield f"{len(unusual)} tensors have names with unusual prefixes, such as {unusual[0]}; these are taken away."


def is_usual(key: str, name: str) -> bool:
    """Whether a key is one that transformers, old or new, gives to the tensor of this canonical name."""
    return key == name if name == HEAD else key.endswith(name) and key.removesuffix(name) in USUAL


def _unknown(key: str, known: Collection[str]) -> str:
    """What an unknown key is, as the end of a sentence."""
    if UNMERGED.search(key):
        return (
            f"a tensor {key} of an adapter that was not merged; merge it before saving (merge_and_unload of peft), "
            "or save the adapter by itself and give its folder."
        )
    if QUANTIZED.search(key):
        return f"a tensor {key} of quantized weights; give the unquantized checkpoint, in F32, BF16 or F16."
    inner = next((name for name in sorted(known, key=len, reverse=True) if key.endswith("." + name)), None)
    if inner:
        return f"a tensor {key}, whose prefix {key.removesuffix(inner)} slant does not know; rename it to {inner}."
    return f"an unexpected tensor {key}; it is none of the model that config.json describes."
