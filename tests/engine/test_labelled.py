"""Texts with their gold labels, as tables spell them."""

import math

import pytest
from answers import NAMES

from slant.errors import TableError
from slant.tables.labelled import LabelledTexts


def labelled(*values):
    return LabelledTexts(("t",) * len(values), (None,) * len(values), values)


def test_gold_labels_are_answers_or_names():
    texts = labelled("3", 3, 3.0, " Lean Left ", "lean left", None, "", " ", math.nan)
    gold = texts.gold(tuple("01234"), ("far left", "lean left", "center", "lean right", "far right"))
    assert gold.tolist() == [3, 3, 3, 1, 1, -1, -1, -1, -1]
    for wrong in ("5", 2.5, True, "left"):
        with pytest.raises(TableError, match="row 2"):
            labelled("0", wrong).gold(tuple("01234"), NAMES)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_texts_with_labels_are_read(tmp_path, ending):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / f"in.{ending}"
    if ending == "csv":
        path.write_text("body,gold\none,0\ntwo,\nbad,1,2\n")
    elif ending == "jsonl":
        path.write_text('{"body": "one", "gold": 0}\n{"body": "two"}\n{bad\n')
    else:
        pq.write_table(pa.table({"body": ["one", "two", None], "gold": [0, None, None]}), path)
    found = LabelledTexts.read(path, text_column="body", labels_column="gold")
    assert found.texts == ("one", "two", None)
    assert found.gold(("0", "1"), ("x", "y")).tolist() == [0, -1, -1]
    assert bool(found.errors[2]) == (ending != "parquet")
    with pytest.raises(TableError, match="leaning"):
        LabelledTexts.read(path, text_column="body", labels_column="leaning")
