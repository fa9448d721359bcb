r"""Noise that is not the same everywhere: some teachers' seeds scatter more than others', some runs are far off.

The variance of unit u (a teacher in a setting) is :math:`\lambda g_u v_u` instead of :math:`\lambda v_u`, with

.. math:: 1 / g_u \sim \mathrm{Gamma}(\nu / 2, w_\nu / 2),

each unit's own, or that of its teacher in all settings; the width w is such that the median of g is one, so that
lambda is the noise of a typical unit, whatever nu. Given g, means and repeats are normal; g averaged over, they
have the tails of Student's t with :math:`\nu` degrees of freedom and more. How uneven the noise is (nu, and of what
kind) is weighted by how well it predicts the units' own sums of squares,

.. math:: p(Q_u \mid \nu, \lambda) \propto \lambda^{-k_u/2}\, \frac{\Gamma((\nu + k_u)/2)}{\Gamma(\nu/2)}
    \left(\frac{w_\nu}{2}\right)^{\nu/2} \left(\frac{w_\nu + Q_u/\lambda}{2}\right)^{-(\nu + k_u)/2},

so that single seeds, which have none, leave the prior; and by how well it predicts the means, by importance sampling
of g. Within a kind, short Markov chains draw g given the true means
(conjugate), the prior's point and the ratio of differences to noise by independent proposals with the means integrated
out, and the scale lambda and the means themselves exactly.

References
----------
Geweke, "Bayesian treatment of the independent Student-t linear model", Journal of Applied Econometrics 1993; Smyth,
"Linear models and empirical Bayes methods", 2004, for variances that borrow strength from each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.lapack import dtrtrs
from scipy.special import gammaincinv, gammaln

__all__ = ["Kind", "Particles", "Problem", "Repeats", "chains", "kinds_of", "log_sum", "particles", "plug_in"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EVEN_WEIGHT = 0.25  # prior chance that all noise is alike
TAILS, TAIL_WEIGHTS = np.array([1.5, 3.0, 6.0]), np.array([0.25, 0.4, 0.35])  # nu
TEACHER_SHARE = 0.5  # prior chance that uneven noise is a teacher's in all settings, not each unit's own
SCALES = np.exp(np.linspace(np.log(0.02), np.log(20), 57))
CHAINS, SWEEPS, KEPT = 96, 5, 3
PARTICLES = 600
POWERS = (1.0, 0.7, 0.5, 0.35, 0.2, 0.1)
FEWEST = 8.0  # particles of a kind that count, of equal weight
UNITS = 5000  # of all chains together, at most
WIDE = 20  # units, from which on triangular matrices are solved as such: below, calls cost more than they save
_SMALL = 1e-9
EACH = 12  # draws of a chain, at least, where there are few to make


class Repeats(NamedTuple):
    """What each unit's own repeats say of its noise, in units of the pooled variance.

    Attributes
    ----------
    squares, free : (N,) arrays of float
        Sum of squares about the unit's mean, over the pooled variance, and its degrees of freedom.
    teachers : (N,) array of int
        Equal numbers are units of the same teacher.
    """

    squares: Floats
    free: Floats
    teachers: Ints


class Kind(NamedTuple):
    """One way for noise to be uneven; infinite `tail`: it is not.

    Attributes
    ----------
    tail : float
        Nu.
    by_teacher : bool
        Whether a teacher's noise is the same in all settings.
    weight : float
        Its chance, given the repeats.
    scales : (L,) array of float
        Chances of each scale, given the repeats.
    """

    tail: float
    by_teacher: bool
    weight: float
    scales: Floats


def kinds_of(repeats: Repeats, scales: Floats, log_prior: Floats) -> list[Kind]:
    """The kinds of noise with their chances; the first one is even.

    Parameters
    ----------
    repeats : Repeats
        Of the measured units.
    scales, log_prior : (L,) arrays of float
        The grid of lambda, and what is known of it besides.

    Returns
    -------
    list of Kind
        Weights sum to one.

    Examples
    --------
    >>> alone = Repeats(np.zeros(4), np.zeros(4), np.arange(4))  # single seeds: the prior
    >>> bool(np.isclose(kinds_of(alone, SCALES, 0 * SCALES)[0].weight, EVEN_WEIGHT))
    True
    >>> wild = Repeats(np.array([0.01, 0.02, 0.01, 11.9]), np.full(4, 3.0), np.arange(4))
    >>> kinds_of(wild, SCALES, 0 * SCALES)[0].weight < 0.01
    True
    """
    several = len(np.unique(repeats.teachers)) < len(repeats.teachers)
    found, scores = [(np.inf, False)], [np.log(EVEN_WEIGHT)]
    for by_teacher, share in ((False, 1 - TEACHER_SHARE), (True, TEACHER_SHARE)) if several else ((False, 1.0),):
        found += [(tail, by_teacher) for tail in TAILS.tolist()]
        scores += (np.log((1 - EVEN_WEIGHT) * share * TAIL_WEIGHTS / TAIL_WEIGHTS.sum())).tolist()
    likelihoods = log_prior + np.array([_likelihood(repeats, scales, *kind) for kind in found])  # (K, L)
    each = log_sum(likelihoods)
    total = np.array(scores) + each
    weights = np.exp(total - log_sum(total))
    shares = np.exp(likelihoods - each[:, None])
    return [Kind(*kind, float(w), s) for kind, w, s in zip(found, weights, shares, strict=True)]


def _likelihood(repeats: Repeats, scales: Floats, tail: float, by_teacher: bool) -> Floats:
    """Log density (L,) of the sums of squares at each scale; constants that all kinds share are left out."""
    squares, free = repeats.squares, repeats.free
    if by_teacher:
        squares, free = (_by_teacher(repeats, values) for values in (squares, free))
    over = squares[:, None] / scales
    if np.isinf(tail):
        each = -0.5 * over
    else:
        half = 0.5 * (tail + free[:, None])
        width = _width(tail)
        each = gammaln(half) - gammaln(tail / 2) + tail / 2 * np.log(width / 2) - half * np.log((width + over) / 2)
    score: Floats = each.sum(axis=0) - 0.5 * free.sum() * np.log(scales)
    return score


def _width(tail: ArrayLike) -> Floats:
    """The width w of the distribution of 1 / g, by nu: the median of g is one."""
    width: Floats = 2 * gammaincinv(np.divide(tail, 2), 0.5)
    return width


def _by_teacher(repeats: Repeats, values: Floats) -> Floats:
    """Sums over each teacher's units."""
    return np.bincount(repeats.teachers, values).astype(np.float64)


def plug_in(repeats: Repeats, scales: Floats, kinds: list[Kind]) -> Floats:
    """Expected relative variance (N,) of each unit over the uneven kinds, by which the chains' proposals are made."""
    total, weights = np.zeros(len(repeats.free)), 0.0
    for kind in kinds[1:]:
        squares, free = repeats.squares, repeats.free
        if kind.by_teacher:
            squares, free = (_by_teacher(repeats, values)[repeats.teachers] for values in (squares, free))
        typical = np.exp(kind.scales @ np.log(scales)) if free.any() else 1.0
        total += kind.weight * np.log((_width(kind.tail) * typical + squares) / (kind.tail + free))
        weights += kind.weight
    return np.exp(total / weights)


@dataclass(frozen=True)
class Problem:
    """What the chains work on: measured means, what is thought of them beforehand, and grids.

    Attributes
    ----------
    y, variances : (N,) arrays of float
        Measured means, and their variances as pooled.
    errors : (N, q) array of float
        How errors of the seeds' effects move them.
    seen : (N,) array of int
        Their places among the unknowns.
    levels : (M, s) array of float
        How the flat levels enter the unknowns.
    means, covs, log_weights : (P, M), (P, M, M), (P,) arrays of float
        Points of the prior, at a ratio of 1.
    ratios, scales : (R,), (L,) arrays of float
        Grids of the ratio of differences to noise, and of lambda.
    log_scales : (L,) array of float
        What is known of lambda besides the repeats.
    log_grid : (R, L) array of float
        Log prior weights of the ratios, and of the spread that follows from both.
    proposals : (P, R) array of float
        Chances by which points and ratios are proposed.
    repeats : Repeats
        Of the measured units.
    """

    y: Floats
    variances: Floats
    errors: Floats
    seen: Ints
    levels: Floats
    means: Floats
    covs: Floats
    log_weights: Floats
    ratios: Floats
    scales: Floats
    log_scales: Floats
    log_grid: Floats
    proposals: Floats
    repeats: Repeats

    @cached_property
    def covs_seen(self) -> Floats:
        """Of what was measured, (P, N, N)."""
        return np.ascontiguousarray(self.covs[:, self.seen[:, None], self.seen])

    def roots(self, point: Ints) -> Floats:
        """Of the covariances of some points, (C, M, M)."""
        places, mine = np.unique(point, return_inverse=True)
        roots = np.linalg.cholesky(self.covs[places] + _SMALL * np.eye(self.covs.shape[1]))
        return np.asarray(roots, dtype=np.float64)[mine]


class _State(NamedTuple):
    """Where each of C chains stands: point, ratio, and what follows from them.

    Attributes
    ----------
    point, ratio : (C,) arrays of int
        Places on the grids.
    scores : (C, L) array of float
        Log density at each scale, means and levels integrated out.
    root : (C, N, N) array of float
        Of the covariance of what was measured.
    """

    point: Ints
    ratio: Ints
    scores: Floats
    root: Floats


@dataclass(frozen=True)
class Particles:
    """Noise as the repeats alone suggest it, with what the means say of it.

    Attributes
    ----------
    power : float
        To which the densities of the means are taken. Less than one where particles are too few to tell, as for many
        settings, where the repeats tell the kind of noise.
    log_evidence : (K,) array of float
        How well each kind predicts the means, to this power.
    log_weights : (C,) array of float
        Of each particle among all.
    tails, by_teacher : (C,) arrays
        Each particle's kind.
    uneven : (C, N) array of float
        Relative variances.
    point, ratio : (C,) arrays of int
        As proposed.
    """

    power: float
    log_evidence: Floats
    log_weights: Floats
    tails: Floats
    by_teacher: NDArray[np.bool_]
    uneven: Floats
    point: Ints
    ratio: Ints


def particles(problem: Problem, kinds: list[Kind], rng: np.random.Generator) -> Particles:
    """Draws of uneven noise from what the repeats say, weighted by how well they predict the means.

    Parameters
    ----------
    problem : Problem
        What was measured, and the prior.
    kinds : list of Kind
        The uneven ones.
    rng : Generator
        The source of randomness.

    Returns
    -------
    Particles
        As many of each kind.
    """
    each = max(16, min(PARTICLES, UNITS // len(problem.y)) // len(kinds))
    tails = np.repeat([kind.tail for kind in kinds], each)
    by_teacher = np.repeat([kind.by_teacher for kind in kinds], each)
    place = np.concatenate([rng.choice(len(problem.scales), each, p=kind.scales) for kind in kinds])
    nothing = np.zeros((len(tails), len(problem.y)))
    uneven = _relative(problem, tails, by_teacher, problem.scales[place], nothing, rng, measured=False)
    state = _at(problem, uneven, *_proposed(problem, len(uneven), rng))
    scores = (state.scores - _of_repeats(problem, uneven))[np.arange(len(place)), place]
    scores = scores - np.log(problem.proposals[state.point, state.ratio])
    power = next((power for power in POWERS if _effective(power * scores.reshape(len(kinds), each)) >= FEWEST), 0.0)
    scores = power * scores
    evidence = log_sum(scores.reshape(len(kinds), each)) - np.log(each)
    weights = scores + np.log(np.repeat([kind.weight for kind in kinds], each))
    return Particles(power, evidence, weights, tails, by_teacher, uneven, state.point, state.ratio)


def _effective(log_weights: Floats) -> float:
    """Number of equally weighted particles that would tell as much, of the kind that has the fewest."""
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    return float((weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)).min())


def chains(problem: Problem, start: Particles, count: int, rng: np.random.Generator) -> Floats:
    """Draws of the unknowns where noise is uneven.

    Parameters
    ----------
    problem : Problem
        What was measured, and the prior.
    start : Particles
        From which the chains start.
    count : int
        Number of draws.
    rng : Generator
        The source of randomness.

    Returns
    -------
    array of shape (count, M)
        In random order.
    """
    number = min(count, CHAINS, max(8, UNITS // len(problem.y)), max(8, count // EACH))
    each = -(-count // (number * KEPT))
    edges = np.exp(start.log_weights - log_sum(start.log_weights)).cumsum()
    mine = np.searchsorted(edges, (np.arange(number) + rng.random(number)) / number).clip(max=len(edges) - 1)
    tails, by_teacher, uneven = start.tails[mine], start.by_teacher[mine], start.uneven[mine]
    point, ratio, kept = start.point[mine], start.ratio[mine], []
    for sweep in range(SWEEPS):
        state = _moved(problem, uneven, point, ratio, rng)
        point, ratio = state.point, state.ratio
        scale = problem.scales[_sampled(state.scores, rng)]
        last = sweep >= SWEEPS - KEPT
        drawn, left = _unknowns(problem, uneven, state, scale, each if last else 1, rng)
        if last:
            kept.append(drawn)
        uneven = _relative(problem, tails, by_teacher, scale, left, rng, measured=True)
    draws: Floats = np.concatenate(kept).reshape(-1, problem.means.shape[1])
    return draws[rng.permutation(len(draws))[:count]]


def _relative(
    problem: Problem,
    tails: Floats,
    by_teacher: NDArray[np.bool_],
    scale: Floats,
    left: Floats,
    rng: np.random.Generator,
    *,
    measured: bool,
) -> Floats:
    """Relative variances g (C, N), given the repeats and, once there are some, the errors of the means."""
    repeats = problem.repeats
    squares = repeats.squares + (left**2 / problem.variances if measured else 0.0)
    free = np.broadcast_to(repeats.free + float(measured), squares.shape)
    if by_teacher.any():
        same = (repeats.teachers[:, None] == repeats.teachers).astype(float)
        squares = np.where(by_teacher[:, None], squares @ same, squares)
        free = np.where(by_teacher[:, None], free @ same, free)
    width = _width(tails)[:, None]
    uneven: Floats = (width + squares / scale[:, None]) / (2 * rng.gamma((tails[:, None] + free) / 2))
    first = (repeats.teachers[:, None] == repeats.teachers).argmax(axis=1)  # one draw for all of a teacher's units
    return np.where(by_teacher[:, None], uneven[:, first], uneven)


def _at(problem: Problem, uneven: Floats, point: Ints, ratio: Ints) -> _State:
    """How likely points and ratios are, given the noise."""
    seen, r = problem.seen, problem.ratios[ratio]
    cov = r[:, None, None] * problem.covs_seen[point] + problem.errors @ problem.errors.T
    place = np.arange(len(seen))
    cov[:, place, place] += uneven * problem.variances
    root = np.asarray(np.linalg.cholesky(cov), dtype=np.float64)
    half = _solved(root, _sides(problem, point, r))
    levels, pair = half[:, :, :-2], half[:, :, -2:]
    inner = np.linalg.cholesky(levels.mT @ levels)
    out = np.linalg.solve(inner, levels.mT @ pair)
    squares = pair.mT @ pair - out.mT @ out
    volume = sum(np.log(np.diagonal(each, axis1=1, axis2=2)).sum(axis=1) for each in (root, inner))
    scale, free = problem.scales, len(seen) - levels.shape[2]
    scores = problem.log_grid[ratio] + problem.log_weights[point][:, None] - volume[:, None]
    scores -= 0.5 * (squares[:, 0, 0][:, None] / scale - 2 * squares[:, 0, 1][:, None] / np.sqrt(scale))
    scores -= 0.5 * (squares[:, 1, 1][:, None] + free * np.log(scale))
    return _State(point, ratio, scores + _of_repeats(problem, uneven), root)


def log_sum(scores: Floats) -> Floats:
    """Log of the sum of exponentials along the last axis; SciPy's takes longer for small arrays than it computes."""
    top = scores.max(axis=-1, keepdims=True)
    total: Floats = np.log(np.exp(scores - top).sum(axis=-1)) + top[..., 0]
    return total


def _solved(root: Floats, sides: Floats, *, transposed: bool = False) -> Floats:
    """L^-1 B, or L^-T B, of C lower triangular matrices (C, N, N) and their sides (C, N, k)."""
    if root.shape[1] < WIDE:
        return np.asarray(np.linalg.solve(root.mT if transposed else root, sides), dtype=np.float64)
    found = np.empty(sides.shape)
    for number, (one, side) in enumerate(zip(root, sides, strict=True)):
        # In Fortran's order, as LAPACK has it, the transpose of a row-major matrix needs no copy.
        found[number] = dtrtrs(one.T, side, lower=0, trans=0 if transposed else 1)[0]
    return found


def _of_repeats(problem: Problem, uneven: Floats) -> Floats:
    """What is known of the scale without the means, log density (C, L) given the noise."""
    repeats = problem.repeats
    squares = (repeats.squares / uneven).sum(axis=1)
    score: Floats = problem.log_scales - 0.5 * (
        squares[:, None] / problem.scales + repeats.free.sum() * np.log(problem.scales)
    )
    return score


def _sides(problem: Problem, point: Ints, ratio: Floats) -> Floats:
    """Levels, what was measured and what the prior expects of it, (C, N, s + 2)."""
    count, seen = len(point), problem.seen
    expected = np.sqrt(ratio)[:, None] * problem.means[point][:, seen]
    given = np.c_[problem.levels[seen], problem.y]
    return np.concatenate([np.broadcast_to(given, (count, *given.shape)), expected[..., None]], axis=2)


def _proposed(problem: Problem, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Points and ratios that do not depend on where a chain stands."""
    flat = problem.proposals.ravel()
    point, ratio = np.divmod(rng.choice(len(flat), count, p=flat / flat.sum()), len(problem.ratios))
    return point, ratio


def _moved(problem: Problem, uneven: Floats, point: Ints, ratio: Ints, rng: np.random.Generator) -> _State:
    """A step of Metropolis and Hastings; the present point is judged again, because the noise has moved."""
    count = len(point)
    new_point, new_ratio = _proposed(problem, count, rng)
    both = _at(problem, np.r_[uneven, uneven], np.r_[point, new_point], np.r_[ratio, new_ratio])
    worth = log_sum(both.scores) - np.log(problem.proposals[both.point, both.ratio])
    taken = np.log(rng.random(count)) < worth[count:] - worth[:count]
    place = np.arange(count) + count * taken
    return _State(both.point[place], both.ratio[place], both.scores[place], both.root[place])


def _sampled(scores: Floats, rng: np.random.Generator) -> Ints:
    """One place a row, by log weights."""
    noise = rng.gumbel(size=scores.shape)
    place: Ints = (scores + noise).argmax(axis=1)
    return place


def _unknowns(
    problem: Problem, uneven: Floats, state: _State, scale: Floats, each: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draws (C, each, M), given the noise, a point, a ratio and a scale; and the first one's own errors, (C, N).

    A draw from the prior, corrected by what was measured less what would be measured of that draw (Matheron's rule);
    levels, which are flat, by generalised least squares.
    """
    seen, count = problem.seen, len(scale)
    unit, r = np.sqrt(scale)[:, None, None], problem.ratios[state.ratio][:, None, None]
    own_variances = (uneven * problem.variances)[..., None]
    normal = [
        rng.standard_normal((count, n, each)) for n in (problem.means.shape[1], len(seen), problem.errors.shape[1])
    ]
    prior = unit * np.sqrt(r) * (problem.means[state.point][..., None] + problem.roots(state.point) @ normal[0])
    own = unit * np.sqrt(own_variances) * normal[1]
    apart = problem.y[:, None] - prior[:, seen] - own - unit * (problem.errors @ normal[2])
    levels = np.broadcast_to(problem.levels[seen], (count, len(seen), problem.levels.shape[1]))
    half = _solved(state.root, np.concatenate([levels, apart], axis=2))
    white, apart = half[..., : levels.shape[2]], half[..., levels.shape[2] :]
    level = np.linalg.solve(white.mT @ white, white.mT @ apart)
    weights = _solved(state.root, apart - white @ level, transposed=True)
    drawn = prior + r * (problem.covs[state.point][:, :, seen] @ weights) + problem.levels @ level
    return drawn.mT, (own + own_variances * weights)[..., 0]
