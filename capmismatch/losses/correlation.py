"""Losses that match relations between classes: linear correlation, and the order."""

from __future__ import annotations

import torch
from torch import Tensor

from capmismatch.errors import must_be_positive, must_be_temperature
from capmismatch.losses._terms import checked_labels, logits_pair, must_be_weight, pearson, standardize


def dist(
    student: Tensor, teacher: Tensor, tau: float = 4.0, beta: float = 1.0, gamma: float = 1.0, *, check: bool = True
) -> Tensor:
    r"""DIST: match probabilities up to scale and shift, along the classes and along the batch.

    .. math:: \tau^2 \Big(\beta \big(1 - \tfrac1N \sum_i \rho(p^s_{i\cdot}, p^t_{i\cdot})\big)
              + \gamma \big(1 - \tfrac1C \sum_c \rho(p^s_{\cdot c}, p^t_{\cdot c})\big)\Big)

    with Pearson's correlation :math:`\rho`. The second term needs at least two examples; where one side is constant,
    :math:`\rho` counts as 0.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    tau : float, default 4
        Temperature of both softmaxes.
    beta : float, default 1
        Weight of the relation between classes, >= 0.
    gamma : float, default 1
        Weight of the relation within classes, >= 0.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, in [0, 2 tau^2 (beta + gamma)].

    See Also
    --------
    correlation_kd : Pearson's correlation along the classes alone, and the order of the classes.
    standardized_kd : KL at any scale and shift of the logits.

    References
    ----------
    Huang et al., "Knowledge distillation from a stronger teacher", NeurIPS 2022, arXiv 2205.10536. Its code adds 1e-8
    to the product of the norms, which weakens columns of small variance: at 1,000 classes and tau = 4 the gradient
    differs from this one in the third digit.

    Examples
    --------
    >>> logits = torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    >>> abs(float(dist(logits, logits))) < 1e-5
    True
    """
    must_be_temperature(tau, "tau")
    must_be_weight(beta, "beta")
    must_be_weight(gamma, "gamma")
    s, t = logits_pair(student, teacher, check)
    p_s, p_t = torch.softmax(s / tau, 1), torch.softmax(t / tau, 1)
    between, within = 1 - pearson(p_s, p_t, 1).mean(), 1 - pearson(p_s, p_t, 0).mean()
    return tau**2 * (beta * between + gamma * within)


def correlation_kd(
    student: Tensor,
    teacher: Tensor,
    tau: float = 4.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    softness: float = 0.1,
    *,
    check: bool = True,
) -> Tensor:
    r"""Correlation matching: Pearson's correlation of probabilities and a soft Spearman correlation of logits.

    .. math:: \frac1N \sum_i \beta \big(1 - \rho(p^s_i, p^t_i)\big) + \gamma \big(1 - \rho(r^s_i, r^t_i)\big),
              \qquad r_{ic} = \sum_{j} \sigma\big((z_{ic} - z_{ij}) / \mathrm{softness}\big)

    with p at temperature tau, z the z-scored logits and r their soft ranks, which become ranks as `softness` -> 0.
    Memory grows as N C^2.

    It follows the paper's idea, not its numbers: the weights are fixed here, where those of the paper follow each
    example's difficulty, and the paper uses a differentiable sorting for the ranks. Its code was not available for a
    comparison.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    tau : float, default 4
        Temperature of both softmaxes.
    beta : float, default 1
        Weight of the linear correlation, >= 0.
    gamma : float, default 1
        Weight of the rank correlation, >= 0.
    softness : float, default 0.1
        Width of the steps of the soft ranks, in standard deviations of the logits.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, in [0, 2 (beta + gamma)].

    See Also
    --------
    dist : Pearson's correlation along the classes and along the batch.
    rank_kd : The order of the classes alone, by Kendall's tau.

    References
    ----------
    Niu et al., "Efficient and robust knowledge distillation from a stronger teacher based on correlation matching",
    arXiv 2410.06561. Soft ranks by pairwise sigmoids: Qin, Liu, Li, "A general approximation framework for direct
    optimization of information retrieval measures", Information Retrieval 13, 2010.

    Examples
    --------
    >>> logits = torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    >>> abs(float(correlation_kd(2.0 * logits, logits, beta=0.0))) < 1e-6  # the order is the same
    True
    """
    must_be_temperature(tau, "tau")
    must_be_positive(softness, "softness")
    must_be_weight(beta, "beta")
    must_be_weight(gamma, "gamma")
    s, t = logits_pair(student, teacher, check)
    linear = 1 - pearson(torch.softmax(s / tau, 1), torch.softmax(t / tau, 1), 1).mean()
    order = 1 - pearson(_soft_ranks(s, softness), _soft_ranks(t, softness), 1).mean()
    return beta * linear + gamma * order


def rank_kd(student: Tensor, teacher: Tensor, steepness: float = 1.0, *, check: bool = True) -> Tensor:
    r"""One minus a smooth Kendall tau between the orders of the classes: an auxiliary to other terms.

    .. math:: 1 - \frac{2}{C(C-1)} \sum_{j<c} \tanh\big(k \, (t_c - t_j)(s_c - s_j)\big)

    Every pair of classes counts the same, however improbable; a KL divergence neglects the improbable ones. As the
    steepness k grows, the sum becomes Kendall's tau (without ties). Memory grows as N C^2.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    steepness : float, default 1
        The factor k, per squared logit.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, in [0, 2].

    See Also
    --------
    correlation_kd : Soft ranks by Spearman's correlation.
    Criterion : Adds this term to any other by `rank_weight`.

    References
    ----------
    Guan et al., "Enhancing logits distillation with plug&play Kendall's tau ranking loss", ICML 2025, arXiv 2409.17823,
    after the paper: its code was not available for a comparison. The hyperbolic tangent of the product: Zheng et al.,
    "DiffKendall", NeurIPS 2023, arXiv 2307.15317, whose code has 2 sigmoid(beta x) - 1, the same at beta = 2k: values
    and gradients agree with it to rounding.

    Examples
    --------
    >>> teacher = torch.tensor([[3.0, 0.0, 1.0]])
    >>> [round(float(rank_kd(student, teacher, steepness=100.0)), 4) for student in (teacher, -teacher)]
    [0.0, 2.0]
    """
    must_be_positive(steepness, "steepness")
    s, t = logits_pair(student, teacher, check)
    # Every pair twice: the gradient of all differences is a sum; that of a selection of them is far slower.
    agreement = (t[:, :, None] - t[:, None, :]) * (s[:, :, None] - s[:, None, :])
    rows, classes = s.shape
    return 1 - torch.tanh(steepness * agreement).sum() / (rows * classes * (classes - 1))


def pld(student: Tensor, teacher: Tensor, labels: Tensor, tau: float = 1.0, *, check: bool = True) -> Tensor:
    r"""PLD: the student's likelihood of one order of the classes, each choice weighted by the teacher's probability.

    .. math:: \frac1N \sum_i \sum_{k=1}^{C} p^t_{\pi_k}
              \Big(-s_{\pi_k} + \log \sum_{l \ge k} \exp s_{\pi_l}\Big)

    :math:`\pi` has the label first, then the other classes from the teacher's largest logit to the smallest (of equal
    ones the first comes first). The first choice is the cross-entropy, so none stands beside it by default.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    labels : Tensor of int, shape (N,)
        Classes of the examples, in [0, C).
    tau : float, default 1
        Temperature of the teacher's softmax, the weights of the choices.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0, in nats; convex in the student's logits. It nears 0 as the student's logits fall steeply along
        the order.

    See Also
    --------
    rank_kd : The order of all pairs of classes, without their probabilities.

    References
    ----------
    Bassam, Zhu, Bian, "PLD: A choice-theoretic list-wise knowledge distillation", NeurIPS 2025, arXiv 2506.12542, after
    the paper: its code was not available for a comparison. On CIFAR-100 the paper has tau = 4.

    Examples
    --------
    >>> sure = torch.tensor([[60.0, 0.0, 1.0]])
    >>> round(float(pld(torch.zeros(1, 3), sure, torch.tensor([0]))), 4)  # the cross-entropy: log 3
    1.0986
    """
    must_be_temperature(tau, "tau")
    s, t = logits_pair(student, teacher, check)
    y = checked_labels(labels, s, check)
    first = torch.zeros_like(t).scatter(1, y[:, None], 1.0)
    order = t.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, first.gather(1, order).argsort(dim=1, descending=True, stable=True))
    in_order = s.gather(1, order)
    rest = in_order.flip(1).logcumsumexp(1).flip(1)
    return (torch.softmax(t / tau, 1).gather(1, order) * (rest - in_order)).sum(1).mean()


def _soft_ranks(logits: Tensor, softness: float) -> Tensor:
    """Differentiable ranks of each row's classes, (N, C), from pairwise sigmoids."""
    z, _ = standardize(logits)
    return torch.sigmoid((z[:, :, None] - z[:, None, :]) / softness).sum(2)
