"""What `check` looks at: a few numbers of each example, of logits and of condensed rows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.rank_blocks import ends_and_ranks
from capmismatch._numerics.softmax import Softened
from capmismatch.data.token_bank import TokenBank

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def of_examples(logits: NDArray, labels: Ints, priors: Floats) -> tuple[NDArray, ...]:
    """The columns top, margin, rank, by_chance, wrong_rank and of_label of `View`."""
    n, classes = logits.shape
    each, others = np.arange(n), max(1, classes - 1)
    ends, twice = ends_and_ranks(logits)
    top, runner_up = ends[:, -1], ends[:, 0]
    highest, next_highest = (logits[each, chosen].astype(np.float64) for chosen in (top, runner_up))
    spread = logits.astype(np.result_type(logits.dtype, np.float32)).std(axis=1, dtype=np.float64)
    margin = (highest - next_highest) / np.where(spread > 0, spread, 1.0)

    def rank(chosen: Ints) -> Floats:
        """Of one class of each row, as if it were the target; equal ones share ranks."""
        of_class: Floats = (twice[each, chosen] + classes - 1) / 2 / others
        return of_class

    by_chance = (twice @ priors + (classes - 1) * priors.sum()) / 2 / others
    # Among the classes but the top one: its place is 1, so the places of the others stretch over [0, 1] again.
    stretch = others / max(1, classes - 2)
    without_top = 1 - priors[top]
    rest = (by_chance - priors[top] * rank(top)) / np.where(without_top > 0, without_top, 1.0)
    wrong_rank = np.where(top == labels, np.nan, stretch * (rank(labels) - rest))
    above = np.where(top == labels, highest - next_highest, logits[each, labels].astype(np.float64) - highest)
    return top, margin, rank(labels), by_chance, wrong_rank, above


def rows_that_are_probabilities(logits: NDArray) -> Floats:
    """How many rows are probabilities, percentages, or all in [0, 1]; none where there are no other classes."""
    if logits.shape[1] < 2:
        return np.zeros(3)
    logits = logits[(logits >= 0).all(axis=1)].astype(np.float64)
    total, lowest, highest = logits.sum(axis=1), logits.min(axis=1), logits.max(axis=1)
    positive = (logits % 1 > 0).any(axis=1)  # rows of zeros and ones are made by hand
    ones = positive & (np.abs(total - 1) <= 0.02)
    hundreds = positive & (np.abs(total - 100) <= 2)
    return np.array([ones.sum(), hundreds.sum(), (positive & (highest <= 1) & (highest > lowest)).sum()], float)


def token_columns(bank: TokenBank, key: str, rows: Ints) -> tuple[Ints, Floats, Floats, Floats]:
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
