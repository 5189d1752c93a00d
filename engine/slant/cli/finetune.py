"""The command ``slant finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from slant.cli.options import Input, Labels, MaxTokens, Template, Truncation, checkpoint_path, prompt_options
from slant.errors import SlantError

Schedule = Literal["cosine", "linear", "constant_with_warmup"]
Precision = Literal["auto", "bf16", "fp32"]


def finetune(
    base: Annotated[str, typer.Argument(help="A checkpoint folder, a hub id, or demo: the bundled one.")],
    data: Annotated[list[str], typer.Option(metavar="IN", help="A CSV, JSON Lines or Parquet table; again for more.")],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to make.")],
    text_column: Annotated[
        list[str] | None, typer.Option(help="The column of texts, for all tables, or once for each.  [default: text]")
    ] = None,
    labels_column: Annotated[
        list[str] | None, typer.Option(help="The column of labels (0, 1 ..., or names), likewise.  [default: label]")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Rows with the same value, such as an author's, stay together in the split.")
    ] = None,
    input_format: Annotated[
        Input | None, typer.Option("--input-format", "--format", help="Default: the file's ending.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of CSV and JSON Lines, for example latin-1.")] = "utf-8",
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Drop and count rows that are unreadable or have an unknown label.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    rank: Annotated[int, typer.Option(help="Of the adapters.")] = 16,
    alpha: Annotated[float, typer.Option(help="The adapters' scale.")] = 16,
    dropout: Annotated[float, typer.Option(help="Of the adapters' inputs.")] = 0.0,
    rank_stabilized: Annotated[
        bool, typer.Option("--rank-stabilized/--plain-lora", help="Scale by alpha / sqrt(rank), or alpha / rank.")
    ] = True,
    delta_net: Annotated[bool, typer.Option("--delta-net", help="Adapters on the DeltaNet projections too.")] = False,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 1e-4,
    schedule: Annotated[Schedule, typer.Option(help="Of the learning rate after the warm-up.")] = "cosine",
    warmup_steps: Annotated[int, typer.Option(help="Steps until the learning rate is at its peak.")] = 20,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = 0.01,
    max_grad_norm: Annotated[float, typer.Option(help="A step's gradient is clipped to this norm.")] = 1.0,
    epochs: Annotated[int, typer.Option(help="Times through the training rows.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Texts at a time.")] = 8,
    accumulation: Annotated[int, typer.Option(help="Batches a step.")] = 4,
    max_tokens: MaxTokens = None,
    truncation: Annotated[
        Truncation, typer.Option(help="Of a longer text keep its head, or its head and tail, or make it an error.")
    ] = "head",
    validation: Annotated[float, typer.Option(help="The share of each label's rows that is held out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split, the adapters and the order of texts.")] = 3407,
    precision: Annotated[Precision, typer.Option(help="auto is bf16 on a GPU that has it.")] = "auto",
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--keep-activations",
            help="Compute activations twice instead of keeping them. Default: on a GPU.",
        ),
    ] = None,
    save_steps: Annotated[int, typer.Option(help="Steps between the checkpoints of the run.")] = 100,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; auto is cuda if there is one.")] = "auto",
    template: Template = None,
    labels: Labels = None,
) -> None:
    """Train a classifier on labelled texts: LoRA on a base model, merged into a checkpoint that slant can score with.

    A tenth of the rows is held out, label by label, and the merged checkpoint is judged on it. FOLDER appears when it
    is complete; until then FOLDER.partial holds the work, and --resume goes on with it.
    """
    from slant.cli.output import show
    from slant.cli.progress import Progress
    from slant.training.data import Table
    from slant.training.recipe import Recipe
    from slant.training.run import finetune as run
    from slant.training.show import terminal

    recipe = Recipe(
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        rank_stabilized=rank_stabilized,
        delta_net=delta_net,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        epochs=epochs,
        batch_size=batch_size,
        accumulation=accumulation,
        max_tokens=max_tokens,
        truncation=truncation,
        validation=validation,
        seed=seed,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        save_steps=save_steps,
    )
    names = {
        "text_column": _for_each(data, text_column or ["text"], "--text-column"),
        "labels_column": _for_each(data, labels_column or ["label"], "--labels-column"),
    }
    tables = [
        Table(path, text, label, group_column, input_format, encoding)
        for path, text, label in zip(data, *names.values(), strict=True)
    ]
    prompt = prompt_options(template, labels, max_tokens)
    with Progress() as progress:
        done = run(
            checkpoint_path(base),
            tables,
            output,
            recipe,
            device=device,
            template=prompt["template"],
            labels=prompt["labels"],
            skip_invalid=skip_invalid,
            resume=resume,
            progress=progress,
        )
    show(terminal(done))


def _for_each(tables: list[str], columns: list[str], option: str) -> list[str]:
    if len(columns) not in (1, len(tables)):
        raise SlantError(f"{option} is given {len(columns)} times for {len(tables)} tables: once, or once for each.")
    return columns * len(tables) if len(columns) == 1 else columns
