"""The command slant evaluate: which rows it judges, where it finds answers, and what it says of the rest."""

import csv
import json
import re
import shutil
import sys
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather
from rich.console import Console
from webpage import stands_alone

from slant.cli import app as cli
from slant.demo import FOLDER, passages
from slant.engine import Engine
from slant.errors import SlantError, TableError
from slant.evaluation.assess import assess, compare
from slant.evaluation.evaluation import evaluate
from slant.evaluation.formatting import number
from slant.evaluation.predictions import Answered, Predictions, settle_labels
from slant.evaluation.report import html, notes, terminal
from slant.prompt.prompt import DEFAULT_LABELS
from slant.tables.labelled import LabelledTexts
from slant.tables.read import ENDINGS

NAMES = tuple(DEFAULT_LABELS.values())
RNG = np.random.default_rng(0)
GOLD = RNG.integers(0, 5, 40)
P = np.round(RNG.dirichlet(np.ones(5), 40) * 0.6 + 0.4 * np.eye(5)[GOLD], 4)
Q = np.round(RNG.dirichlet(np.ones(5), 40) * 0.9 + 0.1 * np.eye(5)[GOLD], 4)


@pytest.fixture
def slant(tmp_path, capfd, monkeypatch):
    """Runs slant evaluate in the test's folder: exit code, the JSON it wrote (or None), and both streams."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.run(["evaluate", *map(str, arguments), "--json", "out.json"])
        sys.stdout.flush()
        out, err = capfd.readouterr()
        plain = json.loads((tmp_path / "out.json").read_text()) if code < 2 else None
        (tmp_path / "out.json").unlink(missing_ok=True)
        return code, plain, " ".join(out.split()), err

    return run


def rows_of(probabilities, prefix="", label=True):
    """Rows as slant score writes them."""
    rows = [{f"{prefix}p{i}": float(value) for i, value in enumerate(p)} for p in probabilities]
    for row, p in zip(rows, probabilities, strict=True):
        if label:
            row |= {f"{prefix}label": int(p.argmax()), f"{prefix}label_name": NAMES[p.argmax()]}
        row[f"{prefix}error"] = None
    return rows


def table_of(path, rows):
    """Write rows as a table; a missing cell is empty."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    if path.suffix in (".parquet", ".arrow", ".feather"):
        table = pa.table({name: [row.get(name) for row in rows] for name in names})
        (pq.write_table if path.suffix == ".parquet" else feather.write_feather)(table, path)
    elif path.suffix in (".csv", ".tsv", ".tab"):
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t").writerows(
                [names, *([row.get(name) for name in names] for row in rows)]
            )
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def gold(tmp_path):
    """40 labelled rows of numbers alone, with ids and speakers."""
    return table_of(tmp_path / "gold.csv", [{"id": f"r{i}", "gold": g, "by": f"s{i % 8}"} for i, g in enumerate(GOLD)])


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_predictions_are_judged_alike_from_any_table(slant, tmp_path, ending):
    gold = table_of(tmp_path / f"gold{ending}", [{"id": i, "gold": int(g)} for i, g in enumerate(GOLD)])
    answers = table_of(tmp_path / f"p{ending}", rows_of(P))
    code, found, out, err = slant(gold, "--labels-column", "gold", "--predictions", answers)
    assert (code, err) == (0, "")
    assert found["sides"][0]["assessment"] == json.loads(json.dumps(as_plain(assess(GOLD, P))))
    assert found["labels"] == list(NAMES)
    assert (found["rows"], found["labelled"], found["judged"], found["comparison"]) == (40, 40, 40, None)
    assert f"{(P.argmax(1) == GOLD).mean():.2%}" in out


def as_plain(record):
    from dataclasses import asdict

    return asdict(record)


def test_two_are_compared(slant, gold, tmp_path):
    p, q = table_of(tmp_path / "p.jsonl", rows_of(P)), table_of(tmp_path / "q.csv", rows_of(Q, "x_"))
    options = ["--labels-column", "gold", "--predictions", p, "--predictions", q, "--prefix", "", "--prefix", "x_"]
    _, found, out, _ = slant(gold, *options, "--resamples", 500, "--seed", 3)
    assert found["comparison"] == json.loads(json.dumps(as_plain(compare(GOLD, P, Q, resamples=500, seed=3))))
    assert f"exact McNemar p = {number(found['comparison']['mcnemar']['p_value'])}" in out
    _, found, out, _ = slant(gold, *options, "--group-column", "by")
    groups = np.arange(40) % 8
    assert found["comparison"] == json.loads(json.dumps(as_plain(compare(GOLD, P, Q, groups=groups))))
    assert found["sides"][1]["assessment"] == json.loads(json.dumps(as_plain(assess(GOLD, Q, groups=groups))))
    assert "8 groups by by" in out
    assert "8 groups are few" in out


@pytest.mark.parametrize("given", [[], ["--predictions", "t.csv"], ["--predictions", ""]])
def test_the_gold_column_is_no_answer(slant, tmp_path, given):
    rows = [{**row, "label": int(g)} for g, row in zip(GOLD, rows_of(Q), strict=True)]
    table_of(tmp_path / "t.csv", rows)
    _, found, _, _ = slant("t.csv", "--labels-column", "label", *given)
    right = (Q.argmax(1) == GOLD).mean()
    assert right < 0.9, "else the gold labels could be the answers"
    assert found["sides"][0]["assessment"]["accuracy"]["value"] == pytest.approx(right)
    assert found["sides"][0]["contradicted"] == 0
    table_of(tmp_path / "t.csv", [{"label": row["label"]} for row in rows])
    code, _, _, err = slant("t.csv", "--labels-column", "label", *given)
    assert code == 2
    assert "t.csv has no answers" in err


@pytest.mark.parametrize("which", ["p", "guess", "name", ""])
def test_answers_in_the_table_itself(slant, tmp_path, which):
    prefix = {"p": "x_", "": ""}.get(which, "other_")
    rows = rows_of(P, prefix)
    for row, g, p in zip(rows, GOLD, P, strict=True):
        row |= {"gold": NAMES[g], "guess": float(p.argmax()), "name": NAMES[p.argmax()].title()}
    table = table_of(tmp_path / "t.csv", rows)
    given = [] if not which else ["--predictions", "x_" if which == "p" else which]
    _, found, _, _ = slant(table, "--labels-column", "gold", *given)
    expected = assess(GOLD, P if which in ("p", "") else P.argmax(1), classes=5)
    assert found["sides"][0]["assessment"] == json.loads(json.dumps(as_plain(expected)))


def test_rows_are_matched_by_id(slant, gold, tmp_path):
    rows = [{"id": f"r{i}", **row} for i, row in enumerate(rows_of(P))]
    order = np.random.default_rng(0).permutation(40)
    other = table_of(tmp_path / "p.csv", [rows[i] for i in order if i != 7] + [{**rows[0], "id": "new"}])
    code, found, out, _ = slant(gold, "--labels-column", "gold", "--predictions", other, "--id-column", "id")
    assert code == 0
    kept = np.arange(40) != 7
    assert found["sides"][0]["assessment"]["confusion"] == [list(r) for r in assess(GOLD[kept], P[kept]).confusion]
    assert found["sides"][0]["failures"] == [{"row": 7, "error": "there is no prediction with its id."}]
    assert "1 more rows, whose ids are not in" in out
    twice = table_of(tmp_path / "twice.csv", [*rows, rows[3]])
    code, _, _, err = slant(gold, "--labels-column", "gold", "--predictions", twice, "--id-column", "id")
    assert code == 2
    assert "'r3' in rows 4 and 41" in err


def test_every_row_is_accounted_for(slant, tmp_path):
    """Row 1 has no label, 2 to 6 no answer, 41 is broken; each is told, and the others judged."""
    rows = [{"gold": g, **row} for g, row in zip(GOLD.tolist(), rows_of(P), strict=True)]
    rows[0]["gold"] = None
    rows[1]["error"] = "too long."
    rows[2]["p3"] = "nan"
    rows[3]["p0"] = 37.0
    rows[4]["p4"] = None
    rows[5]["p1"] = "high"
    table = table_of(tmp_path / "t.csv", rows)
    with table.open("a") as file:
        file.write("broken,row\n")
    code, found, out, err = slant(table, "--labels-column", "gold")
    assert (code, err) == (0, "")
    assert (found["rows"], found["labelled"], found["judged"]) == (41, 39, 34)
    assert [f["row"] for f in found["unreadable"]] == [40]
    side = found["sides"][0]
    assert [f["row"] for f in side["failures"]] == [1, 2, 3, 4, 5]
    errors = [f["error"] for f in side["failures"]]
    assert errors[0] == "too long."
    assert errors[1:] == [
        "p3 is 'nan', not a number from 0 to 1.",
        "p0 is '37.0', not a number from 0 to 1.",
        "p4 is missing.",
        "p1 is 'high', not a number from 0 to 1.",
    ]
    right = (P.argmax(1) == GOLD)[6:]
    assert side["assessment"]["rows"] == 34
    assert side["assessment"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert side["accuracy_of_all"] == pytest.approx(right.sum() / 39)
    assert "1 of 41 rows (2.4%) have no gold label." in out
    assert "1 of 41 rows (2.4%) could not be read." in out
    assert "did not answer 5 of 39 labelled rows (12.8%)" in out
    assert f"counted as wrong its accuracy is {right.sum() / 39:.2%}" in out


def test_predicted_labels_that_are_none_are_failures(slant, gold, tmp_path):
    rows = [{"label": "unsure" if i == 2 else None if i == 3 else int(g)} for i, g in enumerate(GOLD)]
    _, found, _, _ = slant(gold, "--labels-column", "gold", "--predictions", table_of(tmp_path / "p.jsonl", rows),
                           "--labels", labels_file(tmp_path))  # fmt: skip
    errors = [failure["error"] for failure in found["sides"][0]["failures"]]
    assert errors == ["'unsure' is no label.", "there is no label."]
    assert found["sides"][0]["assessment"]["accuracy"]["value"] == 1


def labels_file(folder):
    (folder / "labels.json").write_text(json.dumps(DEFAULT_LABELS))
    return folder / "labels.json"


def test_what_is_odd_is_told(slant, tmp_path):
    rows = [{"gold": g, **row} for g, row in zip(GOLD.tolist(), rows_of(P), strict=True)]
    rows[0]["label"] = (rows[0]["label"] + 1) % 5
    rows[2]["label"] = int(GOLD[2] + 1) % 5
    for i in range(5):
        rows[1][f"p{i}"] /= 2
        rows[2][f"p{i}"] = float(i == (GOLD[2] + 1) % 5)
        rows[3][f"p{i}"] = round(rows[3][f"p{i}"], 3)
    code, found, out, _ = slant(table_of(tmp_path / "t.csv", rows), "--labels-column", "gold")
    side = found["sides"][0]
    assert code == 0
    assert "in 1 rows the label column is not the most probable label" in out
    assert side["contradicted"] == 1
    assert "1 of 40 evaluated rows (2.5%) do not sum to 1 (off by up to 0.5)" in out
    assert "1 of 40 evaluated rows (2.5%) give their gold label the probability 0" in out
    assert side["assessment"]["confidence"]["nll"] is None
    assert side["assessment"]["confidence"]["off_one"] == 1


def test_a_model_is_scored_and_compared_with_its_own_answers(slant, tmp_path, monkeypatch, capfd):
    texts = [passage["text"] for passage in passages()][::8]
    golds = [i % 5 for i in range(len(texts))]
    rows = [{"text": text, "gold": g, "by": "x"} for text, g in zip(texts, golds, strict=True)]
    rows += [{"text": "no label", "gold": None}, {"text": "", "gold": 1}]
    table = table_of(tmp_path / "t.jsonl", rows)
    model = ["--model", "demo", "--device", "cpu", "--weights", "fp32"]
    assert cli.run(["score", "t.jsonl", *model, "--output", "p.parquet"]) == 0
    capfd.readouterr()
    read = []
    stream = Engine.stream
    monkeypatch.setattr(
        Engine, "stream", lambda self, texts, **o: stream(self, (read.append(t) or t for t in texts), **o)
    )
    code, found, out, err = slant(table, "--labels-column", "gold", *model, "--predictions", "p.parquet")
    assert (code, err) == (0, "")
    assert [text for text in read if text] == texts, "only the labelled texts"
    first, second = found["sides"]
    assert first["assessment"]["confusion"] == second["assessment"]["confusion"]
    assert found["comparison"]["accuracy"] == {"value": 0, "low": 0, "high": 0, "undefined": 0}
    assert abs(found["comparison"]["nll"]["value"]) < 1e-5
    assert first["assessment"]["confidence"]["nll"]["value"] == pytest.approx(
        second["assessment"]["confidence"]["nll"]["value"], abs=1e-5
    )
    assert [f["row"] for f in first["failures"]] == [f["row"] for f in second["failures"]] == [len(texts) + 1]
    assert (found["rows"], found["labelled"], found["judged"]) == (len(texts) + 2, len(texts) + 1, len(texts))
    assert "first: demo second: p.parquet" in out


@pytest.mark.parametrize(("least", "code"), [(0.0, 0), (0.425, 0), (0.45, 1)])
def test_min_accuracy_counts_missing_answers(slant, tmp_path, least, code):
    """17 of 20 answered rows are right, of 40 labelled."""
    rows = [{"gold": 1, "label": None if i >= 20 else int(i >= 3)} for i in range(40)]
    table = table_of(tmp_path / "t.csv", rows)
    got, found, out, _ = slant(table, "--labels-column", "gold", "--min-accuracy", least)
    assert (got, found["sides"][0]["assessment"]["accuracy"]["value"]) == (code, 0.85)
    assert ("Below --min-accuracy 0.45: 0.4250." in out) == bool(code)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["missing.csv"], "missing.csv"),
        (["gold.csv", "--predictions", "missing.csv"], "missing.csv does not exist"),
        (["gold.csv", "--predictions", "gold"], "gold.csv has no answers"),
        (["gold.csv"], "gold.csv has no answers"),
        (["gold.csv", "--predictions", "short.csv"], "gold.csv has 40 rows and short.csv has 39: match them"),
        (["gold.csv", "--predictions", "short.csv", "--id-column", "id"], "short.csv has no column 'id'"),
        (["gold.csv", "--predictions", "short.csv", "--id-column", "nr"], "gold.csv has no column 'nr'"),
        (["gold.csv", "--predictions", "p.csv", "--group-column", "nr"], "no column 'nr' for the groups"),
        (["gold.csv", "--predictions", "p.csv", "--prefix", "x_"], "p.csv has no answers: neither x_p0"),
        (["gold.csv", *["--predictions", "p.csv"] * 3], "at most two"),
        (["gold.csv", "--predictions", "p.csv", "--model", "demo"], "no column 'text'"),
        (["gold.csv", "--predictions", "p.csv", *["--prefix", "x"] * 2], "give --prefix once"),
        (["gold.csv", "--predictions", "three.csv", "--labels", "labels.json"], "3 labels, not of 5"),
        (["gold.csv", "--predictions", "three.csv"], "row 1 has the label"),
        (["words.csv", "--predictions", "p.csv"], "'bad' is no known label: give all names"),
        (["gold.csv", "--predictions", "gold.csv"], "gold.csv has no answers"),
        (["gold.csv", "--predictions", "copied.csv"], "give --prefix x_"),
        (["gold.csv", "--predictions", "years.csv"], "a label 2,016"),
        (["gold.csv", "--model", "demo", "--model", "other", "--text-column", "id"], "have different labels"),
        (["words.csv", "--model", "demo", "--text-column", "gold"], "row 1 has the label"),
        (["empty.csv", "--predictions", "p.csv"], "no row with a gold label (40 rows)"),
        (["gold.csv", "--predictions", "failed.csv"], "has an answer: too long"),
        (["gold.csv", "--predictions", "p.csv", "--html", "p.csv"], "is the input"),
    ],
)
def test_a_problem_is_one_line_and_code_2(slant, gold, tmp_path, monkeypatch, arguments, word):
    labels_file(tmp_path)
    table_of(tmp_path / "p.csv", rows_of(P))
    table_of(tmp_path / "short.csv", rows_of(P)[:-1])
    table_of(tmp_path / "three.csv", rows_of(P[:, :3], label=False))
    table_of(tmp_path / "words.csv", [{"gold": "good" if g else "bad"} for g in GOLD])
    table_of(tmp_path / "copied.csv", [{"label": int(g), **row} for g, row in zip(GOLD, rows_of(P, "x_"), strict=True)])
    table_of(tmp_path / "years.csv", [{"label": 2016}] * 40)
    table_of(tmp_path / "empty.csv", [{"gold": None, "id": 1}] * 40)
    table_of(tmp_path / "failed.csv", [{**row, "error": "too long."} for row in rows_of(P)])
    (tmp_path / "other").mkdir()
    shutil.copy(FOLDER / "tokenizer.json", tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text("{}")
    (tmp_path / "other" / "slant.json").write_text(json.dumps({"labels": {"0": "no", "1": "yes"}}))
    monkeypatch.setattr(Engine, "load", None)  # all of it is found before a model is loaded
    code, _, out, err = slant(*arguments, "--labels-column", "gold")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert word in err


def answered(labels=None, names=None, k=0, n=2):
    return Answered("t", tuple((0.5,) * n for _ in range(k)), labels, names, (None,) * n)


@pytest.mark.parametrize(
    ("answers", "gold", "names"),
    [
        (answered(k=5), ("0", "1"), ["0", "1", "2", "3", "4"]),
        (answered(k=5), ("far left", "CENTER "), list(NAMES)),
        (answered((0, 4), ("far left", "far right"), 5), (1, None), list(NAMES)),
        (answered(("0", "2.0")), ("1.0", ""), ["0", "1", "2"]),
        (answered((0, 1), ("ham", "spam"), 2), ("spam", "ham"), ["ham", "spam"]),
        (answered((0, 1), ("ham", "spam"), 3), ("2", "ham"), ["ham", "spam", "2"]),
        (answered((0, 0)), (0, 0), ["0", "1"]),
    ],
)
def test_labels_are_settled_from_tables(answers, gold, names):
    assert list(settle_labels([answers], gold).values()) == names


def test_what_could_not_be_read_settles_no_labels():
    assert len(settle_labels([Answered("t", (), ("0", "7", "1"), None, (None, "broken.", None))], ("0", "1"))) == 2


@pytest.mark.parametrize("gold", [("ham", "eggs"), ("far left", "eggs")])
def test_names_without_an_order_are_refused(gold):
    with pytest.raises(TableError, match="eggs"):
        settle_labels([answered((0, 1), ("ham", "spam"), 2)], gold)


def test_a_table_needs_no_text_where_none_is_read(tmp_path):
    for ending in set(ENDINGS) - {".txt"}:
        path = table_of(tmp_path / f"t{ending}", [{"a": 1, "b": 2}, {"a": 3, "b": None}])
        found = LabelledTexts.read(path, text_column=None, keep=None)
        assert [str(value) for value in found.columns["a"]] == ["1", "3"]
        assert found.errors == (None, None)
    with pytest.raises(TableError, match="no column 'y' for the labels; its columns are: a, b"):
        LabelledTexts.read(tmp_path / "t.csv", text_column=None, labels_column="y")
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(TableError, match="not a readable Parquet"):
        LabelledTexts.read(tmp_path / "bad.parquet", text_column=None)


def made(k=5, two=True, probabilities=True, groups=None, names=None):
    """An evaluation of 30 rows with hostile names, one row unanswered and one unlabelled."""
    rng = np.random.default_rng(0)
    gold = np.arange(30) % k
    gold[3] = -1
    p = [rng.dirichlet(np.ones(k), 30) for _ in range(2)]
    errors = (None,) * 29 + ("<i>bad</i>",)
    names = names or ["<u>one</u>", "<b>two</b>"]
    sides = [Predictions(name, x if probabilities else x.argmax(1), errors) for name, x in zip(names, p, strict=True)]
    labels = [f"<b>name & {i}" for i in range(k)]
    return evaluate("<u>t</u>.csv", labels, gold, sides[: 2 if two else 1], groups=groups, group_column="<b>")


@pytest.mark.parametrize("k", [2, 5, 10])
@pytest.mark.parametrize(("two", "probabilities"), [(True, True), (False, True), (True, False), (False, False)])
def test_the_page_stands_alone_and_escapes(k, two, probabilities):
    evaluation = made(k, two, probabilities)
    text = html(evaluation, "2026-01-31")
    words = " ".join(stands_alone(text).words)
    assert "<u>one</u>" in words
    assert "<i>bad</i>" in words
    assert f"{evaluation.sides[0].assessment.accuracy.value:.2%}" in words
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(svgs) == (2 if two else 1) + probabilities
    for svg in svgs:
        assert ElementTree.fromstring(svg) is not None
    for note in notes(evaluation):
        assert note in words


@pytest.mark.parametrize("two", [True, False])
def test_the_terminal_is_80_columns_wide(two):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    evaluation = made(5, two)
    console.print(terminal(evaluation))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    a = evaluation.sides[0].assessment.accuracy
    assert f"[{a.low:.2%}, {a.high:.2%}]" in text, "an interval is on one line"
    assert ("McNemar" in text) == two


def test_groups_are_those_of_the_judged_rows():
    """The rows without an answer come first, and their groups are not those of the others."""
    groups = np.array([*"xxxx", *np.arange(36) % 6])
    p = Predictions("m", P, ("late.",) * 4 + (None,) * 36)
    found = evaluate("t", NAMES, GOLD, [p], groups=list(groups)).sides[0].assessment
    assert found == assess(GOLD[4:], P[4:], groups=groups[4:])


def test_rows_without_a_group_stand_alone():
    groups = [None if i in (0, 1) else "a" if i < 16 else "b" for i in range(30)]
    evaluation = made(groups=groups)
    assert (evaluation.ungrouped, evaluation.sides[0].assessment.groups) == (2, 4)
    assert any("2 of 28 evaluated rows (7.1%) have no <b>" in note for note in notes(evaluation))


def test_degenerate_evaluations():
    with pytest.raises(SlantError, match="no row with a gold label"):
        evaluate("t", "ab", np.array([-1, -1]), [Predictions("m", np.array([0, 1]))])
    with pytest.raises(SlantError, match="NaN"):
        evaluate("t", "ab", np.array([1, 1]), [Predictions("m", np.full((2, 2), np.nan), ("NaN.", "NaN."))])
    one = Predictions("m", np.array([0, 1, 1]), (None, "late.", "late."))
    other = Predictions("o", np.array([0, 1, 1]), ("early.", None, None))
    with pytest.raises(SlantError, match="of both models: late"):
        evaluate("t", "ab", np.array([0, 1, 1]), [one, other])
    alone = evaluate("t", "ab", np.array([0, 1, 1]), [one])
    assert (alone.judged, alone.sides[0].accuracy_of_all) == (1, pytest.approx(1 / 3))
    Console(file=open("/dev/null", "w")).print(terminal(alone))  # noqa: PTH123, SIM115
    assert "undefined" in html(alone, "2026-01-31")
    read = evaluate("t", "ab", np.array([0, 1, 1]), [other], errors=(None, "broken.", None))
    assert (read.labelled, read.judged, [failure.error for failure in read.unreadable]) == (2, 1, ["broken."])
    with pytest.raises(ValueError, match="not 3"):
        evaluate("t", "ab", np.array([0]), [one] * 3)
