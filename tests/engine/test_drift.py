"""The figures of a drift against hand-computed values and against plain loops, and what is over a budget."""

import math
from fractions import Fraction

import numpy as np
import pytest
from answers import random_pair, scores
from hypothesis import given
from hypothesis import strategies as st

from slant.artifact.drift_record import Tail
from slant.errors import SlantError
from slant.evaluation.drift.budgets import Budgets, exceeded
from slant.evaluation.drift.figures import RowDrift, drift_between
from slant.evaluation.metrics import calibrate
from slant.scores import Score, Scores

HAND = [[0.5, 0.25, 0.25], [0.6, 0.4, 0.0], [0.125, 0.125, 0.75], [0.0, 1.0, 0.0]]
OURS = [[0.25, 0.5, 0.25], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5], [0.0, 1.0, 0.0]]


def test_hand_computed():
    tiny = 1e-30  # a probability whose logarithm exists
    p, q = (np.maximum(np.array(rows), tiny) for rows in (HAND, OURS))
    f = drift_between(scores(p), scores(q)).overall.figures
    assert (f.rows, f.flips, f.flip_rate) == (4, 1, 0.25)
    # margins 0.25, 0.2, 0.625 and 1; row 0 flips
    assert f.weighted_flip_rate == pytest.approx(0.25 / 2.075)
    assert f.delta == Tail(pytest.approx((0.25 + 0.1 + 0.25 + 0) / 4), 0.25, 0.25)
    kl = [
        0.5 * math.log(2) - 0.25 * math.log(2),
        0.6 * math.log(1.2) + 0.4 * math.log(0.8),
        0.25 * math.log(0.5) + 0.75 * math.log(1.5),
        0,
    ]
    assert f.kl == Tail(*(pytest.approx(x, rel=1e-5) for x in (sum(kl) / 4, max(kl), max(kl))))
    # expected 0.75, 0.4, 1.625, 1 against 1, 0.5, 1.25, 1
    assert f.expected == Tail(*(pytest.approx(x, rel=1e-5) for x in (0.725 / 4, 0.375, 0.375)))
    # the largest rise plus the largest fall: 0.25 + 0.25, 0.1 + 0.1, 0.125 + 0.25, 0
    assert f.gap == Tail(*(pytest.approx(x, rel=1e-5) for x in (1.075 / 4, 0.5, 0.5)))
    # confidences 0.5, 0.5, 0.5, 1 of labels to which the reference gives 0.25, 0.6, 0.75, 1
    assert f.calibration.ece == pytest.approx(0.75 * abs(1.6 / 3 - 0.5), rel=1e-5)
    assert [(b.low, b.high, b.rows) for b in f.calibration.bins] == [(0.4, 0.5, 3), (0.9, 1.0, 1)]
    assert f.confusion == ((1, 1, 0), (0, 1, 0), (0, 0, 1))


def test_brute_force():
    """Every figure, overall and by length bucket, from plain loops over rows."""
    a, b = random_pair(400)
    drift = drift_between(a, b)
    assert sum(group.figures.rows for group in drift.buckets) == 400
    assert [(group.low, group.high) for group in drift.buckets][:2] == [(1, 128), (129, 256)]
    assert drift.buckets[-1].low == 4097
    assert drift.buckets[-1].high is None
    for group in (drift.overall, *drift.buckets):
        rows = [i for i in range(400) if group.low <= a[i].tokens <= (group.high or math.inf)]
        check_by_loops(group.figures, [a[i] for i in rows], [b[i] for i in rows])


def check_by_loops(f, reference, ours):
    delta, kl, expected, gap, weight, lost, flips = [], [], [], [], 0.0, 0.0, 0
    for one, other in zip(reference, ours, strict=True):
        p, q = ([float(x) for x in row.probabilities] for row in (one, other))
        delta.append(max(abs(x - y) for x, y in zip(p, q, strict=True)))
        kl.append(sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
        expected.append(abs(sum(i * (y - x) for i, (x, y) in enumerate(zip(p, q, strict=True)))))
        gap.append(max(abs((q[i] - q[j]) - (p[i] - p[j])) for i in range(5) for j in range(5)))
        top = sorted(p)
        weight += top[-1] - top[-2]
        if one.label != other.label:
            flips += 1
            lost += top[-1] - top[-2]
    assert (f.rows, f.flips) == (len(reference), flips)
    assert f.flip_rate == pytest.approx(flips / len(reference))
    assert f.weighted_flip_rate == pytest.approx(lost / weight)
    for tail, values in ((f.delta, delta), (f.kl, kl), (f.expected, expected), (f.gap, gap)):
        ordered = sorted(values)
        p99 = ordered[math.ceil(Fraction(99, 100) * len(ordered)) - 1]
        assert tail == Tail(*(pytest.approx(x, rel=1e-4, abs=1e-6) for x in (np.mean(values), p99, ordered[-1])))


def test_the_same_answers_have_no_drift():
    a, _ = random_pair(50)
    f = drift_between(a, a).overall.figures
    assert (f.flips, f.weighted_flip_rate, f.calibration.ece) == (0, 0, pytest.approx(0, abs=1e-12))
    assert f.delta == f.kl == f.expected == f.gap == Tail(0, 0, 0)


def test_the_direction_of_the_divergence():
    """A label that we all but rule out costs much where the reference gives it weight, not the other way round."""
    sharp, even = scores([[0.999998, 1e-6, 1e-6]]), scores([[1 / 3] * 3])
    assert drift_between(even, sharp).overall.figures.kl.mean > 5 * drift_between(sharp, even).overall.figures.kl.mean


def test_divergence_is_finite_where_a_probability_underflows():
    logits = np.array([0.0, -200.0], dtype=np.float32)
    p = np.array([1, 0], dtype=np.float32)
    ours = Scores([Score.of(logits, p, "ab", tokens=9, dropped=0)], "ab")
    kl = drift_between(scores([[0.5, 0.5]]), ours).overall.figures.kl.mean
    assert kl == pytest.approx(0.5 * math.log(0.5) + 0.5 * (math.log(0.5) + 200))


@given(st.integers(0, 10_000))
def test_a_margin_beyond_the_gap_cannot_flip(seed):
    a, b = random_pair(30, seed=seed)
    rows = RowDrift.of(a, b)
    assert not rows.flip[b.margin > rows.gap + 1e-6].any()


def test_bins_are_closed_above():
    found = calibrate(np.array([0.1, 0.10000001, 0.3, 0.7, 1.0]), np.ones(5)).bins
    assert [(b.low, b.high, b.rows) for b in found] == [
        (0.0, 0.1, 1),
        (0.1, 0.2, 1),
        (0.2, 0.3, 1),
        (0.6, 0.7, 1),
        (0.9, 1.0, 1),
    ]


def test_calibration_by_hand():
    confidence, right = np.array([0.95, 0.95, 0.95, 0.55]), np.array([1.0, 0, 0, 1])
    assert calibrate(confidence, right).ece == pytest.approx(0.75 * abs(1 / 3 - 0.95) + 0.25 * abs(1 - 0.55))


def test_rows_with_an_error_are_named_and_counted():
    p = [[0.7, 0.3]] * 5
    a = scores(p, errors=[None, "empty.", "empty.", None, None])
    b = scores(p, errors=[None, "empty.", None, "NaN.", None])
    b._rows[4] = Score.of(np.full(2, np.nan, np.float32), np.full(2, np.nan, np.float32), "ab", tokens=9, dropped=0)
    drift = drift_between(a, b)
    assert drift.rows == 5
    assert drift.overall.figures.rows == 1
    assert [(f.row, f.reference, f.ours) for f in drift.failures][:3] == [
        (1, "empty.", "empty."),
        (2, "empty.", None),
        (3, None, "NaN."),
    ]
    assert "NaN" in drift.failures[3].ours
    assert drift.lost == 2
    assert [e.budget for e in exceeded(drift, Budgets())] == ["max_lost"]
    assert not exceeded(drift, Budgets(max_lost=2))


def test_gold_labels_are_those_of_the_compared_rows():
    a = scores([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]], errors=["empty.", None, None])
    gold = drift_between(a, a, np.array([1, 0, 1])).overall.gold
    assert (gold.rows, gold.ours.accuracy, gold.ours.confusion) == (2, 1, ((1, 0), (0, 1)))


def test_buckets_are_closed_above_and_follow_the_compared_rows():
    tokens = [5000, 128, 129, 256, 257]
    a = scores([[0.7, 0.3]] * 5, tokens, errors=["empty.", None, None, None, None])
    drift = drift_between(a, a)
    assert [(g.low, g.high, g.figures.rows) for g in drift.buckets] == [(1, 128, 1), (129, 256, 2), (257, 512, 1)]


def test_nothing_to_compare_is_refused():
    good, bad = scores([[0.7, 0.3]]), scores([[0.7, 0.3]], errors=["NaN everywhere."])
    with pytest.raises(SlantError, match="NaN everywhere"):
        drift_between(good, bad)
    with pytest.raises(SlantError, match="no texts"):
        drift_between(good[:0], good[:0])
    with pytest.raises(ValueError, match="cannot be compared"):
        drift_between(good, scores([[0.7, 0.3]] * 2))
    with pytest.raises(ValueError, match="cannot be compared"):
        drift_between(good, scores([[0.7, 0.2, 0.1]]))
    for gold in ([5], [-2], [0, 1]):
        with pytest.raises(ValueError, match="gold"):
            drift_between(good, good, np.array(gold))


def test_gold_of_some_rows():
    a, b = random_pair(200)
    rng = np.random.default_rng(1)
    gold = rng.integers(-1, 5, 200)
    drift = drift_between(a, b, gold)
    found, some = drift.overall.gold, gold >= 0
    assert found.rows == some.sum() == sum(group.gold.rows for group in drift.buckets)
    for quality, side in ((found.reference, a), (found.ours, b)):
        right = (side.label == gold)[some]
        assert quality.accuracy == pytest.approx(right.mean())
        assert quality.mae == pytest.approx(abs(side.label - gold)[some].mean())
        assert quality.calibration == calibrate(side.probabilities.astype(float).max(1)[some], right.astype(float))
        f1 = []
        for label in range(5):
            hits = ((side.label == label) & (gold == label)).sum()
            f1.append(2 * hits / ((side.label[some] == label).sum() + (gold == label).sum()))
        assert quality.macro_f1 == pytest.approx(np.mean(f1))
        assert np.array(quality.confusion).sum() == found.rows
    assert found.accuracy.difference == pytest.approx(found.ours.accuracy - found.reference.accuracy)
    assert found.accuracy.low < found.accuracy.difference < found.accuracy.high


@pytest.mark.parametrize(
    ("budget", "figure"),
    [
        ("max_flip_rate", lambda f: f.flip_rate),
        ("max_weighted_flip_rate", lambda f: f.weighted_flip_rate),
        ("max_kl", lambda f: f.kl.mean),
        ("max_p99_delta", lambda f: f.delta.p99),
        ("max_p99_expected", lambda f: f.expected.p99),
    ],
)
def test_budgets(budget, figure):
    drift = drift_between(*random_pair(300))
    value = figure(drift.overall.figures)
    assert not exceeded(drift, Budgets(**{budget: value})), "equal is within"
    (beyond,) = exceeded(drift, Budgets(**{budget: value * 0.999}))
    assert (beyond.budget, beyond.found) == (budget, value)
    assert budget in str(beyond)
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(SlantError, match=budget):
            Budgets(**{budget: wrong})
