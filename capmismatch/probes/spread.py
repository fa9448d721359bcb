r"""Probes that hold each example's soft label against its class: how much the examples of one class differ.

They need the mean soft label of every class first (`class_means`, a (C, C) matrix that can be gathered over chunks of
rows); given it, each is a value for each example, so means have standard errors. All take logits (N, C), labels (N,),
tau.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from capmismatch._arrays import ArrayLike
from capmismatch._class_means import ClassMeans
from capmismatch.errors import InputError
from capmismatch.probes._registry import Softened, register


def class_means(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> Tensor:
    """Mean soft label of the examples of each class, (C, C) float64; rows of absent classes are NaN.

    Examples
    --------
    >>> class_means([[0.0, 0.0], [0.0, 0.0]], [1, 1])
    tensor([[   nan,    nan],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    return _means(Softened(logits, labels, tau))


class ClassCentres:
    """Mean soft labels of the classes, (C, C), and their logarithms, taken once."""

    def __init__(self, means: Tensor) -> None:
        self.means = means

    @cached_property
    def log(self) -> Tensor:
        """(C, C); finite where a mean is 0."""
        return self.means.clamp_min(torch.finfo(self.means.dtype).tiny).log()


def _means(softened: Softened) -> Tensor:
    found = ClassMeans.empty(softened.logits.shape[1], softened.logits.dtype)
    found.add(softened.probs, softened.labels)
    return found.means


def _centres(means: ArrayLike | None, softened: Softened) -> ClassCentres:
    if means is None:
        return ClassCentres(_means(softened))
    matrix = torch.as_tensor(means, dtype=softened.logits.dtype)
    num_classes = softened.logits.shape[1]
    if matrix.shape != (num_classes, num_classes):
        raise InputError(f"expected class means of shape ({num_classes}, {num_classes}), got {tuple(matrix.shape)}")
    return ClassCentres(matrix)


def _cmi(softened: Softened, centres: ClassCentres) -> Tensor:
    cross = torch.einsum("nc,nc->n", softened.probs, centres.log[softened.labels])
    return (-softened.entropy - cross).clamp_min(0.0)


def _within_class_spread(softened: Softened, centres: ClassCentres) -> Tensor:
    away = softened.probs - centres.means[softened.labels]
    return torch.einsum("nc,nc->n", away, away)


def cmi(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0, means: ArrayLike | None = None) -> Tensor:
    r"""Conditional mutual information of input and output given the class, example by example, in nats.

    :math:`KL(p_x \,\|\, \bar p_{y})` with :math:`\bar p_y` the mean soft label of class y; the mean over examples is
    the CMI. Ye et al. 2024, "Bayes conditional distribution estimation for knowledge distillation", arXiv 2401.08732,
    where a teacher with more of it teaches better.

    Parameters
    ----------
    means : (C, C) from `class_means`; by default those of these examples

    Returns
    -------
    (N,) float64 tensor, >= 0.

    Examples
    --------
    >>> cmi([[1.0, 0.0], [1.0, 0.0]], [0, 0]).abs().max() < 1e-12
    tensor(True)
    """
    softened = Softened(logits, labels, tau)
    return _cmi(softened, _centres(means, softened))


def within_class_spread(
    logits: ArrayLike, labels: ArrayLike, tau: float = 1.0, means: ArrayLike | None = None
) -> Tensor:
    r"""Squared distance of each soft label from its class's mean, :math:`\|p_x - \bar p_y\|^2`.

    The mean over examples is the trace of the within-class covariance of the soft labels.

    Parameters
    ----------
    means : (C, C) from `class_means`; by default those of these examples

    Returns
    -------
    (N,) float64 tensor, >= 0.

    Examples
    --------
    >>> within_class_spread([[50.0, 0.0], [0.0, 50.0]], [0, 0])
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    softened = Softened(logits, labels, tau)
    return _within_class_spread(softened, _centres(means, softened))


register("cmi", "spread", _cmi, "mean KL(p_x || mean p of the class)", "Ye et al. 2024, arXiv 2401.08732", 1, True)
register(
    "within_class_spread", "spread", _within_class_spread, "mean ||p_x - mean p of the class||^2",
    "trace of the within-class covariance of soft labels", 1, True,
)
