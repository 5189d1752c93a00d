"""The knapsack against all choices there are, and what is chosen with it."""

import math
import re
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slant.artifact.recipe import Grid
from slant.errors import SlantError
from slant.quantize import knapsack
from slant.quantize.gauge import Sensitivity
from slant.quantize.knapsack import Frontier, Option
from slant.quantize.sensitivity import Chooser, tighten

# Costs are multiples of 1/64, so that sums are exact whatever their order.
OPTION = st.builds(Option, st.integers(0, 30), st.integers(0, 200).map(lambda n: n / 64))
GROUPS = st.lists(st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=5)


def everything(groups):
    """Size and cost of each possible choice."""
    return [(sum(o.size for o in taken), sum(o.cost for o in taken)) for taken in product(*groups)]


def check_sums(groups, choice):
    taken = [options[pick] for options, pick in zip(groups, choice.picks, strict=True)]
    assert choice.size == sum(option.size for option in taken)
    assert choice.cost == sum(option.cost for option in taken)


@given(GROUPS, st.integers(-1, 160))
def test_least_cost_within_a_size(groups, budget):
    fitting = [(cost, size) for size, cost in everything(groups) if size <= budget]
    choice = Frontier(groups).within_size(budget)
    if not fitting:
        assert choice is None
        return
    assert (choice.cost, choice.size) == min(fitting)
    check_sums(groups, choice)


@given(GROUPS, st.integers(-1, 1000).map(lambda n: n / 64))
def test_least_size_within_a_cost(groups, budget):
    fitting = [(size, cost) for size, cost in everything(groups) if cost <= budget]
    choice = Frontier(groups).within_cost(budget)
    if not fitting:
        assert choice is None
        return
    assert (choice.size, choice.cost) == min(fitting)
    check_sums(groups, choice)


@given(GROUPS)
def test_sizes_rise_and_costs_fall(groups):
    frontier = Frontier(groups)
    pairs = [(frontier[i].size, frontier[i].cost) for i in range(len(frontier))]
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(pairs))


@given(GROUPS, st.integers(2, 6), st.integers(0, 160))
def test_a_thinned_list_keeps_the_budgets_and_its_ends(groups, limit, budget):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knapsack, "LIMIT", limit)
        frontier = Frontier(groups)
    assert len(frontier) <= limit
    full = Frontier(groups)
    assert frontier[0] == full[0]
    choice = frontier.within_size(budget)
    if full.within_size(budget) is not None:
        assert choice.size <= budget
        check_sums(groups, choice)
    assert frontier.within_cost(math.inf) is not None


def test_a_real_model_stays_exact():
    """Sizes of the 4 B model's matrices, whatever they cost: the list is shorter than the limit."""
    from slant_kernels.quantized import nbytes

    linear = [(8192, 2560), (4096, 2560), (2560, 4096), (9216, 2560), (9216, 2560), (2560, 9216)]
    attention = [(8192, 2560), (1024, 2560), (1024, 2560), (2560, 4096), (9216, 2560), (9216, 2560), (2560, 9216)]
    shapes = [*linear * 24, *attention * 8]
    groups = [
        [Option(nbytes(shape, bits, 64), (i % 7 + 1) * 4.0**-bits) for bits in (8, 4, 3, 2)]
        for i, shape in enumerate(shapes)
    ]
    frontier = Frontier(groups)
    assert 100 < len(frontier) < knapsack.LIMIT


def test_a_group_needs_an_option():
    with pytest.raises(ValueError, match="no options"):
        Frontier([[Option(1, 1.0)], []])


GRIDS = (Grid(8), Grid(4), Grid(2), None)
COST = st.integers(0, 200).map(lambda n: n / 64)
TABLE = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.lists(st.tuples(st.integers(1, 30), COST), min_size=n, max_size=n), min_size=1, max_size=5)
)


def sensitivities(table):
    names = [f"layers.{i}.mlp.up_proj.weight" for i in range(len(table))]
    return [
        Sensitivity((name,), GRIDS[: len(row)], tuple(Option(*cell) for cell in row))
        for name, row in zip(names, table, strict=True)
    ]


@given(TABLE, st.integers(0, 40), st.sampled_from([2, 1 << 16]))
def test_never_worse_than_uniform_at_its_size(table, fixed, limit):
    """Nor larger at its cost; even where the list of states was thinned to almost nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slant.quantize.knapsack.LIMIT", limit)
        chooser = Chooser(sensitivities(table), fixed)
    for column in zip(*table, strict=True):
        size, cost = map(sum, zip(*column, strict=True))
        chosen = chooser.within_bytes(fixed + size)
        assert chosen.size <= size
        assert chosen.cost <= cost
        chosen = chooser.within_cost(cost)
        assert chosen.size <= size
        assert chosen.cost <= cost
        rules = chooser.recipe(chosen).rules
        assert [GRIDS.index(grid) for grid in rules.values()] == list(chosen.picks)


class Told:
    """A gauge that measures ``factor`` times what is predicted."""

    texts, skipped = 1, 0

    def __init__(self, chooser, factor):
        self.costs = {s.names: dict(zip(s.grids, s.options, strict=True)) for s in chooser.sensitivities}
        self.factor, self.calls = factor, 0

    def kl(self, recipe):
        self.calls += 1
        return self.factor * sum(options[recipe.grid(names[0])].cost for names, options in self.costs.items())


@pytest.mark.parametrize(("factor", "calls"), [(0.5, 1), (1, 1), (5, 2)])
def test_tightens_until_the_measured_kl_fits(factor, calls):
    chooser = Chooser(sensitivities([[(8, 0.001), (4, 0.01), (2, 0.1)]] * 6))
    gauge = Told(chooser, factor)
    found = tighten(gauge, chooser, 0.2)
    assert found.measured <= 0.2
    assert gauge.calls == calls


@pytest.mark.parametrize("factor", [1000, 1e300])
def test_names_the_least_kl_reached(factor):
    chooser = Chooser(sensitivities([[(8, 0.001), (4, 0.01), (2, 0.1)]] * 6))
    with pytest.raises(SlantError, match=re.escape(f"at most 0.2 nats; the least reached is {0.006 * factor:.3g}.")):
        tighten(Told(chooser, factor), chooser, 0.2)
