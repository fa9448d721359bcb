"""A loss that moves probability between classes, at a cost that says how far apart two classes are."""

from __future__ import annotations

import torch
from torch import Tensor

from capmismatch.errors import InputError, must_be_positive, must_be_temperature, must_count
from capmismatch.losses._terms import checked_labels, direction, logits_pair, must_be_weight, product
from capmismatch.losses.decoupled import target_term

GUARD = 1e-8  # of the source: added to costs, and to what is divided by


def wkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    tau: float = 8.0,
    gamma: float = 800.0,
    sharpness: float = 1.0,
    epsilon: float = 0.05,
    iterations: int = 10,
    *,
    cost: Tensor | None = None,
    check: bool = True,
) -> Tensor:
    r"""WKD-L: the cost of moving the student's wrong classes into the teacher's, and the target's cross-entropy.

    .. math:: \frac1N \sum_i -p^t_y \log p^s_y + \gamma \sum_{a, b \ne y} F_{ab} D_{ab}

    F is the flow of Sinkhorn's iterations between the softmaxes over the wrong classes at tau, of the student to the
    teacher, with :math:`e^{-D/\epsilon}` as kernel. A KL divergence punishes mass on a class as much as on any other;
    here mass on a class that is like the right one costs little.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    labels : Tensor of int, shape (N,)
        Classes of the examples, in [0, C).
    tau : float, default 8
        Temperature over the wrong classes.
    gamma : float, default 800
        Weight of the flow, >= 0.
    sharpness : float, default 1
        The k of :math:`D = 1 - e^{-k d}`, > 0; see `cost`.
    epsilon : float, default 0.05
        Of the entropy that Sinkhorn's flow keeps, > 0.
    iterations : int, default 10
        Of Sinkhorn, 1 or more.
    cost : Tensor, shape (C, C), optional
        D itself, in [0, inf), such as 1 minus a class affinity. By default it is made of the batch, from
        :math:`d = 1 - \rho` with Pearson's correlation over the batch's examples of the teacher's logits of two
        classes, less each row's mean.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0. The flow costs something even where both sides are equal, as its entropy spreads it.

    See Also
    --------
    nkd : The same target's term, with a cross-entropy of the wrong classes.

    Notes
    -----
    The paper takes d from features of the teacher's training images (a kernel alignment of classes) or from the weights
    of its last layer; logits do not tell them, so the default here is another: the numbers agree for a given `cost`. As
    in its code, 1e-8 guards the divisions, so that hardly anything is moved at costs above 18 epsilon.

    References
    ----------
    Lv, Yang, Li, "Wasserstein distance rivals Kullback-Leibler divergence for knowledge distillation", NeurIPS 2024,
    arXiv 2412.08139. For a given cost equal to ``wkd_logit_loss_with_speration`` of its code, which has no licence; the
    formula is the paper's.

    Examples
    --------
    >>> near, far = torch.tensor([[9.0, 5.0, 0.0, 0.0]]), torch.tensor([[9.0, 0.0, 0.0, 5.0]])
    >>> teacher, label = torch.tensor([[9.0, 0.0, 5.0, 0.0]]), torch.tensor([0])
    >>> cost = 0.5 * torch.tensor([[0, 1, 1, 1], [1, 0, 0.1, 1], [1, 0.1, 0, 1], [1, 1, 1, 0]])
    >>> bool(wkd(near, teacher, label, cost=cost) < wkd(far, teacher, label, cost=cost))
    True
    """
    must_be_temperature(tau, "tau")
    must_be_weight(gamma, "gamma")
    must_be_positive(sharpness, "sharpness")
    must_be_positive(epsilon, "epsilon")
    must_count(iterations, "iterations", most=10_000)
    s, t = logits_pair(student, teacher, check)
    y = checked_labels(labels, s, check)
    d = _relations(t, sharpness) if cost is None else _given(cost, t, check)
    # A class without mass takes part in nothing: so all rows share one matrix of costs.
    own, theirs = (_wrong_softmax(logits, y, tau) for logits in (s, t))
    return target_term(s, t, y) + gamma * _transport(own, theirs, d.relu() + GUARD, y, epsilon, iterations).mean()


def _wrong_softmax(logits: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Softmax over the wrong classes, (N, C), with 0 for the label."""
    return torch.softmax((logits / tau).scatter(1, labels[:, None], -torch.inf), 1)


def _transport(a: Tensor, b: Tensor, cost: Tensor, labels: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Cost (N,) of the flow from each row of `a` to that of `b`."""
    kernel = torch.exp(-cost / epsilon)
    u = torch.full_like(a, 1 / (a.shape[1] - 1)).scatter(1, labels[:, None], 0.0)
    v = b
    for _ in range(iterations):
        v = b / (product(u, kernel) + GUARD)
        u = a / (product(v, kernel.T) + GUARD)
    return (product(u, kernel * cost) * v).sum(1)


def _relations(teacher: Tensor, sharpness: float) -> Tensor:
    """How far classes are apart, (C, C), by the teacher's logits of a batch."""
    columns = direction(teacher - teacher.mean(1, keepdim=True), 0)
    same = torch.eye(teacher.shape[1], dtype=torch.bool, device=teacher.device)
    return -torch.expm1(-sharpness * (1 - product(columns.T, columns)).masked_fill(same, 0.0))


def _given(cost: Tensor, teacher: Tensor, check: bool) -> Tensor:
    classes = teacher.shape[1]
    if not isinstance(cost, Tensor):
        raise InputError(f"expected a cost of shape ({classes}, {classes}) as a tensor, got {cost!r}")
    if cost.shape != (classes, classes):
        raise InputError(f"expected a cost of shape ({classes}, {classes}), got {tuple(cost.shape)}")
    if check and not bool(((cost >= 0) & torch.isfinite(cost)).all()):
        raise InputError(f"expected costs >= 0, got {float(cost.min()):g}")
    return cost.detach().to(teacher)
