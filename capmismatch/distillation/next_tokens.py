"""How well a student of a text does: accuracy, likelihood with and without calibration, bits per byte, divergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capmismatch.data.datasets import Dataset
from capmismatch.data.token_inputs import TokenInputs

ROWS = 4096  # at a time: memory stays bounded however long the text is
STEPS = 20  # of Newton's method at most; from 1 it takes about five
BOUNDS = (0.02, 50.0)  # of the inverse temperature

SCORES = ("nll", "nll_calibrated", "temperature", "bits_per_byte", "kl", "sequences")
"""Columns that results have for texts alone, beside accuracy and n."""

TeacherRows = Callable[[NDArray[np.int64]], NDArray[Any]]


def as_token_ids(windows: Tensor) -> Tensor:
    """Stored windows of tokens as a network takes them."""
    return windows.long()


def next_token_scores(
    network: nn.Module, held_out: Dataset, teacher: TeacherRows | None = None
) -> dict[str, dict[str, float]]:
    r"""Measure a language model on each split of a text.

    Parameters
    ----------
    network : torch.nn.Module
        From windows (n, T) to logits (n, T, V).
    held_out : Dataset
        A text, with its splits.
    teacher : callable, optional
        Gives the teacher's logits (n, V) at some rows of it.

    Returns
    -------
    dict of str to dict
        For each split:

        * ``accuracy``: share of rows whose likeliest next token is the text's; ``n``: number of rows; ``sequences``:
          number of windows
        * ``nll``: mean negative log likelihood of the text's token, in nats
        * ``nll_calibrated``: the same at the one ``temperature`` of the student's logits that is best on "val"; left
          out where there are no such rows. What a student taught at a high temperature has wrong in scale alone is not
          in it
        * ``bits_per_byte``: bits for a byte of text, :math:`\sum \mathrm{nll} / (\log 2 \cdot \mathrm{bytes})`, which
          compares models of different tokenizers
        * ``kl``: mean :math:`\mathrm{KL}(p^t \| p^s)` at temperature 1, in nats; left out without a teacher
    """
    split, inputs = held_out.rows.split, held_out.inputs
    assert isinstance(inputs, TokenInputs)
    beta = inverse_temperature(network, held_out)
    sums: dict[str, NDArray[np.float64]] = {str(name): np.zeros(4) for name in np.unique(split)}
    for rows, logits, labels in _batches(network, held_out, np.arange(len(split))):
        log_q = torch.log_softmax(logits, 1)
        nll = -log_q.gather(1, labels[:, None])[:, 0]
        calibrated = nll if math.isnan(beta) else nn.functional.cross_entropy(beta * logits, labels, reduction="none")
        kl = torch.zeros_like(nll)
        if teacher is not None:
            log_p = torch.log_softmax(torch.from_numpy(teacher(rows).astype(np.float32)), 1)
            kl = (log_p.exp() * (log_p - log_q)).sum(1)
        values = torch.stack([logits.argmax(1) == labels, nll, calibrated, kl], 1).double().numpy()
        for name, total in sums.items():
            total += values[split[rows] == name].sum(0)
    scores = {}
    for name, (correct, nll_sum, calibrated_sum, kl_sum) in sums.items():
        rows = np.flatnonzero(split == name)
        scores[name] = {
            "accuracy": correct / len(rows),
            "n": len(rows),
            "nll": nll_sum / len(rows),
            **({} if math.isnan(beta) else {"nll_calibrated": calibrated_sum / len(rows), "temperature": 1 / beta}),
            "bits_per_byte": nll_sum / math.log(2) / int(inputs.size[rows].sum()),
            **({} if teacher is None else {"kl": kl_sum / len(rows)}),
            "sequences": len(np.unique(inputs.window[rows])),
        }
    return scores


def mean_nll(network: nn.Module, held_out: Dataset, rows: NDArray[np.int64]) -> float:
    """Mean negative log likelihood over some rows of a text, in nats."""
    total = 0.0
    for _, logits, labels in _batches(network, held_out, rows):
        total += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return total / len(rows)


def inverse_temperature(network: nn.Module, held_out: Dataset) -> float:
    """Inverse of the temperature at which a language model is likeliest on the "val" rows; NaN where there are none.

    The mean negative log likelihood is convex in it, so Newton's method finds the one minimum.
    """
    rows = np.flatnonzero(held_out.rows.split == "val")
    if not len(rows):
        return math.nan
    beta, low, high = 1.0, *BOUNDS
    for _ in range(STEPS):
        slope = curvature = 0.0
        for _, logits, labels in _batches(network, held_out, rows):
            q = torch.softmax(beta * logits, 1)
            mean = (q * logits).sum(1)
            slope += float((mean - logits.gather(1, labels[:, None])[:, 0]).double().sum())
            curvature += float(((q * logits**2).sum(1) - mean**2).double().sum())
        low, high = (low, beta) if slope > 0 else (beta, high)
        step = beta - slope / curvature if curvature > 0 else math.sqrt(low * high)
        step = step if low < step < high else math.sqrt(low * high)
        if abs(step - beta) < 1e-5 * beta:
            return step
        beta = step
    return beta


class _Batch(NamedTuple):
    """Some rows, the model's logits there and their labels."""

    rows: NDArray[np.int64]
    logits: Tensor
    labels: Tensor


def _batches(network: nn.Module, held_out: Dataset, rows: NDArray[np.int64]) -> Iterator[_Batch]:
    """Logits of a language model at some rows of a text, on the CPU in float32."""
    network.eval()
    device = next(network.parameters()).device
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        batch = held_out.inputs[some]
        with torch.inference_mode():
            logits = network(torch.from_numpy(batch.windows).to(device).long())
            logits = logits.flatten(0, 1)[torch.from_numpy(batch.flat).to(device)].float().cpu()
            yield _Batch(some, logits, torch.from_numpy(held_out.labels[some]))
