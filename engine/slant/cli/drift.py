"""The command ``slant drift``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from slant.cli.options import RUNNING, HtmlOutput, JsonOutput, Model, checkpoint_path, load_options, reading, takes
from slant.demo import FOLDER
from slant.errors import SlantError
from slant.options import LoadOptions

BEYOND = 1  # the exit code of a drift beyond its budgets


@takes(reading, into="table")
@takes(load_options, *RUNNING, "truncation", "special_tokens")
def drift(
    model: Model,
    texts: Annotated[
        str | None,
        typer.Option(metavar="IN", help="CSV, JSON Lines, Parquet or lines; - is stdin. For demo: bundled passages."),
    ] = None,
    labels_column: Annotated[
        str | None, typer.Option(help="The column of gold labels, as answers (0, 1 ...) or names.")
    ] = None,
    *,
    table: dict[str, Any],
    reference: Annotated[
        Literal["bf16", "fp32", "transformers", "transformers-fp32"],
        typer.Option(help="What it is checked against; transformers needs the whole model in memory."),
    ] = "bf16",
    reference_model: Annotated[
        str | None, typer.Option(help="The reference's checkpoint. Default: MODEL; an artifact needs it.")
    ] = None,
    layerwise: Annotated[
        bool, typer.Option("--layerwise/--resident", help="Hold one layer of the reference in memory, or all.")
    ] = True,
    options: LoadOptions,
    max_flip_rate: Annotated[float | None, typer.Option(help="Budget: the share of labels that differ.")] = None,
    max_weighted_flip_rate: Annotated[
        float | None, typer.Option(help="Budget: the same, weighted by the reference's margin.")
    ] = None,
    max_kl: Annotated[float | None, typer.Option(help="Budget: mean KL(reference || ours), in nats.")] = None,
    max_p99: Annotated[
        float | None,
        typer.Option("--max-p99-delta", "--max-p99", help="Budget: the 99th percentile of the largest |Δp|."),
    ] = None,
    max_expected: Annotated[
        float | None,
        typer.Option("--max-p99-expected", "--max-expected", help="Budget: the 99th percentile of |Δ expected|."),
    ] = None,
    max_lost: Annotated[int, typer.Option(help="Budget: texts that only the reference could answer.")] = 0,
    json_output: JsonOutput = None,
    html_output: HtmlOutput = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Store the certificate in the artifact MODEL if it is within budget.")
    ] = False,
) -> None:
    """Check how far a model's answers are from its full-precision reference, on given texts.

    Exits with 1 if the drift is beyond a budget, with 0 if it is within all of them. The reference is computed layer by
    layer, so that it need not fit in memory.
    """
    from slant.artifact.certificate import as_json
    from slant.cli.output import check_writable, show, write_reports
    from slant.cli.progress import Progress
    from slant.evaluation.drift import report as reports
    from slant.evaluation.drift.budgets import Budgets
    from slant.model.checkpoint import resolve
    from slant.model.source import open_artifact
    from slant.tables.labelled import LabelledTexts

    artifact = open_artifact(resolve(checkpoint_path(model))) if certify else None
    budgets = Budgets(max_flip_rate, max_weighted_flip_rate, max_kl, max_p99, max_expected, max_lost)
    check_writable((json_output, html_output), inputs=[texts] if texts else [])
    if texts is None:
        if model != "demo":
            raise SlantError("name the texts to measure with --texts.")
        texts, table["text_column"] = str(FOLDER / "passages.jsonl"), "text"
        labels_column = labels_column or "leaning"
    read = LabelledTexts.read(texts, labels_column=labels_column, **table)
    with Progress() as progress:
        from slant.evaluation.drift.measure import measure
        from slant.runtime.resolved import use_threads

        use_threads(options.threads, everywhere=True)  # a reference in transformers has as many

        dtype = reference.removeprefix("transformers").strip("-") or "bf16"
        report = measure(
            checkpoint_path(model),
            read,
            options,
            date=datetime.now(UTC).date().isoformat(),
            reference=dtype,
            reference_model=reference_model and checkpoint_path(reference_model),
            method="transformers" if reference.startswith("transformers") else "layerwise" if layerwise else "resident",
            budgets=budgets,
            progress=progress,
        )
    write_reports(json_output, reports.as_json(report), html_output, lambda: reports.html(report))
    show(reports.terminal(report))
    if report.exceeded:
        raise typer.Exit(BEYOND)
    if artifact is not None:
        artifact.annotate(certificate=as_json(report.certificate))
