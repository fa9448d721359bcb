"""What `check` looks at of condensed rows, in place of the logits of all classes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.softmax import Softened
from capmismatch.data.token_bank import TokenBank

Floats = NDArray[np.float64]


def token_columns(
    bank: TokenBank, key: str, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """Likeliest token and margin of some rows of one teacher, and how well it, and frequency, predict the label.

    Returns
    -------
    tuple of ndarray, shape (n,) each
        The likeliest token; how far its logit is above the next, in standard deviations of the row's logits; the log
        probability of the label; and its logarithm if each label were predicted by its own frequency among these rows.
    """
    condensed = bank.condensed_rows(key, rows)
    raw = CondensedParts.of(condensed)
    labels = condensed.labels
    right = condensed.label_rank == 0
    top = np.where(right, labels, condensed.ids[:, 0].astype(np.int64))
    highest = np.maximum(condensed.target, condensed.max_wrong).astype(np.float64)
    next_one = np.where(
        right,
        condensed.max_wrong,
        np.maximum(condensed.second_wrong, np.minimum(condensed.target, condensed.max_wrong)),
    )
    spread = np.where(condensed.std > 0, condensed.std, 1.0)
    margin = (highest - next_one) / spread
    log_prob = torch.nn.functional.logsigmoid(Softened.of(raw, 1 / _beta_next_to_one(raw)).log_odds).numpy()
    _, number, count = np.unique(labels, return_inverse=True, return_counts=True)
    return top, margin, log_prob, np.log(count[number] / len(labels))


def _beta_next_to_one(raw: CondensedParts) -> float:
    return min(
        (beta for beta in raw.betas if 2 * beta <= raw.betas[-1]), key=lambda beta: abs(np.log(beta)), default=1.0
    )
