"""The summary of a job, in JSON and as a page, and what a log file says meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake import LABELS, Engine
from webpage import stands_alone

from slant.cli import progress as cli_progress
from slant.cli.progress import Progress, duration, line
from slant.errors import TableError
from slant.evaluation.job_page import job_page
from slant.tables.bulk import Summary, score_table
from slant.tables.summary import MOST_GROUPS, OTHERS, Tally, add_up

ROWS = [("red", "2024-01-31", "one"), ("blue", "2024-02-01 10:00", "two"), ("red", "no day", "three"), ("", "", "")]


def table(folder: Path) -> Path:
    path = folder / "in.jsonl"
    rows = [{"party": party, "day": day, "text": text} for party, day, text in ROWS] * 5
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"party": "<b>", "day": "2024-02-02", "text": None}])
    )
    return path


def test_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    engine = Engine()
    expected = {text: engine.answer(text).expected for _, _, text in ROWS}
    options = {"group_column": "party", "date_column": "day"}
    for window in (3, 100):
        found = score_table(engine, table(tmp_path), tmp_path / f"{window}.csv", window=window, **options).json()
        assert (found["rows"], found["errors"], found["scored"], found["duplicates"]) == (21, 1, 4, 16)
        assert found["expected"] == pytest.approx(sum(expected.values()) / 4)
        assert sum(found["labels"].values()) == sum(found["lengths"].values()) == 20
        assert found["labels"][engine.answer("one").label_name] >= 5
        red = {"rows": 10, "expected": pytest.approx((expected["one"] + expected["three"]) / 2)}
        assert found["groups"] == {
            "(empty)": {"rows": 5, "expected": pytest.approx(expected[""])},
            "blue": {"rows": 5, "expected": pytest.approx(expected["two"])},
            "red": red,
        }
        assert found["dates"] == {
            "": {"rows": 10, "expected": pytest.approx((expected["three"] + expected[""]) / 2)},
            "2024-01-31": {"rows": 5, "expected": pytest.approx(expected["one"])},
            "2024-02-01": {"rows": 5, "expected": pytest.approx(expected["two"])},
        }
        json.dumps(found, allow_nan=False)
    with pytest.raises(TableError, match=r"no column 'Party'.*did you mean --group-column party"):
        score_table(engine, table(tmp_path), tmp_path / "x.csv", group_column="Party")


def test_the_page_shows_them_and_stands_alone(tmp_path: Path) -> None:
    options = {"group_column": "party", "date_column": "day"}
    summary = score_table(Engine(), table(tmp_path), tmp_path / "out.csv", window=3, **options)
    words = " ".join(stands_alone(job_page(summary, "<out>.csv", LABELS, **options)).words)
    for shown in ("<out>.csv", "Mean expected score", *LABELS, "Expected score by party", "red", "2024-02-01",
                  "10 rows have no date", "Lengths", "up to 1", "Texts a second"):  # fmt: skip
        assert shown in words
    assert "could not be read" not in words
    broken = Summary(0, 0, 0, 0.0, None, problems=tuple(f"<i>{i}" for i in range(30)))
    words = " ".join(stands_alone(job_page(broken, "none", LABELS, date_column="day")).words)
    assert "<i>19" in words
    assert "And 10 more." in words
    assert "There are no rows." in words


@pytest.mark.parametrize(("days", "first"), [(40, "2020-01-01"), (400, "2020-01"), (4000, "2020")])
def test_dates_are_gathered_until_they_fit(days: int, first: str) -> None:
    from datetime import date, timedelta

    found = {(date(2020, 1, 1) + timedelta(i)).isoformat(): {"rows": 1, "expected": 2.0} for i in range(days)}
    figures = {"rows": days, "errors": 0, "dates": found}
    summary = Summary(days, 0, 0, 1.0, 1.0, figures=figures)
    words = stands_alone(job_page(summary, "x", LABELS, date_column="day")).words
    assert first in words
    assert f"{first}: 2" in words


def test_a_group_column_of_identifiers_stays_small() -> None:
    total: dict = {}
    for i in range(MOST_GROUPS + 50):
        add_up(total, {"groups": {f"{i}": {"rows": 1, "expected": 1.0}}})
    assert len(total["groups"]) == MOST_GROUPS + 1
    assert total["groups"][OTHERS] == {"rows": 50, "expected": 50.0}


def test_rates_are_remembered_in_little_memory() -> None:
    tally = Tally(lambda summary: None, {}, None)
    for _ in range(5000):
        tally.add(1, 1)
        tally.note_rate()
    assert len(tally.rates) <= Tally.MOST_RATES
    assert tally.rates == sorted(tally.rates)
    assert tally.rates[-1][1] > 4900


def test_a_log_file_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(cli_progress.time, "monotonic", lambda: now[0])
    half = Summary(rows=6000, errors=0, tokens=50_000, seconds=50.0, done=0.5, earlier=1000, begun=0.25)
    with Progress(keep=True) as progress:
        for second in range(200):
            now[0] = 100.0 + second
            progress.scored(half)
    assert capsys.readouterr().err == "slant: 6,000 rows (50.0%), 100 texts/s, 1,000 tokens/s, 2 min left\n" * 3
    with Progress(hidden=True) as progress:
        now[0] += 1000
        progress.scored(half)
    assert capsys.readouterr().err == ""
    assert line(Summary(7, 0, 7, 1.0, None)) == "7 rows, 7.0 texts/s, 7.0 tokens/s"
    assert [duration(s) for s in (59, 119, 121, 7199, 7500)] == ["59 s", "2 min", "2 min", "2 h 00 min", "2 h 05 min"]
