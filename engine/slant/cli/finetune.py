"""The command ``slant finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from slant.cli.options import Delimiter, InputFormat, MaxTokens, Truncation, checkpoint_path, load_options, takes
from slant.errors import SlantError
from slant.options import LoadOptions
from slant.training.recipe import TrainingRecipe

if TYPE_CHECKING:
    from rich.console import RenderableType

    from slant.training.run import Finetuned


def training_recipe(
    rank: Annotated[int, typer.Option(help="Of the adapters.")] = 16,
    alpha: Annotated[float, typer.Option(help="The adapters' scale.")] = 16,
    dropout: Annotated[float, typer.Option(help="Of the adapters' inputs.")] = 0.0,
    rank_stabilized: Annotated[
        bool, typer.Option("--rank-stabilized/--plain-lora", help="Scale by alpha / sqrt(rank), or alpha / rank.")
    ] = True,
    delta_net: Annotated[bool, typer.Option("--delta-net", help="Adapters on the DeltaNet projections too.")] = False,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 1e-4,
    schedule: Annotated[
        Literal["cosine", "linear", "constant_with_warmup"],
        typer.Option(help="Of the learning rate after the warm-up."),
    ] = "cosine",
    warmup_steps: Annotated[int, typer.Option(help="Steps until the learning rate is at its peak.")] = 20,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = 0.01,
    max_grad_norm: Annotated[float, typer.Option(help="A step's gradient is clipped to this norm.")] = 1.0,
    epochs: Annotated[int, typer.Option(help="Times through the training rows.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Texts at a time.")] = 8,
    accumulation: Annotated[int, typer.Option(help="Batches a step.")] = 4,
    max_tokens: MaxTokens = None,
    truncation: Truncation = "head",
    validation: Annotated[float, typer.Option(help="The share of each label's rows that is held out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split, the adapters and the order of texts.")] = 3407,
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], typer.Option(help="auto is bf16 on a GPU that has it.")
    ] = "auto",
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--keep-activations",
            help="Compute activations twice instead of keeping them. Default: on a GPU.",
        ),
    ] = None,
    save_steps: Annotated[int, typer.Option(help="Steps between the checkpoints of the run.")] = 100,
) -> TrainingRecipe:
    """The hyperparameters as options; each is a field of the recipe."""
    return TrainingRecipe(**locals())


@takes(training_recipe, into="recipe")
@takes(load_options, "template", "labels")
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
    input_format: InputFormat = None,
    encoding: Annotated[str, typer.Option(help="Of CSV and JSON Lines, for example latin-1.")] = "utf-8",
    delimiter: Delimiter = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Drop and count rows that are unreadable or have an unknown label.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    *,
    recipe: TrainingRecipe,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; auto is cuda if there is one.")] = "auto",
    options: LoadOptions,
) -> None:
    """Train a classifier on labelled texts: LoRA on a base model, merged into a checkpoint that slant can score with.

    A tenth of the rows is held out, label by label, and the merged checkpoint is judged on it. FOLDER appears when it
    is complete; until then FOLDER.partial holds the work, and --resume goes on with it.
    """
    from slant.cli.output import show
    from slant.cli.progress import Progress
    from slant.training.data import TrainingTable
    from slant.training.run import finetune as run

    text_columns = _for_each(data, text_column or ["text"], "--text-column")
    labels_columns = _for_each(data, labels_column or ["label"], "--labels-column")
    tables = [
        TrainingTable(path, text, label, group_column, input_format, encoding, delimiter)
        for path, text, label in zip(data, text_columns, labels_columns, strict=True)
    ]
    with Progress() as progress:
        done = run(
            checkpoint_path(base),
            tables,
            output,
            recipe,
            device=device,
            template=options.template,
            labels=options.labels,
            skip_invalid=skip_invalid,
            resume=resume,
            progress=progress,
        )
    show(summary(done))


def summary(done: Finetuned) -> RenderableType:
    """The run in a few lines, and the quality of the new checkpoint."""
    from rich.console import Group

    from slant.evaluation.report import terminal

    rows, losses, labels = done.record["rows"], done.record["losses"], done.record["labels"]
    dropped = ", ".join(f"{reason}: {count:,}" for reason, count in rows["dropped"].items()) or "none"
    lines = [
        f"Trained on {sum(rows['train'].values()):,} texts in {done.record['steps']:,} steps; the loss went from "
        f"{losses[0]['loss']:.4f} to {losses[-1]['loss']:.4f}.",
        f"Rows dropped: {dropped}. Texts truncated: {rows['truncated']:,}.",
    ]
    if absent := [name for answer, name in labels.items() if not rows["train"][answer]]:
        lines.append(f"No row has the label {', '.join(absent)}: the model learned not to give it.")
    return Group(*lines, "", terminal(done.validation), "", f"Written to {done.folder}.")


def _for_each(tables: list[str], columns: list[str], option: str) -> list[str]:
    if len(columns) not in (1, len(tables)):
        raise SlantError(f"{option} is given {len(columns)} times for {len(tables)} tables: once, or once for each.")
    return columns * len(tables) if len(columns) == 1 else columns
