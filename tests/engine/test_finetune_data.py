"""Tables to clean examples, the split, and the order of the batches."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy

import classifier
from slant.errors import RecipeError, TableError
from slant.prompt.prompt import Prompt
from slant.training import data
from slant.training.data import Examples, TrainingTable, split_csv
from slant.training.recipe import TrainingRecipe
from slant.training.train import BUCKET_BATCHES, LengthBuckets

NAMES = tuple(classifier.LABELS.values())
GOOD = [("one", "0"), ("two", "1"), ("three", "left"), ("four", 1), ("five", "2.0"), ("six", "RIGHT")]


@pytest.fixture(scope="module")
def prompt(tmp_path_factory):
    return Prompt.load(classifier.write(tmp_path_factory.mktemp("base")), max_tokens=100)


def read(prompt, tmp_path, rows, **options):
    return Examples.read([toy.write(tmp_path / "a.csv", rows)], prompt, **options)


def of_lengths(*lengths):
    """Rows without duplicates, as many of each class as said."""
    return [(f"text {label} {i}", str(label)) for label, count in enumerate(lengths) for i in range(count)]


def test_labels_are_answers_or_names(prompt, tmp_path):
    found = read(prompt, tmp_path, GOOD)
    assert [(example.text, example.label, example.row) for example in found.rows] == [
        ("one", 0, 1), ("two", 1, 2), ("three", 0, 3), ("four", 1, 4), ("five", 2, 5), ("six", 2, 6),
    ]  # fmt: skip
    assert found.dropped == {}
    assert found.rows[0].ids.tolist() == prompt.encode(["one"])[0].ids.tolist()


def test_empty_cells_are_dropped_and_counted(prompt, tmp_path):
    found = read(prompt, tmp_path, [*GOOD[:2], ("", 0), (" \t", 1), ("x", ""), ("y", "  ")])
    assert found.dropped == {data.NO_TEXT: 2, data.NO_GOLD: 2}
    assert [example.row for example in found.rows] == [1, 2]


def grouped(tmp_path, groups):
    """A table with a column of groups, labels in turn."""
    lines = [f"text {i},{i % 3},{group}" for i, group in enumerate(groups)]
    path = tmp_path / "g.csv"
    path.write_text("\n".join(["text,label,author", *lines]) + "\n", encoding="utf-8")
    return TrainingTable(path, group_column="author")


def test_groups_stay_together_in_the_split(prompt, tmp_path):
    names = [f"author {i % 20}" for i in range(400)]
    found = Examples.read([grouped(tmp_path, names)], prompt)
    for seed in (1, 2):
        train, validation = found.split(0.1, seed, NAMES)
        assert len(train) + len(validation) == 400
        assert len(validation) == 40
        assert not {example.group for example in train} & {example.group for example in validation}
    again = Examples(tuple(reversed(found.rows)), {}).split(0.1, 2, NAMES)[1]
    assert {example.text for example in again} == {example.text for example in validation}
    assert {example.text for example in found.split(0.1, 1, NAMES)[1]} != {example.text for example in validation}


def test_a_row_without_a_group_is_one_of_its_own(prompt, tmp_path):
    found = Examples.read([grouped(tmp_path, ["a"] * 30 + [""] * 170)], prompt)
    validation = found.split(0.3, 5, NAMES)[1]
    assert 40 <= len(validation) <= 80
    assert sum(example.group == "a" for example in validation) in (0, 30)


def test_groups_that_leave_nothing_to_train_on(prompt, tmp_path):
    with pytest.raises(TableError, match="no training row of left, middle, right"):
        Examples.read([grouped(tmp_path, ["a"] * 9)], prompt).split(0.1, 1, NAMES)


def test_a_missing_column_of_groups_is_named(prompt, tmp_path):
    table = grouped(tmp_path, ["a"] * 9)
    with pytest.raises(TableError, match=r"no column 'writer' for the groups; its columns are: text, label, author"):
        Examples.read([TrainingTable(table.path, group_column="writer")], prompt)


@pytest.mark.parametrize("label", ["7", "leftish", "-1", "0.5", "nan"])
def test_an_unknown_label_is_named(prompt, tmp_path, label):
    rows = [*GOOD[:2], ("x", label)]
    with pytest.raises(TableError, match=rf"a\.csv, row 3: the label '{label}' is none of .*left.*--skip-invalid"):
        read(prompt, tmp_path, rows)
    found = read(prompt, tmp_path, rows, skip_invalid=True)
    assert found.dropped == {data.UNKNOWN: 1}
    assert len(found.rows) == 2


def test_an_unreadable_row_is_named(prompt, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\none,0\n"two,1\nthree,1,1\nfour,1\n')
    with pytest.raises(TableError, match=r"a\.csv, row 2: Line 3: a quote opens.*--skip-invalid"):
        Examples.read([TrainingTable(path)], prompt)
    found = Examples.read([TrainingTable(path)], prompt, skip_invalid=True)
    assert found.dropped == {data.UNREADABLE: 2}
    assert [example.text for example in found.rows] == ["one", "four"]


def test_a_text_that_is_no_text_is_named(prompt, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": 1}) + "\n" for text in ("one", 5, "\ud800", None)))
    with pytest.raises(TableError, match="row 2: The text is not a string"):
        Examples.read([TrainingTable(path)], prompt)
    found = Examples.read([TrainingTable(path)], prompt, skip_invalid=True)
    assert found.dropped == {data.UNREADABLE: 2, data.NO_TEXT: 1}


@pytest.mark.parametrize("column", ["text", "label"])
def test_a_missing_column_is_named(prompt, tmp_path, column):
    header = tuple("body" if name == column else name for name in ("text", "label"))
    table = toy.write(tmp_path / "a.csv", GOOD, header)
    with pytest.raises(TableError, match=f"no column '{column}'.*{header[0]}, {header[1]}"):
        Examples.read([table], prompt)


def test_a_missing_file_is_named(prompt, tmp_path):
    with pytest.raises(TableError, match=r"b\.csv cannot be read"):
        Examples.read([toy.write(tmp_path / "a.csv", GOOD[:2]), TrainingTable(tmp_path / "b.csv")], prompt)


def test_a_repeated_text_is_kept_once_and_a_contradicted_one_not_at_all(prompt, tmp_path):
    rows = [("one", 0), ("two", 1), (" one ", "left"), ("three", 2), ("three", 1), ("three", 2), ("four", 1)]
    found = read(prompt, tmp_path, rows)
    assert [example.row for example in found.rows] == [1, 2, 7]
    assert found.dropped == {data.REPEATED: 1, data.CONTRADICTED: 3}


def test_tables_of_all_kinds_and_columns_together(prompt, tmp_path):
    first = toy.write(tmp_path / "a.csv", GOOD[:2])
    lines = tmp_path / "b.jsonl"
    lines.write_text('{"body": "seven", "side": 2}\n{"body": "one", "side": "left"}\n')
    pq.write_table(pa.table({"text": ["eight", "nine"], "label": [1.0, None]}), tmp_path / "c.parquet")
    found = Examples.read([first, TrainingTable(lines, "body", "side"), TrainingTable(tmp_path / "c.parquet")], prompt)
    assert [(e.text, e.label, e.table, e.row) for e in found.rows] == [
        ("one", 0, 0, 1), ("two", 1, 0, 2), ("seven", 2, 1, 1), ("eight", 1, 2, 1),
    ]  # fmt: skip
    assert found.dropped == {data.REPEATED: 1, data.NO_GOLD: 1}


def test_a_long_text_is_truncated_and_counted(prompt, tmp_path):
    found = read(prompt, tmp_path, [("x" * 500, 0), ("y", 1)])
    assert [example.truncated for example in found.rows] == [True, False]
    assert len(found.rows[0].ids) == 100
    end = prompt.encode(["y"])[0].ids[-8:]
    assert found.rows[0].ids[-8:].tolist() == end.tolist(), "the prompt's end stays"


def test_the_split_is_stratified_and_complete(prompt, tmp_path):
    found = read(prompt, tmp_path, of_lengths(100, 37, 4))
    train, held = found.split(0.1, 3407, NAMES)
    assert [sum(e.label == label for e in held) for label in range(3)] == [10, 4, 1]
    assert sorted(e.row for e in (*train, *held)) == list(range(1, 142))
    assert not {e.text for e in train} & {e.text for e in held}


def test_the_split_depends_on_seed_and_texts_only(prompt, tmp_path):
    rows = of_lengths(50, 50, 50)
    held = {e.text for e in read(prompt, tmp_path, rows).split(0.1, 3407, NAMES)[1]}
    assert {e.text for e in read(prompt, tmp_path, rows[::-1]).split(0.1, 3407, NAMES)[1]} == held
    assert {e.text for e in read(prompt, tmp_path, rows).split(0.1, 3408, NAMES)[1]} != held
    assert held == {e.text for e in read(prompt, tmp_path, rows).split(0.1, 3407, NAMES)[1]}


def test_the_split_of_this_seed_stays_what_it_is(prompt, tmp_path):
    """A checkpoint's validation rows can be found again with any version of Python and NumPy."""
    held = read(prompt, tmp_path, of_lengths(20, 20)).split(0.1, 3407, NAMES)[1]
    assert [example.row for example in held] == [10, 20, 25, 40]


def test_the_split_as_a_file(prompt, tmp_path):
    tables = [toy.write(tmp_path / "a.csv", of_lengths(5, 5)), toy.write(tmp_path / "b.csv", [("more", 2), ("mo", 2)])]
    parts = Examples.read(tables, prompt).split(0.1, 3407, NAMES)
    lines = list(csv.DictReader(io.StringIO(split_csv(parts, tables, tuple(classifier.LABELS)).decode())))
    assert [(line["table"], line["row"]) for line in lines] == [
        *(("0", str(row)) for row in range(1, 11)), ("1", "1"), ("1", "2"),
    ]  # fmt: skip
    assert {line["file"] for line in lines[10:]} == {"b.csv"}
    assert {(e.table + 0, e.row) for e in parts[1]} == {
        (int(line["table"]), int(line["row"])) for line in lines if line["part"] == "validation"
    }


@pytest.mark.parametrize(
    ("counts", "message"),
    [((0, 0, 0), "no row is left"), ((5, 0, 0), "every row has the label left"), ((5, 1, 5), "middle has 1 row")],
)
def test_too_few_rows_are_told(prompt, tmp_path, counts, message):
    found = read(prompt, tmp_path, [*of_lengths(*counts), ("", 0)])
    with pytest.raises(TableError, match=rf"{message}.*empty text: 1"):
        found.split(0.1, 3407, NAMES)


LENGTHS = np.random.default_rng(0).integers(10, 500, 333)


def test_every_text_once_an_epoch_in_another_order():
    sampler = LengthBuckets(LENGTHS, 8, 3407)
    first = list(sampler)
    assert sorted(first) == list(range(333))
    assert list(sampler) == first == list(LengthBuckets(LENGTHS, 8, 3407))
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(second) == list(range(333))
    assert second != first
    assert list(LengthBuckets(LENGTHS, 8, 3408)) != first


def test_batches_hold_texts_of_about_one_length_but_not_always_the_same():
    sampler = LengthBuckets(LENGTHS, 8, 3407)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = np.array(list(sampler))
        epochs.append({frozenset(batch.tolist()) for batch in order[:328].reshape(-1, 8)})
        widest = LENGTHS[order[:328]].reshape(-1, 8).max(1)
        # A bucket is 16 of 41 batches: its longest text is some 200 tokens longer than its shortest.
        assert (widest * 8).sum() < 1.35 * LENGTHS[order[:328]].sum()
        by_batch = LENGTHS[order[:328]].reshape(-1, 8).mean(1)
        assert abs(np.corrcoef(np.arange(41), by_batch)[0, 1]) < 0.5, "a step has batches of all lengths"
    assert len(epochs[0] & epochs[1]) < 5


def test_few_texts_are_one_batch():
    assert sorted(LengthBuckets([5, 3, 4], 8, 0)) == [0, 1, 2]
    assert BUCKET_BATCHES > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"validation": 1.0}, "validation is 1"),
        ({"schedule": "steps"}, "schedule 'steps' is unknown; use one of cosine"),
        ({"precision": "fp16"}, "precision 'fp16'"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
    ],
)
def test_a_recipe_refuses_what_cannot_be_meant(change, message):
    with pytest.raises(RecipeError, match=message):
        TrainingRecipe(**change)
