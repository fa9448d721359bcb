"""Half precision and one byte more: numbers in three bytes, of which the first two are a plain float16."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 254  # of a float16's last digit: the byte counts from -127 to 127 of them


def as_halves(values: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    r"""Numbers as float16, and what rounding took of each, in 254ths of its last digit.

    A float16 alone is off by up to a relative :math:`2^{-11}`, with the byte by :math:`2^{-19}`.

    Parameters
    ----------
    values : ndarray of float
        Of at most 65,504 in size.

    Returns
    -------
    tuple of ndarray of float16, and of int8
        In the shape of `values`.

    Examples
    --------
    >>> half, rest = as_halves(np.array([-3.0001, 0.0]))
    >>> half.tolist(), rest.tolist()
    ([-3.0, 0.0], [-13, 0])
    """
    half = values.astype(np.float16)
    return half, np.rint((values - half.astype(np.float32)) / _step(half)).astype(np.int8)


def from_halves(half: NDArray[np.float16], rest: NDArray[np.int8]) -> NDArray[np.float32]:
    """The numbers, from what `as_halves` made of them.

    Examples
    --------
    >>> [round(float(value), 5) for value in from_halves(*as_halves(np.array([-3.0001, 0.0])))]
    [-3.0001, 0.0]
    """
    return np.asarray(half.astype(np.float32) + rest * _step(half), np.float32)


def _step(half: NDArray[np.float16]) -> NDArray[np.float32]:
    """What one count of the byte is worth; the last digit is that away from 0, which is the larger at powers of two."""
    step: NDArray[np.float32] = np.spacing(np.abs(half)).astype(np.float32) / np.float32(STEPS)
    return step
