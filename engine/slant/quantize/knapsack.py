"""Multiple-choice knapsack: of each group of options exactly one is taken, the sizes add up, and so do the costs.

    minimize  sum_g cost[g][x_g]   subject to   sum_g size[g][x_g] <= budget        (and the same with the two swapped)

Solved by dynamic programming over undominated states (Nemhauser and Ullmann 1969; for the multiple-choice problem
Kellerer, Pferschy and Pisinger, Knapsack Problems, 2004, section 11.5): after g groups the list holds each (size, cost)
that no other choice in these groups betters in both; adding the options of the next group to every state and dropping
the dominated gives the next list. The last one is the whole trade-off of size and cost, so it answers both questions
exactly. A Lagrangian relaxation is faster, but reaches only the convex hull of that list and leaves room in the budget.

Sizes are real bytes, never rounded. The list stays short because matrix sizes share large factors: it has at most
(largest - smallest total) / gcd + 1 states. For a model of 4 B parameters that is 75 thousand with three group sizes;
a trial left 59 thousand of them. Beyond ``LIMIT`` states the list is thinned evenly by size; then budgets
still hold, but the choice may not be the best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Option:
    """Something that can be chosen for a group: bytes, and what they cost."""

    size: int
    cost: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The index of the option taken in each group, and the sums of their sizes and costs."""

    picks: tuple[int, ...]
    size: int
    cost: float


class Frontier:
    """The choices that no other betters: ``sizes`` int64 rise and ``costs`` float64 fall from first to last."""

    def __init__(self, groups: Sequence[Sequence[Option]]) -> None:
        """Sizes are at least 0, costs finite; raises ValueError for a group without options."""
        if not all(groups):
            raise ValueError("a group has no options")
        self.sizes, self.costs = np.zeros(1, np.int64), np.zeros(1)
        self._steps: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
        for options in groups:
            sizes = self.sizes[:, None] + np.array([option.size for option in options], np.int64)
            costs = self.costs[:, None] + np.array([option.cost for option in options])
            kept = _thin(_undominated(sizes.ravel(), costs.ravel()), sizes.ravel())
            parents, picks = np.divmod(kept, len(options))
            self._steps.append((parents.astype(np.int32), picks.astype(np.int32)))
            self.sizes, self.costs = sizes.ravel()[kept], costs.ravel()[kept]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, state: int) -> Choice:
        picks, at = [], state
        for parents, taken in reversed(self._steps):
            picks.append(int(taken[at]))
            at = int(parents[at])
        return Choice(tuple(reversed(picks)), int(self.sizes[state]), float(self.costs[state]))

    def within_size(self, budget: int) -> Choice | None:
        """The cheapest choice of at most this size; None if even the smallest is larger."""
        state = int(np.searchsorted(self.sizes, budget, side="right")) - 1
        return self[state] if state >= 0 else None

    def within_cost(self, budget: float) -> Choice | None:
        """The smallest choice of at most this cost; None if even the cheapest costs more."""
        state = int((self.costs > budget).sum())
        return self[state] if state < len(self) else None


def _undominated(sizes: NDArray[np.int64], costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices by rising size of the states that cost less than all smaller ones."""
    order = np.lexsort((costs, sizes))
    best = np.minimum.accumulate(costs[order])
    return order[np.concatenate([[True], costs[order][1:] < best[:-1]])]


def _thin(states: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most ``LIMIT`` of the states: the smallest, and the cheapest in each of many equal steps of size."""
    if len(states) <= LIMIT:
        return states
    first, last = sizes[states[0]], sizes[states[-1]]
    step = (sizes[states] - first) // ((last - first) // (LIMIT - 1) + 1)
    cheapest = np.flatnonzero(np.diff(step, append=step[-1] + 1))
    return states[np.unique([0, *cheapest])]
