"""Whether a teacher knows the labels of part of the examples, or its wrong classes hold nothing but noise.

How far the label's logit is above the others is one heap of numbers about what the peers' are, and two where the labels
of some examples got into the logits, or these examples into the training rows. The order of a sound teacher's wrong
classes goes with its peers'; that of answers or labels which were made into logits goes with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from capmismatch._numerics.spacing import spaced

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXAMPLES, LEAST_EXAMPLES = 2000, 200
"""Most and fewest examples of a split at which margins are compared."""

DISTANCE, GAIN, PART = 2.8, 0.03, 0.1
"""Least distance of two heaps in standard deviations, least gain in log likelihood for each example, least share."""

OF_PEERS = 0.01
"""Gain of the median peer beyond which two heaps are nothing special."""

TAILS = 4
"""Degrees of freedom of the one heap with heavy tails that two heaps have to beat."""

LEAST_CLASSES = 5
"""Fewest classes at which the order of the wrong ones is compared."""

RELATED, OF_USUAL, UNRELATED = 0.4, 0.3, 0.1
"""Least mean correlation of the peers' wrong classes, share of it that a sound teacher has, and how little is none."""


def knows_part(margins: Mapping[str, Floats], splits: NDArray[np.str_]) -> dict[str, float]:
    """The teachers that know the labels of part of the examples, and of which share.

    Parameters
    ----------
    margins : mapping from str to array of shape (n,)
        How far the label's logit is above the highest other one, of each sound teacher.
    splits : array of shape (n,)
        Of each example. Splits are looked at one by one: training rows have other margins than held-out ones.

    Notes
    -----
    About a parabola over the peers' mean margin, two normal heaps of one spread are held against one, normal or with
    heavy tails. Nothing is told of fewer than four teachers.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shared = rng.normal(size=900)
    >>> margins = {name: shared + 0.5 * rng.normal(size=900) for name in "abcd"}
    >>> margins["b"] = margins["b"] + 4 * (rng.random(900) < 0.5)
    >>> list(knows_part(margins, np.full(900, "val")))
    ['b']
    """
    found: dict[str, float] = {}
    if len(margins) < 4:
        return found
    for split in np.unique(splits):
        rows = np.flatnonzero(splits == split)
        if len(rows) < LEAST_EXAMPLES:
            continue
        rows = rows[spaced(len(rows), EXAMPLES)]
        found |= _worst_first({name: _in_units(margin[rows]) for name, margin in margins.items()})
    return found


def _worst_first(margins: dict[str, Floats]) -> dict[str, float]:
    """Of one split: the clearest one is no peer of the others, which are looked at again."""
    found: dict[str, float] = {}
    while len(margins) > 3:
        total = np.sum(list(margins.values()), axis=0)
        heaps = {name: _two_heaps(own, (total - own) / (len(margins) - 1)) for name, own in margins.items()}
        worst = max(heaps, key=lambda name: heaps[name][2])
        share, distance, gain = heaps[worst]
        usual = float(np.median([heaps[peer][2] for peer in heaps if peer != worst]))
        if usual >= OF_PEERS or gain <= GAIN or distance <= DISTANCE or not PART < share < 1 - PART:
            break
        found[worst] = share
        margins = {name: own for name, own in margins.items() if name != worst}
    return found


def _in_units(margin: Floats) -> Floats:
    return np.asarray((margin - margin.mean()) / max(1e-30, float(margin.std())))


def _two_heaps(values: Floats, peers: Floats) -> tuple[float, float, float]:
    """Share of the upper heap, distance in standard deviations, and gain for each example over one heap: by EM."""
    columns = np.stack([np.ones_like(peers), peers, peers**2], axis=1)
    ridge = 1e-9 * len(values) * np.eye(4)
    one = max(_one_heap(values, columns, None), _one_heap(values, columns, TAILS))
    rest = values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    upper, share, distance, likelihood = np.where(rest > np.median(rest), 0.9, 0.1), 0.5, 0.0, -np.inf
    both = np.concatenate([np.c_[columns, np.zeros(len(values))], np.c_[columns, np.ones(len(values))]])
    twice = np.r_[values, values]
    for _ in range(40):
        weights = np.r_[1 - upper, upper]
        slopes = np.linalg.solve(both.T @ (weights[:, None] * both) + ridge, both.T @ (weights * twice))
        lower = values - columns @ slopes[:3]
        higher = lower - slopes[3]
        spread = max(1e-6, float(np.sqrt(((1 - upper) * lower**2 + upper * higher**2).mean())))
        share = float(np.clip(upper.mean(), 1e-3, 1 - 1e-3))
        as_upper = np.log(share) + norm.logpdf(higher, 0, spread)
        together = np.logaddexp(np.log1p(-share) + norm.logpdf(lower, 0, spread), as_upper)
        upper, distance, likelihood = np.exp(as_upper - together), float(slopes[3]) / spread, float(together.sum())
    return share, distance, (likelihood - one) / len(values)


def _one_heap(values: Floats, columns: Floats, tails: int | None) -> float:
    """Log likelihood of one heap about a curve: normal, or Student's t by reweighting."""
    weights = np.ones_like(values)
    rest, spread = values, 1.0
    for _ in range(1 if tails is None else 15):
        crossed = columns.T @ (weights[:, None] * columns) + 1e-9 * len(values) * np.eye(3)
        rest = values - columns @ np.linalg.solve(crossed, columns.T @ (weights * values))
        spread = max(1e-6, float(np.sqrt((weights * rest**2).mean())))
        if tails is not None:
            weights = (tails + 1) / (tails + (rest / spread) ** 2)
    density = norm.logpdf(rest, 0, spread) if tails is None else t.logpdf(rest / spread, tails) - np.log(spread)
    return float(density.sum())


def noise_for_wrong_classes(
    rows: Mapping[str, NDArray[np.float32]], tops: Mapping[str, Ints], labels: Ints
) -> Sequence[str]:
    """The teachers whose wrong classes have no order in common with their peers'.

    Parameters
    ----------
    rows : mapping from str to array of shape (n, C)
        Each teacher's logits, standardised, of the same examples.
    tops : mapping from str to array of shape (n,)
        What each teacher predicts.
    labels : array of shape (n,)
        The targets; they and the prediction are left out.

    Notes
    -----
    Compared is the mean over examples of the correlation with the sum of the peers' rows. Nothing is told of fewer than
    three teachers or `LEAST_CLASSES` classes, or where the peers have little in common either.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shared, labels = rng.normal(size=(300, 8)), rng.integers(0, 8, 300)
    >>> rows = {name: (shared + rng.normal(size=shared.shape)).astype("f4") for name in "abc"}
    >>> rows["d"] = (6 * np.eye(8)[labels] + rng.normal(size=shared.shape)).astype("f4")
    >>> noise_for_wrong_classes(rows, {name: one.argmax(axis=1) for name, one in rows.items()}, labels)
    ['d']
    """
    if len(rows) < 3 or next(iter(rows.values())).shape[1] < LEAST_CLASSES:
        return []
    first, *rest = rows.values()
    total = first.copy()
    for one in rest:
        total += one
    alike = {name: _alike(one, total - one, tops[name], labels) for name, one in rows.items()}
    found = []
    for name, (mean, error) in alike.items():
        usual = float(np.median([alike[peer][0] for peer in alike if peer != name]))
        if usual >= RELATED and mean < UNRELATED and mean + 3 * error < OF_USUAL * usual:
            found.append(name)
    return found


def _alike(mine: NDArray[np.float32], theirs: NDArray[np.float32], top: Ints, labels: Ints) -> tuple[float, float]:
    """Mean correlation of rows over all columns but the prediction's and the label's, and its standard error."""
    each = np.arange(len(mine))

    def kept(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        rows, dropped = rows.copy(), 1 + (top != labels)
        rows[each, top] = rows[each, labels] = 0
        rows -= (rows.sum(axis=1) / (rows.shape[1] - dropped)).astype(np.float32)[:, None]
        rows[each, top] = rows[each, labels] = 0
        return rows

    mine, theirs = kept(mine), kept(theirs)
    lengths = np.sqrt(np.einsum("ij,ij->i", mine, mine) * np.einsum("ij,ij->i", theirs, theirs))
    alike = np.einsum("ij,ij->i", mine, theirs) / np.where(lengths > 0, lengths, 1.0)
    return float(alike.mean()), float(alike.std(ddof=1)) / float(np.sqrt(len(alike)))
