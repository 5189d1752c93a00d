"""The command ``slant evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slant import __version__
from slant.cli.options import RUNNING, HtmlOutput, JsonOutput, checkpoint_path, load_options, reading, takes
from slant.errors import SlantError
from slant.options import LoadOptions

if TYPE_CHECKING:
    from slant.cli.progress import Progress
    from slant.evaluation.predictions import Predictions
    from slant.tables.labelled import LabelledTexts

BELOW = 1  # the exit code of an accuracy below --min-accuracy


@takes(reading, into="read")
@takes(load_options, *RUNNING, "truncation", "special_tokens")
def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="TABLE", help="CSV, JSON Lines or Parquet with gold labels; - is stdin.")
    ],
    labels_column: Annotated[str, typer.Option(help="The column of gold labels, as answers (0, 1 ...) or names.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Score the texts with it: a checkpoint folder, a hub id, or demo.")
    ] = None,
    predictions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="P",
            help="A table as slant score writes it; or a column of TABLE; or what the names of its columns p0, p1 ... "
            "begin with. Default without a model: TABLE's own p0, p1 ... or label.",
        ),
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Match rows of P by this column, not by order.")] = None,
    group_column: Annotated[
        str | None,
        typer.Option(help="Rows with the same value are not independent: the bootstrap draws them together."),
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(help="What the added columns of a table P begin with; once for all, or once for each P."),
    ] = None,
    *,
    read: dict[str, Any],
    options: LoadOptions,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Exit with 1 below this; labelled rows without an answer count as wrong here."),
    ] = None,
    json_output: JsonOutput = None,
    html_output: HtmlOutput = None,
) -> None:
    """Evaluate predictions, or a model's answers, against the gold labels of a table; or compare two of them.

    Accuracy, MAE, quadratic-weighted kappa and macro-F1 have 95 % bootstrap intervals; with probabilities there are
    also the calibration error, the Brier score and the NLL. Two models, two sets of predictions, or one of each (the
    model comes first) are compared on the rows that both answered. Rows without a label or an answer are counted, and
    are in no other figure.
    """
    from slant.cli.output import check_writable, terminal, write_reports
    from slant.cli.progress import Progress

    models, given = model or [], list(predictions or ([] if model else [""]))
    if len(models) + len(given) > 2:
        raise SlantError(f"give at most two models or predictions, not {len(models) + len(given)}.")
    prefixes = list(prefix or [""]) * (len(given) if len(prefix or "1") == 1 else 1)
    if len(prefixes) != len(given):
        raise SlantError(f"give --prefix once, or once for each of {len(given)} tables, not {len(prefixes)} times.")
    check_writable((json_output, html_output), inputs=(source, *given))

    from slant.evaluation.evaluation import evaluate as judge
    from slant.evaluation.predictions import locate, settle_labels
    from slant.evaluation.report import html
    from slant.evaluation.report import terminal as summary
    from slant.tables.labelled import NO_LABEL, LabelledTexts

    read["text_column"] = read["text_column"] if models else None
    table = LabelledTexts.read(source, labels_column=labels_column, keep=None, **read)
    groups = None if group_column is None else table.column(group_column, "for the groups")
    found = [
        locate(spec, table, gold=labels_column, id_column=id_column, prefix=begins, encoding=read["encoding"])
        for spec, begins in zip(given, prefixes, strict=True)
    ]
    names = labels_of(models, options)
    if names is None:
        readable = [value for value, error in zip(table.values or (), table.errors, strict=True) if error is None]
        names = settle_labels([answers for answers, _ in found], readable)
    gold = table.gold(tuple(names), tuple(names.values()))
    assert gold is not None  # there is a column of them
    sides = [answers.predictions(names) for answers, _ in found]
    labelled = tuple(None if label == NO_LABEL else text for label, text in zip(gold, table.texts, strict=True))
    with Progress() as progress:
        sides = [*(score(one, replace(table, texts=labelled), options, progress) for one in models), *sides]
    evaluation = judge(
        source,
        tuple(names.values()),
        gold,
        sides,
        errors=table.errors,
        groups=groups,
        group_column=group_column,
        resamples=resamples,
        seed=seed,
    )
    date = datetime.now(UTC).date().isoformat()
    figures = {"date": date, "slant": __version__, **asdict(evaluation)}
    write_reports(json_output, figures, html_output, lambda: html(evaluation, date))
    console = terminal()
    console.print(summary(evaluation))
    for answers, extra in found:
        if extra:
            console.print(f"{answers.name} has {extra:,} more rows, whose ids are not in {source}.")
    reached = min(side.accuracy_of_all for side in evaluation.sides)
    if min_accuracy is not None and reached < min_accuracy:
        console.print(f"Below --min-accuracy {min_accuracy:g}: {reached:.4f}.", style="bold red")
        raise typer.Exit(BELOW)


def labels_of(models: Sequence[str], options: LoadOptions) -> Mapping[str, str] | None:
    """Answers and names of the models' prompts, which must agree; without a model those of the options, if any."""
    from slant.model.adapter import model_folders
    from slant.prompt.prompt import Prompt

    folders = [model_folders(checkpoint_path(model)) for model in models]
    found = [Prompt.load(folder, template=options.template, labels=options.labels).labels for folder in folders]
    if any(dict(one) != dict(found[0]) for one in found):
        raise SlantError(f"{models[0]} and {models[1]} have different labels: {found[0]} and {found[1]}.")
    return found[0] if found else options.labels


def score(model: str, texts: LabelledTexts, options: LoadOptions, progress: Progress) -> Predictions:
    """A model's answers; the model is in memory only here."""
    from slant.engine import Engine
    from slant.evaluation.predictions import Predictions

    engine = Engine.load(checkpoint_path(model), options, progress=progress.of(f"loading {model}"))
    scores = texts.scored(engine, progress.of(f"scoring with {model}"))
    return Predictions(model, scores.probabilities, tuple(scores.error))
