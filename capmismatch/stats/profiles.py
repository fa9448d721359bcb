"""What is thought of teachers' profiles before their students' results: by probes, peers and evidence.

The model is that of `capmismatch.stats.posterior`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from capmismatch.stats.groups import Group, covariance

__all__ = ["Prior", "codes", "log_spreads", "prior_points", "repeated"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Each grid with its prior weights.
EXPLAINED, EXPLAINED_WEIGHTS = np.array([0.0, 0.3, 0.7, 0.95]), np.array([2, 1, 1, 0.5])
COMMON = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.95])  # of the profile, over settings
SHARED = np.array([0.0, 0.5, 0.9])  # of the slopes, over families
ALIKE = np.array([0.0, 0.5, 0.95])  # of the profile of the same teachers, over students
_LEVEL = 30.0  # of a group's level: so vague that it is flat


class Prior(NamedTuple):
    """What is thought of the profile z and the slopes, given h, kappa, rho and alike, before these settings' results.

    Attributes
    ----------
    log_weight : float
        How well it predicts the evidence.
    mean, cov : (T + p,), (T + p, T + p) arrays of float
        Of the profile of one setting and the slopes, given the evidence.
    fresh : (T, T) array of float
        Covariance of that part of a setting's profile that is its own, where it is all.
    common : float
        Kappa: the share that all settings have in common.
    """

    log_weight: float
    mean: Floats
    cov: Floats
    fresh: Floats
    common: float


def prior_points(settings: Sequence[Group], evidence: Sequence[Group]) -> list[Prior]:
    """One for each point of the grid, weighted by how well it predicts the evidence.

    Parameters
    ----------
    settings : sequence of Group
        Of the student in question; their teachers' profile is asked for.
    evidence : sequence of Group
        Other students or families.

    Returns
    -------
    list of Prior
        Before these settings' results.
    """
    first, several = settings[0], len(settings) > 1
    units = _Units.of([first, *evidence])
    width = first.features.shape[1]
    grid = product(
        zip(EXPLAINED, np.log(EXPLAINED_WEIGHTS), strict=True) if width else [(0.0, 0.0)],
        SHARED if width and len(np.unique(units.families)) > 1 else [1.0],
        ALIKE if len(np.unique(units.teachers)) < len(units.teachers) else [0.0],
    )
    points = []
    for (explained, log_weight), shared, alike in grid:
        weight, mean, cov, fresh = units.condition(explained, shared, alike)
        for common in COMMON if several else [1.0]:
            points.append(Prior(log_weight + weight, mean, cov, fresh, common))
    return points


def repeated(priors: Sequence[Prior], settings: int) -> tuple[Floats, Floats]:
    """Mean and covariance of the profiles of all settings, setting by setting, and the slopes.

    Parameters
    ----------
    priors : sequence of Prior
        P of them, each of one setting.
    settings : int
        Their number, S.

    Returns
    -------
    (P, S * T + p) and (P, S * T + p, S * T + p) arrays of float
        Means and covariances.
    """
    count = len(priors[0].fresh)
    means, covs = np.array([prior.mean for prior in priors]), np.array([prior.cov for prior in priors])
    common = np.array([prior.common for prior in priors])
    own = (1 - common)[:, None, None] * np.array([prior.fresh for prior in priors])
    place = np.r_[np.tile(np.arange(count), settings), np.arange(count, means.shape[1])]
    root = np.ones((len(priors), len(place)))
    root[:, : count * settings] = np.sqrt(common)[:, None]
    wide = covs[:, place[:, None], place] * (root[:, :, None] * root[:, None])
    for first in range(0, count * settings, count):
        block = slice(first, first + count)
        wide[:, block, block] += own
    return means[:, place] * root, wide


@dataclass(frozen=True)
class _Units:
    """Teachers of the student in question, then those of the evidence, one under the other.

    Attributes
    ----------
    features : (N, p) array of float
        Standardised probes.
    groups, teachers, families : (N,) arrays of int
        Equal numbers are the same.
    count : int
        How many stand in the group in question, the first.
    seen : (E,) array of int
        Units of the evidence that were measured.
    y : (E,) array of float
        Their means, centred, in units of their group's true spread.
    noise : (E, E) array of float
        Covariance of their means, in these units.
    """

    features: Floats
    groups: Ints
    teachers: Ints
    families: Ints
    count: int
    seen: Ints
    y: Floats
    noise: Floats

    @classmethod
    def of(cls, groups: Sequence[Group]) -> _Units:
        count = len(groups[0].means)
        taus = np.r_[1.0, np.exp(log_spreads(groups[1:]))]
        y = np.concatenate(
            [(g.means - np.nanmean(g.means)) / tau for g, tau in zip(groups[1:], taus[1:], strict=True)]
            or [np.zeros(0)]
        )
        known = np.flatnonzero(np.isfinite(y))
        blocks = [covariance([group]) / tau**2 for group, tau in zip(groups[1:], taus[1:], strict=True)]
        noise = block_diag(*blocks) if blocks else np.zeros((0, 0))
        return cls(
            features=np.concatenate([group.features for group in groups]),
            groups=np.repeat(np.arange(len(groups)), [len(group.means) for group in groups]),
            teachers=codes([name for group in groups for name in group.teachers]),
            families=codes([name for group in groups for name in group.families]),
            count=count,
            seen=count + known,
            y=y[known],
            noise=noise[np.ix_(known, known)],
        )

    def condition(self, explained: float, shared: float, alike: float) -> tuple[float, Floats, Floats, Floats]:
        """Log density of the evidence; mean and covariance of profile and slopes given it; their prior covariance."""
        width, count = self.features.shape[1], self.count
        rows = np.r_[np.arange(count), self.seen]
        probes = np.concatenate([self.features[rows], np.eye(width)]) / np.sqrt(max(width, 1))
        family = np.r_[self.families[rows], np.full(width, self.families[0])]
        prior = explained * (probes @ probes.T) * (shared + (1 - shared) * _same(family))
        own = _same(self.teachers[rows]) * (alike + (1 - alike) * _same(self.groups[rows]))
        prior[: len(rows), : len(rows)] += (1 - explained) * own
        target = np.r_[np.arange(count), np.arange(len(rows), len(prior))]
        fresh, before = prior[:count, :count], prior[np.ix_(target, target)]
        if not len(self.seen):
            return 0.0, np.zeros(len(target)), before, fresh
        there = np.arange(count, len(rows))
        marginal = prior[np.ix_(there, there)] + self.noise + _LEVEL**2 * _same(self.groups[self.seen])
        root = np.linalg.cholesky(marginal)
        half = np.linalg.solve(root, np.c_[self.y, prior[np.ix_(there, target)]])
        weight = -0.5 * half[:, 0] @ half[:, 0] - np.log(np.diag(root)).sum()
        return weight, half[:, 1:].T @ half[:, 0], before - half[:, 1:].T @ half[:, 1:], fresh


def log_spreads(groups: Sequence[Group]) -> Floats:
    """Log of each group's standard deviation of true means: that of the measured ones, less their noise.

    Parameters
    ----------
    groups : sequence of Group
        With teachers measured.

    Returns
    -------
    (E,) array of float
        One for each group.
    """
    spreads = []
    for group in groups:
        seen = np.isfinite(group.means)
        total = group.spread**2
        spreads.append(0.5 * np.log(max(total - group.noise.variances[seen].mean(), 0.1 * total)))
    return np.array(spreads)


def codes(names: Sequence[Hashable]) -> Ints:
    """A number for each name, by first appearance.

    Parameters
    ----------
    names : sequence of Hashable
        Names.

    Returns
    -------
    array of int
        Equal names have equal numbers.

    Examples
    --------
    >>> codes(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _same(codes: Ints) -> Floats:
    return (codes[:, None] == codes[None, :]).astype(float)
