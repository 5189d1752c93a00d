"""The hyperparameters of training; the defaults are those of the published classifier."""

from __future__ import annotations

from dataclasses import dataclass

from slant.errors import RecipeError

# The linear layers of a block that get adapters, by the last part of their names.
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DELTA_NET = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
SCHEDULES = ("cosine", "linear", "constant_with_warmup")
PRECISIONS = ("auto", "bf16", "fp32")
_POSITIVE = ("rank", "alpha", "learning_rate", "epochs", "batch_size", "accumulation", "max_grad_norm", "save_steps")
_NOT_NEGATIVE = ("warmup_steps", "weight_decay", "seed")


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """How to train. Raises RecipeError for a value out of range.

    rank, alpha, dropout, rank_stabilized: of every adapter, which is scaled by alpha / sqrt(rank) if rank_stabilized
    (rsLoRA), else by alpha / rank. delta_net: adapters on the DeltaNet projections too.
    learning_rate ... max_grad_norm: AdamW's, with gradients clipped to a norm. A step takes batch_size * accumulation
    texts. max_tokens, truncation: as for scoring. validation: the share of each label that is held out.
    seed: of the split, the adapters' initial values and the order of the texts.
    precision: "bf16" (bf16 matrices, autocast, fp32 adapters), "fp32", or "auto": bf16 on a GPU that has it.
    gradient_checkpointing: by default on a GPU only. save_steps: steps between the checkpoints of a run.
    """

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilized: bool = True
    delta_net: bool = False
    learning_rate: float = 1e-4
    schedule: str = "cosine"
    warmup_steps: int = 20
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    epochs: int = 2
    batch_size: int = 8
    accumulation: int = 4
    max_tokens: int | None = None
    truncation: str = "head"
    validation: float = 0.1
    seed: int = 3407
    precision: str = "auto"
    gradient_checkpointing: bool | None = None
    save_steps: int = 100

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < float("inf"):
                raise RecipeError(f"{name} is {getattr(self, name)}; give a number above 0.")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < float("inf"):
                raise RecipeError(f"{name} is {getattr(self, name)}; give 0 or more.")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout is {self.dropout}; give a share from 0 to below 1.")
        if not 0 < self.validation < 1:
            raise RecipeError(f"validation is {self.validation}; give a share between 0 and 1, such as 0.1.")
        for name, allowed in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise RecipeError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(allowed)}.")
