"""Decoupled knowledge distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from capmismatch.errors import must_be_positive
from capmismatch.losses._terms import checked_labels, checked_number, kl, logits_pair


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
    r"""DKD: the target and the non-target part of `kd`, weighted apart, :math:`\tau^2 (\alpha\,TCKD + \beta\,NCKD)`.

    .. math::
        TCKD = \mathrm{KL}(b^t \| b^s), \quad b = (p_y, 1 - p_y), \qquad
        NCKD = \mathrm{KL}(\tilde q^t \| \tilde q^s), \quad \tilde q = \text{softmax over the wrong classes}

    `kd` is :math:`\tau^2 (TCKD + (1 - p^t_y)\,NCKD)`. Computed from logits throughout, so that 1 - p_y keeps its digits
    where p_y is 1 in floating point.

    Parameters
    ----------
    student, teacher : (N, C) logits
    labels : (N,) integers in [0, C)
    tau : temperature of all softmaxes
    alpha, beta : weights of the two parts, >= 0; the paper's `beta` goes with the teacher (2 to 8 on CIFAR-100)
    check : whether values are looked at too: one pass over the inputs, and a wait for their device

    Returns
    -------
    Scalar tensor >= 0.

    References
    ----------
    Zhao et al., "Decoupled knowledge distillation", CVPR 2022, arXiv 2203.08679.

    Examples
    --------
    >>> student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[4.0, 1.0, 0.0]])
    >>> float(dkd(student, teacher, torch.tensor([0]), alpha=0.0))  # they agree about the wrong classes
    0.0
    """
    must_be_positive(tau, "tau")
    checked_number(alpha, "alpha")
    checked_number(beta, "beta")
    s, t = logits_pair(student, teacher, check)
    y = checked_labels(labels, s, check)
    binary_s, wrong_s = _decouple(s / tau, y)
    binary_t, wrong_t = _decouple(t / tau, y)
    return tau**2 * (alpha * kl(binary_t, binary_s) + beta * kl(wrong_t, wrong_s)).mean()


def _decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of (target, the rest), shape (N, 2), and of the wrong classes among themselves, (N, C - 1)."""
    # Gathered, not masked: how many entries a mask selects is known only after a wait for the device.
    columns = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    target = logits.gather(1, labels[:, None])
    wrong = logits.gather(1, columns + (columns >= labels[:, None]))
    binary = torch.cat([target, torch.logsumexp(wrong, 1, keepdim=True)], 1)
    return torch.log_softmax(binary, 1), torch.log_softmax(wrong, 1)
