"""Successive halving: a budget spent on many arms first, on fewer and longer from rung to rung.

An arm is whatever is compared: a teacher, or a teacher with a setting. Nothing here knows of students or studies; the
caller trains, and says how likely each arm is to be the best.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from capmismatch.errors import InputError

THINNING = (2, 3, 4)
"""One arm in so many goes on from rung to rung: the fewest cuts for which the budget pays without shorter runs."""

SHORTEST = 0.5
"""Share of the recipe's epochs below which nothing is trained."""

HOPELESS = 0.01
"""A chance of being the best below which an arm is dropped although there is room for it."""


@dataclass(frozen=True)
class Rung:
    """One step of a ladder.

    Attributes
    ----------
    arms : int
        How many are trained, at most.
    epochs : int
        Of each run.
    seeds : int
        Runs of each arm.
    """

    arms: int
    epochs: int
    seeds: int


class Judgement(NamedTuple):
    """What is thought of every arm after a rung.

    Attributes
    ----------
    chances : array of shape (A,)
        Chance of being the best, in [0, 1].
    regret : array of shape (A,)
        What taking this arm is expected to lose against the best, >= 0.
    """

    chances: NDArray[np.float64]
    regret: NDArray[np.float64]

    @classmethod
    def of(cls, draws: NDArray[np.float64]) -> Judgement:
        """From draws (n, A) of what each arm is worth.

        Examples
        --------
        >>> [value.tolist() for value in Judgement.of(np.array([[1.0, 2.0], [3.0, 2.0], [1.0, 3.0], [2.0, 3.0]]))]
        [[0.25, 0.75], [1.0, 0.25]]
        """
        counts = np.bincount(draws.argmax(axis=1), minlength=draws.shape[1])
        return cls(counts / len(draws), (draws.max(axis=1, keepdims=True) - draws).mean(axis=0))


def ladder(
    arms: int,
    epochs: int,
    budget: float,
    *,
    finalists: int = 2,
    finished: Sequence[int] = (),
    full_length: bool = False,
) -> list[Rung]:
    """Rungs that halve the arms down to the finalists, and give each arm that is left as much again as it had.

    Runs of the whole recipe come first: where the budget is too small for it, arms are thinned out to a third, a
    quarter, or the finalists at once, and only then is the first rung shorter, half of the epochs at least. On the
    embedded study the order of teachers after a quarter of the epochs says nothing of that after all of them (Spearman
    -0.26 and 0.17 for two settings), after half of them it begins to (0.45 and 0.50), while one seed that all teachers
    share, at full length, finds a teacher within 0.1-0.3 points of the best of eight. The last rung is of full length,
    with two seeds or more.

    Parameters
    ----------
    arms : int
        In the first rung.
    epochs : int
        Of the whole recipe.
    budget : float
        In epochs of training, over all arms, seeds and rungs.
    finalists : int
        Arms in the last rung.
    finished : sequence of int
        Seeds of full length that arms have already; arms beyond these have none. They cost nothing, and as full runs
        compare with full ones only, no rung is shorter where there are any.
    full_length : bool
        Whether shorter rungs are out of the question anyway.

    Returns
    -------
    list of Rung
        Seeds of a rung contain those of the one before, which are not run again where the epochs are the same.

    Raises
    ------
    InputError
        If the budget is too small.

    Examples
    --------
    >>> ladder(8, 30, budget=500)
    [Rung(arms=8, epochs=30, seeds=1), Rung(arms=4, epochs=30, seeds=2), Rung(arms=2, epochs=30, seeds=4)]
    >>> cost(ladder(8, 30, budget=500))
    480
    >>> ladder(8, 30, budget=300)
    [Rung(arms=8, epochs=30, seeds=1), Rung(arms=2, epochs=30, seeds=2)]
    >>> ladder(8, 30, budget=260)
    [Rung(arms=8, epochs=17, seeds=1), Rung(arms=2, epochs=30, seeds=2)]
    >>> ladder(8, 30, budget=260, finished=[2, 2])
    [Rung(arms=8, epochs=30, seeds=1), Rung(arms=2, epochs=30, seeds=2)]
    """

    def price(start: int, thinning: int) -> int:
        return cost(_rungs(arms, epochs, finalists, thinning, start), finished)

    thinning = next((number for number in THINNING if price(epochs, number) <= budget), arms)
    shortest = _shortest(epochs, finished, full_length)
    least = price(shortest, thinning)
    if least > budget:
        raise InputError(f"expected a budget of at least {least} epochs to compare {arms}, got {budget:g}")
    if price(epochs, thinning) <= budget:
        longest = epochs + math.ceil(budget) + epochs * max(finished, default=0)
        starts = range(epochs, longest)
    else:
        starts = range(shortest, epochs)
    affordable = bisect_right(starts, budget, key=lambda start: price(start, thinning))  # prices rise with the start
    return _rungs(arms, epochs, finalists, thinning, starts[affordable - 1])


def least_budget(
    arms: int, epochs: int, *, finalists: int = 2, finished: Sequence[int] = (), full_length: bool = False
) -> int:
    """The smallest budget that `ladder` can do with."""
    return cost(_rungs(arms, epochs, finalists, arms, _shortest(epochs, finished, full_length)), finished)


def _shortest(epochs: int, finished: Sequence[int], full_length: bool) -> int:
    """Epochs of the shortest first rung that is worth training."""
    return epochs if full_length or any(finished) else math.ceil(SHORTEST * epochs)


def _rungs(arms: int, epochs: int, finalists: int, thinning: int, start: int) -> list[Rung]:
    """Rungs in which an arm gets `start` epochs over its seeds, twice that, three times, ..., 2 `epochs` at last."""
    sizes = [arms]
    while sizes[-1] > finalists:
        sizes.append(max(finalists, math.ceil(sizes[-1] / thinning)))
    totals = [start * step for step in range(1, len(sizes) + 1)]
    totals[-1] = max(totals[-1], 2 * epochs)
    rungs = [Rung(size, min(epochs, total), max(1, total // epochs)) for size, total in zip(sizes, totals, strict=True)]
    # Where the next rung would train nothing more, there is no need to wait for it.
    return [
        rung
        for rung, following in zip(rungs, [*rungs[1:], None], strict=True)
        if following is None or (rung.epochs, rung.seeds) != (following.epochs, following.seeds)
    ]


def new_runs(rungs: Sequence[Rung], finished: Sequence[int] = ()) -> list[int]:
    """Runs that each rung adds at most.

    Parameters
    ----------
    rungs : sequence of Rung
        As `ladder` makes them.
    finished : sequence of int
        Seeds of full length that arms have already.

    Returns
    -------
    list of int
        One number per rung.

    Examples
    --------
    >>> new_runs([Rung(4, 30, 1), Rung(2, 30, 2)], finished=[2])  # three lack the first seed; two of them may go on
    [3, 2]
    """
    seeds = sorted([*finished, *[0] * (rungs[0].arms - len(finished))]) if rungs else []
    added, before = [], Rung(0, 0, 0)
    for rung in rungs:
        trained = before.seeds if before.epochs == rung.epochs else 0
        worst = seeds[: rung.arms]  # those that have least go on
        added.append(sum(max(0, rung.seeds - max(trained, number)) for number in worst))
        before = rung
    return added


def cost(rungs: Sequence[Rung], finished: Sequence[int] = ()) -> int:
    """Epochs of training of a ladder at most: fewer where arms are dropped early."""
    return sum(number * rung.epochs for number, rung in zip(new_runs(rungs, finished), rungs, strict=True))


def halve(
    rungs: Sequence[Rung], judge: Callable[[Rung, list[int]], Judgement], alive: Sequence[int], tolerance: float
) -> list[int]:
    """Climb a ladder.

    Parameters
    ----------
    rungs : sequence of Rung
        As `ladder` makes them.
    judge : callable
        Trains the arms alive as the rung says, and judges every arm, dropped ones too.
    alive : sequence of int
        Arms of the first rung.
    tolerance : float
        A loss that does not matter, in the units of the regret: once the likeliest arm is expected to lose less,
        nothing more is trained. With 0 every rung is climbed.

    Returns
    -------
    list of int
        The arms that were left after the last rung, likeliest first. Between rungs the likeliest go on, as many as
        there is room for, but for hopeless ones.

    Examples
    --------
    >>> unsure = Judgement(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.5, 0.4, 0.3, 0.2]))
    >>> halve(ladder(4, 10, budget=100), lambda rung, alive: unsure, range(4), tolerance=0.1)
    [3, 2]
    """
    survivors = list(alive)
    for rung, room in zip(rungs, [*(rung.arms for rung in rungs[1:]), rungs[-1].arms], strict=True):
        chances, regret = judge(rung, survivors)
        best, *next_best = sorted(survivors, key=lambda arm: -chances[arm])
        if rung.seeds == 1:  # by single seeds the noise, and so any certainty, is a guess
            survivors = [best, *next_best[: room - 1]]
            continue
        survivors = [best, *(arm for arm in next_best[: room - 1] if chances[arm] >= HOPELESS)]
        if len(survivors) == 1 or regret[best] < tolerance:
            break
    return survivors
