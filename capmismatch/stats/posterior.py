"""What teachers' students truly reach, given a few noisy seeds: shrinkage toward what the probes predict."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from capmismatch.stats.run_means import mean_over_runs

Floats = NDArray[np.float64]

# The grids of sqrt(A) and s, in standard deviations of a group's observed means, and of the shares rho and kappa.
_BETWEEN = (0.05, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_SLOPE = (0.0, 0.25, 0.5, 1.0, 2.0)
_SHARED = (0.0, 0.5, 0.9)
_ALIKE = (0.0, 0.5, 0.95)
_LEVEL = 30.0  # of a group's common level: so vague that it is flat


@dataclass(frozen=True)
class Noise:
    """How noisy the means of units are.

    Attributes
    ----------
    variances : array of shape (n,)
        Variance of each unit's mean; NaN where it has none.
    free : float
        Degrees of freedom behind the pooled estimate; infinite where it comes from the number of examples.
    alike : bool
        Whether all seeds of a unit agree, so that they say nothing of the noise.
    shared : float
        Standard deviation of what seeds do to all units alike, which was taken out; NaN where it was not.
    """

    variances: Floats
    free: float
    alike: bool = False
    shared: float = float("nan")


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


@dataclass(frozen=True)
class Draws:
    """Draws of a group's true means and slopes, in the units of the means.

    Attributes
    ----------
    means : array of shape (n_boot, T)
        The teachers' true means.
    slopes : array of shape (n_boot, p)
        What one standard deviation of each probe is worth.
    """

    means: Floats
    slopes: Floats


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
        return Noise(variances, float(pooled.free[0]))
    examples = np.full(n, np.nan) if binomial is None else binomial
    return Noise(np.where(runs > 0, examples, np.nan), np.inf, alike)


def posterior_draws(group: Group, n_boot: int, rng: np.random.Generator, evidence: Sequence[Group] = ()) -> Draws:
    r"""Draws of the teachers' true means: empirical Bayes over a shrunken regression on probes.

    For teacher t of family f in group g, all in units of the spread of the group's means,

    .. math::
        \bar y_{gt} \sim N(\mu_{gt}, v_{gt}), \quad \mu_{gt} = c_g + x_t^\top (\beta + \delta_f) + u_t + w_{gt}, \quad
        c_g \text{ flat}

    .. math::
        \beta \sim N(0, \rho s^2 I / p), \; \delta_f \sim N(0, (1 - \rho) s^2 I / p), \;
        u_t \sim N(0, \kappa A), \; w_{gt} \sim N(0, (1 - \kappa) A)

    so that, given A, s, rho and kappa, a teacher's mean is pulled toward the ridge prediction of its probes by v / (A +
    v), and a teacher without students gets that prediction with its whole uncertainty. Without features the pull is
    toward the mean of its peers. Groups of evidence teach how far the probes are to be trusted (s), how far that
    carries over from family to family (rho), and, where they share teachers, from student to student (kappa). The four
    run over a grid; each point is weighted by how well it predicts every fold from the others (a family where three
    have students, else a teacher), and draws are taken from the mixture: with few teachers no single value deserves
    trust.

    Parameters
    ----------
    group : Group
        Whose true means are asked for. With fewer than three teachers measured it has the mean spread of the evidence.
        With none its spread is one of the evidence's, drawn at random, and the draws are relative to its mean.
    n_boot : int
        Number of draws.
    rng : Generator
        Source of random numbers.
    evidence : sequence of Group
        Other groups, all with measured teachers and the same features.

    Returns
    -------
    Draws
        Widened to Student's t for the degrees of freedom of the group's noise. Slopes are those of the family of the
        group's first teacher.

    Examples
    --------
    >>> means = np.array([0.70, 0.72, np.nan])
    >>> noise = Noise(np.array([1e-6, 1e-6, np.nan]), np.inf)
    >>> group = Group(means, noise, np.zeros((3, 0)), teachers="abc", families="fff")
    >>> posterior_draws(group, 4000, np.random.default_rng(0)).means.mean(axis=0).round(2).tolist()
    [0.7, 0.72, 0.71]
    """
    units = _Units.of(group, evidence)
    priors = units.priors()
    scores = _left_out_scores(units.y, units.v, priors[:, units.seen[:, None], units.seen], units.folds)
    weights = np.exp(scores - scores.max())
    counts = rng.multinomial(n_boot, weights / weights.sum())
    size = len(group.means)
    asked = np.r_[:size, priors.shape[1] - group.features.shape[1] : priors.shape[1]]  # its means, and the slopes
    centres, deviations = [], []
    for prior, count in zip(priors[counts > 0], counts[counts > 0], strict=True):
        mean, cov = _condition(units.y, units.v, prior, units.seen)
        root = np.linalg.cholesky(cov[np.ix_(asked, asked)] + 1e-10 * np.eye(len(asked)))
        centres.append(np.tile(mean[asked], (count, 1)))
        deviations.append(rng.standard_normal((count, len(asked))) @ root.T)
    centre, deviation = np.concatenate(centres), np.concatenate(deviations)
    measured = np.isfinite(group.means)
    if measured.any() and np.isfinite(group.noise.free):
        deviation *= np.sqrt(group.noise.free / rng.chisquare(group.noise.free, (n_boot, 1)))  # Student's t
    draws = units.scale * rng.permutation(centre + deviation)
    means, slopes = draws[:, :size], draws[:, size:]
    if measured.any():
        return Draws(float(group.means[measured].mean()) + means, slopes)
    spreads = np.array([other.spread for other in evidence])
    draws *= rng.choice(spreads / units.scale, (n_boot, 1))
    return Draws(means - means.mean(axis=1, keepdims=True), slopes)


@dataclass(frozen=True)
class _Units:
    """The teachers of all groups, one under the other, in units of their group's spread; `y` and `v` of those seen."""

    features: Floats
    groups: NDArray[np.int64]
    teachers: NDArray[np.int64]
    families: NDArray[np.int64]
    seen: NDArray[np.int64]
    y: Floats
    v: Floats
    scale: float

    @classmethod
    def of(cls, group: Group, evidence: Sequence[Group]) -> _Units:
        spreads = [other.spread for other in evidence]
        enough = np.isfinite(group.means).sum() >= 3 or not evidence
        scale = group.spread if enough else float(np.mean(spreads))
        everyone = [group, *evidence]
        y = [_centred(one.means) / unit for one, unit in zip(everyone, [scale, *spreads], strict=True)]
        v = [one.noise.variances / unit**2 for one, unit in zip(everyone, [scale, *spreads], strict=True)]
        stacked, seen = np.concatenate(y), np.flatnonzero(np.isfinite(np.concatenate(y)))
        return cls(
            features=np.concatenate([one.features for one in everyone]),
            groups=np.repeat(np.arange(len(everyone)), [len(one.means) for one in everyone]),
            teachers=_codes([name for one in everyone for name in one.teachers]),
            families=_codes([name for one in everyone for name in one.families]),
            seen=seen,
            y=stacked[seen],
            v=np.concatenate(v)[seen],
            scale=scale,
        )

    @property
    def folds(self) -> NDArray[np.int64]:
        families = self.families[self.seen]
        return families if len(np.unique(families)) >= 3 else self.teachers[self.seen]

    def priors(self) -> Floats:
        """Covariances (G, N + p, N + p) of the true means and of the slopes in the first teacher's family."""
        count, width = self.features.shape
        alike = _same(self.teachers)
        kinds = (
            _BETWEEN,
            _SLOPE if width else (0.0,),
            _SHARED if width and len(np.unique(self.families)) > 1 else (0.0,),
            _ALIKE if alike.sum() > count else (0.0,),
        )
        level = _LEVEL**2 * _same(self.groups)
        families = np.append(self.families, np.full(width, self.families[0]))
        probes = np.concatenate([self.features, np.eye(width)]) / np.sqrt(max(width, 1))
        priors = []
        for between, slope, shared, kappa in product(*kinds):
            prior = slope**2 * (probes @ probes.T) * (shared + (1 - shared) * _same(families))
            prior[:count, :count] += level + between**2 * (kappa * alike + (1 - kappa) * np.eye(count))
            priors.append(prior)
        return np.array(priors)


def _centred(values: Floats) -> Floats:
    measured = np.isfinite(values)
    return values - (values[measured].mean() if measured.any() else 0.0)


def _codes(names: Sequence[Hashable]) -> NDArray[np.int64]:
    """A number for each name, by first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _same(codes: NDArray[np.int64]) -> Floats:
    return (codes[:, None] == codes[None, :]).astype(float)


def _condition(y: Floats, v: Floats, prior: Floats, seen: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Mean and covariance of all that the prior speaks of, given the observed."""
    gain = np.linalg.solve(prior[np.ix_(seen, seen)] + np.diag(v), prior[seen]).T
    return gain @ y, prior - gain @ prior[seen]


def _left_out_scores(y: Floats, v: Floats, priors: Floats, group: NDArray[np.int64]) -> Floats:
    """Log density of every fold given the others, summed, up to a constant: priors (G, n, n) to (G,)."""
    marginal = priors + np.diag(v)
    total = np.zeros(len(priors))
    folds = np.unique(group)
    for fold in folds if len(folds) > 1 else []:
        out, within = np.flatnonzero(group == fold), np.flatnonzero(group != fold)
        between = marginal[:, within[:, None], out]
        gain = np.linalg.solve(marginal[:, within[:, None], within], between).swapaxes(1, 2)
        error = (y[out] - gain @ y[within])[..., None]
        cov = marginal[:, out[:, None], out] - gain @ between
        squared = (error * np.linalg.solve(cov, error)).sum(axis=(1, 2))
        total -= 0.5 * (squared + np.linalg.slogdet(cov)[1])
    return total
