"""Teachers that are compared, how their students did, and how noisy that is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from capmismatch.stats.run_means import mean_over_runs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """How noisy the means of units are.

    Attributes
    ----------
    variances : array of shape (n,)
        Variance of each unit's mean; NaN where it has none.
    free : float
        Degrees of freedom behind the pooled estimate. Infinite where it comes from the number of examples, and is less
        than what seeds do.
    alike : bool
        Whether all seeds of a unit agree, so that they say nothing of the noise.
    shared : float
        Standard deviation of what seeds do to all units alike, which was taken out; NaN where it was not.
    seeds : array of shape (n, q), or None
        How the error of each seed's estimated effect moves the means: the covariance of the means is
        ``diag(variances) + seeds @ seeds.T``. None where every unit has every seed, so that such an error moves all
        means alike. Units that were measured together have the same columns.
    repeats : array of shape (n,), or None
        Number of runs, or seeds, behind each mean; None where that is unknown, and all noise is taken to be alike.
    squares, own_free : arrays of shape (n,), or None
        What each unit's own repeats say of its noise: their sum of squares, over the pooled variance, and its degrees
        of freedom. Over all units that were pooled both sum to `free`. None where there are no repeats.
    """

    variances: Floats
    free: float
    alike: bool = False
    shared: float = float("nan")
    seeds: Floats | None = None
    repeats: Floats | None = None
    squares: Floats | None = None
    own_free: Floats | None = None

    def at(self, position: NDArray[np.int64]) -> Noise:
        """The noise of the units at some positions; NaN at negative ones.

        Examples
        --------
        >>> Noise(np.array([0.1, 0.2]), 5.0).at(np.array([1, -1])).variances.tolist()
        [0.2, nan]
        """
        there = position >= 0
        variances = np.where(there, self.variances[position], np.nan)
        seeds = None if self.seeds is None else np.where(there[:, None], self.seeds[position], 0.0)
        repeats, squares, own_free = (
            None if known is None else np.where(there, known[position], 0.0)
            for known in (self.repeats, self.squares, self.own_free)
        )
        return replace(self, variances=variances, seeds=seeds, repeats=repeats, squares=squares, own_free=own_free)


@dataclass(frozen=True)
class Group:
    """Teachers that are compared with each other: those of one family, say, by the students of one kind.

    Attributes
    ----------
    means : array of shape (T,)
        Mean accuracies of their students; NaN for teachers without students.
    noise : Noise
        How noisy these means are.
    features : array of shape (T, p)
        Standardised probes; p may be 0.
    teachers : sequence of T Hashable
        Names; the same name in two groups is the same teacher.
    families : sequence of T Hashable
        Names; slopes on the probes may differ between families.
    """

    means: Floats
    noise: Noise
    features: Floats
    teachers: Sequence[Hashable]
    families: Sequence[Hashable]

    @property
    def spread(self) -> float:
        """Standard deviation of the means, at least that of their noise."""
        measured = np.isfinite(self.means)
        means, noise = self.means[measured], self.noise.variances[measured]
        between = float(means.std(ddof=1)) if len(means) > 1 else 0.0
        return max(between, float(np.sqrt(noise.mean())), 1e-12) if len(means) else float("nan")


def seed_noise(values: Floats, binomial: Floats | None = None, *, paired: bool = False, least: float = 1e-9) -> Noise:
    """Noise of the means over runs of the means over seeds, pooled over units.

    Where some unit has two runs, the variance of run means (which holds the seeds' as well) over the number of runs;
    else the variance of seeds over the number of seeds; else, with single seeds only, that of the examples. The same
    where seeds all agree: copies of one run, or too coarse an accuracy, do not make a mean certain.

    Parameters
    ----------
    values : array of shape (n, R, K)
        Unit, run, seed; packed, NaN where there is none.
    binomial : array of shape (n,), optional
        Sampling variance of each unit's accuracy over the examples: a lower bound, used where seeds say nothing.
    paired : bool
        Whether what a seed does to all units alike was taken out of the values, at the cost of its degrees of freedom.
    least : float
        Seeds with a smaller standard deviation agree.

    Returns
    -------
    Noise
        Of the units' means.

    Examples
    --------
    >>> noise = seed_noise(np.array([[[0.1, 0.3]], [[0.5, 0.7]]]))
    >>> noise.variances.round(3).tolist(), noise.free
    ([0.01, 0.01], 2.0)
    """
    n, n_runs, n_seeds = values.shape
    by_run = mean_over_runs(values.reshape(n * n_runs, n_seeds))
    run_means, seeds = by_run.means.reshape(n, n_runs), by_run.runs.reshape(n, n_runs).sum(axis=1)
    runs = (by_run.runs.reshape(n, n_runs) > 0).sum(axis=1)
    alike = False
    # Seeds are pooled over the runs of all units; but each unit's mean is over all its seeds.
    for repeats, number in ((run_means, runs), (values.reshape(n * n_runs, n_seeds), seeds)):
        pooled = mean_over_runs(repeats, pool=True, paired=paired)
        if not pooled.free[0]:
            continue
        if pooled.variances[0] < least**2:
            alike = True
            continue
        variances = np.divide(pooled.variances[0], number, out=np.full(n, np.nan), where=number > 0)
        free, repeated = float(pooled.free[0]), mean_over_runs(repeats)
        own = (np.nan_to_num(repeated.variances) * repeated.free, repeated.free.astype(float))
        squares, own_free = (each.reshape(n, -1).sum(axis=1) for each in own)
        return Noise(
            variances,
            free,
            repeats=number.astype(float),
            squares=squares / pooled.variances[0],
            own_free=own_free * free / own_free.sum(),
        )
    examples = np.full(n, np.nan) if binomial is None else binomial
    return Noise(np.where(runs > 0, examples, np.nan), np.inf, alike, repeats=np.minimum(seeds, 1).astype(float))


def errors_of_seed_effects(counts: NDArray[np.int64], variance: float) -> Floats | None:
    r"""How errors of the seeds' estimated effects move the means of units that lack some seeds.

    With :math:`y_{us} = m_u + b_s + e_{us}` by least squares, :math:`\hat m_u` is the mean of the unit's runs less
    :math:`\sum_s a_{us} \hat b_s`, with the shares :math:`a_{us}` of its runs that have seed s, and

    .. math:: Cov(\hat m) = \sigma^2 (diag(1 / n_u) + A C A^\top), \qquad C = (Z^\top M_U Z)^+,

    by the inverse of a partitioned matrix; M_U takes the units' means off. Of more seeds than units the other part of
    that matrix is inverted, and what moves all units alike is left out: memory and time are then bounded by the units.

    Parameters
    ----------
    counts : array of shape (n, S)
        Runs of each unit with each seed; every unit has one or more.
    variance : float
        Of a run, what its seed does to all alike taken out.

    Returns
    -------
    array of shape (n, q), or None
        L, with :math:`L L^\top = \sigma^2 A C A^\top`, as far as differences between units go; None where
        that moves all units alike.

    Examples
    --------
    >>> errors_of_seed_effects(np.ones((3, 2), dtype=int), 1.0) is None
    True
    >>> errors = errors_of_seed_effects(np.array([[1, 1], [1, 1], [1, 0]]), 1.0)
    >>> float(((errors[0] - errors[2]) ** 2).sum().round(9))  # the second seed's effect is known from two units
    0.25
    """
    of_unit, of_seed = counts.sum(axis=1, keepdims=True), counts.sum(axis=0)
    if len(of_seed) > len(of_unit):
        return _errors_by_units(counts / 1.0, variance)
    share = counts / of_unit
    values, vectors = np.linalg.eigh(np.diag(of_seed) - share.T @ counts)
    known = values > 1e-9 * of_seed.max()
    errors: Floats = np.sqrt(variance) * share @ (vectors[:, known] / np.sqrt(values[known]))
    apart = np.abs(errors - errors.mean(axis=0)).max(initial=0.0)
    return errors if apart > 1e-9 * np.sqrt(variance) else None


def _errors_by_units(counts: Floats, variance: float) -> Floats | None:
    """As `errors_of_seed_effects`, by matrices of units alone.

    Examples
    --------
    >>> counts = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]])
    >>> few, many = errors_of_seed_effects(counts[:, :3], 2.0), _errors_by_units(counts[:, :3] / 1.0, 2.0)
    >>> [round(float(((one[0] - one[2]) ** 2).sum()), 9) for one in (few, many)]
    [0.2, 0.2]
    """
    of_unit, of_seed = counts.sum(axis=1), counts.sum(axis=0)
    together = (counts / of_seed) @ counts.T
    left_over = np.linalg.pinv(np.diag(of_unit) - together, rcond=1e-9, hermitian=True)
    moved = (together + together @ left_over @ together) / np.outer(of_unit, of_unit)
    moved = moved - moved.mean(axis=0)
    moved = moved - moved.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh((moved + moved.T) / 2)
    known = values > 1e-9 / of_unit.min()
    return np.sqrt(variance * values[known]) * vectors[:, known] if known.any() else None


def covariance(groups: Sequence[Group]) -> Floats:
    """Covariance of the means of groups that were measured together, one under the other.

    Parameters
    ----------
    groups : sequence of Group
        With N units in all.

    Returns
    -------
    (N, N) array of float
        NaN where a unit was not measured.
    """
    errors = errors_of(groups)
    found: Floats = np.diag(np.concatenate([group.noise.variances for group in groups])) + errors @ errors.T
    return found


def errors_of(groups: Sequence[Group]) -> Floats:
    """How errors of the seeds' effects move the means of groups that were measured together.

    Parameters
    ----------
    groups : sequence of Group
        With N units in all.

    Returns
    -------
    (N, q) array of float
        `Noise.seeds`, one group under the other; q is 0 where there are none.
    """
    if groups[0].noise.seeds is None:
        return np.zeros((sum(len(group.means) for group in groups), 0))
    found: Floats = np.concatenate([group.noise.seeds for group in groups])
    return found


def of_units(groups: Sequence[Group], name: str, unknown: float) -> Floats:
    """What is known of the noise of each unit, one group under the other.

    Parameters
    ----------
    groups : sequence of Group
        With N units in all.
    name : {"repeats", "squares", "own_free"}
        A field of `Noise`.
    unknown : float
        What stands where a group does not know it.

    Returns
    -------
    (N,) array of float
        One value a unit.
    """
    known = [getattr(group.noise, name) for group in groups]
    return np.concatenate(
        [np.full(len(g.means), unknown) if field is None else field for g, field in zip(groups, known, strict=True)]
    )
