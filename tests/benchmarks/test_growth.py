"""How cost grows: the fits on synthetic seconds, what stops in time, and the command at the demo's size."""

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest

import growth
from cpu import workload
from growth import fit, flatness
from harness.rows import environment
from slant import demo


def power(exponent, sizes, overhead=0.0, noise=0.0, rounds=5):
    rng = np.random.default_rng(0)
    return {n: (overhead + 3e-3 * n**exponent * np.exp(noise * rng.normal(size=rounds))).tolist() for n in sizes}


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_the_exponent_of_a_power(exponent):
    slope = fit(power(exponent, (1, 2, 4, 64)))
    assert (slope.exponent, slope.low, slope.high) == pytest.approx((exponent,) * 3)
    assert slope.seconds_at_1 == pytest.approx(3e-3)
    assert (slope.first, slope.last) == (1, 64)


def test_a_local_slope_is_of_its_sizes_only():
    samples = power(1.0, [16 << i for i in range(8)], overhead=0.5)
    assert fit(samples).exponent < 0.6
    assert 0.8 < fit(samples, 512).exponent < 0.95
    assert fit(samples, 16, 64).exponent < 0.2
    assert fit(samples, 16, 64).last == 64


def test_the_interval_grows_with_the_spread():
    narrow, wide = (fit(power(1.0, (1, 4, 16, 64), noise=noise, rounds=9)) for noise in (0.02, 0.2))
    for slope in (narrow, wide):
        assert slope.low < slope.exponent < slope.high
        assert slope.low < 1.0 < slope.high
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_one_slow_round_changes_no_exponent():
    samples = power(1.0, (1, 2, 4, 8))
    samples[8][0] = 100.0
    assert fit(samples).exponent == pytest.approx(1.0)


def test_a_slope_takes_two_sizes():
    with pytest.raises(ValueError, match="two sizes"):
        fit({1: [1.0], 512: [2.0]}, 512)


def test_flatness_is_best_over_worst_up_to_the_most():
    samples = {1: [1.0, 1.0, 9.0], 2: [2.0], 4: [5.0], 8: [80.0]}
    assert flatness(samples, 128, most=4) == pytest.approx(1.25)
    assert flatness(samples, 128, most=8) == pytest.approx(10)


class Clock:
    """Seconds that only a run spends: a thousandth a token."""

    def __init__(self):
        self.now, self.shapes = 0.0, []

    def run(self, rows, length):
        self.shapes.append((rows, length))
        self.now += rows * length / 1000
        return rows * length / 1000


def measured(series, until, rounds=3):
    clock = Clock()
    growth.measure(series, clock.run, until, rounds, now=lambda: clock.now)
    return clock


def test_shapes_take_turns():
    series = growth.all_series(256, 4, 2, int)
    clock = measured(series, until=1e9)
    shapes = [shape for one in series for shape in one.shapes]
    rounds = [clock.shapes[i : i + len(shapes)] for i in range(0, len(clock.shapes), len(shapes))]
    assert len(rounds) == 3
    assert all(sorted(turn) == sorted(shapes) for turn in rounds)
    assert rounds[0] == sorted(rounds[0], key=lambda shape: shape[0] * shape[1])
    assert rounds[1] != rounds[2]
    assert all(len(taken) == 3 for one in series for taken in one.seconds.values())


def test_lengths_are_not_padded():
    runner = workload.load(demo.FOLDER)
    for one in growth.all_series(8192, 2, 1, partial(growth.padded_length, runner)):
        for rows, length in one.shapes:
            batches = runner.batches(workload.texts(runner, [length] * rows))
            assert sum(batch.ids.numel() for batch in batches) == rows * length
    assert growth.padded_length(runner, 17) > 17


@pytest.mark.parametrize("until", [0.1, 5.0, 21.0])
def test_nothing_is_begun_that_would_not_end_in_time(until):
    series = growth.all_series(8192, 4, 2, int)
    clock = measured(series, until)
    assert clock.now <= until
    assert clock.shapes[0] == (1, 16)
    assert ((1, 8192) in clock.shapes) == (until > 20)


def test_rows_of_points_and_fits():
    series = growth.all_series(1024, 64, 64, int)
    measured(series, until=1e9)
    points = list(growth.points(series))
    assert len(points) == 7 + 7 + 7
    last = points[-1]
    assert (last["texts"], last["length"], last["tokens"], last["rounds"]) == (64, 1024, 65536, 3)
    assert {row["tokens_per_second"] for row in points} == {1000}
    fits = list(growth.fits(series))
    slopes = {(row["grows"], row["part"]): row for row in fits if row["kind"] == "slope"}
    of_texts = {("texts", part) for part in ("all", "one batch", "batches")}
    assert slopes.keys() == {("length", "all"), ("length", "long")} | of_texts
    assert all(row["exponent"] == pytest.approx(1) for row in slopes.values())
    assert (slopes["length", "long"]["first"], slopes["texts", "one batch"]["last"]) == (512, 16)
    flat = {row["length"]: row["best_over_worst"] for row in fits if row["kind"] == "flatness"}
    assert flat == {128: pytest.approx(1), 1024: pytest.approx(1)}


def test_too_little_time_gives_fewer_fits():
    series = growth.all_series(1024, 64, 64, int)
    measured(series, until=0.02)
    assert len(list(growth.points(series))) == 1
    assert list(growth.fits(series)) == []


def test_the_command_appends_rows_and_draws(tmp_path, capsys):
    options = ["--model", str(demo.FOLDER), "--results", str(tmp_path), "--rounds", "1"]
    assert growth.main([*options, "--longest", "64", "--most", "2", "--many-long", "2", "--minutes", "1"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "growth.jsonl").read_text().splitlines()]
    kinds = Counter(row["kind"] for row in rows)
    assert kinds == {"point": 3 + 2 + 2, "slope": 3, "flatness": 2, "padding": 2}
    assert all(row.keys() > environment().keys() for row in rows)
    assert (tmp_path / "growth.svg").read_text().startswith("<?xml")
    assert "time grows to the power" in capsys.readouterr().out


def test_what_was_not_measured_is_named(tmp_path, capsys):
    options = ["--model", str(demo.FOLDER), "--results", str(tmp_path), "--minutes", "0"]
    assert growth.main([*options, "--longest", "16", "--most", "2", "--many-long", "1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Not measured for lack of time: 1 x 16, 1 x 128, 2 x 128, 1 x 1024; give more --minutes." in out
