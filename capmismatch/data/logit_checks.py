"""The door for logits, wherever they come from: which values are taken, and what looks like logits but is not.

`logit_array` makes floats of what a user hands in, `check_finite` (in `rows`) refuses values that no network gives,
`looks_like` tells probabilities, percentages, sigmoids and log-probabilities by the share of rows that have their form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # whose parts load when first used
from numpy.typing import NDArray

from capmismatch._numerics.plain_arrays import at, plain_array
from capmismatch._numerics.spacing import spaced
from capmismatch.errors import InputError

ROWS = 2000
"""How many examples `looks_like` judges by, evenly spaced over all."""

SHARES = {"probabilities": 0.25, "percentages": 0.25, "log-probabilities": 0.5, "sigmoids": 0.9}
"""From which share of rows on an array counts as such. Failed rows (of zeros, say) do not hide the others; logits of
two classes may well lie in [0, 1] by chance, and rarely sum to 1."""

BLOCK = 1 << 21
"""How many numbers are looked at together, so that memory stays bounded."""

NOT_LOGITS = ("probabilities", "percentages", "sigmoids")
"""Of these a softmax is no longer what the network says; that of log-probabilities still is."""

SUMS_TO_ONE = 0.02
"""How far the sum of (rounded) probabilities may be from one, or the log-sum-exp of their logarithms from zero."""


def logit_array(values: Any, place: str) -> NDArray[Any]:
    """Logits (N, C) as float16 where they are that, else as float32; not yet checked against rows.

    Parameters
    ----------
    values : Any
        As `plain_array` takes them.
    place : str
        Whose logits, for messages.

    Returns
    -------
    ndarray of shape (N, C), float16 or float32
        In this machine's byte order.

    Raises
    ------
    InputError
        Where a value is no number or float32 cannot hold it, or the shape is another one.

    Examples
    --------
    >>> logit_array([[1, 2], [3, 4]], "logits of 'a'").dtype == np.float32
    True
    """
    array = plain_array(values, place)
    if array.ndim != 2:
        raise InputError(f"expected {place} of shape (N, C), got shape {array.shape}")
    if array.dtype.kind == "b":
        raise InputError(f"expected numbers as {place}, got True and False: predictions are no logits")
    if array.dtype in (np.float16, np.float32):
        return array
    with np.errstate(over="ignore"):
        logits = array.astype(np.float32)
    lost = np.argwhere(np.isinf(logits) & np.isfinite(array))
    if len(lost):
        index = tuple(lost[0].tolist())
        raise InputError(f"expected logits up to 1e30 in size, got {array[index]}{at(index)} of {place}")
    return logits


def looks_like(values: NDArray[Any], rows: int = ROWS) -> str:
    """What the rows of an array of "logits" are instead.

    Parameters
    ----------
    values : ndarray of shape (N, C)
        Finite numbers.
    rows : int
        How many rows are looked at, evenly spaced.

    Returns
    -------
    str
        "probabilities", "percentages", "sigmoids", "log-probabilities", or "" where they may be logits.

    Examples
    --------
    >>> logits = np.array([[2.0, -1.0, 0.3], [-0.2, 1.5, 0.4]])
    >>> shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    >>> [looks_like(array) for array in (logits, shares, 100 * shares, 1 / (1 + np.exp(-logits)), np.log(shares))]
    ['', 'probabilities', 'percentages', 'sigmoids', 'log-probabilities']
    """
    scale = LogitScale()
    scale.add(values[spaced(len(values), rows)])
    return scale.name


class LogitScale:
    """Counts the rows that have the form of probabilities and the like, some rows at a time.

    Examples
    --------
    >>> scale = LogitScale()
    >>> scale.add(np.array([[0.25, 0.75]]))
    >>> scale.add(np.array([[0.0, 0.0]]))
    >>> scale.name
    'probabilities'
    """

    def __init__(self) -> None:
        self.rows = 0
        self.counts = dict.fromkeys(SHARES, 0)

    def add(self, values: NDArray[Any]) -> None:
        """Look at some more rows (n, C)."""
        if not values.size:
            return
        step = max(1, BLOCK // values.shape[1])
        for start in range(0, len(values), step):
            self._add(np.asarray(values[start : start + step], np.float64))

    def _add(self, array: NDArray[np.float64]) -> None:
        least, largest, total = array.min(1), array.max(1), array.sum(1)
        in_unit = (least >= -1e-6) & (largest <= 1 + 1e-3)
        in_percent = (least >= -1e-4) & (largest <= 100 + 1e-1) & (largest > 1 + 1e-3)
        self.rows += len(array)
        self.counts["probabilities"] += int((in_unit & (np.abs(total - 1) <= SUMS_TO_ONE)).sum())
        self.counts["percentages"] += int((in_percent & (np.abs(total - 100) <= 100 * SUMS_TO_ONE)).sum())
        self.counts["sigmoids"] += int((in_unit & (least < largest)).sum())
        negative = largest <= 1e-3  # only such rows can be logarithms of probabilities
        self.counts["log-probabilities"] += int(
            (np.abs(scipy.special.logsumexp(array[negative], axis=1)) <= SUMS_TO_ONE).sum()
        )

    @property
    def name(self) -> str:
        """The first kind that enough of the rows have the form of, or ""."""
        enough = (kind for kind, share in SHARES.items() if self.counts[kind] >= share * self.rows > 0)
        return next(enough, "")
