"""The model card's own way, through transformers: the independent truth (fp32) and reference (bf16).

Left padding with an attention mask, ``logits_to_keep=1``, softmax over the answers' token ids at the last position.
This is the only module that imports a transformers model class; nothing of the engine's forward is used here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slant.errors import SlantError
from slant.files import first_with
from slant.model.adapter import model_folders
from slant.model.registry import read_config
from slant.prompt.prompt import EncodedText, Prompt
from slant.scores import Score, Scores

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Reference:
    """A transformers model with its own tokenizer, answering for the texts of a ``Prompt``."""

    model: Any
    tokenizer: Any
    prompt: Prompt

    @classmethod
    def load(
        cls, model: str | Path, *, weights: str = "fp32", device: str = "cpu", prompt: Prompt | None = None
    ) -> Reference:
        """Load a checkpoint folder or hub id with transformers, weights "bf16" or "fp32".

        ``prompt`` renders (and truncates) the texts; by default the folder's own. Raises SlantError where transformers
        would choose kernels that cannot run.
        """
        from transformers import AutoTokenizer

        folders = model_folders(model)
        *adapters, base = folders
        network = load_model(base, DTYPES[weights], device)
        for adapter in adapters:
            network.load_adapter(str(adapter))
        tokenizer = AutoTokenizer.from_pretrained(first_with(folders, "tokenizer.json").parent)
        return cls(network, tokenizer, prompt or Prompt.load(folders))

    def score(self, texts: Iterable[str], *, batch_size: int = 8) -> Scores:
        """Score texts in their order, ``batch_size`` at a time; a bad text becomes that row's error."""
        texts, names = list(texts), self.prompt.label_names
        encoded = self.prompt.encode(texts)
        rows = [Score.failed(text.error or "", len(names)) for text in encoded]
        good = [row for row, text in enumerate(encoded) if text.error is None]
        for start in range(0, len(good), batch_size):
            batch = good[start : start + batch_size]
            sequences = [self._ids(texts[row], encoded[row]) for row in batch]
            logits = last_logits(self.model, sequences, self.prompt.answer_ids)
            for row, ids, answer in zip(batch, sequences, logits, strict=True):
                if not answer.isfinite().all():
                    rows[row] = Score.not_finite(len(names))
                    continue
                p, dropped = answer.softmax(-1).numpy(), encoded[row].tokens_dropped
                counts = {"tokens": len(ids), "dropped": dropped, "special_tokens": encoded[row].special_tokens}
                rows[row] = Score.of(answer.numpy(), p, names, **counts)
        return Scores(rows, names)

    def _ids(self, text: str, encoded: EncodedText) -> Sequence[int]:
        """The tokens that transformers makes, but the prompt's own for a text with special tokens read as text."""
        if encoded.special_tokens and self.prompt.special_tokens == "text":
            return encoded.ids.tolist()
        ids: list[int] = self.tokenizer(self.prompt.render(text)).input_ids
        return ids


def load_model(folder: Path, dtype: torch.dtype, device: str = "cpu") -> Any:
    """The transformers model of a Qwen3.5 checkpoint folder, multimodal or text-only, in evaluation mode."""
    if device == "cpu" and find_spec("fla") is not None:
        raise SlantError(
            "flash-linear-attention is installed, and with it transformers runs this model on a GPU only; "
            "uninstall fla-core, or run the reference on the device cuda."
        )
    import transformers

    model = getattr(transformers, read_config(folder).architecture).from_pretrained(folder, dtype=dtype)
    return model.to(device).eval()


@torch.inference_mode()
def last_logits(model: Any, sequences: Sequence[Sequence[int]], answer_ids: Sequence[int]) -> Tensor:
    """Answer logits of one left-padded batch, fp32 ``[len(sequences), len(answer_ids)]`` on the CPU."""
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.int64, device="cpu")
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, longest - len(sequence) :] = torch.tensor(sequence, dtype=torch.int64, device="cpu")
        mask[row, longest - len(sequence) :] = 1
    out = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False, logits_to_keep=1)
    return out.logits[:, -1, list(answer_ids)].float().cpu()
