"""Whether columns of a teacher have taken one another's places: they are held against its peers' columns.

Over the examples, a column goes with the same column of the peers, whatever the accuracy and however many classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from capmismatch._numerics.spacing import spaced
from capmismatch.diagnostics.mixed_rows import added

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL = 1e-3
"""Chance that a ring of columns that did not move looks as if it had."""

STRONG = 7.0
"""Standard errors (of Fisher's transform) by which another column has to go better with a teacher's than its own."""

LESS = 0.4
"""A column that moved goes with the peers' column in its place at most so much as with the one it came from."""


def rings(following: Ints) -> list[list[int]]:
    """The cycles, of two or more, of a map from places to places.

    Examples
    --------
    >>> rings(np.array([1, 0, 2, 0]))
    [[0, 1]]
    """
    found, seen = [], np.full(len(following), -1)
    for start in range(len(following)):
        path, place = [], start
        while seen[place] < 0:
            seen[place] = start
            path.append(place)
            place = int(following[place])
        if seen[place] == start and following[place] != place:
            found.append(path[path.index(place) :])
    return found


def moved_round(labels: Ints, top: Ints, chance: float, classes: int) -> str:
    """Why some few of a teacher's columns have taken one another's places; "" if none have.

    In a ring of classes each is taken for the next one more often than for itself. A teacher that tells the classes of
    a ring apart at all has none, however much it prefers some of them.

    Examples
    --------
    >>> labels = np.arange(200) % 10
    >>> bool(moved_round(labels, np.where(labels < 2, 1 - labels, labels), 0.1, 10))
    True
    """
    if (top == labels).mean() < 2 * chance:  # of one that nearly guesses, classes go where its bias is
        return ""
    together = np.zeros((classes, classes), np.int64)
    np.add.at(together, (labels, top), 1)
    itself = together.diagonal().copy()
    np.fill_diagonal(together, -1)
    taken_for = together.argmax(axis=1)
    other = together.max(axis=1)
    confusable = max(1, int(((other >= 1) & (3 * other >= itself)).sum()))
    # The column holds that class's examples before any others: one that a guesser prefers holds all alike.
    moved = (other > itself) & (2 * other >= np.bincount(top, minlength=classes)[taken_for])
    for ring in rings(np.where(moved, taken_for, np.arange(classes))):
        as_other, as_itself = int(other[ring].sum()), int(itself[ring].sum())
        if binom.sf(as_other - 1, as_other + as_itself, 0.5) < LEVEL / confusable:
            return (
                f"its columns {', '.join(map(str, sorted(ring)))} seem to be interchanged: examples of "
                f"these classes are taken for the next one {as_other} times, for their own {as_itself} times"
            )
    return ""


def moved_among_peers(rows: Mapping[str, NDArray[np.float32]], most_steps: float = 4e10) -> dict[str, list[int]]:
    """Columns that have taken one another's places, by teacher.

    Parameters
    ----------
    rows : mapping from str to array of shape (n, C)
        Logits of sound teachers, standardised, of the same examples.
    most_steps : float
        Beyond so many multiplications for a teacher fewer examples are compared.

    Returns
    -------
    dict from str to list of int
        The columns, sorted. Nothing of fewer than three teachers: of two nobody knows which one moved.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shared = rng.normal(size=(400, 6))
    >>> rows = {name: (shared + rng.normal(size=shared.shape)).astype("f4") for name in "abc"}
    >>> rows["b"] = rows["b"][:, [0, 3, 2, 1, 4, 5]]
    >>> moved_among_peers(rows)
    {'b': [1, 3]}
    """
    names: Sequence[str] = list(rows)
    if len(names) < 3:
        return {}
    n, classes = rows[names[0]].shape
    some = spaced(n, max(200, int(most_steps / classes**2)))
    all_of_them = len(some) == n

    def columns(name: str) -> NDArray[np.float32]:
        """Made anew each time: those of all teachers at once would take as much memory as their rows."""
        return _unit_columns(rows[name] if all_of_them else rows[name][some])

    found: dict[str, list[int]] = {}
    while len(names) > 2:
        total = added(columns(name) for name in names)
        moved = {name: _moved(columns(name), total) for name in names}
        worst = max(names, key=lambda name: moved[name][1])
        if not moved[worst][0]:
            break
        found[worst] = moved[worst][0]
        names = [name for name in names if name != worst]
    return found


def _unit_columns(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    columns = rows - rows.mean(axis=0)
    length = np.sqrt(np.einsum("ij,ij->j", columns, columns))
    columns /= np.where(length > 0, length, 1.0)
    return columns


def _moved(mine: NDArray[np.float32], total: NDArray[np.float32]) -> tuple[list[int], float]:
    """The columns that stand in one another's places, and how much better others go with them.

    `total` is the sum of all teachers' columns, these among them.

    A column that goes well with the peers' in its place has not moved: only the others are held against all.
    """
    others = total - mine
    length = np.sqrt(np.einsum("ij,ij->j", others, others))
    itself = np.einsum("ij,ij->j", mine, others) / np.where(length > 0, length, 1.0)
    some = np.flatnonzero(itself <= LESS)
    if len(some) < 2:
        return [], 0.0
    alike = np.clip((mine[:, some].T @ _unit_columns(others)).astype(np.float64), -0.999, 0.999)
    own, best, most = alike[np.arange(len(some)), some], alike.argmax(axis=1), alike.max(axis=1)
    gain, following = np.zeros(len(itself)), np.arange(len(itself))
    gain[some] = np.arctanh(most) - np.arctanh(own)
    strong = (gain[some] * np.sqrt(len(mine) - 3) > STRONG) & (own <= LESS * most)
    following[some[strong]] = best[strong]
    moved = [place for ring in rings(following) for place in ring]
    return sorted(moved), float(gain[moved].sum())
