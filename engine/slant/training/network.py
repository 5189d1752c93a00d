"""The network in training: transformers' text model with LoRA adapters, and a head of the answers' rows only.

The head has an adapter too, as in the published recipe, though on so few rows it saves no weights: AdamW moves each
weight by up to the learning rate a step. At a rate that suits adapters, rows trained directly would move a logit (of
hidden size 2560) by some 0.2 a step and leave the blocks little to learn; under an adapter it is some 0.004.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slant.errors import SlantError
from slant.model.checkpoint import Checkpoint
from slant.prompt.prompt import Prompt
from slant.tensor_files import HEAD
from slant.training.recipe import DELTA_NET, PROJECTIONS, TrainingRecipe


class AnswerNetwork(nn.Module):
    """``text`` makes hidden states of ids, ``head`` the answers' logits of the last state."""

    def __init__(self, text: nn.Module, rows: Tensor) -> None:
        """rows ``[answers, hidden]``: the answers' rows of the language-model head, which are copied."""
        super().__init__()
        self.text = text
        self.head = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
        self.head.weight = nn.Parameter(rows.to(torch.float32, copy=True))

    def forward(self, ids: Tensor, last: Tensor) -> Tensor:
        """Right-padded ids ``[n, t]`` and last positions ``[n]`` -> logits fp32 ``[n, answers]``."""
        hidden = self.text(input_ids=ids, use_cache=False).last_hidden_state
        hidden = hidden[torch.arange(len(ids), dtype=torch.int64, device=ids.device), last]
        with torch.autocast(ids.device.type, enabled=False):  # as the engine has it: the head in fp32
            return self.head(hidden.float())


def adapted(
    checkpoint: Checkpoint, prompt: Prompt, recipe: TrainingRecipe, *, dtype: torch.dtype, checkpointing: bool
) -> Any:
    """A checkpoint as a peft model around an ``AnswerNetwork``, on the CPU, with new adapters by the recipe's seed.

    Matrices are held in ``dtype``, vectors (norms, gates) and adapters in fp32.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    text = text_model(checkpoint, dtype)
    if checkpointing:
        text.activation_checkpointing_enable({"use_reentrant": False})
    set_seed(recipe.seed)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=recipe.dropout,
        use_rslora=recipe.rank_stabilized,
        target_modules=[*PROJECTIONS, *(DELTA_NET if recipe.delta_net else ()), "head"],
        bias="none",
    )
    return get_peft_model(AnswerNetwork(text, checkpoint.head_rows(prompt.answer_ids)), config)


def text_model(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """transformers' text model; vision tensors and the vocabulary-wide head are not read."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint.folder).get_text_config()
    with init_empty_weights():
        model = checkpoint.config.text_network(config)
    tensors = {
        name: checkpoint.read(name).to(dtype if len(info.shape) > 1 else torch.float32)
        for name, info in checkpoint.tensors.items()
        if name != HEAD
    }
    model.load_state_dict(tensors, assign=True)
    return model.requires_grad_(False)


def deltas(network: Any) -> dict[str, Tensor]:
    """What the adapters add to each matrix, fp32 on the CPU, by canonical names; ``HEAD`` has the answers' rows only.

    Raises SlantError if an adapter holds NaN or infinity.
    """
    from peft.tuners.lora import LoraLayer

    found = {}
    for name, layer in network.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            delta = layer.get_delta_weight(network.active_adapter).float().cpu()  # type: ignore[attr-defined]
            if not delta.isfinite().all():
                raise SlantError(
                    f"training made NaN or infinity of {name}; give a lower learning rate (--learning-rate)."
                )
            found[HEAD if name == "head" else f"{name.removeprefix('text.')}.weight"] = delta
    return found
