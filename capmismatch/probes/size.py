"""Probes that read a teacher's metadata, not its logits."""

from __future__ import annotations

import math

from capmismatch.probes._registry import register


def log_params(params: float) -> float:
    """Base-10 logarithm of the number of parameters; NaN where it is unknown.

    Parameters
    ----------
    params : float
        Number of parameters; NaN or 0 where it is unknown.

    Returns
    -------
    float
        log10 of `params`.

    Examples
    --------
    >>> log_params(1000)
    3.0
    """
    return math.log10(params) if params > 0 else math.nan


register("log_params", "family", log_params, "log10(parameters)", "capacity itself", 0, False)
