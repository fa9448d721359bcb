r"""Probes that hold each example's soft label against its class: how much the examples of one class differ.

They need the mean soft label of every class first (`class_means`, a (C, C) matrix that can be gathered over chunks of
rows); given it, each is a value for each example, so means have standard errors. All take logits (N, C), labels (N,),
tau.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from capmismatch._arrays import ArrayLike
from capmismatch.errors import InputError
from capmismatch.probes._registry import Softened, register


@dataclass
class ClassMeans:
    """Sums and counts from which the mean of rows of each class follows; feed it chunk by chunk.

    Attributes
    ----------
    sums : (C, C) row y holds the sum of the rows given for class y
    counts : (C,) how many rows each class got
    """

    sums: Tensor
    counts: Tensor

    @classmethod
    def empty(cls, num_classes: int, dtype: torch.dtype = torch.float64) -> ClassMeans:
        """Nothing seen yet."""
        return cls(torch.zeros(num_classes, num_classes, dtype=dtype), torch.zeros(num_classes, dtype=dtype))

    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Add rows (n, C) of the classes `labels` (n,)."""
        self.sums.index_add_(0, labels, rows.to(self.sums.dtype))
        self.counts += torch.bincount(labels, minlength=len(self.counts)).to(self.counts.dtype)

    @property
    def means(self) -> Tensor:
        """(C, C), NaN in the rows of classes that were never seen."""
        return self.sums / self.counts[:, None]


def class_means(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> Tensor:
    """Mean soft label of the examples of each class, (C, C) float64; rows of absent classes are NaN.

    Examples
    --------
    >>> class_means([[0.0, 0.0], [0.0, 0.0]], [1, 1])
    tensor([[   nan,    nan],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    return _means(Softened(logits, labels, tau))


def _means(softened: Softened) -> Tensor:
    found = ClassMeans.empty(softened.logits.shape[1], softened.logits.dtype)
    found.add(softened.probs, softened.labels)
    return found.means


def _checked(means: ArrayLike | None, softened: Softened) -> Tensor:
    if means is None:
        return _means(softened)
    matrix = torch.as_tensor(means, dtype=softened.logits.dtype)
    num_classes = softened.logits.shape[1]
    if matrix.shape != (num_classes, num_classes):
        raise InputError(f"expected class means of shape ({num_classes}, {num_classes}), got {tuple(matrix.shape)}")
    return matrix


def _cmi(softened: Softened, means: Tensor) -> Tensor:
    log_means = means.clamp_min(torch.finfo(means.dtype).tiny).log()
    cross = torch.einsum("nc,nc->n", softened.probs, log_means[softened.labels])
    return (-softened.entropy - cross).clamp_min(0.0)


def _within_class_spread(softened: Softened, means: Tensor) -> Tensor:
    return (softened.probs - means[softened.labels]).square().sum(1)


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
    return _cmi(softened, _checked(means, softened))


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
    return _within_class_spread(softened, _checked(means, softened))


register("cmi", "spread", _cmi, "mean KL(p_x || mean p of the class)", "Ye et al. 2024, arXiv 2401.08732", 1, True)
register(
    "within_class_spread", "spread", _within_class_spread, "mean ||p_x - mean p of the class||^2",
    "trace of the within-class covariance of soft labels", 1, True,
)
