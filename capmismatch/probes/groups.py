r"""Variance between classes and between groups of classes: how much of what a teacher says is about class relations.

The variance over wrong classes has two parts in two ways. Over the examples of a class, that of their mean soft label
and that of the examples around it; over the classes of a row, that between groups of alike classes and that within
them. These parts are definitions of our own: no source says that they are the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from capmismatch._numerics.arrays import ArrayLike
from capmismatch._numerics.softmax import Softened
from capmismatch.errors import InputError, must_count
from capmismatch.probes.spread import class_means


def class_variance(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> Tensor:
    r"""Population variance over the wrong classes of the mean soft label of each example's class, :math:`v(\bar p_y)`.

    By the law of total variance its mean over the examples is the mean derived variance less what examples of one class
    differ by. So the quotient of both means is the share that class relations have in a teacher's variance.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 1.0
        Temperature > 0.

    Returns
    -------
    Tensor
        Shape (N,), float64: the same for all examples of a class, at most the mean derived variance of them.

    Raises
    ------
    InputError
        Logits or labels that do not fit, a temperature that is not positive.

    See Also
    --------
    derived_variance : Of each example's own soft label.
    capmismatch.class_relations : The means of all teachers of a bank.

    References
    ----------
    That teachers of all sizes agree about relative class affinity: Fan et al., arXiv 2405.13078. The variance of class
    means is our own.

    Examples
    --------
    >>> logits = [[4.0, 2.0, 0.0], [4.0, 0.0, 2.0]]  # both classes in turn: nothing is left of them in the mean
    >>> class_variance(logits, [0, 0]).abs().max() < 1e-15
    tensor(True)
    """
    softened = Softened(logits, labels, tau)
    means = class_means(logits, labels, tau).to(softened.target_prob)
    return variance_of_means(means)[softened.labels]


def variance_of_means(class_means: Tensor) -> Tensor:
    """Population variance over the wrong classes of each class's mean soft label: (C,) of (C, C)."""
    classes = len(class_means)
    wrong = class_means[~torch.eye(classes, dtype=torch.bool, device=class_means.device)].reshape(classes, classes - 1)
    return wrong.var(1, correction=0)


def group_variance(logits: ArrayLike, labels: ArrayLike, groups: Sequence[int], tau: float = 1.0) -> Tensor:
    r"""The part of the derived variance that is between groups of classes.

    .. math:: \frac{1}{C-1} \sum_g n_g \, (\bar p_g - \bar p)^2

    over the wrong classes, with :math:`n_g` of them in a group, their mean probability :math:`\bar p_g`, and the mean
    :math:`\bar p` of all. The rest of the derived variance is within groups.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    groups : sequence of int, shape (C,)
        Number of each class's group, from 0, such as superclasses, or what `find_groups` gives.
    tau : float, default 1.0
        Temperature > 0.

    Returns
    -------
    Tensor
        Shape (N,), float64, from 0 to the derived variance.

    Raises
    ------
    InputError
        Logits, labels or groups that do not fit, a temperature that is not positive.

    See Also
    --------
    derived_variance : Both parts.
    find_groups : Groups by class affinity.

    References
    ----------
    Our own; the derived variance is that of Li et al., arXiv 2210.04427.

    Examples
    --------
    >>> one, two = (group_variance([[5.0, 2.0, 2.0, 0.0]], [0], groups) for groups in ([0, 1, 1, 2], [0, 1, 2, 2]))
    >>> bool(one > two)  # two alike wrong classes in one group: nothing is within
    True
    """
    softened = Softened(logits, labels, tau)
    return between_groups(softened, checked_groups(groups, softened.wrong_classes + 1))


def between_groups(softened: Softened, groups: Tensor) -> Tensor:
    """See `group_variance`, with checked groups (C,)."""
    probs, groups = softened.probs, groups.to(softened.labels.device)
    wrong = torch.ones_like(probs).scatter(1, softened.labels[:, None], 0.0)
    count = int(groups.max()) + 1
    zeros = probs.new_zeros(len(probs), count)
    mass = zeros.index_add(1, groups, probs * wrong)
    sizes = zeros.index_add(1, groups, wrong)
    mean = softened.wrong_mass[:, None] / softened.wrong_classes
    return ((mass - sizes * mean).square() / sizes.clamp_min(1.0)).sum(1) / softened.wrong_classes


def checked_groups(groups: Sequence[int] | NDArray[Any], classes: int) -> Tensor:
    """Numbers of groups, (C,), as int64; InputError where they are none."""
    numbers = np.asarray(groups)
    if numbers.shape != (classes,) or not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 0:
        raise InputError(f"expected the number of a group, from 0, of each of {classes} classes, got {groups!r}")
    return torch.from_numpy(np.unique(numbers, return_inverse=True)[1].astype(np.int64))


def find_groups(affinity: ArrayLike, count: int) -> NDArray[np.int64]:
    r"""Group classes that teachers take for each other: average linkage on class affinity.

    The distance of two classes falls with the mean of both affinities, :math:`1 - (A + A^T)/(2 \max)`.

    Parameters
    ----------
    affinity : array_like, shape (C, C)
        As from `capmismatch.ranks.affinity_matrix`, perhaps the mean over teachers; rows of absent classes are NaN.
    count : int
        How many groups, from 1 to C; affinities that tie may leave fewer.

    Returns
    -------
    ndarray of int, shape (C,)
        Number of each class's group, from 0, in the order in which they first occur.

    Raises
    ------
    InputError
        No square matrix of numbers >= 0, or a number of groups that is none.

    See Also
    --------
    group_variance : What is between the groups.

    References
    ----------
    Sokal and Michener, "A statistical method for evaluating systematic relationships", 1958 (average linkage), by
    `scipy.cluster.hierarchy.linkage`.

    Examples
    --------
    >>> affinity = [[0.0, 0.8, 0.1, 0.1], [0.9, 0.0, 0.1, 0.0], [0.1, 0.1, 0.0, 0.8], [0.1, 0.1, 0.8, 0.0]]
    >>> find_groups(affinity, 2).tolist()
    [0, 0, 1, 1]
    """
    matrix = np.asarray(affinity, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise InputError(f"expected an affinity of shape (C, C), C >= 2, got {matrix.shape}")
    if (matrix < 0).any() or np.isinf(matrix).any():
        raise InputError(f"expected affinities >= 0, got {np.nanmin(matrix):g} to {np.nanmax(matrix):g}")
    must_count(count, "count", most=len(matrix))
    both = np.stack([matrix, matrix.T])
    known = ~np.isnan(both)
    alike = np.where(known, both, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    np.fill_diagonal(alike, 0.0)
    distance = 1 - alike / max(float(alike.max()), np.finfo(float).tiny)
    np.fill_diagonal(distance, 0.0)
    found = fcluster(linkage(squareform(distance, checks=False), "average"), count, "maxclust")
    _, first, numbers = np.unique(found, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    groups: NDArray[np.int64] = order[numbers].astype(np.int64)
    return groups
