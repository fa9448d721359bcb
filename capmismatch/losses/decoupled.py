"""Losses that treat the target and the wrong classes apart."""

from __future__ import annotations

import torch
from torch import Tensor

from capmismatch.errors import must_be_temperature
from capmismatch.losses._terms import checked_labels, kl, logits_pair, must_be_weight


def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    tau: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    *,
    check: bool = True,
) -> Tensor:
    r"""DKD: target and non-target part of `kd`, with a weight each, :math:`\tau^2 (\alpha\,TCKD + \beta\,NCKD)`.

    .. math::
        TCKD = \mathrm{KL}(b^t \| b^s), \quad b = (p_y, 1 - p_y), \qquad
        NCKD = \mathrm{KL}(\tilde q^t \| \tilde q^s), \quad \tilde q = \text{softmax over the wrong classes}

    `kd` is :math:`\tau^2 (TCKD + (1 - p^t_y)\,NCKD)`. Computed from logits throughout, so that 1 - p_y keeps its digits
    where p_y is 1 in floating point.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    labels : Tensor of int, shape (N,)
        Classes of the examples, in [0, C).
    tau : float, default 4
        Temperature of all softmaxes.
    alpha : float, default 1
        Weight of TCKD, >= 0.
    beta : float, default 8
        Weight of NCKD, >= 0. The paper chooses it by the teacher (2 to 8 on CIFAR-100).
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0.

    See Also
    --------
    kd : Both parts, at the weights that the KL divergence gives them.
    nkd : Cross-entropies instead of divergences.
    ats : Target and wrong classes at different temperatures.

    References
    ----------
    Zhao et al., "Decoupled knowledge distillation", CVPR 2022, arXiv 2203.08679.

    Examples
    --------
    >>> student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[4.0, 1.0, 0.0]])
    >>> float(dkd(student, teacher, torch.tensor([0]), alpha=0.0))  # they agree about the wrong classes
    0.0
    """
    must_be_temperature(tau, "tau")
    must_be_weight(alpha, "alpha")
    must_be_weight(beta, "beta")
    s, t = logits_pair(student, teacher, check)
    y = checked_labels(labels, s, check)
    binary_s, wrong_s = _decouple(s / tau, y)
    binary_t, wrong_t = _decouple(t / tau, y)
    return tau**2 * (alpha * kl(binary_t, binary_s) + beta * kl(wrong_t, wrong_s)).mean()


def nkd(
    student: Tensor, teacher: Tensor, labels: Tensor, tau: float = 1.0, gamma: float = 1.5, *, check: bool = True
) -> Tensor:
    r"""NKD: the target's cross-entropy weighted by the teacher's p_y, and that of the wrong classes among themselves.

    .. math:: \frac1N \sum_i -p^t_y \log p^s_y - \gamma \tau^2 \sum_{c \ne y} \tilde q^t_c \log \tilde q^s_c,
              \qquad \tilde q = \text{softmax over the wrong classes at } \tau

    with p at temperature 1. It is a cross-entropy, not a divergence: the least value is not 0.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    labels : Tensor of int, shape (N,)
        Classes of the examples, in [0, C).
    tau : float, default 1
        Temperature over the wrong classes.
    gamma : float, default 1.5
        Weight of the wrong classes, >= 0.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0, in nats.

    See Also
    --------
    dkd : The same parts as divergences, each with a weight.

    References
    ----------
    Yang et al., "From knowledge distillation to self-knowledge distillation: A unified approach with normalized loss
    and customized soft labels", ICCV 2023, arXiv 2303.13005. Equal to ``nkd.py`` of its code (Apache-2.0), which has
    tau = 3 and gamma = 3.5 on CIFAR-100.

    Examples
    --------
    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[40.0, 0.0, 0.0]])
    >>> round(float(nkd(student, teacher, torch.tensor([0]), gamma=0.0)), 4)  # log 3: a sure teacher's target
    1.0986
    """
    must_be_temperature(tau, "tau")
    must_be_weight(gamma, "gamma")
    s, t = logits_pair(student, teacher, check)
    y = checked_labels(labels, s, check)
    return target_term(s, t, y) - gamma * tau**2 * (wrong_probs(t, y, tau) * wrong_log_probs(s, y, tau)).sum(1).mean()


def target_term(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Mean of -p_y of the teacher times log p_y of the student, at temperature 1."""
    log_p = torch.log_softmax(student, 1).gather(1, labels[:, None])
    return -(torch.softmax(teacher, 1).gather(1, labels[:, None]) * log_p).mean()


def wrong_log_probs(logits: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Log probabilities of each wrong class among the wrong ones, (N, C - 1)."""
    return torch.log_softmax(logits.gather(1, _wrong_columns(logits, labels)) / tau, 1)


def wrong_probs(logits: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Probabilities of each wrong class among the wrong ones, (N, C - 1)."""
    return wrong_log_probs(logits, labels, tau).exp()


def _decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of (target, all wrong classes), (N, 2), and of each wrong class among them, (N, C - 1)."""
    target, wrong = logits.gather(1, labels[:, None]), logits.gather(1, _wrong_columns(logits, labels))
    binary = torch.cat([target, torch.logsumexp(wrong, 1, keepdim=True)], 1)
    return torch.log_softmax(binary, 1), torch.log_softmax(wrong, 1)


def _wrong_columns(logits: Tensor, labels: Tensor) -> Tensor:
    """The numbers of the wrong classes of each example, (N, C - 1)."""
    # Gathered, not masked: the number of entries that a mask selects is known only after waiting for the device.
    columns = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    return columns + (columns >= labels[:, None])
