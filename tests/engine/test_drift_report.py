"""The report on the terminal, as JSON and as a page."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from webpage import Page, stands_alone

from slant.artifact import certificate as certificates
from slant.artifact.arithmetic import Arithmetic
from slant.demo import FOLDER
from slant.evaluation import charts
from slant.evaluation.charts import heatmap, reliability
from slant.evaluation.drift import report
from slant.evaluation.drift.budgets import Budgets
from slant.evaluation.drift.figures import RowDrift, drift_between
from slant.evaluation.formatting import BEGINNING, percent
from slant.evaluation.metrics import calibrate
from slant.prompt.prompt import Prompt
from slant.scores import Score, Scores

HOSTILE = "<script>alert(\"x\")</script> & <img src=http://example.com/x.png> 'quoted' " + "שלום " * 90


def made(n=30, k=5, *, gold=True, name="model", failures=True, budgets=None):
    """A report of random answers; text 0 is hostile, and it is the one that drifted most."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(k), n).astype(np.float32), rng.dirichlet(np.ones(k), n).astype(np.float32)
    p[0], q[0] = np.eye(k, dtype=np.float32)[:2] * 0.98 + 0.02 / k
    names = [f"<b>{name} & {i}" for i in range(k)]
    sides = []
    for side in (p, q):
        rows = [Score.of(np.log(row), row, names, tokens=100 + 30 * i, dropped=0) for i, row in enumerate(side)]
        if failures:
            rows[-1] = Score.failed("<i>bad</i>", k)
        sides.append(Scores(rows, names))
    labels = np.arange(n) % k if gold else None
    certificate = certificates.certificate(
        drift_between(*sides, labels),
        texts=[HOSTILE] * n,
        prompt=Prompt.load(FOLDER, labels={str(i): name for i, name in enumerate(names)}),
        arithmetic=Arithmetic("hqq4", "fp32", "cpu", 8192, "head", "avx2"),
        reference="bf16",
        method="layerwise",
        device="cpu",
        date="2026-01-31",
    )
    return report.DriftReport(name, certificate, budgets or Budgets(), RowDrift.of(*sides), [HOSTILE] * n, labels)


@pytest.mark.parametrize("gold", [True, False])
@pytest.mark.parametrize("k", [2, 5, 10])
def test_the_page_stands_alone_and_escapes(k, gold):
    text = report.html(made(k=k, gold=gold, name="<u>m</u>"))
    found = stands_alone(text)
    assert HOSTILE[:60] in "".join(found.words), "the text is readable"
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(svgs) == (6 if gold else 3) + len(made(k=k).worst())
    for svg in svgs:
        numbers = re.findall(r' (?:x|y|cx|cy|r|width|height)="([^"]*)"', svg)
        assert ElementTree.fromstring(svg) is not None
        assert all(np.isfinite(float(number)) for number in numbers)


def test_the_page_says_what_the_figures_say():
    shown = made(budgets=Budgets(max_flip_rate=0.1))
    words = " ".join(Page(report.html(shown)).words)
    figures = shown.drift.overall.figures
    assert percent(figures.flip_rate) in words
    assert f"{figures.flips} of 29 texts" in words
    assert "Beyond the budgets: max_flip_rate" in words
    assert "1 of 30 rows are in no figure." in words
    assert "<i>bad</i>" in words
    assert "Against the gold labels" in words
    assert "Within" in " ".join(Page(report.html(made(failures=False, budgets=Budgets(max_kl=99)))).words)


def test_worst_rows():
    shown = made()
    first, second = shown.worst()[:2]
    assert (first["row"], first["tokens"]) == (0, 100)
    assert first["reference"] != first["ours"]
    assert first["delta"] == max(shown.rows.delta) >= second["delta"]
    assert len(first["text"]) <= BEGINNING
    assert first["text"].endswith("…")


@pytest.mark.parametrize("width", [60, 100])
def test_terminal(width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(report.terminal(made(budgets=Budgets(max_kl=0.0))))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "max_kl is 0, found" in " ".join(text.split())
    assert "row 30: <i>bad</i>" in " ".join(text.split())


def test_json_has_no_nan_and_the_certificate_reads_back():
    shown = made()
    plain = json.loads(json.dumps(report.as_json(shown), allow_nan=False))
    assert certificates.parse(plain["certificate"]) == shown.certificate
    assert plain["worst"][0]["row"] == 0
    assert [e["budget"] for e in plain["exceeded"]] == []


def test_a_heatmap_shows_every_count():
    counts = ((7, 0, 3), (0, 1234, 0), (1, 1, 0))
    words = [t.text for t in ElementTree.fromstring(heatmap(counts, "abc", "rows", "ours")).iter("text")]
    assert [word for word in words if word in ("7", "3", "1,234", "1")] == ["7", "3", "1,234", "1", "1"]
    assert words.count("·") == 4


def test_many_points_are_thinned_but_no_flip_is():
    rng = np.random.default_rng(0)
    delta, flip = rng.random(50_000), np.arange(50_000) % 200 == 0
    shown = charts.thinned(delta, flip)
    assert len(shown) == len(set(shown)) == charts.MOST_POINTS
    assert flip[shown].sum() == 250
    assert delta.argmax() in shown
    assert charts.thinned(delta[:9], flip[:9]).tolist() == sorted(range(9), key=lambda i: (not flip[i], -delta[i]))


@pytest.mark.parametrize("high", [1e-9, 3e-5, 0.07, 0.25, 1.0, 812.0])
def test_ticks_are_round_and_cover(high):
    marks = charts.ticks(high)
    assert marks[0] == 0
    assert high <= marks[-1] < 1.7 * high
    assert 4 <= len(marks) <= 7


@pytest.mark.parametrize("tokens", [[128], [100, 101], [90, 8192], [128, 256]])
def test_a_scatter_of_few_or_equal_rows(tokens):
    n = len(tokens)
    svg = charts.scatter(np.array(tokens), np.zeros(n), np.zeros(n, dtype=bool), 0.0)
    circles = ElementTree.fromstring(svg).findall("circle")
    assert len(circles) == n
    assert all(54 <= float(c.get("cx")) <= 820 for c in circles)


def test_a_reliability_diagram_has_a_dot_a_bin():
    calibration = calibrate(np.array([0.55, 0.95, 0.96]), np.array([1.0, 0.0, 1.0]))
    svg = ElementTree.fromstring(reliability([("ours", "second", calibration)]))
    assert [c.find("title").text.split(":")[1].split(",")[0] for c in svg.iter("circle")] == [" 1 rows", " 2 rows"]
