"""Figures against hand-computed values and plain loops, the bootstrap against resampled rows, and odd inputs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slant.evaluation import metrics
from slant.evaluation.assess import (
    METRICS,
    Baseline,
    ClassMetrics,
    Estimate,
    assess,
    compare,
    estimates,
    mcnemar,
    of_confusion,
)
from slant.evaluation.bootstrap import CONFIDENCE, Units, bootstrap
from slant.evaluation.metrics import brier, nll

GOLD, LABELS = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 2, 1, 0, 0, 1])


def sample(n, k=5, seed=0, groups=None):
    """Gold labels and probabilities that know something of them; in each group the model is right to another degree."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, k, n)
    strength = np.full(n, 1.5) if groups is None else rng.normal(1.5, 1.5, groups.max() + 1)[groups]
    logits = rng.normal(size=(n, k)) + np.eye(k)[gold] * strength[:, None]
    powers = np.exp(logits)
    return gold, powers / powers.sum(1, keepdims=True)


def test_by_hand():
    """sum (i - j)^2 is 4, expected 2 / 6 (3 * 5 + 2 * 2 + 1 * 5) = 8; F1 0.8, 0 and 0."""
    counts = metrics.confusion(GOLD, LABELS, 3)
    assert counts.tolist() == [[2, 0, 0], [1, 0, 1], [0, 2, 0]], "rows are gold"
    assert of_confusion(counts).tolist() == pytest.approx([2 / 6, 4 / 6, 0.5, 0.8 / 3])
    assert of_confusion(metrics.confusion(GOLD, LABELS, 5)).tolist() == of_confusion(counts).tolist()
    found = assess(GOLD, LABELS)
    assert found.confidence is None
    assert found.classes == (
        ClassMetrics(2, 3, 2 / 3, 1.0, pytest.approx(0.8)),
        ClassMetrics(2, 2, 0.0, 0.0, 0.0),
        ClassMetrics(2, 1, 0.0, 0.0, 0.0),
    )
    assert found.baseline == Baseline(0, 2 / 6, pytest.approx(1.0), pytest.approx(0.5 / 3))


def test_kappa_is_of_squared_distances():
    """Two tables of the same accuracy: a miss by two costs four times a miss by one."""
    near, far = np.array([[4, 1, 0], [0, 5, 0], [0, 0, 5]]), np.array([[4, 0, 1], [0, 5, 0], [0, 0, 5]])
    # expected: (row, column) totals (5, 5, 5) x (4, 6, 5) and x (4, 5, 6), over 15
    assert metrics.quadratic_kappa(near) == pytest.approx(
        1 - 1 / ((6 * 5 + 5 * 20 + 4 * 5 + 6 * 5 + 4 * 20 + 5 * 5) / 15)
    )
    assert metrics.quadratic_kappa(far) == pytest.approx(
        1 - 4 / ((5 * 5 + 6 * 20 + 4 * 5 + 6 * 5 + 4 * 20 + 5 * 5) / 15)
    )
    assert metrics.quadratic_kappa(np.outer([1, 2, 3], [4, 5, 6])) == pytest.approx(0), "independent labels"


def test_scores_of_probabilities_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
    gold = np.array([0, 1])
    assert brier(gold, p) == pytest.approx([0.09 + 0.04 + 0.01, 2.0])
    assert nll(gold, p).tolist() == [pytest.approx(-math.log(0.7)), math.inf]
    found = assess(gold, p).confidence
    assert (found.nll, found.impossible) == (None, 1)
    assert found.brier.value == pytest.approx((0.14 + 2) / 2)
    assert found.calibration.ece == pytest.approx(0.5 * 0.3 + 0.5 * 1.0)
    assert assess(gold[:1], p[:1]).confidence.nll == Estimate(pytest.approx(-math.log(0.7)), None, None)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(1, 60))
def test_figures_of_the_confusion_are_those_of_rows(seed, k, n):
    rng = np.random.default_rng(seed)
    gold, labels = rng.integers(0, k, n), rng.integers(0, k, n)
    accuracy, mae, kappa, _ = of_confusion(metrics.confusion(gold, labels, k))
    assert accuracy == pytest.approx(np.mean(gold == labels))
    assert mae == pytest.approx(np.mean(abs(gold - labels)))
    chance = np.mean([(g - a) ** 2 for g in gold for a in labels])
    assert math.isnan(kappa) if chance == 0 else kappa == pytest.approx(1 - np.mean((gold - labels) ** 2) / chance)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_bootstrap_is_that_of_resampled_rows(grouped):
    groups = np.arange(120) % 15 if grouped else np.arange(120)
    gold, p = sample(120, 3, groups=groups)
    found = assess(gold, p, groups=groups if grouped else None, resamples=6000)
    rng, members = np.random.default_rng(1), [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]
    draws = []
    for _ in range(3000):
        rows = np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))])
        losses = [brier(gold[rows], p[rows]).mean(), nll(gold[rows], p[rows]).mean()]
        draws.append([*of_confusion(metrics.confusion(gold[rows], p[rows].argmax(1), 3)), *losses])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    shown = [*(getattr(found, name) for name in METRICS), found.confidence.brier, found.confidence.nll]
    assert [e.low for e in shown] == pytest.approx(low, abs=0.025)
    assert [e.high for e in shown] == pytest.approx(high, abs=0.025)
    assert all(e.low < e.value < e.high for e in shown)
    assert found.groups == (15 if grouped else None)
    assert found == assess(gold, p, groups=groups if grouped else None, resamples=6000), "the seed is fixed"


def test_copies_in_a_group_add_nothing():
    """Five copies of each row, each a group: the interval is that of the rows, and by rows it would be narrower."""
    gold, p = sample(80)
    alone, copied = assess(gold, p), assess(np.repeat(gold, 5), np.repeat(p, 5, 0), groups=np.repeat(np.arange(80), 5))
    assert copied.accuracy.high - copied.accuracy.low == pytest.approx(
        alone.accuracy.high - alone.accuracy.low, abs=0.02
    )
    assert copied.confidence.nll.low == pytest.approx(alone.confidence.nll.low, abs=0.03)
    _, q = sample(80, seed=5)
    pairs = [np.repeat(values, 5, 0) for values in (gold, p, q)]
    change, changed = compare(gold, p, q), compare(*pairs, groups=np.repeat(np.arange(80), 5))
    for name in ("brier", "nll"):
        widths = [getattr(one, name).high - getattr(one, name).low for one in (change, changed)]
        assert widths[1] == pytest.approx(widths[0], rel=0.2), "by rows it would be 0.45 of that"
    believed = assess(np.repeat(gold, 5), np.repeat(p, 5, 0))
    assert believed.accuracy.high - believed.accuracy.low < 0.6 * (alone.accuracy.high - alone.accuracy.low)


def test_groups_of_any_kind_and_size():
    gold, p = sample(90)
    groups = np.arange(90) // 7
    names = np.array([f"speaker {g:02}" for g in groups])
    assert assess(gold, p, groups=groups) == assess(gold, p, groups=names) == assess(gold, p, groups=groups * 3 - 100)
    order = np.random.default_rng(0).permutation(90)
    shuffled = assess(gold[order], p[order], groups=groups[order])
    assert shuffled.accuracy == assess(gold, p, groups=groups).accuracy


def test_blocks_are_one_sequence(monkeypatch):
    units, drawn = Units(np.arange(20.0)[:, None]), []
    whole = bootstrap(units, lambda sums: drawn.append(sums) or sums, 50)
    monkeypatch.setattr("slant.evaluation.bootstrap.BLOCK", 100)
    assert bootstrap(units, lambda sums: drawn.append(sums) or sums, 50) == whole
    assert whole[0].value == 190
    assert [len(sums) for sums in drawn] == [50, 1, *[5] * 10, 1], "the sample itself comes last"
    assert np.array_equal(np.concatenate(drawn[2:-1]), drawn[0])


@pytest.mark.parametrize(("grouped", "least"), [(False, 0.92), (True, 0.9)])
def test_intervals_cover(grouped, least):
    """The share of samples whose interval holds the truth, of 400 samples of 300 rows; groups drawn row by row fail."""
    rng = np.random.default_rng(0)
    truth = 0.6
    held, naive = 0, 0
    for seed in range(400):
        groups = np.repeat(np.arange(50), 6)
        share = rng.beta(1.5, 1.0, 50)[groups] if grouped else np.full(300, truth)
        gold = rng.integers(0, 2, 300)
        labels = np.where(rng.random(300) < share, gold, 1 - gold)
        for by_group in {grouped, False}:
            e = assess(gold, labels, groups=groups if by_group else None, resamples=500, seed=seed).accuracy
            held += by_group == grouped and e.low <= truth <= e.high
            naive += by_group != grouped and e.low <= truth <= e.high
    assert least <= held / 400 <= 0.98, CONFIDENCE
    assert naive / 400 < 0.8


def test_a_comparison_is_of_pairs():
    gold, p = sample(200)
    _, q = sample(200, seed=5)
    found, one, two = compare(gold, p, q), assess(gold, p), assess(gold, q)
    for name in METRICS:
        assert getattr(found, name).value == pytest.approx(getattr(two, name).value - getattr(one, name).value)
    for name in ("brier", "nll"):
        first, second = (getattr(a.confidence, name).value for a in (one, two))
        assert getattr(found, name).value == pytest.approx(second - first)
    assert found.accuracy.low < found.accuracy.value < found.accuracy.high
    same = compare(gold, p, p)
    assert (same.accuracy, same.nll) == (Estimate(0, 0, 0), Estimate(0, 0, 0))
    assert (same.mcnemar.only_first, same.mcnemar.p_value) == (0, 1)
    opposite = compare(gold, q, p)
    assert opposite.accuracy.value == -found.accuracy.value


def test_the_paired_bootstrap_is_that_of_resampled_rows():
    rng = np.random.default_rng(2)
    gold, a, b = (rng.integers(0, 3, 80) for _ in range(3))
    b = np.where(rng.random(80) < 0.5, gold, b)
    found = estimates(gold, (a, b), 3, resamples=8000)

    def change(rows):
        one, other = (of_confusion(metrics.confusion(gold[rows], side[rows], 3)) for side in (a, b))
        return other - one

    limits = np.quantile([change(rng.integers(0, 80, 80)) for _ in range(4000)], [0.025, 0.975], axis=0)
    np.testing.assert_allclose([e.low for e in found.values()], limits[0], atol=0.015)
    np.testing.assert_allclose([e.high for e in found.values()], limits[1], atol=0.015)
    assert [e.value for e in found.values()] == change(np.arange(80)).tolist()
    assert found == estimates(gold, (a, b), 3, resamples=8000), "the seed is fixed"
    assert set(estimates(gold, (a, a), 3).values()) == {Estimate(0, 0, 0)}


def test_a_comparison_with_groups_or_without_probabilities():
    gold, p = sample(120)
    groups = np.arange(120) % 12
    labels = np.where(np.arange(120) % 3 == 0, (gold + 1) % 5, gold)
    found = compare(gold, p, labels)
    assert (found.brier, found.nll) == (None, None)
    assert found.accuracy.value == pytest.approx(2 / 3 - (p.argmax(1) == gold).mean())
    grouped = compare(gold, p, labels, groups=groups)
    assert (grouped.groups, grouped.mcnemar) == (12, None)
    assert grouped.accuracy.low != found.accuracy.low
    drawn = estimates(gold, (p.argmax(1), labels), 5, groups)["accuracy"]
    rng, draws = np.random.default_rng(3), []
    for _ in range(3000):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 12, 12)])
        draws.append((labels == gold)[rows].mean() - (p.argmax(1) == gold)[rows].mean())
    assert [drawn.low, drawn.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (3, 17, 2 * (1 + 20 + 190 + 1140) / 2**20),
        (17, 3, 2 * (1 + 20 + 190 + 1140) / 2**20),
        (0, 5, 2 / 2**5),
        (4, 4, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_exact(only_first, only_second, p_value):
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(p_value, rel=1e-9)


def test_one_row_and_one_group_have_no_interval():
    gold, p = sample(10)
    for found in (assess(gold[:1], p[:1]), assess(gold, p, groups=np.zeros(10))):
        for estimate in (found.accuracy, found.mae, found.macro_f1, found.confidence.brier, found.confidence.nll):
            assert (estimate.low, estimate.high) == (None, None)
    assert compare(gold[:1], p[:1], p[:1]).accuracy == Estimate(0, None, None)


def test_kappa_is_undefined_where_no_disagreement_is_expected():
    found = assess(np.ones(8, int), np.ones(8, int), classes=3)
    assert found.quadratic_kappa is None
    assert found.accuracy == Estimate(1, 1, 1)
    assert found.classes[0] == ClassMetrics(0, 0, None, None, None)
    assert (found.macro_f1.value, found.baseline.label) == (1, 1)
    few = assess(np.array([0, 1]), np.array([0, 1])).quadratic_kappa
    assert (few.value, few.low, few.high) == (1, 1, 1)
    assert 800 < few.undefined < 1200, "half of the resamples hold one label"


def test_probabilities_are_judged_as_they_are():
    p = np.array([[0.5, 0.5, 0.5], [0.2, 0.3, 0.499]])
    found = assess(np.array([0, 1]), p).confidence
    assert (found.off_one, found.farthest) == (1, pytest.approx(0.5))
    assert found.brier.value == pytest.approx((0.75 + 0.04 + 0.49 + 0.499**2) / 2)


@pytest.mark.parametrize(
    ("gold", "answers", "options", "word"),
    [
        ([], [], {}, "shape"),
        ([0, 1], [0], {}, "shape"),
        ([0, -1], [0, 1], {}, "from 0"),
        ([0, 5], [0, 1], {"classes": 5}, "from 0 to 4"),
        ([0, 2], [[0.5, 0.5]] * 2, {}, "from 0 to 1"),
        ([0, 1], [[0.5, math.nan]] * 2, {}, "numbers from 0 to 1"),
        ([0, 1], [[50.0, 50.0]] * 2, {}, "numbers from 0 to 1"),
        ([0, 1], [[0.5, 0.5]] * 2, {"groups": np.array([1])}, "groups"),
    ],
)
def test_what_does_not_fit_is_refused(gold, answers, options, word):
    gold, answers = np.array(gold, int), np.array(answers)
    with pytest.raises(ValueError, match=word):
        assess(gold, answers, **options)
    with pytest.raises(ValueError, match=word):
        compare(gold, answers, answers, **options)


def test_different_labels_are_not_compared():
    with pytest.raises(ValueError, match="3 labels cannot be compared with 2"):
        compare(np.array([0]), np.array([[1.0, 0, 0]]), np.array([[1.0, 0]]))
