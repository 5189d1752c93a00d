"""What people give to ``score`` and ``stream``, and to the arguments of ``Engine.load``."""

import array
import io
import itertools
from collections import OrderedDict, UserString, deque
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from slant import Engine, LoadOptions, SlantError
from slant.cascade import Cascade
from slant.demo import FOLDER
from slant.inputs import texts_of
from slant.options import memory_bytes

TEXTS = ["Rain.", "The bridge will be repaired.", "Ñandú"]
FRAME = pd.DataFrame({"text": TEXTS, "n": [1, 2, 3]})


@pytest.fixture(scope="module")
def engine():
    return Engine.load(FOLDER, device="cpu", weights="fp32")


@pytest.fixture(scope="module")
def expected(engine):
    return engine.score(TEXTS)


class Column:
    """As of Hugging Face datasets: a sequence that decodes its rows as they are asked for."""

    def __init__(self, values):
        self.values, self.column_name, self.source = values, "text", object()

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return self.values[index]


class Polars:
    """As a polars Series: iterable, with to_list."""

    def __iter__(self):
        return iter(TEXTS)

    def to_list(self):
        return TEXTS


ORDERED = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "deque": deque(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "iterator": lambda: iter(TEXTS),
    "map": lambda: map(str, TEXTS),
    "chain": lambda: itertools.chain(TEXTS[:1], TEXTS[1:]),
    "keys": dict.fromkeys(TEXTS).keys(),
    "values": dict(enumerate(TEXTS)).values(),
    "numpy str": np.array(TEXTS),
    "numpy object": np.array(TEXTS, dtype=object),
    "numpy variable-width": np.array(TEXTS, dtype=np.dtypes.StringDType()),
    "numpy column": np.array([[text, "x"] for text in TEXTS])[:, 0],
    "numpy scalars": [np.str_(text) for text in TEXTS],
    "Series": FRAME["text"],
    "Series of objects": FRAME["text"].astype(object),
    "Series, other index": pd.Series(TEXTS, index=[2, 0, 1]),
    "Series, categorical": FRAME["text"].astype("category"),
    "Series, string": FRAME["text"].astype("string"),
    "Series, arrow": pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.string())),
    "Index": pd.Index(TEXTS),
    "Categorical": pd.Categorical(TEXTS),
    "extension array": FRAME["text"].array,
    "Array": pa.array(TEXTS),
    "ChunkedArray": pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    "large string": pa.array(TEXTS, pa.large_string()),
    "string view": pa.array(TEXTS, pa.string_view()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "arrow scalars": list(pa.array(TEXTS)),
    "datasets Column": Column(TEXTS),
    "polars Series": Polars(),
}


@pytest.mark.parametrize("given", ORDERED.values(), ids=ORDERED)
def test_what_holds_texts_in_an_order(engine, expected, given):
    make = given if callable(given) else lambda: given
    assert engine.score(make()) == expected
    assert list(engine.stream(make())) == list(expected)


def test_one_text(engine, expected):
    one = engine.score([TEXTS[0]])[0]
    assert engine.score(TEXTS[0]) == engine.score(np.str_(TEXTS[0])) == one
    assert list(engine.stream(TEXTS[0])) == [one]


NAMED = {
    "dict": (dict(enumerate(TEXTS)), "not a dict: pass the texts in it, such as its values()"),
    "dict of columns": ({"text": TEXTS}, "not a dict: pass the texts in it"),
    "OrderedDict": (OrderedDict(a="b"), "not an OrderedDict: pass the texts in it"),
    "items": ({"a": "b"}.items(), "not a dict_items: pass values() or keys()"),
    "bytes": (b"Rain.", "not a bytes: decode it first"),
    "bytearray": (bytearray(b"Rain."), "not a bytearray: decode it first"),
    "memoryview": (memoryview(b"Rain."), "not a memoryview: decode it first"),
    "set": (set(TEXTS), "not a set: it has no order that scores could have; pass sorted(texts)"),
    "frozenset": (frozenset(TEXTS), "not a frozenset: it has no order"),
    "DataFrame": (FRAME, "not a DataFrame: pass the column that holds the texts, such as frame['text']"),
    "DataFrame of one column": (FRAME[["text"]], "not a DataFrame: pass the column"),
    "Table": (pa.table(FRAME), "not a Table: pass the column that holds the texts, such as table['text']"),
    "RecordBatch": (pa.record_batch(FRAME), "not a RecordBatch: pass the column"),
    "0-d": (np.array("Rain."), "not a ndarray: it is a single value"),
    "numpy number": (np.int64(5), "not an int64: it is a single value"),
    "2-d": (np.array([TEXTS, TEXTS]), "not a ndarray: it has 2 dimensions; pass one column, such as array[:, 0]"),
    "tensor": (torch.ones(2, 3), "not a Tensor: it has 2 dimensions"),
    "arrow scalar": (pa.scalar("Rain."), "not a StringScalar: pass as_py() of it"),
    "path": (Path("posts.csv"), "Path: read it first, or give it to slant.tables.bulk.score_table"),
    "file": (io.StringIO("a\nb\n"), "not a StringIO: pass its lines, such as read().splitlines()"),
    "binary file": (io.BytesIO(b"a"), "not a BytesIO: pass its lines"),
    "None": (None, "not None: pass a list of str"),
    "int": (5, "not an int: pass a list of str"),
    "float": (float("nan"), "not a float: pass a list of str"),
    "bool": (True, "not a bool: pass a list of str"),
    "type": (str, "not a type: pass a list of str"),
    "function": (lambda: TEXTS, "not a function: pass a list of str"),
    "array": (array.array("u", "Rain"), "not an array: pass a list of str"),
    "UserString": (UserString("Rain."), "not an UserString: pass str(text)"),
    "nested": ([TEXTS, TEXTS], "not a list: its rows are of type list; pass the text of each, such as [row[0] for"),
    "records": ([{"text": "a"}], "not a list: its rows are of type dict; pass the text of each, such as [row['text']"),
    "tuples": ([("a", 1)], "not a list: its rows are of type tuple"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "message"), NAMED.values(), ids=NAMED)
def test_what_does_not_is_named(engine, given, message):
    for score in (engine.score, engine.stream, object.__new__(Cascade).stream):
        with pytest.raises(TypeError) as found:
            score(given)
        assert message in str(found.value)
        assert "\n" not in str(found.value)


def test_scores_are_no_texts(engine, expected):
    for given in (expected, expected[0]):
        with pytest.raises(TypeError, match="pass the texts, not their scores"):
            engine.score(given)


MISSING = {
    "Python": [None, float("nan")],
    "numpy": [np.float32("nan"), np.float64("nan")],
    "numpy array": np.array([None, np.nan], dtype=object),
    "Decimal": [Decimal("nan"), None],
    "pandas": [pd.NA, pd.NaT],
    "Series, string": pd.Series([None, pd.NA], dtype="string"),
    "Series, arrow": pd.Series([None, None], dtype=pd.ArrowDtype(pa.string())),
    "Series, categorical": pd.Series(["a", None, None], dtype="category")[1:],
    "Array": pa.array([None, None], pa.string()),
    "null Array": pa.nulls(2),
    "dictionary": pa.array(["a", None, None]).dictionary_encode()[1:],
}


@pytest.mark.parametrize("given", MISSING.values(), ids=MISSING)
def test_a_missing_value_is_its_row_s_error(engine, given):
    assert engine.score(given).error == ["The text is missing."] * 2
    assert [score.error for score in engine.stream(given)] == ["The text is missing."] * 2


def test_another_type_is_its_row_s_error(engine, expected):
    scores = engine.score([TEXTS[0], b"Rain.", 5, ["Rain."], {"text": "Rain."}, np.int64(3), TEXTS[1], pa.scalar(3)])
    assert [error and error.removeprefix("The text is not a string but of type ") for error in scores.error] == [
        None, "bytes.", "int.", "list.", "dict.", "int64.", None, "int.",
    ]  # fmt: skip
    assert scores.ok.sum() == 2


@pytest.mark.parametrize("given", [[], (), iter([]), np.array([], dtype=str), pd.Series([], dtype=str), pa.nulls(0)])
def test_no_texts_at_all(engine, given):
    scores = engine.score(given)
    assert len(scores) == 0
    assert scores.probabilities.shape == scores.logits.shape == (0, 5)
    assert (scores.probabilities.dtype, scores.label.dtype, scores.ok.dtype) == (np.float32, np.int64, np.bool_)
    assert (scores.expected.dtype, scores.tokens.dtype, scores.truncated.dtype) == (np.float32, np.int64, np.bool_)
    assert scores.label_name == scores.error == list(engine.stream([])) == []


def test_an_endless_iterable_is_read_as_far_as_it_is_needed(engine):
    read = []
    stream = engine.stream((read.append(1) or "Rain." for _ in itertools.count()), window=3)
    assert [next(stream).label for _ in range(4)]
    assert len(read) == 6
    assert next(texts_of(itertools.repeat("a"))) == "a"


WRONG = {
    "weights": [None, 8, True, b"bf16", ["bf16"], "BF16", "fp16", ""],
    "device": [None, 0, True, ["cpu"], "", "gpu", "mps", "cuda:99", "cpu,cuda", b"cpu"],
    "template": [5, b"{article}", Path("prompt.txt"), ["{article}"], True],
    "labels": [5, "0,1", ["0", "1"], {0: "no", 1: "yes"}, {"0": None, "1": "yes"}, [("0", "no")]],
    "max_tokens": ["512", True, 512.0, float("nan"), -1, 0, 10**30, [512], b"512", np.float64(512)],
    "truncation": [None, 1, True, "tail", ["head"], ""],
    "special_tokens": [None, True, 1, "tokens", ["text"], ""],
    "token_budget": ["512", False, 512.5, float("inf"), -1, 0, 10**30],
    "memory": [True, -1, 0, float("nan"), float("inf"), "lots", "4 gigs", "", b"4GB", ["4GB"], "9" * 400 + "GB", {}],
    "deterministic": [None, 1, 0, "yes", "False", []],
    "threads": ["2", True, 2.0, float("nan"), -1, 0, 10**6, 2**70],
    "max_flip_rate": ["0.1", True, float("nan"), -0.1, 5, [0.1]],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_named(name):
    for value in WRONG[name]:
        with pytest.raises(SlantError) as found:
            Engine.load(FOLDER, **{name: value})
        message = str(found.value)
        assert "\n" not in message
        assert len(message) < 300
        assert name in message or (name == "device" and repr(value) in message) or "is no device" in message or (
            "slant runs on cpu and cuda" in message
        )  # fmt: skip


def test_what_is_right_in_another_type():
    options = LoadOptions(
        device=torch.device("cpu"), max_tokens=np.int64(512), threads=np.int32(1), token_budget=np.uint16(600),
        deterministic=np.True_, max_flip_rate=np.float32(0.5), memory=4e9,
    )  # fmt: skip
    assert options.device == "cpu"
    assert (type(options.max_tokens), type(options.threads), type(options.token_budget)) == (int, int, int)
    assert memory_bytes(options.memory) == memory_bytes(np.int64(4 * 10**9)) == memory_bytes("4GB") == 4 * 10**9
    assert Engine.load(str(FOLDER), options, max_flip_rate=None).score("Rain.").error is None


@pytest.mark.parametrize(
    ("arguments", "fields", "message"),
    [
        ((None,), {}, "model is None; give the path of a folder, or a hub id."),
        ((5,), {}, "model is 5; give"),
        ((["demo"],), {}, r"model is \['demo'\]; give"),
        ((b"demo",), {}, "model is b'demo'; give"),
        (("",), {}, "model is ''; give"),
        ((FOLDER, "int8"), {}, "options is 'int8'; give a LoadOptions, or its fields by name"),
        ((FOLDER, {"weights": "int8"}), {}, "options is {'weights': 'int8'}; give"),
        ((FOLDER,), {"progress": 5}, r"progress is 5; give a function of \(done, total\), or leave it out."),
        ((FOLDER,), {"progress": "bar"}, "progress is 'bar'; give"),
        ((FOLDER,), {"weight": "int8"}, r"there is no option 'weight'; did you mean weights\?"),
        ((FOLDER,), {"max_length": 512}, "there is no option 'max_length'"),
        ((FOLDER,), {"quantum": 1}, "there is no option 'quantum'; the options are weights, device"),
    ],
)
def test_a_wrong_argument_of_load_is_named(arguments, fields, message):
    for load in (Engine.load, Engine.offloaded):
        with pytest.raises(TypeError, match=message):
            load(*arguments, **fields)


def test_a_wrong_argument_of_stream_is_named_before_a_text_is_read(engine):
    read = []
    texts = (read.append(1) or text for text in TEXTS)
    for window in (0, -1, 1.0, "8", None, True, float("nan"), 10**30, [8]):
        with pytest.raises(SlantError, match=r"window is .*; give a whole number of at least 1"):
            engine.stream(texts, window=window)
    for overlap in (1, "yes", []):
        with pytest.raises(SlantError, match="overlap is"):
            engine.stream(texts, overlap=overlap)
    for stream in (engine.stream, lambda texts, **options: engine.warmup(**options)):
        for progress in (5, "bar"):
            with pytest.raises(TypeError, match="progress is"):
                stream(texts, progress=progress)
    with pytest.raises(SlantError, match="window is 0"):
        object.__new__(Cascade).stream(texts, window=0)
    assert not read
    assert len(list(engine.stream(TEXTS, window=np.int64(2)))) == 3
