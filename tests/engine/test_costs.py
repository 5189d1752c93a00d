"""Predicted seconds: the shape's FLOPs, defaults near what was measured, tables that interpolate and never fall."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import published
from slant.batching.costs import RATES, Formula, Table, default_costs, forward_flops
from slant.errors import SlantError

SMALL, LARGE = published.small(), published.large()
POINTS = st.dictionaries(
    st.tuples(st.integers(1, 64), st.integers(1, 4096)), st.floats(1e-6, 1e3), min_size=1, max_size=20
)
ROWS, LENGTHS = st.integers(1, 2000), st.integers(1, 9000)


def table(points, attention=1e-5):
    return Table("cpu", "m", {"torch": "2"}, attention, points)


def test_flops_of_the_4b_shape():
    """7.14 GFLOP a token, 2.9 % less for the last block, and 8192 T^2 for each attention but the last."""
    token, square = forward_flops(LARGE)
    assert token == pytest.approx(7.14e9 * (1 - 0.029), rel=0.001)
    assert square == 7 * 8192
    assert default_costs(LARGE, "cuda", 2).attention == square / token


@pytest.mark.parametrize(
    ("rows", "length", "measured"), [(1, 16, 0.0528), (1, 128, 0.2247), (8, 128, 1.538), (1, 1024, 1.664)]
)
def test_the_cpu_default_describes_the_machine_it_was_fitted_to(rows, length, measured):
    """Medians of the first run in ``cpu.jsonl``."""
    assert default_costs(SMALL, "cpu", 2, threads=2).seconds(rows, length) == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize(("device", "itemsize"), RATES)
def test_defaults_are_positive_and_grow(device, itemsize):
    for config in (SMALL, LARGE):
        costs = default_costs(config, device, itemsize, threads=4)
        seconds = np.stack([costs.seconds(np.arange(1, 9), length) for length in (16, 64, 1024, 8192)])
        assert (seconds > 0).all()
        assert (np.diff(seconds, axis=0) > 0).all()
        assert (np.diff(seconds, axis=1) > 0).all()


def test_threads_count_on_a_cpu_only():
    one, four = (default_costs(LARGE, "cpu", 2, threads).token for threads in (1, 4))
    assert one == 4 * four
    assert default_costs(LARGE, "cuda", 2, 1) == default_costs(LARGE, "cuda", 2, 4)


def test_a_table_of_a_formulas_values_is_the_formula_inside():
    formula = Formula(0.01, 1e-4, 1e-5)
    counts, lengths = (1, 4, 32), (16, 128, 1024, 2048)
    measured = table({(n, t): float(formula.seconds(n, t)) for n in counts for t in lengths})
    for length in (16, 17, 100, 128, 1023, 2048):
        np.testing.assert_allclose(measured.seconds(range(1, 33), length), formula.seconds(range(1, 33), length))


def test_beyond_a_table_seconds_grow_in_proportion_to_rows_and_work():
    measured = table({(1, 100): 1.0, (2, 100): 1.5, (1, 200): 1.8, (2, 200): 2.8}, attention=0.01)
    np.testing.assert_allclose(measured.seconds([2, 4, 20], 200), [2.8, 5.6, 28])
    np.testing.assert_allclose(measured.seconds([1, 2], 400), np.array([1.8, 2.8]) * (400 + 1600) / (200 + 400))


def test_a_length_with_fewer_rows_than_others_is_continued():
    measured = table({(1, 10): 1.0, (4, 10): 2.0, (1, 20): 2.0, (2, 20): 3.0}, attention=0.0)
    np.testing.assert_allclose(measured.seconds([1, 2, 3, 4, 8], 20), [2, 3, 4.5, 6, 12])


def test_below_a_table_seconds_stay():
    measured = table({(2, 100): 1.0, (4, 100): 2.0})
    np.testing.assert_allclose(measured.seconds([1, 2], 3), [1, 1])


def test_a_larger_batch_is_never_faster():
    measured = table({(1, 10): 1.0, (2, 10): 0.5, (1, 20): 0.8, (2, 20): 3.0}, attention=0.0)
    np.testing.assert_allclose(measured.seconds([1, 2, 4], 10), [1, 1, 2])
    np.testing.assert_allclose(measured.seconds([1, 2, 4], 20), [1, 3, 6])


@given(POINTS, st.floats(0, 1e-3), ROWS, ROWS, LENGTHS, LENGTHS)
def test_seconds_are_positive_and_never_fall(points, attention, rows, other_rows, length, other_length):
    measured = table(points, attention)
    (fewer, more), (shorter, longer) = sorted((rows, other_rows)), sorted((length, other_length))
    few, many = measured.seconds([fewer, more], shorter)
    assert 0 < few <= many * (1 + 1e-12)
    assert many <= float(measured.seconds(more, longer)) * (1 + 1e-12)
    assert np.isfinite(measured.seconds(more, longer))


@given(POINTS)
def test_a_batch_is_predicted_to_take_at_least_what_was_measured(points):
    for (rows, length), seconds in points.items():
        assert table(points).seconds(rows, length) >= seconds * (1 - 1e-12)


@given(POINTS, st.integers(1, 9000))
def test_an_array_of_rows_is_row_by_row(points, length):
    measured = table(points)
    rows = np.array([[1, 3], [70, 2]])
    each = [[float(measured.seconds(n, length)) for n in line] for line in rows]
    np.testing.assert_array_equal(measured.seconds(rows, length), each)


def test_a_written_table_reads_the_same(tmp_path):
    measured = table({(1, 16): 0.1, (2, 16): 1 / 3})
    measured.write(tmp_path / "costs.json")
    assert Table.read(tmp_path / "costs.json") == measured


GOOD = {"device": "cpu", "model": "m", "versions": {"torch": "2"}, "attention": 0, "seconds": [[1, 16, 0.1]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, "it must be an object of attention, device, model, seconds, versions"),
        ({"device": 3}, "device is 3, not a string"),
        ({"versions": {"torch": 2}}, "versions is not an object of strings"),
        ({"attention": -1}, "attention is -1"),
        ({"attention": True}, "attention is True"),
        ({"seconds": []}, "no measured batch"),
        ({"seconds": {}}, "no measured batch"),
        ({"seconds": [[1, 16]]}, "not [rows, length, seconds]"),
        ({"seconds": [3]}, "not [rows, length, seconds]"),
        ({"seconds": [[1, 16, 0]]}, "all above 0"),
        ({"seconds": [[0, 16, 1]]}, "all above 0"),
        ({"seconds": [[1, 16, float("nan")]]}, "not [rows, length, seconds]"),
        ({"seconds": [[1, 16, float("inf")]]}, "not [rows, length, seconds]"),
        ({"seconds": [[1, 16, "1"]]}, "not [rows, length, seconds]"),
        ({"seconds": [[1, 10**400, 1]]}, "too large"),
        ({"seconds": [[1.5, 16, 1]]}, "no whole number"),
        ({"seconds": [[1, 16, 1], [1, 16, 2]]}, "1 rows of 16 tokens are there twice"),
    ],
)
def test_a_damaged_table_is_one_clear_sentence(tmp_path, change, message):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(GOOD))
    assert Table.read(path).points == {(1, 16): 0.1}
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(SlantError) as raised:
        Table.read(path)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{path} is no table of batch costs: ")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_file_that_is_no_table(tmp_path, content):
    (tmp_path / "costs.json").write_bytes(content)
    with pytest.raises(SlantError, match="is no table of batch costs"):
        Table.read(tmp_path / "costs.json")


def test_a_missing_table(tmp_path):
    with pytest.raises(SlantError, match="cannot be read"):
        Table.read(tmp_path / "costs.json")
