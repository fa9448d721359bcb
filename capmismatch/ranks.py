"""How similarly teachers order the classes: Kendall's tau-b, Spearman's rho and top-k overlap, per example or class.

Every row is sorted once per teacher, whatever is asked about it and however many pairs of teachers share it; all
counting is in integers, so results depend neither on the number of threads nor on how the rows were cut into blocks.
`_numerics.rank_blocks` follows one row of five classes from its logits to tau-b. Memory beyond inputs and results is
bounded by a block of rows. Threads: as many as torch uses (`torch.set_num_threads`).

Logits may be tensors or arrays of any float type, half precision and bfloat16 included (integers are read as float64).
Tensors on an accelerator are ranked there, to the same integers; results are float64 tensors on the CPU. **Infinities**
are ordinary ordered values, equal ones tie. **NaN** anywhere among the classes compared makes that row's result NaN.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from capmismatch._numerics.arrays import LARGEST_LOGIT, ArrayLike, as_labels, as_logits
from capmismatch._numerics.class_means import mean_by_class
from capmismatch._numerics.rank_blocks import (
    Metric,
    as_floats,
    as_teachers,
    measure,
    of_two,
    ranking_device,
    real_numbers,
)
from capmismatch._numerics.softmax import Softened, WrongAlone, take_apart
from capmismatch._numerics.threads import blocks
from capmismatch.errors import InputError, must_be_temperature, must_count

AFFINITY_CELLS = 1 << 18  # logits that class affinities are computed of at a time

# ------------------------------------------------------------------------------------------------------------ two rows


def kendall_tau_b(a: ArrayLike, b: ArrayLike) -> Tensor:
    r"""Kendall's tau-b over the last axis.

    .. math:: \tau_b = \frac{P - Q}{\sqrt{(n_0 - n_a)(n_0 - n_b)}}

    with P concordant and Q discordant pairs of classes, n0 = C(C-1)/2 all pairs, and n_a, n_b those tied in a and in b.
    Exact with ties, in O(C log C) for many classes: equal to `scipy.stats.kendalltau` to 1e-12.

    Parameters
    ----------
    a, b : array_like, shape (..., C)
        Logits of two teachers, or any numbers to rank; the leading axes broadcast.

    Returns
    -------
    Tensor
        Shape (...), in [-1, 1]; NaN where a row is constant or holds a NaN.

    Raises
    ------
    InputError
        Shapes that do not fit, values that are not real numbers.

    See Also
    --------
    wrong_class_tau_b : Over the wrong classes only.
    pairwise_tau_b, rank_metrics : Of many teachers at once.
    capmismatch.rank_stability : Means over the examples of a bank.

    References
    ----------
    Kendall, "The treatment of ties in ranking problems", Biometrika 1945. Knight, "A computer method for calculating
    Kendall's tau with ungrouped data", JASA 1966.

    Examples
    --------
    >>> kendall_tau_b([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]], [1.0, 3.0, 2.0])
    tensor([0.3333,    nan], dtype=torch.float64)
    """
    return of_two(a, b, None, Metric("tau_b"))


def wrong_class_tau_b(logits_a: ArrayLike, logits_b: ArrayLike, labels: ArrayLike) -> Tensor:
    """Kendall's tau-b of each example over its C-1 wrong classes: the default measure of class-rank stability.

    Parameters
    ----------
    logits_a, logits_b : array_like, shape (N, C)
        Logits of two teachers.
    labels : array_like of int, shape (N,)
        In [0, C).

    Returns
    -------
    Tensor
        Shape (N,), in [-1, 1]; NaN where the wrong classes' logits are constant or hold a NaN.

    Raises
    ------
    InputError
        Shapes that do not fit, labels out of range.

    See Also
    --------
    kendall_tau_b : Over all classes, with the formula.
    rank_metrics : Several metrics of many teachers from one sort of each row.
    capmismatch.rank_stability : Means over the examples of a bank.
    capmismatch.plots.rank_matrix : The figure of that table.

    References
    ----------
    Fan, Li, Zhan, arXiv 2405.13078: teachers of different capacity agree on relative class affinity (abstract).

    Examples
    --------
    >>> wrong_class_tau_b([[9.0, 1.0, 2.0, 3.0]], [[0.0, 1.0, 3.0, 2.0]], [0])
    tensor([0.3333], dtype=torch.float64)
    """
    return of_two(logits_a, logits_b, labels, Metric("tau_b", wrong=True))


def spearman(a: ArrayLike, b: ArrayLike, labels: ArrayLike | None = None) -> Tensor:
    """Spearman's rho over the last axis: Pearson's correlation of the ranks, ties given their average rank.

    Parameters
    ----------
    a, b : array_like, shape (..., C), or (N, C) with `labels`
        Logits of two teachers, or any numbers to rank; the leading axes broadcast.
    labels : array_like of int, shape (N,), optional
        Leave each example's target out, so that only the wrong classes are ranked.

    Returns
    -------
    Tensor
        Shape (...), in [-1, 1], equal to `scipy.stats.spearmanr`; NaN where a row is constant or holds a NaN.

    Raises
    ------
    InputError
        Shapes that do not fit, labels out of range.

    See Also
    --------
    kendall_tau_b : The measure that tables have by default.
    capmismatch.rank_stability : Means over the examples of a bank.

    References
    ----------
    Spearman, "The proof and measurement of association between two things", Am. J. Psychology 1904.

    Examples
    --------
    >>> spearman([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0])
    tensor(0.8000, dtype=torch.float64)
    """
    return of_two(a, b, labels, Metric("spearman", wrong=labels is not None))


def topk_overlap(a: ArrayLike, b: ArrayLike, k: int, labels: ArrayLike | None = None) -> Tensor:
    """Share ``|A ∩ B| / k`` of the k highest classes that both put on top.

    Ties are broken by class index, the lower one first, so that the result is the same everywhere.

    Parameters
    ----------
    a, b : array_like, shape (..., C), or (N, C) with `labels`
        Logits of two teachers, or any numbers to rank; the leading axes broadcast.
    k : int
        In [1, C], or in [1, C-1] with `labels`.
    labels : array_like of int, shape (N,), optional
        Leave each example's target out of both sets.

    Returns
    -------
    Tensor
        Shape (...), in [0, 1]; NaN where a row holds a NaN.

    Raises
    ------
    InputError
        Shapes that do not fit, k or labels out of range.

    See Also
    --------
    rank_metrics : The same of many teachers, as "top{k}_overlap".
    capmismatch.rank_stability : Means over the examples of a bank.

    Examples
    --------
    >>> topk_overlap([4.0, 3.0, 2.0, 1.0], [4.0, 1.0, 3.0, 2.0], k=2)
    tensor(0.5000, dtype=torch.float64)
    """
    must_count(k, "k")
    return of_two(a, b, labels, Metric("top_overlap", wrong=labels is not None, k=operator.index(k)))


# -------------------------------------------------------------------------------------------------------- many teachers


def pairwise_tau_b(logits: ArrayLike | Sequence[ArrayLike], labels: ArrayLike | None = None) -> Tensor:
    """Kendall's tau-b between all teachers, for each example.

    Parameters
    ----------
    logits : array_like, shape (T, N, C), or sequence of T array_like, shape (N, C)
        Logits of T teachers; the arrays may be memory-mapped and differ in float type.
    labels : array_like of int, shape (N,), optional
        Compare over the wrong classes only.

    Returns
    -------
    Tensor
        Shape (T, T, N), symmetric in the teachers; the diagonal is 1, or NaN where a row is constant or holds a NaN.

    Raises
    ------
    InputError
        Shapes that do not fit, labels out of range.

    Examples
    --------
    >>> pairwise_tau_b([[[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]]])[:, :, 0]
    tensor([[1.0000, 0.3333],
            [0.3333, 1.0000]], dtype=torch.float64)
    """
    teachers = as_teachers(logits)
    metric = Metric("tau_b", wrong=labels is not None)
    first, second = np.triu_indices(len(teachers))
    (values,) = measure(teachers, labels, [metric], np.stack([first, second], axis=1))
    square = np.empty((len(teachers), len(teachers), values.shape[1]))
    square[first, second] = square[second, first] = values
    return torch.from_numpy(square)


def rank_metrics(
    logits: ArrayLike | Sequence[ArrayLike],
    labels: ArrayLike | None = None,
    metrics: Iterable[str] = ("wrong_tau_b",),
    pairs: Iterable[tuple[int, int]] | None = None,
) -> dict[str, Tensor]:
    """Several rank metrics between many pairs of teachers, for each example, from one sort of each row.

    Rows are independent: a bank may be fed whole or in chunks of rows, with the same result.

    Parameters
    ----------
    logits : array_like, shape (T, n, C), or sequence of T array_like, shape (n, C)
        Logits of T teachers; the arrays may be memory-mapped and differ in float type.
    labels : array_like of int, shape (n,), optional
        Required by metrics over the wrong classes.
    metrics : iterable of str, default ("wrong_tau_b",)
        "wrong_tau_b", "tau_b", "wrong_spearman", "spearman" and, for any k, "top{k}_overlap", which is over the wrong
        classes.
    pairs : iterable of (int, int), optional
        P pairs of teachers by index; by default ``itertools.combinations(range(T), 2)``.

    Returns
    -------
    dict of str to Tensor
        For each metric, shape (P, n), as `wrong_class_tau_b`, `kendall_tau_b`, `spearman` and `topk_overlap` give it.

    Raises
    ------
    InputError
        Shapes that do not fit; labels, k or teachers out of range; an unknown metric; labels missing.

    See Also
    --------
    capmismatch.rank_stability : Means over the examples of a bank.
    capmismatch.plots.rank_matrix : The figure of that table.

    Examples
    --------
    >>> logits = [[[5.0, 1.0, 2.0, 3.0]], [[5.0, 1.0, 3.0, 2.0]], [[5.0, 3.0, 2.0, 1.0]]]
    >>> values = rank_metrics(logits, [0], metrics=["wrong_tau_b", "top1_overlap"])
    >>> values["wrong_tau_b"][:, 0]
    tensor([ 0.3333, -1.0000, -0.3333], dtype=torch.float64)
    >>> values["top1_overlap"][:, 0]
    tensor([0., 0., 0.], dtype=torch.float64)
    """
    teachers = as_teachers(logits)
    names = list(metrics)
    parsed = [Metric.parse(name) for name in names]
    chosen = list(itertools.combinations(range(len(teachers)), 2)) if pairs is None else list(pairs)
    for index, pair in enumerate(chosen):
        whole = all(isinstance(teacher, Integral) for teacher in pair)
        if len(pair) != 2 or not whole or not all(0 <= teacher < len(teachers) for teacher in pair):
            raise InputError(f"expected pairs of teachers in [0, {len(teachers)}), got {tuple(pair)} at pair {index}")
    values = measure(teachers, labels, parsed, np.array(chosen, dtype=np.int64).reshape(-1, 2))
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


# ---------------------------------------------------------------------------------------------------- class affinities


def affinity_matrix(logits: ArrayLike, labels: ArrayLike, tau: float, num_classes: int | None = None) -> Tensor:
    """Which wrong classes a teacher sees in the examples of each class.

    Row y is the mean over the examples of class y of q~, the softmax over the wrong classes alone at `tau`.

    Parameters
    ----------
    logits : array_like, shape (N, C), C >= 2
        Logits of one teacher. -inf masks a class.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float
        Temperature > 0.
    num_classes : int, optional
        The C to insist on; by default that of the logits.

    Returns
    -------
    Tensor
        Shape (C, C), rows summing to 1, the diagonal 0; rows of classes without examples are NaN.

    Raises
    ------
    InputError
        Shapes that do not fit, labels out of range, NaN and +inf, which have no softmax, a temperature that is not
        positive.

    See Also
    --------
    affinity_tau_b : Compares two of them.
    capmismatch.affinity : The matrices of all teachers of a bank, as a table.
    capmismatch.plots.affinity_map : The figure of that table.

    References
    ----------
    q~ as in Li et al., arXiv 2210.04427.

    Examples
    --------
    >>> affinity_matrix([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0, 1, 2], tau=4.0)
    tensor([[0.0000, 0.5000, 0.5000],
            [0.5000, 0.0000, 0.5000],
            [0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    must_be_temperature(tau, "tau")
    rows = real_numbers(logits, "logits")
    if rows.ndim != 2 or num_classes not in (None, rows.shape[1]):
        expected = "C" if num_classes is None else num_classes
        raise InputError(f"expected logits of shape (N, {expected}), got {tuple(rows.shape)}")
    n, classes = rows.shape
    device = ranking_device([rows])
    targets = as_labels(labels, n, classes).to(device)

    def wrong_alone(block: slice) -> tuple[list[Softened], Tensor]:
        floats = as_floats(rows[block]).to(device)
        floats = floats.to(torch.promote_types(floats.dtype, torch.float32))
        masked = floats == -torch.inf
        _refuse_all_masked(masked, targets[block], block.start)
        finite = as_logits(floats.masked_fill(masked, -LARGEST_LOGIT), place=f"logits[{block.start}:{block.stop}]")
        return [WrongAlone.of(take_apart(finite, targets[block]), float(tau))], targets[block]

    sums = torch.zeros((1, classes, classes), dtype=torch.float64, device=device)
    return mean_by_class(map(wrong_alone, blocks(n, max(1, AFFINITY_CELLS // classes))), sums)[0].cpu()


def _refuse_all_masked(masked: Tensor, targets: Tensor, start: int) -> None:
    """Raise where a row has no wrong class left."""
    left = (~masked).scatter(1, targets[:, None], False)
    empty = (~left.any(1)).nonzero()
    if masked.shape[1] > 1 and len(empty):
        raise InputError(f"expected a wrong class that is not masked by -inf, got none at row {start + int(empty[0])}")


def affinity_tau_b(matrix_a: ArrayLike, matrix_b: ArrayLike) -> Tensor:
    """Kendall's tau-b of each row of two class-affinity matrices, the diagonal left out.

    Parameters
    ----------
    matrix_a, matrix_b : array_like, shape (C, C)
        Of two teachers, as `affinity_matrix` returns them.

    Returns
    -------
    Tensor
        Shape (C,), in [-1, 1]; NaN for classes without examples.

    Raises
    ------
    InputError
        Shapes that do not fit.

    See Also
    --------
    capmismatch.rank_stability : Means over the classes of a bank, as "affinity_tau_b".

    Examples
    --------
    >>> affinity_tau_b([[0.0, 0.2, 0.8], [0.5, 0.0, 0.5], [0.9, 0.1, 0.0]], torch.eye(3) + torch.arange(3.0))
    tensor([ 1., nan, -1.], dtype=torch.float64)
    """
    rows = real_numbers(matrix_a, "matrix_a")
    if rows.ndim != 2 or rows.shape[0] != rows.shape[1]:
        raise InputError(f"expected matrices of shape (C, C), got {tuple(rows.shape)}")
    return wrong_class_tau_b(rows, matrix_b, np.arange(rows.shape[0]))
