r"""One posterior of what every teacher's students truly reach in every setting, from a few noisy seeds.

In setting s, teacher t's students have the true mean accuracy

.. math::
    \mu_{st} = c_s + \tau z_{st}, \qquad \bar y_{st} \sim N(\mu_{st}, \lambda g_{st} v_{st}), \quad c_s \text{ flat},

where v is the variance that the seeds (or, with single seeds, the examples) suggest, with the covariance of teachers
that lack some of the seeds beside it (`capmismatch.stats.groups.errors_of_seed_effects`). The factors g are one where
all noise is alike; elsewhere they differ between teachers or units (`capmismatch.stats.uneven`), by chances that
the seeds of each unit tell. The teachers' profile z has three sources:

.. math::
    z_{st} = \sqrt{\kappa}\, \zeta_t + \sqrt{1-\kappa}\, \zeta_{st}, \qquad
    \zeta_t = \sqrt{h}\, x_t^\top \beta_f / \sqrt{p} + \sqrt{1-h}\, u_t, \qquad u_t \sim N(0, 1).

The share h is what the standardised probes x explain, by slopes :math:`\beta_f \sim N(0, I)` that families share to a
share rho; kappa is the share of the profile that all settings have in common. Everything that a few seeds cannot tell
is averaged over rather than estimated: the ratio of differences to noise :math:`r = \tau^2 / \lambda \bar v`, the noise
itself (lambda), how uneven it is, h, kappa, rho, and how far students of the same teachers are alike. So a chance of
being the best means what it says also after the setting was chosen by its maximum, and with seeds too few to know their
own noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from capmismatch._numerics.threads import in_one_blas_thread
from capmismatch.stats.groups import Group, covariance, errors_of, of_units
from capmismatch.stats.profiles import Prior, codes, log_spreads, prior_points, repeated
from capmismatch.stats.uneven import (
    SCALES,
    Kind,
    Particles,
    Problem,
    Repeats,
    chains,
    kinds_of,
    log_sum,
    particles,
    plug_in,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Ratios of variances, of true differences to a single repeat, with prior weights: from "a teacher matters an eighth of
# what a seed does" to "64 times as much". Both ends are rare, and the data tell where they hold.
RATIOS = 4.0 ** np.arange(-3, 7)
RATIO_WEIGHTS = np.array([0.15, 0.5, 1, 1, 1, 0.7, 0.4, 0.2, 0.1, 0.05])
# Single seeds scatter by one to thirty times the variance that the examples alone give, most likely two or three.
SINGLE_SEED_SCALES = np.exp(np.linspace(0, np.log(30), 15))
_SINGLE_SEED_WEIGHTS = -0.5 * (np.log(SINGLE_SEED_SCALES / 2.5) / 0.8) ** 2
NEGLIGIBLE = 0.002  # a chance that noise is uneven, of which no account is taken
PROPOSAL_POWER = 0.7  # flattens what chains propose
SPREAD_SD = 0.8  # of log tau around that of the evidence
_SMALL = 1e-9
AT_ONCE = 64  # points and ratios whose matrices are made together


@dataclass(frozen=True)
class Draws:
    """Draws from the posterior.

    Attributes
    ----------
    means : (n_boot, S, T) or (n_boot, T) array of float
        True mean accuracies of each setting and teacher, or of each teacher in one setting; relative to their mean
        where no teacher was measured.
    slopes : (n_boot, p) array of float
        Change of the accuracy per standard deviation of each probe, in the first teacher's family.
    """

    means: Floats
    slopes: Floats


@in_one_blas_thread
def joint_draws(
    settings: Sequence[Group], n_boot: int, rng: np.random.Generator, evidence: Sequence[Group] = ()
) -> Draws:
    """Draws of the true means of the same teachers in one or several settings.

    Parameters
    ----------
    settings : sequence of Group
        One for each setting, with the same teachers, families and features. Teachers that a setting did not measure are
        predicted from the others, from their probes and from the evidence.
    n_boot : int
        Number of draws.
    rng : Generator
        The source of randomness.
    evidence : sequence of Group
        Other students or families, all with teachers measured, and the same features.

    Returns
    -------
    Draws
        Of all settings and teachers.

    Examples
    --------
    >>> from capmismatch.stats.groups import Noise
    >>> group = Group(np.array([0.70, 0.72, 0.74]), Noise(np.full(3, 1e-8), 6.0), np.zeros((3, 0)), "abc", "fff")
    >>> joint_draws([group], 500, np.random.default_rng(0)).means.mean(axis=0).round(2).tolist()
    [[0.7, 0.72, 0.74]]
    """
    priors = prior_points(settings, evidence)
    data = _measured(settings, evidence) if any(np.isfinite(group.means).any() for group in settings) else None
    if data is None:
        counts = _counts(np.array([prior.log_weight for prior in priors]), n_boot, rng)
        drawn = [_unmeasured(len(settings), priors[place], counts[place], rng) for place in np.flatnonzero(counts)]
    else:
        points = data.points(priors)
        scores = points.log_weights + data.scores(points)
        kinds = kinds_of(data.repeats, *data.known_scales) if data.by_unit else []
        uneven = 0
        if kinds and kinds[0].weight < 1 - NEGLIGIBLE:
            problem = data.problem(priors, kinds)
            start = particles(problem, kinds[1:], rng)
            uneven = int(rng.binomial(n_boot, _uneven_chance(kinds, start, data.log_evidence(scores))))
        drawn = [data.draw(points, _counts(scores, n_boot - uneven, rng), rng)]
        if uneven:
            drawn.append(data.unit * chains(problem, start, uneven, rng))
    stacked = rng.permutation(np.concatenate(drawn))
    size = len(settings) * len(settings[0].means)
    means = stacked[:, :size].reshape(n_boot, len(settings), -1)
    if data is not None:
        return Draws(data.middle + means, stacked[:, size:])
    spreads = rng.choice(np.exp(log_spreads(evidence)), (n_boot, 1))
    return Draws(spreads[..., None] * (means - means.mean(axis=2, keepdims=True)), spreads * stacked[:, size:])


def _uneven_chance(kinds: list[Kind], start: Particles, even: float) -> float:
    """Chance that noise is uneven, given the repeats and the means; `even` is the log evidence if it is not."""
    scores = np.log([kind.weight for kind in kinds]) + np.r_[start.power * even, start.log_evidence]
    return float(1 - np.exp(scores[0] - log_sum(scores)))


def _counts(scores: Floats, count: int, rng: np.random.Generator) -> Ints:
    """How many draws of each point of a grid, by log weights."""
    weights = np.exp(scores - scores.max())
    counts: Ints = rng.multinomial(count, (weights / weights.sum()).ravel()).reshape(weights.shape)
    return counts


def posterior_draws(group: Group, n_boot: int, rng: np.random.Generator, evidence: Sequence[Group] = ()) -> Draws:
    """Draws of the true means of one setting, and of the slopes: `joint_draws` of a single group.

    Parameters
    ----------
    group : Group
        Whose true means are asked for. If no teacher was measured, the spread is one of the evidence's, drawn at
        random, and the draws are relative to their mean.
    n_boot : int
        Number of draws.
    rng : Generator
        The source of randomness.
    evidence : sequence of Group
        As of `joint_draws`.

    Returns
    -------
    Draws
        Its means have the shape (n_boot, T).

    Examples
    --------
    >>> from capmismatch.stats.groups import Noise
    >>> group = Group(np.array([0.70, 0.72, np.nan]), Noise(np.full(3, 1e-6), 9.0), np.zeros((3, 0)), "abc", "fff")
    >>> draws = posterior_draws(group, 4000, np.random.default_rng(0))
    >>> draws.means.mean(axis=0).round(2).tolist(), draws.slopes.shape
    ([0.7, 0.72, 0.71], (4000, 0))
    """
    draws = joint_draws([group], n_boot, rng, evidence)
    return Draws(draws.means[:, 0], draws.slopes)


# --- with this student's results -------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Unknowns and what was measured of them: k sets with the same covariances, independent of each other.

    Attributes
    ----------
    mean, cov : (P, M, k), (P, M, M) arrays of float
        What each point of the prior says of the unknowns, at a ratio of 1.
    seen : (N,) array of int
        Which of them were measured.
    levels : (M, q) array of float
        How the flat levels enter them.
    y : (N, k) array of float
        What was measured.
    """

    mean: Floats
    cov: Floats
    seen: Ints
    levels: Floats
    y: Floats


class _Turned(NamedTuple):
    """A part on the axes where noise and prior are both independent, so that all ratios share one decomposition.

    Attributes
    ----------
    sizes : (P, N) array of float
        Prior variances, at a ratio of 1, where the noise is 1.
    turn : (P, N, N) array of float
        From the measured units to the axes.
    levels, y, mean : (P, N, q), (P, N, k), (P, N, k) arrays of float
        The levels, what was measured, and what the prior expects, on the axes.
    """

    sizes: Floats
    turn: Floats
    levels: Floats
    y: Floats
    mean: Floats


class _Points(NamedTuple):
    """The points of the prior, as the parts that they fall into.

    Attributes
    ----------
    log_weights : (P, 1, 1) array of float
        Theirs.
    parts : list of (_Part, _Turned)
        Independent of each other.
    """

    log_weights: Floats
    parts: list[tuple[_Part, _Turned]]


@dataclass(frozen=True)
class _Measured:
    """The measured means of all settings, in units of their noise.

    Attributes
    ----------
    y : (N,) array of float
        Means of the units that were measured.
    variances, errors : (N,), (N, q) arrays of float
        As suggested: of their own errors, and how errors of the seeds' effects move them.
    noise : (N, N) array of float
        Their covariance.
    seen : (N,) array of int
        Their places among the S * T units.
    levels : (S * T, S) array of float
        1 where a unit belongs to a setting.
    free : float
        Degrees of freedom behind the variances; infinite where the examples give them.
    unit : float
        What one stands for in accuracy.
    middle : float
        What was taken off all means.
    log_taus : (E,) array of float
        Of the evidence's spreads, in units.
    number : float
        Repeats behind a mean, on average.
    repeats : Repeats
        What each unit's own repeats say of its noise.
    by_unit : bool
        Whether that is known, if only that there are none; else all noise is alike.
    """

    y: Floats
    variances: Floats
    errors: Floats
    noise: Floats
    seen: Ints
    levels: Floats
    free: float
    unit: float
    middle: float
    log_taus: Floats
    number: float
    repeats: Repeats
    by_unit: bool

    @property
    def ratios(self) -> Floats:
        """The grid of differences to noise, as variances: the same for a single repeat, however many there are."""
        grid: Floats = np.asarray(RATIOS * self.number, dtype=np.float64)
        return grid

    @property
    def noise_scales(self) -> Floats:
        """The grid of lambda: from one on where only the examples speak, else around one as far as chance may lead."""
        if np.isinf(self.free):
            return SINGLE_SEED_SCALES
        reach = np.log(400) / np.sqrt(min(self.free, 100) / 2 + 0.5)
        return np.exp(np.linspace(-0.5 * reach, reach, 31))

    def equal(self, uneven: Floats) -> Floats:
        """Relative variances of the units as even as the parts need them."""
        return uneven

    def parts(self, priors: Sequence[Prior]) -> list[_Part]:
        """All unknowns at once."""
        means, covs = repeated(priors, self.levels.shape[1])
        levels = np.zeros((means.shape[1], self.levels.shape[1]))
        levels[: len(self.levels)] = self.levels
        known = self.levels[self.seen].any(axis=0)  # of a setting without a measured teacher the level is unknown
        return [_Part(means[..., None], covs, self.seen, levels[:, known], self.y[:, None])]

    def joined(self, drawn: Sequence[Floats]) -> Floats:
        """Draws (n, S * T + p) from those of the parts, (n, M, k) each."""
        return drawn[0][:, :, 0]

    @cached_property
    def whitening(self) -> Floats:
        """What turns the noise of a part's measured units into the identity."""
        root = np.linalg.cholesky(self.noise)
        white: Floats = solve_triangular(root, np.eye(len(root)), lower=True)
        return white

    def points(self, priors: Sequence[Prior]) -> _Points:
        """The points of the prior, turned."""
        weights = np.array([prior.log_weight for prior in priors])[:, None, None]
        return _Points(weights, [(part, self.turned(part)) for part in self.parts(priors)])

    def turned(self, part: _Part) -> _Turned:
        """A part, turned."""
        seen, white = part.seen, self.whitening
        sizes, axes = np.linalg.eigh(white @ part.cov[:, seen[:, None], seen] @ white.T)
        turn = axes.mT @ white
        return _Turned(sizes.clip(min=0), turn, turn @ part.levels[seen], turn @ part.y, turn @ part.mean[:, seen])

    def scores(self, points: _Points) -> Floats:
        """Log weights (P, R, L) of the ratios and the noise scales at each point."""
        scale, ratios = self.noise_scales, self.ratios
        scores = np.log(RATIO_WEIGHTS)[:, None] + self._spread_score(0.5 * np.log(ratios[:, None] * scale))
        if np.isfinite(self.free):
            scores = scores - 0.5 * self.free * (np.log(scale) + 1 / scale)
        else:
            scores = scores + _SINGLE_SEED_WEIGHTS
        for part, turned in points.parts:
            scores = scores + _likelihood(part, turned, ratios, scale)
        return scores

    def _spread_score(self, log_tau: Floats) -> Floats:
        """Log density of log tau, given the spreads of the evidence."""
        if not len(self.log_taus):
            return np.zeros_like(log_tau)
        variance = SPREAD_SD**2 * (1 + 1 / len(self.log_taus))
        return -0.5 * (log_tau - self.log_taus.mean()) ** 2 / variance

    def draw(self, points: _Points, counts: Ints, rng: np.random.Generator) -> Floats:
        """Draws (n, S * T + p), as many of each point, ratio and noise scale as `counts` (P, R, L) says."""
        return self.unit * self.joined([self._draw_part(*part, counts, rng) for part in points.parts])

    def _draw_part(self, part: _Part, turned: _Turned, counts: Ints, rng: np.random.Generator) -> Floats:
        """Draws (n, M, k) of a part's unknowns."""
        used = np.argwhere(counts.any(axis=2))
        drawn = [np.zeros((0, part.cov.shape[1], part.y.shape[1]))]
        for place in np.split(used, range(AT_ONCE, len(used), AT_ONCE)):
            given = _given(part, turned, place[:, 0], self.ratios[place[:, 1]])
            for number, count in enumerate(counts[place[:, 0], place[:, 1]]):
                scale = np.sqrt(np.repeat(self.noise_scales, count))[:, None, None]
                noise = rng.standard_normal((len(scale), part.y.shape[1], part.cov.shape[1]))
                drawn.append(given.still[number] + scale * (given.moving[number] + (noise @ given.root[number].T).mT))
        return np.concatenate(drawn)

    @property
    def known_scales(self) -> tuple[Floats, Floats]:
        """A grid of lambda for uneven noise, and what is known of it besides the units' own repeats, as log weights."""
        if np.isinf(self.free):
            return SINGLE_SEED_SCALES, _SINGLE_SEED_WEIGHTS
        free, squares = self.free - self.repeats.free.sum(), self.free - self.repeats.squares.sum()
        return SCALES, -0.5 * (free * np.log(SCALES) + squares / SCALES)

    def log_evidence(self, scores: Floats) -> float:
        """How well the means are predicted, given the noise's repeats: from all log weights of the grid."""
        scale = self.noise_scales
        known = _SINGLE_SEED_WEIGHTS if np.isinf(self.free) else -0.5 * self.free * (np.log(scale) + 1 / scale)
        return float(log_sum(scores.ravel()) - log_sum(known) - 0.5 * np.linalg.slogdet(self.noise)[1])

    def problem(self, priors: Sequence[Prior], kinds: list[Kind]) -> Problem:
        """What is to be solved where the noise is uneven, with proposals by the expected variances of its units."""
        variances, repeats = self.variances, self.repeats
        scales, known = self.known_scales
        more = self.equal(plug_in(repeats, scales, kinds)) - 1
        likely = replace(self, noise=self.noise + np.diag(more * variances))
        points = likely.points(priors)
        scores = PROPOSAL_POWER * log_sum(points.log_weights + likely.scores(points))
        proposals = np.exp(scores - scores.max())
        proposals /= proposals.sum()
        (whole,) = _whole(self).parts(priors)
        spread = self._spread_score(0.5 * np.log(self.ratios[:, None] * scales))
        return Problem(
            y=self.y,
            variances=variances,
            errors=self.errors,
            seen=self.seen,
            levels=whole.levels,
            means=whole.mean[..., 0],
            covs=whole.cov,
            log_weights=points.log_weights[:, 0, 0],
            ratios=self.ratios,
            scales=scales,
            log_scales=known,
            log_grid=np.log(RATIO_WEIGHTS)[:, None] + spread,
            proposals=(proposals + 1e-9) / (proposals + 1e-9).sum(),
            repeats=repeats,
        )


def _whole(data: _Measured) -> _Measured:
    """The same, as one large problem."""
    return _Measured(**{each.name: getattr(data, each.name) for each in fields(data)})


def _likelihood(part: _Part, turned: _Turned, ratios: Floats, scale: Floats) -> Floats:
    """Log density (P, R, L) of what was measured of a part, levels integrated out."""
    sets = part.y.shape[1]
    size = 1 + ratios[:, None] * turned.sizes[:, None]  # (P, R, N)
    mean = np.sqrt(ratios)[:, None, None] * turned.mean[:, None]
    root = np.sqrt(size)[..., None]
    y, mean, levels = turned.y[:, None] / root, mean / root, turned.levels[:, None] / root
    inner = np.linalg.cholesky(levels.mT @ levels)
    out = np.linalg.solve(inner, levels.mT @ np.concatenate([y, mean], axis=3))
    out_y, out_mean = out[..., :sets], out[..., sets:]
    yy, ym, mm = (
        ((one * other).sum(axis=(2, 3)) - (out_one * out_other).sum(axis=(2, 3)))[..., None]
        for one, other, out_one, out_other in (
            (y, y, out_y, out_y),
            (y, mean, out_y, out_mean),
            (mean, mean, out_mean, out_mean),
        )
    )
    volume = 0.5 * np.log(size).sum(axis=2) + np.log(np.diagonal(inner, axis1=2, axis2=3)).sum(axis=2)
    score: Floats = -0.5 * (yy / scale - 2 * ym / np.sqrt(scale) + mm) - sets * volume[..., None]
    score -= 0.5 * sets * (len(part.seen) - part.levels.shape[1]) * np.log(scale)
    return score


class _Given(NamedTuple):
    """A part's unknowns at K points and ratios, as measured: `still` + root of the scale * N(`moving`, cov).


    Attributes
    ----------
    still, moving : (K, M, k) arrays of float
        What moves with the root of the noise scale, and what does not.
    root : (K, M, M) array of float
        Of the covariance, lower triangular.
    """

    still: Floats
    moving: Floats
    root: Floats


def _given(part: _Part, turned: _Turned, point: Ints, ratio: Floats) -> _Given:
    """A part's unknowns at some points and ratios, (K,) each."""
    ratio = ratio[:, None, None]
    root = np.sqrt(1 + ratio * turned.sizes[point][..., None])
    levels, y, mean = turned.levels[point] / root, turned.y[point] / root, np.sqrt(ratio) * turned.mean[point] / root
    cov = part.cov[point]
    gain = ratio * cov[:, :, part.seen] @ turned.turn[point].mT / root.mT  # (K, M, N), of whitened residuals
    left = part.levels - gain @ levels
    spread = left @ np.linalg.inv(levels.mT @ levels)
    weights = gain + spread @ levels.mT
    cov = ratio * cov - gain @ gain.mT + spread @ left.mT
    within = np.linalg.cholesky(cov + _SMALL * np.eye(cov.shape[1]))
    return _Given(weights @ y, np.sqrt(ratio) * part.mean[point] - weights @ mean, np.asarray(within, dtype=np.float64))


class _Balanced(_Measured):
    r"""All teachers measured equally well in all settings: the settings' mean and contrasts are independent parts.

    With an orthogonal matrix Q of the settings whose first column is constant, the profiles' mean over settings has the
    covariance :math:`S \kappa C + (1-\kappa) F`, each of the S - 1 contrasts :math:`(1-\kappa) F`, and no two of them
    anything in common. That is S small problems, of which all but one share their matrices, instead of a large one.
    """

    @cached_property
    def turn_settings(self) -> Floats:
        """Q, (S, S)."""
        count = self.levels.shape[1]
        axes, _ = np.linalg.qr(np.c_[np.ones(count), np.eye(count)[:, 1:]])
        turn: Floats = axes
        return turn

    def equal(self, uneven: Floats) -> Floats:
        """The same in all settings."""
        settings = self.levels.shape[1]
        return np.tile(np.exp(np.log(uneven).reshape(settings, -1).mean(axis=0)), settings)

    @cached_property
    def whitening(self) -> Floats:
        """As the noise is the same in all settings, that of one."""
        variances = np.diag(self.noise)[: len(self.levels) // self.levels.shape[1]]
        return np.diag(1 / np.sqrt(variances))

    def parts(self, priors: Sequence[Prior]) -> list[_Part]:
        """The mean over settings with the slopes, and the contrasts."""
        teachers, settings = len(priors[0].fresh), self.levels.shape[1]
        y = self.y.reshape(settings, teachers).T @ self.turn_settings
        common = np.array([prior.common for prior in priors])
        means, covs = np.array([prior.mean for prior in priors]), np.array([prior.cov for prior in priors])
        own = (1 - common)[:, None, None] * np.array([prior.fresh for prior in priors])
        root: Floats = np.ones(means.shape)
        root[:, :teachers] = self.turn_settings[:, 0].sum() * np.sqrt(common)[:, None]
        covs *= root[:, :, None] * root[:, None]
        covs[:, :teachers, :teachers] += own
        level = (np.arange(root.shape[1]) < teachers).astype(float)[:, None]
        seen = np.arange(teachers)
        mean = _Part((means * root)[..., None], covs, seen, level, y[:, :1])
        contrasts = np.zeros((len(priors), teachers, settings - 1))
        return [mean, _Part(contrasts, own, seen, level[:teachers], y[:, 1:])]

    def joined(self, drawn: Sequence[Floats]) -> Floats:
        """Draws (n, S * T + p), turned back."""
        first, contrasts = drawn
        teachers = contrasts.shape[1]
        profile = np.concatenate([first[:, :teachers], contrasts], axis=2) @ self.turn_settings.T
        return np.concatenate([profile.mT.reshape(len(first), len(self.levels)), first[:, teachers:, 0]], axis=1)


def _measured(settings: Sequence[Group], evidence: Sequence[Group]) -> _Measured:
    """The results of all settings, as the parts that they fall into."""
    means = np.concatenate([group.means for group in settings])
    variances = np.concatenate([group.noise.variances for group in settings])
    seen = np.flatnonzero(np.isfinite(means))
    unit, middle = float(np.sqrt(variances[seen].mean())), float(means[seen].mean())
    alike = all(np.allclose(group.noise.variances, settings[0].noise.variances, rtol=1e-9) for group in settings)
    balanced = alike and len(settings) > 1 and len(seen) == len(means) and settings[0].noise.seeds is None
    return (_Balanced if balanced else _Measured)(
        y=(means[seen] - middle) / unit,
        variances=variances[seen] / unit**2,
        errors=errors_of(settings)[seen] / unit,
        noise=covariance(settings)[np.ix_(seen, seen)] / unit**2,
        seen=seen,
        levels=np.repeat(np.eye(len(settings)), len(settings[0].means), axis=0),
        free=settings[0].noise.free,
        unit=unit,
        middle=middle,
        log_taus=log_spreads(evidence) - np.log(unit),
        number=float(np.mean(of_units(settings, "repeats", 1.0)[seen])),
        repeats=Repeats(
            of_units(settings, "squares", 0.0)[seen],
            of_units(settings, "own_free", 0.0)[seen],
            codes([name for group in settings for name in group.teachers])[seen],
        ),
        by_unit=settings[0].noise.repeats is not None,
    )


def _unmeasured(settings: int, prior: Prior, count: int, rng: np.random.Generator) -> Floats:
    """Draws (n, S * T + p) of a profile and slopes of which nothing was measured."""
    (mean,), (cov,) = repeated([prior], settings)
    root = np.linalg.cholesky(cov + _SMALL * np.eye(len(mean)))
    return mean + rng.standard_normal((int(count), len(mean))) @ root.T
