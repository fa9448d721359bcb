"""Whether a teacher looks as if it had been trained on smoothed labels: right, and sure of nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_ROWS = 40
"""Of the surest quarter; with fewer nothing is told."""

RIGHT = 0.99
"""Share of the surest quarter that the teacher gets right: one that gets fewer right has reason not to be sure."""

SURE = 0.985
"""Confidence that one row in a hundred exceeds of a teacher that learnt hard labels and is that often right."""


def looks_smoothed(confidence: NDArray[np.float64], hit: NDArray[np.bool_]) -> bool:
    r"""Whether a teacher is nearly always right on its surest rows, and yet sure of none.

    Training on hard labels drives the confidence of easy rows to 1; label smoothing stops it near :math:`1 - \epsilon`,
    however easy the row is.

    Parameters
    ----------
    confidence : ndarray, shape (N,)
        Largest probability of held-out rows.
    hit : ndarray of bool, shape (N,)
        Whether the teacher gets them right.

    Returns
    -------
    bool
        True where at least 99 % of the surest quarter (40 rows or more) are right, and 99 % of all confidences are
        below 0.985. Of perceptrons on letters, smoothing by 0.1 is found at every width, by 0.05 and mixup (alpha 0.4)
        at the smallest alone; it is not found of plain, decayed or early-stopped ones, nor in the shipped studies.

    References
    ----------
    Mueller, Kornblith, Hinton, "When does label smoothing help?", NeurIPS 2019, arXiv 1906.02629 (what logits become);
    Chandrasegaran et al., "Revisiting label smoothing and knowledge distillation compatibility: What was missing?",
    ICML 2022, arXiv 2206.14532 (such teachers need a low temperature). The test is our own.

    Examples
    --------
    >>> right = np.ones(400, bool)
    >>> looks_smoothed(np.linspace(0.5, 1.0, 400), right), looks_smoothed(np.linspace(0.5, 0.93, 400), right)
    (False, True)
    """
    surest = np.argsort(-confidence, kind="stable")[: len(confidence) // 4]
    if len(surest) < LEAST_ROWS:
        return False
    return bool(hit[surest].mean() >= RIGHT and np.quantile(confidence, 0.99) < SURE)
