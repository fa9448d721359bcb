"""Whether some of a teacher's rows belong to other examples: its logits are held against those of its peers.

Sound teachers, weak ones too, lean to the same classes as their peers where both are sure. A row of another example
leans to them as often as away from them, however sure it is. So the teacher's likeness to its peers, example by
example, is one heap for a sound teacher, and two heaps for one whose rows were mixed up: of these one is that of rows
paired at random, which is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t

from capmismatch._numerics.spacing import spaced
from capmismatch._numerics.threads import blocks

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUMBERS = 1 << 23
"""Most logits of one teacher that are held in memory."""

IN_CACHE = 1 << 17
"""Logits that are worked on at a time."""

LEAST_CLASSES = 4
"""Rows of fewer classes, made of one size, are a sign or a place on a circle: a weak teacher's are two heaps, too."""

LEAST_PAIRS = 25
"""Fewest examples, of those where teacher and peers are sure, to tell by."""

ROLLS = (1, 3, 7, 11, 19)
"""How far rows are moved to pair them at random."""

MIXED = 0.3
"""Least share of rows of other examples, both by the two heaps and by likenesses below those of random pairs."""

EVIDENCE = 6.0
"""Least gain in log likelihood of two heaps over one."""

FAR, CLEAR = 1.2, 0.045
"""One of the two: the distance of the heaps in standard deviations of random pairs, or the gain for each example."""

FEW, CLEARER, APART = 0.1, 8.0, 1.9
"""Share and gain where all examples are compared, and the distance of the heaps in standard deviations of the other."""

EXAMPLES = 2000
"""Most examples, evenly spaced, of those that are all compared."""

TAILS = 20
"""Degrees of freedom (Student's t) of the other heap then: a sound teacher now and then errs far from its peers."""


@dataclass(frozen=True)
class Likeness:
    """How a teacher's rows go with its peers'.

    Attributes
    ----------
    against : float
        Share of examples less alike than half of random pairs are, over 1/2: 1 if all rows are of other examples.
    mixed : float
        Share of the heap of random pairs, in [0, 1].
    distance : float
        Mean of the other heap, in standard deviations of random pairs.
    gain : float
        In log likelihood, of two heaps over one.
    examples : int
        How many were compared.
    """

    against: float
    mixed: float
    distance: float
    gain: float
    examples: int

    def two_heaps(self, of_peers: float) -> bool:
        """Whether rows were mixed up, where `against` is usually `of_peers`."""
        return (
            self.against > MIXED + of_peers / 2
            and self.mixed > MIXED
            and self.gain > EVIDENCE
            and (self.distance > FAR or self.gain > CLEAR * self.examples)
        )


@dataclass(frozen=True)
class Strays:
    """How all of a teacher's rows go with its peers', the surer the better the peers agree on an example.

    Attributes
    ----------
    alike : array of shape (n,)
        Likeness to the sum of the peers' rows, in standard deviations of random pairs.
    agreed : array of shape (n,)
        Length of that sum.
    against : float
        As of `Likeness`.
    """

    alike: Floats
    agreed: Floats
    against: float

    def mixed(self, of_peers: float) -> tuple[float, float] | None:
        """Share of rows of other examples and the gain in log likelihood, where `against` is usually `of_peers`.

        None where nothing shows that there are any.
        """
        if self.against - of_peers <= FEW:
            return None
        share, gain, distance, spread = _heap_over_agreement(self.alike, self.agreed)
        if share > FEW and gain > CLEARER and distance > max(FAR, APART * spread):
            return share, gain
        return None


def mixed_up(
    names: Sequence[str], rows: Mapping[str, NDArray[np.float32]], margins: Mapping[str, Floats]
) -> dict[str, float]:
    """The teachers some of whose rows belong to other examples, the worst one first.

    Parameters
    ----------
    names : sequence of str
        The teachers to look at: those that nothing speaks against.
    rows : mapping from str to array of shape (n, C)
        Each teacher's logits, `standardised`, of the same examples.
    margins : mapping from str to array of shape (n,)
        How sure each teacher is of each example.

    Returns
    -------
    dict of str to float
        The share of such rows. Nothing if there are fewer than three teachers, four classes, or too few examples.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shared = rng.normal(size=(800, 10))
    >>> logits = {name: shared + rng.normal(size=shared.shape) for name in "abcd"}
    >>> logits["b"][:400] = rng.permutation(logits["b"][:400])
    >>> rows = {name: standardised(values) for name, values in logits.items()}
    >>> list(mixed_up("abcd", rows, dict.fromkeys("abcd", np.ones(800))))
    ['b']
    """
    peers, found = list(names), dict[str, float]()
    if any(rows[name].shape[1] < LEAST_CLASSES for name in peers):
        return found
    while len(peers) > 2:
        total = added(rows[name] for name in peers)
        worst = ("", 0.0, 0.0)
        for name, share, gain in _looked_through(names, peers, rows, total, margins):
            if name not in found and gain > worst[2]:
                worst = (name, share, gain)
        if not worst[0]:
            break
        found[worst[0]] = worst[1]
        peers = [name for name in peers if name != worst[0]]
    return found


def _looked_through(
    names: Sequence[str],
    peers: Sequence[str],
    rows: Mapping[str, NDArray[np.float32]],
    total: NDArray,
    margins: Mapping[str, Floats],
) -> Iterator[tuple[str, float, float]]:
    """Teachers some of whose rows are mixed up, the share of these, and the gain; by either test."""
    sure: dict[str, Likeness] = {}
    strayed: dict[str, Strays] = {}
    for name in names:
        others = total - rows[name] if name in peers else total
        length = np.sqrt(np.einsum("ij,ij->i", others, others))
        if (one := likeness(rows[name], others, length, margins[name])) is not None:
            sure[name] = one
        if (stray := strays(rows[name], others, length)) is not None:
            strayed[name] = stray
    usual = float(np.median([sure[name].against for name in peers if name in sure] or [0.0]))
    yield from ((name, one.mixed, one.gain) for name, one in sure.items() if one.two_heaps(usual))
    for name, stray in strayed.items():
        usual = float(np.median([strayed[peer].against for peer in peers if peer in strayed and peer != name] or [0.0]))
        if (mixed := stray.mixed(usual)) is not None:
            yield name, *mixed


def standardised(logits: NDArray) -> NDArray[np.float32]:
    """Rows with mean 0 and variance 1, less their mean over examples; float32, to take less room."""
    centred, total = np.empty(logits.shape, np.float32), np.zeros(logits.shape[1])
    for block in blocks(len(logits), max(1, IN_CACHE // max(1, logits.shape[1]))):
        rows = logits[block].astype(np.float64)
        rows -= rows.mean(axis=1, keepdims=True)
        spread = np.sqrt(np.einsum("ij,ij->i", rows, rows)[:, None] / logits.shape[1])
        rows /= np.where(spread > 0, spread, 1.0)
        total += rows.sum(axis=0)
        centred[block] = rows
    centred -= (total / max(1, len(logits))).astype(np.float32)
    return centred


def added(of_teachers: Iterable[NDArray]) -> NDArray:
    """The sum of arrays of one shape, without a second copy of all of them."""
    each = iter(of_teachers)
    total = next(each).copy()
    for one in each:
        total += one
    return total


def likeness(rows: NDArray, others: NDArray, length: Floats, margin: Floats) -> Likeness | None:
    """Compare a teacher's rows with the sum of its peers', where both are sure; None with too few examples.

    `length` (n,) is that of each row of the sum.
    """
    sure = np.flatnonzero((margin >= np.median(margin)) & (length >= np.median(length)))
    if len(sure) < LEAST_PAIRS:
        return None
    alike, against = _beside_random(_unit(rows[sure]), _unit(others[sure]))
    return None if alike is None else Likeness(against, *_two_heaps(alike), len(sure))


def strays(rows: NDArray, others: NDArray, length: Floats) -> Strays | None:
    """Compare all of a teacher's rows with the sum of its peers'; None with too few examples."""
    some = spaced(len(rows), EXAMPLES)
    length = length[some]
    if len(some) < 2 * LEAST_PAIRS or not length.std() > 0:
        return None
    alike, against = _beside_random(_unit(rows[some]), _unit(others[some]))
    return None if alike is None else Strays(alike, (length - length.mean()) / length.std(), against)


def expected_rank(accuracy: float, classes: int) -> float:
    """The mean rank of the target among wrong predictions, above 1/2, if logits were normal, its mean higher.

    Examples
    --------
    >>> round(expected_rank(0.5, 10), 3)
    0.291
    """
    grid = np.linspace(-8.0, 16.0, 2001)
    above_all = norm.cdf(grid) ** (classes - 1)

    def hits(gain: float) -> float:
        density = np.exp(-((grid - gain) ** 2) / 2) / np.sqrt(2 * np.pi)  # norm.pdf without its checks
        return float(np.trapezoid(density * above_all, grid))

    if not hits(0.0) < accuracy < hits(7.0):
        return np.nan
    gain = brentq(lambda gain: hits(gain) - accuracy, 0.0, 7.0)
    among_others = (norm.cdf(gain / np.sqrt(2)) - accuracy) / (1 - accuracy)
    return float(among_others * (classes - 1) / (classes - 2) - 0.5)


def _beside_random(mine: NDArray, theirs: NDArray) -> tuple[Floats | None, float]:
    """How alike rows are, in standard deviations of random pairs (by Fisher's transform), and `against`."""
    alike = np.einsum("ij,ij->i", mine, theirs)
    random = np.concatenate([_rolled_products(mine, theirs, roll % len(mine)) for roll in ROLLS])
    against = float((alike < np.median(random)).mean()) / 0.5
    drawn, random = np.arctanh(np.clip(alike, -0.999, 0.999)), np.arctanh(np.clip(random, -0.999, 0.999))
    spread = float(random.std())
    return ((drawn - random.mean()) / spread, against) if spread > 0 else (None, against)


def _rolled_products(mine: NDArray, theirs: NDArray, roll: int) -> NDArray:
    """Products of rows with those `roll` places before them, without a copy of all rows."""
    wrapped = np.einsum("ij,ij->i", mine[len(mine) - roll :], theirs[:roll])
    return np.concatenate([wrapped, np.einsum("ij,ij->i", mine[: len(mine) - roll], theirs[roll:])])


def _unit(rows: NDArray) -> NDArray:
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return rows / np.where(length > 0, length, 1.0)


def _two_heaps(values: Floats) -> tuple[float, float, float]:
    """Share of a standard normal heap, mean of a second normal one, and the gain over one heap: by EM."""
    share, mean, spread = 0.3, 1.3 * max(0.5, float(values.mean())), max(0.3, float(values.std()))
    one_heap = float(norm.logpdf(values, values.mean(), spread).sum())
    together = np.ones(len(values))
    for _ in range(60):
        of_random = share * norm.pdf(values)
        together = of_random + (1 - share) * norm.pdf(values, mean, spread) + 1e-300
        weight = of_random / together
        share = float(np.clip(weight.mean(), 1e-3, 0.99))
        rest = np.maximum(1 - weight, 1e-12)
        mean = float(np.average(values, weights=rest))
        spread = max(0.3, float(np.sqrt(np.average((values - mean) ** 2, weights=rest))))
    return share, mean, float(np.log(together).sum()) - one_heap


def _heap_over_agreement(values: Floats, agreed: Floats) -> tuple[float, float, float, float]:
    """Share of a standard normal heap beside one about a line over `agreed`: by EM.

    Returns
    -------
    tuple of float
        The share, the gain in log likelihood over the line alone, the mean of the line where the rows of the heap
        are, and the scatter about it.
    """
    values = values.astype(np.float64)
    columns: Floats = np.stack([np.ones_like(values), agreed.astype(np.float64)], axis=1)
    of_random = norm.logpdf(values)

    def line(weights: Floats, fit: tuple[Floats, float] | None = None) -> tuple[Floats, float]:
        slopes, scatter = fit or (np.zeros(2), np.inf)
        for _ in range(2):  # rows far from the line weigh less: Student's t by reweighting
            near = (TAILS + 1) / (TAILS + ((values - columns @ slopes) / scatter) ** 2) if np.isfinite(scatter) else 1.0
            weight = weights * near
            crossed = columns.T @ (weight[:, None] * columns) + 1e-6 * np.eye(2)
            slopes = np.linalg.solve(crossed, columns.T @ (weight * values)).astype(np.float64)
            if slopes[1] < 0:
                slopes = np.array([np.average(values, weights=weight), 0.0])
            rest = values - columns @ slopes
            scatter = max(0.25, float(np.sqrt((weight * rest**2).sum() / weights.sum())))
        return slopes, scatter

    def log_density(fit: tuple[Floats, float]) -> Floats:
        density: Floats = t.logpdf((values - columns @ fit[0]) / fit[1], TAILS) - np.log(fit[1])
        return density

    alone = line(np.ones_like(values))
    one_heap = float(max(log_density(alone).sum(), log_density(line(np.ones_like(values), alone)).sum()))
    rest = np.where(values > np.maximum(0.8, 0.5 * (columns @ alone[0])), 1.0, 0.02)
    fit, share, weight = line(rest), float(np.clip(1 - rest.mean(), 0.02, 0.9)), 1 - rest
    for _ in range(15):
        together = np.logaddexp(np.log(share) + of_random, np.log1p(-share) + log_density(fit))
        weight = np.exp(np.log(share) + of_random - together)
        share = float(np.clip(weight.mean(), 1e-3, 0.95))
        fit = line(np.maximum(1 - weight, 1e-9), fit)
    together = np.logaddexp(np.log(share) + of_random, np.log1p(-share) + log_density(fit))
    distance = float(np.average(columns @ fit[0], weights=weight))
    return share, float(together.sum()) - one_heap, distance, fit[1]
