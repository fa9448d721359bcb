"""How rows are condensed: how many tokens are kept, and where the sums over all others. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from capmismatch._numerics.plain_arrays import plain_array
from capmismatch.errors import InputError, must_be_one_of

K = 64
"""How many wrong tokens are kept by default."""

DTYPES = ("float24", "float16", "float32")
"""How the kept tokens' logits are stored; "float24" is a float16 and a byte of what rounding took: `finer_halves`."""

DTYPE = DTYPES[0]
"""How they are stored by default: exact to 1e-5 at every temperature, in three bytes."""

BETAS = {
    "octaves": tuple(2.0**power for power in range(-3, 3)),
    "half": tuple(2.0 ** (power / 2) for power in range(-6, 5)),
}
"""Where the tail's sums are kept: inverse temperatures from 1/8 to 4, an octave or half an octave apart."""

LEAST_BETA, MOST_BETA = 1e-6, 1e6


def checked_betas(betas: str | Iterable[float]) -> NDArray[np.float64]:
    """The inverse temperatures of a setting, ascending.

    Examples
    --------
    >>> checked_betas("octaves")
    array([0.125, 0.25 , 0.5  , 1.   , 2.   , 4.   ])
    """
    if isinstance(betas, str):
        must_be_one_of(betas, BETAS, "betas")
        return np.array(BETAS[betas])
    numbers = plain_array(list(betas) if isinstance(betas, Iterable) else [betas], "betas").astype(np.float64)
    if numbers.ndim != 1 or not bool(np.all((numbers > LEAST_BETA) & (numbers < MOST_BETA))):
        raise InputError(
            f"expected betas between {LEAST_BETA:g} and {MOST_BETA:g}, inverse temperatures, got {numbers.tolist()}"
        )
    distinct = np.unique(numbers)
    if len(distinct) < 2:
        raise InputError(
            f"expected at least two betas: a variance needs the sums at 2 beta, too, got {numbers.tolist()}"
        )
    return distinct
