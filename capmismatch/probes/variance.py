r"""The probes of the capacity-mismatch papers: the target's probability, and how the rest spreads over wrong classes.

All take logits (N, C), labels (N,), a temperature tau > 0 (default 1), and return a float64 tensor (N,). With
:math:`\tilde q` the softmax over the wrong classes alone, for every example

.. math:: v(q) = (1 - p_y)^2 \, v(\tilde q) = (C-1)^2 \, e(q)^2 \, v(\tilde q),

so a derived variance alone may only restate confidence: read it together with p_y and the inherent variance.

ATS paper: Li et al., NeurIPS 2022, arXiv 2210.04427. Journal paper: Fan, Li, Zhan, Frontiers of Computer Science 2026,
20(6): 2006333, arXiv 2405.13078.
"""

from __future__ import annotations

import math

from torch import Tensor

from capmismatch._numerics.softmax import Softened
from capmismatch.probes._registry import per_example

ATS_PAPER = "Li et al. 2022, arXiv 2210.04427"


@per_example("p_y", "Hinton et al. 2015, arXiv 1503.02531", expected_sign=0)
def target_prob(softened: Softened) -> Tensor:
    r"""Probability of the target, :math:`p_y`, in [0, 1].

    Examples
    --------
    >>> target_prob([[2.0, 0.0, 0.0]], [0], tau=2.0).round(decimals=4)
    tensor([0.5761], dtype=torch.float64)
    """
    return softened.target_prob


@per_example("1 - p_y", "Zhao et al. 2022 (DKD), arXiv 2203.08679", expected_sign=0)
def non_target_mass(softened: Softened) -> Tensor:
    r"""Probability of all wrong classes together, :math:`1 - p_y`.

    It is the factor by which plain KD damps its non-target term. Kept to full relative precision, also where p_y rounds
    to 1.

    Examples
    --------
    >>> float(non_target_mass([[60.0, 0.0]], [0])[0]) > 0
    True
    """
    return softened.wrong_mass


@per_example("e(q) = (1 - p_y) / (C - 1)", ATS_PAPER, expected_sign=0)
def derived_average(softened: Softened) -> Tensor:
    r"""Derived average (DA): mean probability of a wrong class, :math:`e(q) = (1 - p_y) / (C - 1)`.

    Examples
    --------
    >>> derived_average([[0.0, 0.0, 0.0, 0.0]], [1])
    tensor([0.2500], dtype=torch.float64)
    """
    return softened.wrong_mass / softened.wrong_classes


@per_example("v(q) = mean over wrong classes of (p_c - e(q))^2", ATS_PAPER, expected_sign=1)
def derived_variance(softened: Softened) -> Tensor:
    r"""Derived variance (DV): population variance (ddof 0) of :math:`p_c` over the wrong classes.

    Computed as :math:`(1 - p_y)^2 v(\tilde q)`, which keeps its digits when :math:`1 - p_y` is 1e-12.

    Examples
    --------
    >>> derived_variance([[2.0, 1.0, 0.0]], [0]).round(decimals=6)
    tensor([0.0060], dtype=torch.float64)
    """
    return softened.wrong_mass**2 * softened.inherent_variance


@per_example("sqrt(v(q))", "the ATS authors' code draws this as 'Derived Variance'", expected_sign=1)
def derived_std(softened: Softened) -> Tensor:
    r"""Derived standard deviation, :math:`\sqrt{v(q)}` for each example; tables average it after the root.

    Examples
    --------
    >>> derived_std([[2.0, 1.0, 0.0]], [0]).round(decimals=4)
    tensor([0.0773], dtype=torch.float64)
    """
    return softened.wrong_mass * softened.inherent_variance.sqrt()


@per_example("v(q~), q~ = softmax over the wrong classes alone", ATS_PAPER, expected_sign=1)
def inherent_variance(softened: Softened) -> Tensor:
    r"""Inherent variance (IV): population variance of the softmax :math:`\tilde q` over the wrong classes alone.

    Examples
    --------
    >>> inherent_variance([[2.0, 1.0, 0.0]], [0]).round(decimals=4)
    tensor([0.0534], dtype=torch.float64)
    """
    return softened.inherent_variance


@per_example("H(p)", "Pereyra et al. 2017, arXiv 1701.06548", expected_sign=0)
def entropy(softened: Softened) -> Tensor:
    r"""Entropy of the soft label, :math:`-\sum_c p_c \log p_c`, in nats, in [0, log C].

    Examples
    --------
    >>> entropy([[0.0, 0.0]], [0]).round(decimals=4)
    tensor([0.6931], dtype=torch.float64)
    """
    return softened.entropy


@per_example("H(q~) / log(C - 1)", "normalised non-target entropy", expected_sign=0)
def wrong_entropy(softened: Softened) -> Tensor:
    r"""Entropy of :math:`\tilde q` divided by its largest possible value, :math:`H(\tilde q) / \log(C - 1)`, in [0, 1].

    NaN with 2 classes.

    Examples
    --------
    >>> wrong_entropy([[5.0, 1.0, 1.0, 1.0]], [0])
    tensor([1.], dtype=torch.float64)
    """
    if softened.wrong_classes == 1:
        return softened.wrong_entropy * math.nan
    return softened.wrong_entropy / math.log(softened.wrong_classes)


@per_example("(C - 1) v(q)", "derived variance on a scale that does not shrink with C", 0, vocabulary=True)
def scaled_derived_variance(softened: Softened) -> Tensor:
    r"""Derived variance times C - 1: :math:`(C-1) v(q) = (1 - p_y)^2 (\sum_c \tilde q_c^2 - \frac{1}{C-1})`, in [0, 1].

    Over a vocabulary the derived variance itself is some 1e-6, whatever the teacher.

    Examples
    --------
    >>> scaled_derived_variance([[2.0, 1.0, 0.0]], [0]).round(decimals=4)
    tensor([0.0120], dtype=torch.float64)
    """
    return softened.wrong_mass**2 * softened.inherent_variance * softened.wrong_classes


@per_example("1 / sum of q~^2", "participation ratio of the wrong classes", expected_sign=0, vocabulary=True)
def effective_wrong(softened: Softened) -> Tensor:
    r"""Effective number of wrong classes, :math:`1 / \sum_c \tilde q_c^2`, in [1, C - 1].

    Where it comes near C - 1 the soft label is nearly uniform over what is wrong, and says nothing of it.

    Examples
    --------
    >>> effective_wrong([[5.0, 1.0, 1.0, 1.0]], [0])
    tensor([3.], dtype=torch.float64)
    """
    return softened.wrong_squares.reciprocal()
