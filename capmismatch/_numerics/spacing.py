"""Some rows for all: evenly spaced ones, where reading every row would take too long."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spaced(total: int, most: int) -> NDArray[np.int64]:
    """At most so many of the numbers below `total`, evenly spaced, with the first and the last.

    Examples
    --------
    >>> spaced(10, 4).tolist(), spaced(3, 4).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))
