"""Whether a teacher looks as if it had been trained on smoothed labels: right, and not sure of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_ROWS = 40
"""Of the surest quarter; with fewer nothing is told."""

SURE = 0.95
"""A teacher whose surest quarter of rows has a mean confidence above this is not smoothed in a way that matters."""

STRONG = 5.0
"""Standard errors by which hits have to exceed what the confidences promise."""


def looks_smoothed(confidence: NDArray[np.float64], hit: NDArray[np.bool_]) -> bool:
    r"""Whether a teacher gets its surest rows right far more often than it says.

    Training on hard labels drives the confidence of easy rows to 1; label smoothing and mixup stop it at about
    :math:`1 - \epsilon`, however easy the row is. So the surest quarter of the rows is looked at, where a teacher that
    is only weak is as often right as it says.

    Parameters
    ----------
    confidence : ndarray, shape (N,)
        Largest probability of held-out rows.
    hit : ndarray of bool, shape (N,)
        Whether the teacher gets them right.

    Returns
    -------
    bool
        True where :math:`\sum \mathrm{hit} - \sum p` over these rows exceeds five times
        :math:`\sqrt{\sum p (1 - p)}`, and their mean confidence p is below 0.95.

    References
    ----------
    Mueller, Kornblith, Hinton, "When does label smoothing help?", NeurIPS 2019, arXiv 1906.02629 (its effect on logits);
    Chandrasegaran et al., "Revisiting label smoothing and knowledge distillation compatibility: What was missing?", ICML
    2022, arXiv 2206.14532 (such teachers need a low temperature). The test is our own.

    Examples
    --------
    >>> right = np.ones(400, bool)
    >>> looks_smoothed(np.full(400, 0.99), right), looks_smoothed(np.full(400, 0.9), right)
    (False, True)
    """
    surest = np.argsort(-confidence, kind="stable")[: len(confidence) // 4]
    if len(surest) < LEAST_ROWS:
        return False
    promised, hits = confidence[surest], hit[surest]
    error = float(np.sqrt((promised * (1 - promised)).sum()))
    return bool(promised.mean() < SURE and hits.sum() - promised.sum() > STRONG * error)
