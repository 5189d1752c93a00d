"""Which matrix gets how many bits: measured on calibration texts, chosen under a budget of bytes or of divergence.

For each group of matrices g and each grid b, the matrices of g alone are quantized, and the calibration texts scored:

    cost[g][b] = mean over the texts of KL(p || q) = sum_i p_i ln(p_i / q_i)

with the probabilities p of the unquantized model and q of the changed one, in nats. Exactly one grid is then taken for
each group so that the sum of the costs is least under a budget of bytes, or the bytes under a budget of that sum: a
multiple-choice knapsack, which ``slant.quantize.knapsack`` solves exactly.

That the costs add up is an assumption. KL has its minimum, 0, at q = p, so to second order it is a quadratic form in
the change of the logits (half the Fisher information), and the cross terms of errors made in different matrices have
no preferred sign (Dong et al. 2020, HAWQ-V2, adds second-order costs over layers likewise). At two or three bits
everywhere the errors are no longer small; so the real divergence of the whole recipe is measured as well and stands
beside the predicted one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from slant.artifact.recipe import Grid, Recipe
from slant.errors import SlantError
from slant.options import LoadOptions
from slant.quantize.gauge import Gauge, Sensitivity, groups
from slant.quantize.knapsack import Choice, Frontier
from slant_kernels.quantized import BITS, GROUP_SIZES

ROUNDS = 8
BELOW = 0.9  # of what a prediction that was off by a factor would need: the next one should fit
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """A chosen recipe: bytes of the artifact's tensors, predicted and measured mean KL on ``texts`` texts.

    ``skipped`` calibration texts could not be scored.
    """

    recipe: Recipe
    nbytes: int
    predicted: float
    measured: float
    texts: int
    skipped: int

    def summary(self) -> str:
        """Sizes and divergences in a line, and how many matrices got which grid."""
        counts = Counter(self.recipe.rules.values()).items()
        ordered = sorted(counts, key=lambda item: (16, 0) if item[0] is None else (item[0].bits, -item[0].group_size))
        named = ", ".join(
            f"{count} at {grid.bits} bits in groups of {grid.group_size}" if grid else f"{count} left as they are"
            for grid, count in ordered
        )
        skipped = f" ({self.skipped} could not be scored)" if self.skipped else ""
        return (
            f"{self.nbytes:,} bytes of tensors. Mean KL(reference || quantized) on {self.texts} texts{skipped}: "
            f"{self.measured:.3g} nats measured, {self.predicted:.3g} predicted.\nMatrices: {named}."
        )


def plan(
    model: str | Path,
    texts: Sequence[object],
    *,
    target_bytes: int | None = None,
    max_kl: float | None = None,
    grids: Sequence[Grid | None] | None = None,
    by: str = "tensor",
    options: LoadOptions | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Plan:
    """Measure the sensitivities of a checkpoint and choose the best recipe for a budget.

    texts: for calibration. target_bytes: the most that all tensors of the artifact may take, embedding included, files'
    headers and the tokenizer not. max_kl: the most that the measured mean KL may be. Give one of the two.
    grids: what to choose from, None for a matrix as it is; by default all there are: 8, 4, 3 and
    2 bits in groups of 32, 64 and 128, and None.
    by: "tensor", or "part" to give all matrices of a layer's mixer, or of its MLP, one grid (faster on large models).
    options: how the checkpoint is loaded; its weights are "fp32" (the default here) or "bf16", which hides differences
    below its own rounding. progress: called with (stage, done, total).

    The model is held in memory. Raises SlantError if the budget cannot be met, or no text can be scored.
    """
    if (target_bytes is None) == (max_kl is None):
        raise SlantError("give either a target of bytes or a largest KL.")
    if max_kl is not None and not 0 <= max_kl < math.inf:
        raise SlantError(f"the largest KL is {max_kl}; give a number from 0 on.")
    gauge = Gauge.load(model, texts, options or LoadOptions(weights="fp32"), partial(progress, "loading"))
    choices = [*(Grid(*grid) for grid in product(BITS, GROUP_SIZES)), None] if grids is None else grids
    parts = groups(gauge.checkpoint.config, by)
    if target_bytes is not None:
        check_reachable(target_bytes, gauge.least_bytes(parts, choices))  # before the long work
    found = gauge.measure(parts, choices, partial(progress, "measuring"))
    chooser = Chooser(found, gauge.fixed_bytes)
    if target_bytes is not None:
        return planned(gauge, chooser, chooser.within_bytes(target_bytes))
    assert max_kl is not None
    return tighten(gauge, chooser, max_kl)


def check_reachable(target: int, least: int) -> None:
    """Raise SlantError unless a target of bytes leaves room for the smallest choice."""
    if target < least:
        raise SlantError(f"the tensors cannot take {target:,} bytes; the least that they can take is {least:,}.")


class Chooser:
    """The best choice of grids for a budget, by the sum of the sensitivities' costs.

    Never worse there than one grid for all groups within the same budget: those are compared too, for the knapsack's
    list may have been thinned.
    """

    def __init__(self, sensitivities: Sequence[Sensitivity], fixed_bytes: int = 0) -> None:
        """fixed_bytes: of the tensors that no recipe can quantize."""
        self.sensitivities, self.fixed_bytes = sensitivities, fixed_bytes
        self.frontier = Frontier([s.options for s in sensitivities])
        self._uniform = [_uniform(sensitivities, grid) for grid in sensitivities[0].grids]

    def within_bytes(self, target: int) -> Choice:
        """The least cost within ``target`` bytes, the fixed ones included; raises SlantError if nothing fits."""
        room = target - self.fixed_bytes
        check_reachable(target, self.fixed_bytes + int(self.frontier.sizes[0]))
        found = self.frontier.within_size(room)
        assert found is not None
        fitting = [choice for choice in self._uniform if choice is not None and choice.size <= room]
        return min([found, *fitting], key=lambda choice: (choice.cost, choice.size))

    def within_cost(self, budget: float) -> Choice:
        """The fewest bytes within this sum of costs, or the least costly choice if nothing is within it."""
        found = self.frontier.within_cost(budget)
        if found is None:
            return self.frontier[len(self.frontier) - 1]
        fitting = [choice for choice in self._uniform if choice is not None and choice.cost <= budget]
        return min([found, *fitting], key=lambda choice: (choice.size, choice.cost))

    def recipe(self, choice: Choice) -> Recipe:
        picked = zip(self.sensitivities, choice.picks, strict=True)
        return Recipe({name: s.grids[pick] for s, pick in picked for name in s.names})


def planned(gauge: Gauge, chooser: Chooser, choice: Choice) -> Plan:
    """A choice with its real divergence."""
    recipe, size = chooser.recipe(choice), chooser.fixed_bytes + choice.size
    return Plan(recipe, size, choice.cost, gauge.kl(recipe), gauge.texts, gauge.skipped)


def tighten(gauge: Gauge, chooser: Chooser, max_kl: float) -> Plan:
    """The fewest bytes whose predicted KL is within a budget that shrinks until the measured one is within max_kl.

    Raises SlantError with the least KL reached if that takes too long or no choice is left.
    """
    budget, reached = max_kl, math.inf
    for _ in range(ROUNDS):
        choice = chooser.within_cost(budget)
        found = planned(gauge, chooser, choice)
        if found.measured <= max_kl:
            return found
        reached = min(reached, found.measured)
        if choice.cost > budget:
            break
        budget = min(budget, choice.cost) * BELOW * max_kl / found.measured
    raise SlantError(f"no recipe was found with a KL of at most {max_kl:g} nats; the least reached is {reached:.3g}.")


def _uniform(sensitivities: Sequence[Sensitivity], grid: Grid | None) -> Choice | None:
    """The same grid for all groups."""
    if any(grid not in s.grids for s in sensitivities):
        return None
    picks = tuple(s.grids.index(grid) for s in sensitivities)
    taken = [s.options[pick] for s, pick in zip(sensitivities, picks, strict=True)]
    return Choice(picks, sum(option.size for option in taken), sum(option.cost for option in taken))
