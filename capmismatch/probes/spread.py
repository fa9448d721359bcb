r"""Probes that compare each example's soft label with the mean one of its class: how much examples of a class differ.

They need the mean soft label of every class first (`class_means`); after that each is a value for each example, so
means have standard errors. All take logits (N, C), labels (N,), tau.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capmismatch._numerics.arrays import ArrayLike
from capmismatch._numerics.class_means import AroundClass, mean_by_class
from capmismatch._numerics.plain_arrays import plain_array
from capmismatch._numerics.softmax import Softened
from capmismatch.errors import InputError
from capmismatch.probes._registry import register


def class_means(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> Tensor:
    """Mean soft label of the examples of each class, (C, C) float64; rows of absent classes are NaN.

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
        Shape (C, C), float64; row y is the mean soft label of class y and sums to 1.

    Raises
    ------
    InputError
        Logits or labels that do not fit, a temperature that is not positive.

    Examples
    --------
    >>> class_means([[0.0, 0.0], [0.0, 0.0]], [1, 1])
    tensor([[   nan,    nan],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    return _means(Softened(logits, labels, tau))


def _means(softened: Softened) -> Tensor:
    sums = softened.raw.below.new_zeros((1, softened.wrong_classes + 1, softened.wrong_classes + 1))
    return mean_by_class([([softened], softened.labels)], sums)[0]


def _given_means(means: ArrayLike) -> Tensor:
    return means if isinstance(means, Tensor) else torch.as_tensor(plain_array(means, "class means"))


def _around(logits: ArrayLike, labels: ArrayLike, tau: float, means: ArrayLike | None) -> tuple[Softened, AroundClass]:
    softened = Softened(logits, labels, tau)
    num_classes = softened.wrong_classes + 1
    matrix = _means(softened) if means is None else _given_means(means).to(softened.raw.below)
    counts = torch.bincount(softened.labels, minlength=num_classes) if means is None else None
    if matrix.shape != (num_classes, num_classes):
        raise InputError(f"expected class means of shape ({num_classes}, {num_classes}), got {tuple(matrix.shape)}")
    return softened, AroundClass.of_each([softened], matrix[None], softened.labels, counts)[0]


def _cmi(softened: Softened, around: AroundClass) -> Tensor:
    return _known(around.divergence.clamp_min(0.0), around)  # rounding of numbers below 1e-308 has either sign


def _within_class_spread(softened: Softened, around: AroundClass) -> Tensor:
    return _known(around.squared_distance, around)


def _known(values: Tensor, around: AroundClass) -> Tensor:
    """NaN where an example is the only one of its class, and so its class's mean."""
    scale = around.scale
    return values if scale is None else torch.where(scale.isnan(), scale, values)


def _debiased(values: Tensor, around: AroundClass, debiased: bool) -> Tensor:
    if not debiased:
        return values
    if around.scale is None:
        raise InputError("debiased=True corrects for means of these examples, and means of others were given")
    return values * around.scale


def cmi(
    logits: ArrayLike,
    labels: ArrayLike,
    tau: float = 1.0,
    means: ArrayLike | None = None,
    *,
    debiased: bool = False,
) -> Tensor:
    r"""Conditional mutual information of input and output given the class, example by example, in nats.

    :math:`KL(p_x \,\|\, \bar p_{y})` with :math:`\bar p_y` the mean soft label of class y; the mean over examples is
    the CMI; in the source a teacher with more of it teaches better. Computed as the sum of
    :math:`p \log(p / \bar p) - p + \bar p \ge 0` over classes, which keeps its digits where all examples of a class are
    confident.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 1.0
        Temperature > 0.
    means : array_like, shape (C, C), optional
        From `class_means`; by default those of these examples.
    debiased : bool, default False
        Whether to multiply by n / (n - 1), n the examples of the class: an example is part of its class's mean, which
        draws the mean nearer by (n - 1) / n: exactly so for the squared distance, to first order for the divergence.

    Returns
    -------
    Tensor
        Shape (N,), float64, >= 0; NaN where an example is the only one of its class and no means are given.

    Raises
    ------
    InputError
        Logits, labels or means that do not fit, a temperature that is not positive, `debiased` with `means`.

    References
    ----------
    Ye et al. 2024, "Bayes conditional distribution estimation for knowledge distillation", arXiv 2401.08732.

    Examples
    --------
    >>> cmi([[1.0, 0.0], [1.0, 0.0]], [0, 0]).abs().max() < 1e-12
    tensor(True)
    """
    softened, around = _around(logits, labels, tau, means)
    return _debiased(_cmi(softened, around), around, debiased)


def within_class_spread(
    logits: ArrayLike,
    labels: ArrayLike,
    tau: float = 1.0,
    means: ArrayLike | None = None,
    *,
    debiased: bool = False,
) -> Tensor:
    r"""Squared distance of each soft label from its class's mean, :math:`\|p_x - \bar p_y\|^2`.

    The mean over examples is the trace of the within-class covariance of the soft labels. Keeps its digits where all
    examples of a class are confident, down to 1e-308.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 1.0
        Temperature > 0.
    means : array_like, shape (C, C), optional
        From `class_means`; by default those of these examples.
    debiased : bool, default False
        Whether to multiply by n / (n - 1), n the examples of the class: an example is part of its class's mean, which
        draws the mean nearer by (n - 1) / n: exactly so for the squared distance, to first order for the divergence.

    Returns
    -------
    Tensor
        Shape (N,), float64, >= 0; NaN where an example is the only one of its class and no means are given.

    Raises
    ------
    InputError
        Logits, labels or means that do not fit, a temperature that is not positive, `debiased` with `means`.

    Examples
    --------
    >>> within_class_spread([[50.0, 0.0], [0.0, 50.0]], [0, 0])
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    softened, around = _around(logits, labels, tau, means)
    return _debiased(_within_class_spread(softened, around), around, debiased)


register("cmi", "spread", _cmi, "mean KL(p_x || mean p of the class)", "Ye et al. 2024, arXiv 2401.08732", 1, True)
register(
    "within_class_spread",
    "spread",
    _within_class_spread,
    "mean ||p_x - mean p of the class||^2",
    "trace of the within-class covariance of soft labels",
    1,
    True,
)
