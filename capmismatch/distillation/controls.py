r"""Soft labels that take apart what a teacher says: how sure it is, and what it says of the wrong classes.

All controls keep the target's probability :math:`p_y` of a teacher at temperature tau, and change the distribution over
the wrong classes, :math:`\tilde q`, alone. A student's gain over `flat` is what the wrong classes are worth; over
`shuffled`, what it is worth that they are the right ones, at the same variance; and students of `graft` tell the
variance of one teacher from the confidence of another.

Sources: label smoothing, Szegedy et al., "Rethinking the inception architecture", CVPR 2016, arXiv 1512.00567;
permuted wrong classes as a control of dark knowledge, Furlanello et al., "Born-again neural networks", ICML 2018,
arXiv 1805.04770 (DKPP).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from capmismatch.errors import InputError

SEED = 0  # of the permutations


def flat(probs: Tensor, labels: Tensor) -> Tensor:
    r"""Equal wrong classes, :math:`q_c = (1 - p_y)/(C - 1)`: label smoothing, as strong for each example as p_y says.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        The teacher's probabilities.
    labels : Tensor of int, shape (N,)
        Classes of the examples.

    Returns
    -------
    Tensor, shape (N, C)
        Soft labels with the same target probabilities.

    Examples
    --------
    >>> flat(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([0])).tolist()
    [[0.5, 0.25, 0.25]]
    """
    target = probs.gather(1, labels[:, None])
    rest = ((1 - target) / (probs.shape[1] - 1)).expand_as(probs)
    return rest.scatter(1, labels[:, None], target)


def shuffled(probs: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Wrong classes permuted at random, for each example once: same p_y, same variance, other classes.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        The teacher's probabilities.
    labels : Tensor of int, shape (N,)
        Classes of the examples.
    rows : Tensor of int, shape (N,)
        Numbers of the examples, >= 0: an example has one permutation, in whatever view it is seen.

    Returns
    -------
    Tensor, shape (N, C)
        Soft labels with the same target probabilities.

    Examples
    --------
    >>> probs, labels = torch.tensor([[0.5, 0.4, 0.1, 0.0]]), torch.tensor([0])
    >>> sorted(shuffled(probs, labels, torch.tensor([3]))[0].tolist()) == sorted(probs[0].tolist())
    True
    """
    wrong = probs.shape[1] - 1
    draws = np.random.default_rng(SEED).random((int(rows.max()) + 1, wrong))  # a row's do not depend on how many follow
    order = torch.from_numpy(draws.argsort(1)).to(probs.device)[rows.to(probs.device)]
    columns = _wrong_columns(labels, wrong)
    return probs.scatter(1, columns, probs.gather(1, columns).gather(1, order))


def grafted(probs: Tensor, labels: Tensor, other: Tensor, tau: float) -> Tensor:
    r"""One teacher's :math:`p_y` with another's distribution over the wrong classes, :math:`(1 - p_y) \tilde q`.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        The first teacher's probabilities.
    labels : Tensor of int, shape (N,)
        Classes of the examples.
    other : Tensor, shape (N, C)
        The second teacher's logits.
    tau : float
        Temperature of its softmax over the wrong classes.

    Returns
    -------
    Tensor, shape (N, C)
        Soft labels.

    Raises
    ------
    InputError
        The two teachers' rows or classes differ.

    Examples
    --------
    >>> probs, other = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[9.0, 1.0, 1.0]])
    >>> grafted(probs, torch.tensor([0]), other, 1.0).tolist()
    [[0.5, 0.25, 0.25]]
    """
    if probs.shape != other.shape:
        shapes = f"{tuple(probs.shape)} and {tuple(other.shape)}"
        raise InputError(f"expected two teachers' logits of one shape, got {shapes}")
    columns = _wrong_columns(labels, probs.shape[1] - 1)
    wrong = torch.softmax(other.to(probs.dtype).gather(1, columns) / tau, 1)
    target = probs.gather(1, labels[:, None])
    return torch.empty_like(probs).scatter_(1, labels[:, None], target).scatter_(1, columns, (1 - target) * wrong)


def _wrong_columns(labels: Tensor, wrong: int) -> Tensor:
    """The numbers of the wrong classes of each example, (N, C - 1)."""
    columns = torch.arange(wrong, device=labels.device).expand(len(labels), -1)
    return columns + (columns >= labels[:, None])
