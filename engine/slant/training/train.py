"""The training loop: transformers' Trainer with batches of about one length, and checkpoints that survive a kill."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from slant.errors import SlantError
from slant.files import sha256, write_whole
from slant.training.data import Example
from slant.training.recipe import TrainingRecipe

BUCKET_BATCHES = 16  # batches that exchange their texts
COMPLETE = "complete"  # a file in each checkpoint that was written completely: the SHA-256 of its other files
KEPT = 2  # checkpoints: one may be half-written
LOGGED = 200  # losses recorded of a run, about


def steps_of(recipe: TrainingRecipe, texts: int) -> int:
    """Optimizer steps of a run. Raises SlantError if the warm-up would take all of them."""
    steps = recipe.epochs * math.ceil(texts / (recipe.batch_size * recipe.accumulation))
    if recipe.warmup_steps >= steps:
        raise SlantError(
            f"training on {texts} texts takes {steps} steps, and the warm-up alone {recipe.warmup_steps}: "
            "give fewer warm-up steps (--warmup-steps), a smaller --batch-size, or more --epochs or texts."
        )
    return steps


def train(
    network: Any,
    examples: Sequence[Example],
    recipe: TrainingRecipe,
    folder: Path,
    *,
    device: torch.device,
    bf16: bool,
    progress: Callable[[int, int], None],
) -> list[dict[str, float]]:
    """Train the adapters of ``network`` in place, from the last complete checkpoint in ``folder`` if there is one.

    Returns the losses: dicts with step, loss, learning_rate and grad_norm. A run that is killed and resumed ends with
    the same weights as one that was not, on a CPU bit for bit. Raises SlantError for a loss of NaN or infinity.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Ordered(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return LengthBuckets([len(example.ids) for example in examples], recipe.batch_size, recipe.seed)

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step, state.max_steps)

        def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            loss = more["logs"].get("loss", 0.0)
            if not math.isfinite(loss):
                raise SlantError(
                    f"the loss is {loss} at step {state.global_step}; give a lower learning rate (--learning-rate)."
                )

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seal(folder / f"checkpoint-{state.global_step}")

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=bf16,
        use_cpu=device.type == "cpu",
        seed=recipe.seed,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=KEPT,
        logging_steps=max(1, steps_of(recipe, len(examples)) // LOGGED),
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # Trainer would use all GPUs, each with a copy of the model
    trainer = Ordered(
        network,
        arguments,
        data_collator=collate,
        train_dataset=list(examples),
        compute_loss_func=_loss,
        callbacks=[Watch()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_complete(folder))
    kept = ("step", "loss", "learning_rate", "grad_norm")
    return [{key: line[key] for key in kept} for line in trainer.state.log_history if "loss" in line]


def _loss(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    """Cross entropy over the answers: the sum over this batch, divided by the texts of the whole step."""
    return cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


def last_complete(folder: Path) -> str | None:
    """The newest complete checkpoint. Newer, half-written ones are removed: the run will write them again.

    Raises SlantError if it was damaged since it was written.
    """
    numbers = {path: path.name.partition("-")[2] for path in folder.glob("checkpoint-*")}
    found = {int(number): path for path, number in numbers.items() if number.isdecimal()}
    for step in sorted(found, reverse=True):
        if (found[step] / COMPLETE).exists():
            _check(found[step])
            return str(found[step])
        shutil.rmtree(found[step])
    return None


def seal(checkpoint: Path) -> None:
    """Note that a checkpoint is complete."""
    files = {str(path.relative_to(checkpoint)): sha256(path) for path in checkpoint.rglob("*") if path.is_file()}
    write_whole(checkpoint / COMPLETE, json.dumps(files, indent=1).encode())


def _check(checkpoint: Path) -> None:
    damaged = COMPLETE
    with suppress(OSError, ValueError, AttributeError):
        files = json.loads((checkpoint / COMPLETE).read_bytes()).items()
        damaged = next((name for name, digest in files if sha256(checkpoint / name) != digest), "")
    if damaged:
        raise SlantError(
            f"{checkpoint / damaged} was damaged after it was written; remove {checkpoint} and resume again "
            "(--resume): the run goes on from the checkpoint before it, or from its beginning."
        )


class LengthBuckets:
    """A sampler: indices of texts of given lengths, to be cut into batches of ``batch_size``.

    Texts are sorted by length into buckets of ``BUCKET_BATCHES`` batches and shuffled inside them; then the batches are
    shuffled, so that a step sees all lengths. The texts beyond whole batches are drawn at random and come last. The
    order depends on the seed, the epoch and the lengths only.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.array(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng((self.seed, self.epoch))
        shuffled = draw.permutation(len(self.lengths))
        whole = len(shuffled) - len(shuffled) % self.batch_size
        by_length = shuffled[:whole][np.argsort(self.lengths[shuffled[:whole]], kind="stable")]
        size = BUCKET_BATCHES * self.batch_size
        for start in range(0, whole, size):
            draw.shuffle(by_length[start : start + size])
        batches = draw.permutation(by_length.reshape(-1, self.batch_size))
        return iter(np.concatenate([batches.ravel(), shuffled[whole:]]).tolist())


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Right-padded ``ids`` int64 ``[n, longest]``, the position ``last`` int64 ``[n]`` of each last token, ``labels``.

    No mask: convolution, delta rule and causal attention only look back, so padding cannot reach the position that the
    loss is computed at.
    """
    lengths = [len(example.ids) for example in examples]
    return {
        "ids": pad_sequence([torch.from_numpy(example.ids).long() for example in examples], batch_first=True),
        "last": torch.tensor(lengths, dtype=torch.int64, device="cpu") - 1,
        "labels": torch.tensor([example.label for example in examples], dtype=torch.int64, device="cpu"),
    }
