"""A small encoder with a classification head, tuned with LoRA (Hu et al. 2021, arXiv 2106.09685) by the Trainer.

Only the adapters of the attention's query and value projections and the new head are trained. Texts are padded to the
longest of their batch, not to the limit: the encoder masks padding, so that the answers are the same up to rounding.
Training batches hold texts of similar length, drawn anew each epoch, and are computed in parts, whose gradients add up:
both take less time and memory and change no batch's gradient.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.data import Labelled
from harness.batching import by_length
from slant.runtime.resolved import choose_dtype

MAX_TOKENS = 256
TARGETS = ("query", "value")
PREDICTION_BATCH = 32
PART = 16  # texts of a training batch that are computed at a time


def native_bf16() -> bool:
    """Whether the machine multiplies bfloat16 natively, so that training in it takes less time."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return choose_dtype("auto", device) is torch.bfloat16


@dataclass(frozen=True)
class Tuning:
    """The adapter's ``rank``, ``alpha`` and ``dropout``, and how it is trained; all else is Trainer's default.

    ``bf16`` computes products in bfloat16; weights, gradients and the optimizer's state are float32 all the same.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    epochs: float = 15
    rate: float = 2e-4
    batch: int = 64
    seed: int = 42
    bf16: bool = field(default_factory=native_bf16)


def tune(base: Path, train: Labelled, tuning: Tuning, target: Path) -> dict[str, Any]:
    """Train on a base model's folder and save the merged model, with its tokenizer, in ``target``.

    Returns the trained parameters, those of the merged model, and the mean loss of training.
    """
    import transformers as hf
    from peft import LoraConfig, TaskType, get_peft_model

    hf.set_seed(tuning.seed)  # before the head is made: its start is random
    tokenizer, named = hf.AutoTokenizer.from_pretrained(base), dict(enumerate(train.names))
    ids = {"id2label": named, "label2id": {name: number for number, name in named.items()}}
    model = hf.AutoModelForSequenceClassification.from_pretrained(
        base, dtype=torch.float32, num_labels=len(named), **ids
    )
    sizes = {"r": tuning.rank, "lora_alpha": tuning.alpha, "lora_dropout": tuning.dropout}
    tuned = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=list(TARGETS), **sizes))
    trained, _ = tuned.get_nb_trainable_parameters()
    encoded = tokenizer(list(train.texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    rows = [{"input_ids": ids, "labels": label} for ids, label in zip(encoded, train.labels.tolist(), strict=True)]
    parts = tuning.batch // PART if tuning.batch % PART == 0 else 1
    with tempfile.TemporaryDirectory() as folder:
        arguments = hf.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=tuning.batch // parts,
            gradient_accumulation_steps=parts,
            num_train_epochs=tuning.epochs,
            learning_rate=tuning.rate,
            train_sampling_strategy="group_by_length",
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            seed=tuning.seed,
            bf16=tuning.bf16,
            use_cpu=not torch.cuda.is_available(),
        )
        collator = hf.DataCollatorWithPadding(tokenizer)
        trainer = hf.Trainer(model=tuned, args=arguments, train_dataset=rows, data_collator=collator)
        # The encoder's loss is the mean over a part, whatever its signature promises: Trainer must divide by the parts.
        trainer.model_accepts_loss_kwargs = False
        loss = trainer.train().training_loss
    merged = tuned.merge_and_unload()
    merged.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return {"trained_parameters": trained, "parameters": merged.num_parameters(), "training_loss": round(loss, 4)}


def load(folder: Path) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """What ``tune`` saved, as a function from texts to logits ``[n, k]``."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def answer(sequences: list[list[int]]) -> list[list[float]]:
        return model(**tokenizer.pad({"input_ids": sequences}, return_tensors="pt")).logits.tolist()

    def predict(texts: Sequence[str]) -> NDArray[np.float64]:
        ids = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        return np.array(by_length(answer, ids, PREDICTION_BATCH))

    return predict
