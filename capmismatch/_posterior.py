"""What teachers' students truly reach, given a few noisy seeds: shrinkage toward what the probes predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The grid of sqrt(A) and s, in standard deviations of the observed means.
_BETWEEN = np.array([0.05, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0])
_SLOPE = np.array([0.0, 0.25, 0.5, 1.0, 2.0])


@dataclass(frozen=True)
class Noise:
    """Variance of each unit's mean (NaN where it has none), and the degrees of freedom behind the pooled estimate."""

    variances: Floats
    free: float


def seed_noise(values: Floats, binomial: Floats | None = None) -> Noise:
    """Noise of the means over runs of the means over seeds, pooled over units.

    Where some unit has two runs, the variance of run means (which holds the seeds' as well) over the number of runs;
    else the variance of seeds over the number of seeds; else, with single seeds only, that of the examples.

    Parameters
    ----------
    values : array of shape (n, R, K)
        Unit, run, seed; packed, NaN where there is none.
    binomial : array of shape (n,), optional
        Sampling variance of each unit's accuracy over the examples: a lower bound, used where seeds say nothing.

    Returns
    -------
    Noise

    Examples
    --------
    >>> noise = seed_noise(np.array([[[0.1, 0.3]], [[0.5, 0.7]]]))
    >>> noise.variances.round(3).tolist(), noise.free
    ([0.01, 0.01], 2.0)
    """
    known = np.isfinite(values)
    seeds = known.sum(axis=2)
    run_means = np.divide(
        np.where(known, values, 0).sum(axis=2), seeds, out=np.full(seeds.shape, np.nan), where=seeds > 0
    )
    runs = (seeds > 0).sum(axis=1)
    for groups, count in ((run_means, runs), (values.reshape(-1, values.shape[2]), seeds.sum(axis=1))):
        here = np.isfinite(groups)
        free = int(np.maximum(here.sum(axis=1) - 1, 0).sum())
        if free:
            centre = np.where(here, groups, 0).sum(axis=1, keepdims=True) / np.maximum(
                here.sum(axis=1, keepdims=True), 1
            )
            pooled = (np.where(here, groups - centre, 0) ** 2).sum() / free
            return Noise(np.divide(pooled, count, out=np.full(len(count), np.nan), where=count > 0), float(free))
    variances = np.full(len(values), np.nan) if binomial is None else binomial
    return Noise(np.where(runs > 0, variances, np.nan), np.inf)


def posterior_draws(
    means: Floats, noise: Noise, features: Floats, folds: Sequence[object], n_boot: int, rng: np.random.Generator
) -> Floats:
    r"""Draws of the teachers' true means: empirical Bayes over a shrunken regression on probes.

    .. math::
        \bar y_t \sim N(\mu_t, v_t), \quad \mu_t \sim N(c + x_t^\top \beta, A), \quad \beta \sim N(0, s^2 I / p),
        \quad c \text{ flat}

    so that, given A and s, a teacher's mean is pulled toward the ridge prediction of its probes by v_t / (A + v_t),
    and a teacher without students gets that prediction with its whole uncertainty. Without features the pull is
    toward the mean of its peers. A (between teachers, beyond the probes) and s (the ridge's strength) run over a
    grid; each pair is weighted by how well it predicts every fold (a family, or a teacher) from the others, and
    draws are taken from the mixture: with few teachers no single value deserves trust.

    Parameters
    ----------
    means : array of shape (T,)
        Means over seeds; NaN for teachers without students.
    noise : Noise
        With `v_t`; draws are widened to Student's t for its degrees of freedom.
    features : array of shape (T, p)
        Standardised probes; p may be 0.
    folds : T labels
        What is left out together.
    n_boot : int
    rng : Generator

    Returns
    -------
    array of shape (n_boot, T)

    Examples
    --------
    >>> means = np.array([0.70, 0.72, np.nan])
    >>> noise = Noise(np.array([1e-6, 1e-6, np.nan]), np.inf)
    >>> draws = posterior_draws(means, noise, np.zeros((3, 0)), [0, 1, 2], 4000, np.random.default_rng(0))
    >>> draws.mean(axis=0).round(2).tolist()
    [0.7, 0.72, 0.71]
    """
    seen = np.flatnonzero(np.isfinite(means))
    y, v = means[seen], noise.variances[seen]
    centre, spread = y.mean(), max(float(y.std(ddof=1)) if len(y) > 1 else 0.0, float(np.sqrt(v.mean())), 1e-12)
    group = np.unique(np.array([str(fold) for fold in folds])[seen], return_inverse=True)[1]
    slopes = _SLOPE if features.shape[1] else _SLOPE[:1]
    priors = np.array([_prior(features, a * spread, b * spread, spread) for a in _BETWEEN for b in slopes])
    scores = _left_out_scores(y - centre, v, priors[:, seen[:, None], seen], group)
    weights = np.exp(scores - scores.max())
    counts = rng.multinomial(n_boot, weights / weights.sum())
    fits = [_condition(y - centre, v, prior, seen) for prior in priors]
    jitter = 1e-10 * spread**2 * np.eye(len(means))
    parts = [
        mean + rng.standard_normal((count, len(means))) @ np.linalg.cholesky(cov + jitter).T
        for (mean, cov), count in zip(fits, counts, strict=True)
    ]
    typical = np.repeat([mean for mean, _ in fits], counts, axis=0)
    draws = np.concatenate(parts)
    if np.isfinite(noise.free):
        draws = typical + (draws - typical) * np.sqrt(noise.free / rng.chisquare(noise.free, (n_boot, 1)))
    return centre + rng.permutation(draws)


def _prior(features: Floats, between: float, slope: float, spread: float) -> Floats:
    """Covariance (T, T) of the true means: peers, probes, a common level so vague that it is flat."""
    count, width = features.shape
    common = (30 * spread) ** 2 * np.ones((count, count))
    shared = slope**2 * features @ features.T / width if width else 0.0
    return between**2 * np.eye(count) + shared + common


def _condition(y: Floats, v: Floats, prior: Floats, seen: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Mean and covariance of all true means given the observed ones."""
    gain = np.linalg.solve(prior[np.ix_(seen, seen)] + np.diag(v), prior[seen]).T
    return gain @ y, prior - gain @ prior[seen]


def _left_out_scores(y: Floats, v: Floats, priors: Floats, group: NDArray[np.int64]) -> Floats:
    """Log density of every fold given the others, summed, up to a constant: priors (G, n, n) to (G,)."""
    marginal = priors + np.diag(v)
    total = np.zeros(len(priors))
    folds = np.unique(group)
    for fold in folds if len(folds) > 1 else []:
        out, rest = np.flatnonzero(group == fold), np.flatnonzero(group != fold)
        between = marginal[:, rest[:, None], out]
        gain = np.linalg.solve(marginal[:, rest[:, None], rest], between).swapaxes(1, 2)
        error = (y[out] - gain @ y[rest])[..., None]
        cov = marginal[:, out[:, None], out] - gain @ between
        squared = (error * np.linalg.solve(cov, error)).sum(axis=(1, 2))
        total -= 0.5 * (squared + np.linalg.slogdet(cov)[1])
    return total
