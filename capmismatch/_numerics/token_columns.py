"""Random tokens of each row at which all teachers' logits are kept: the same for every teacher, whoever asks.

Rank correlations over them are unbiased, as every pair of tokens is as likely to be among them; over lists of the
likeliest tokens they are not, because the lists were chosen by what is compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN, FIRST, SECOND = (np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
FEW = 8  # columns to choose from, for each that is drawn: with fewer all are put into a random order


def splitmix64(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of the generator SplitMix64 (Steele, Lea, Flood 2014): a permutation of 64-bit words.

    Examples
    --------
    >>> hex(int(splitmix64(np.array([0], np.uint64))[0]))
    '0xe220a8397b1dcdaf'
    """
    with np.errstate(over="ignore"):
        z = words + GOLDEN
        z = (z ^ (z >> np.uint64(30))) * FIRST
        z = (z ^ (z >> np.uint64(27))) * SECOND
    return z ^ (z >> np.uint64(31))


def random_columns(
    rows: NDArray[np.int64], labels: NDArray[np.int64], vocabulary: int, count: int, seed: int
) -> NDArray[np.int64]:
    """Tokens other than the label, drawn without replacement for each row from its number and the seed alone.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        Numbers of the rows.
    labels : ndarray of int, shape (n,)
        In [0, V).
    vocabulary : int
        V.
    count : int
        How many, at most V - 1.
    seed : int
        Of the draw.

    Returns
    -------
    ndarray of int, shape (n, count)
        In no order.

    Examples
    --------
    >>> random_columns(np.array([5, 6]), np.array([0, 2]), 50_000, 3, seed=0).shape
    (2, 3)
    >>> sorted(random_columns(np.array([5]), np.array([1]), 4, 3, seed=0)[0].tolist())
    [0, 2, 3]
    """
    count = min(count, vocabulary - 1)
    with np.errstate(over="ignore"):
        start = splitmix64(splitmix64(np.array([seed], np.uint64)) ^ rows.astype(np.uint64))[:, None]
        if vocabulary <= FEW * count:
            keys = splitmix64(start ^ splitmix64(np.arange(vocabulary, dtype=np.uint64)))
            keys[np.arange(len(rows)), labels] = np.uint64(2**64 - 1)
            return np.argsort(keys, axis=1, kind="stable")[:, :count]
        drawn = count + 16 + count // 2  # a few are drawn twice, or are the label
        words = splitmix64(start + GOLDEN * np.arange(drawn, dtype=np.uint64))
    tokens = (words % np.uint64(vocabulary)).astype(np.int64)
    order = np.argsort(tokens, axis=1, kind="stable")
    in_order = np.take_along_axis(tokens, order, axis=1)
    repeated = np.zeros(tokens.shape, bool)
    np.put_along_axis(repeated[:, :], order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
    unusable = repeated | (tokens == labels[:, None])
    first = np.argsort(unusable, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(tokens, first, axis=1)
