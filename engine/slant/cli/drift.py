"""The command ``slant drift``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from slant.cli.options import Input, Labels, MaxTokens, Template, Truncation, checkpoint_path, prompt_options
from slant.errors import SlantError
from slant.files import write_whole

if TYPE_CHECKING:
    from slant.evaluation.drift.report import DriftReport

BEYOND = 1  # the exit code of a drift beyond its budgets


ReferenceKind = Literal["bf16", "fp32", "transformers", "transformers-fp32"]


def drift(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a hub id, an artifact, or demo: the bundled one.")],
    texts: Annotated[
        str | None,
        typer.Option(metavar="IN", help="CSV, JSON Lines, Parquet or lines; - is stdin. For demo: bundled passages."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="The column or key that holds the text.")] = "text",
    labels_column: Annotated[
        str | None, typer.Option(help="The column of gold labels, as answers (0, 1 ...) or names.")
    ] = None,
    input_format: Annotated[
        Input | None, typer.Option("--input-format", "--format", help="Default: the file's ending.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of CSV, JSON Lines and lines, for example latin-1.")] = "utf-8",
    weights: Annotated[str, typer.Option(help="What is checked: auto, bf16, fp32, or a quantized setting.")] = "auto",
    reference: Annotated[
        ReferenceKind, typer.Option(help="What it is checked against; transformers needs the whole model in memory.")
    ] = "bf16",
    reference_model: Annotated[
        str | None, typer.Option(help="The reference's checkpoint. Default: MODEL; an artifact needs it.")
    ] = None,
    layerwise: Annotated[
        bool, typer.Option("--layerwise/--resident", help="Hold one layer of the reference in memory, or all.")
    ] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; auto is cuda if there is one.")] = "auto",
    template: Template = None,
    labels: Labels = None,
    max_tokens: MaxTokens = None,
    truncation: Annotated[
        Truncation, typer.Option(help="Of a longer text keep its head, or its head and tail, or make it an error.")
    ] = "head",
    max_flip_rate: Annotated[float | None, typer.Option(help="Budget: the share of labels that differ.")] = None,
    max_weighted_flip_rate: Annotated[
        float | None, typer.Option(help="Budget: the same, weighted by the reference's margin.")
    ] = None,
    max_kl: Annotated[float | None, typer.Option(help="Budget: mean KL(reference || ours), in nats.")] = None,
    max_p99: Annotated[float | None, typer.Option(help="Budget: the 99th percentile of the largest |Δp|.")] = None,
    max_expected: Annotated[float | None, typer.Option(help="Budget: the 99th percentile of |Δ expected|.")] = None,
    max_lost: Annotated[int, typer.Option(help="Budget: texts that only the reference could answer.")] = 0,
    json_output: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write figures as JSON.")] = None,
    html_output: Annotated[Path | None, typer.Option("--html", metavar="OUT", help="Write a page with plots.")] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Store the certificate in the artifact MODEL if it is within budget.")
    ] = False,
) -> None:
    """Check how far a model's answers are from its full-precision reference, on given texts.

    Exits with 1 if the drift is beyond a budget, with 0 if it is within all of them. The reference is computed layer by
    layer, so that it need not fit in memory.
    """
    from slant.artifact.certificate import as_json
    from slant.cli.output import show
    from slant.cli.progress import Progress
    from slant.evaluation.drift.budgets import Budgets
    from slant.evaluation.drift.report import terminal
    from slant.model.checkpoint import resolve
    from slant.model.source import open_artifact

    artifact = open_artifact(resolve(checkpoint_path(model))) if certify else None
    budgets = Budgets(max_flip_rate, max_weighted_flip_rate, max_kl, max_p99, max_expected, max_lost)
    for target in (json_output, html_output):
        if target is not None:
            check_writable(target, texts)
    if texts is None:
        if model != "demo":
            raise SlantError("name the texts to measure with --texts.")
        from slant.demo import FOLDER

        texts, text_column = str(FOLDER / "passages.jsonl"), "text"
        labels_column = labels_column or "leaning"
    settings = prompt_options(template, labels, max_tokens)

    from slant.tables.labelled import LabelledTexts

    read = LabelledTexts.read(
        texts,
        text_column=text_column,
        labels_column=labels_column,
        input_format=input_format,
        encoding=encoding,
    )
    with Progress() as progress:
        from slant.evaluation.drift.measure import measure
        from slant.options import LoadOptions

        dtype = reference.removeprefix("transformers").strip("-") or "bf16"
        by_transformers = reference.startswith("transformers")
        report = measure(
            checkpoint_path(model),
            read,
            LoadOptions(weights=weights, device=device, truncation=truncation, **settings),
            date=datetime.now(UTC).date().isoformat(),
            reference=dtype,
            reference_model=reference_model and checkpoint_path(reference_model),
            method="transformers" if by_transformers else "layerwise" if layerwise else "resident",
            budgets=budgets,
            progress=progress,
        )
    write_outputs(report, json_output, html_output)
    show(terminal(report))
    if report.exceeded:
        raise typer.Exit(BEYOND)
    if artifact is not None:
        artifact.annotate(certificate=as_json(report.certificate))


def write_outputs(report: DriftReport, json_output: Path | None, html_output: Path | None) -> None:
    from slant.evaluation.drift.page import html
    from slant.evaluation.drift.report import as_json

    if json_output is not None:
        write(json_output, json.dumps(as_json(report), ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    if html_output is not None:
        write(html_output, html(report))


def check_writable(target: Path, texts: str | None) -> None:
    """Find out before the work whether its report can be written; raises SlantError."""
    if target.is_dir() or not target.parent.is_dir():
        raise SlantError(
            f"{target} cannot be written: {'it' if target.is_dir() else target.parent} is no "
            f"{'file' if target.is_dir() else 'folder'}."
        )
    if texts is not None and target.exists() and Path(texts).exists() and target.samefile(texts):
        raise SlantError(f"{target} is the input; name another file for the report.")


def write(target: Path, content: str) -> None:
    """Replace the file at once, so that a reader finds the old one or the new one whole."""
    # Lone surrogates of an input text must not keep the report from being written.
    write_whole(target, content.encode(errors="replace"))
