"""Curriculum temperature: a temperature that learns to make the student's task harder."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from capmismatch.errors import InputError, must_be_positive
from capmismatch.losses._terms import kl, logits_pair, must_be_weight


def curriculum_kd(
    student: Tensor,
    teacher: Tensor,
    theta: Tensor,
    strength: float = 1.0,
    low: float = 1.0,
    span: float = 20.0,
    *,
    check: bool = True,
) -> Tensor:
    r"""`kd` at a learnable temperature that is trained to make it larger, while the student makes it smaller.

    :math:`\tau = low + span \cdot \sigma(\theta)`. The gradient that reaches `theta` is reversed and multiplied by
    `strength`, so that one optimiser step descends for the student and ascends for the temperature.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    theta : Tensor
        Scalar: the raw temperature.
    strength : float, default 1
        How strongly the temperature opposes the student, >= 0.
    low : float, default 1
        The least temperature.
    span : float, default 20
        The temperature lies in (low, low + span).
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0: :math:`\tau^2 \, \mathrm{KL}(p^t_\tau \| p^s_\tau)`.

    See Also
    --------
    CurriculumKD : The same with its parameter, as a module.
    curriculum_strength : How the strength grows in the paper.
    kd : At a fixed temperature.

    References
    ----------
    Li et al., "Curriculum temperature for knowledge distillation", AAAI 2023, arXiv 2211.16231 (the global version).

    Examples
    --------
    >>> theta = torch.tensor(0.0, requires_grad=True)
    >>> curriculum_kd(torch.tensor([[0.0, 0.0]]), torch.tensor([[20.0, 0.0]]), theta, span=6.0).backward()
    >>> bool(theta.grad < 0)  # a step against the gradient raises the temperature, and with it the loss
    True
    """
    must_be_weight(strength, "strength")
    must_be_positive(low, "low")
    must_be_positive(span, "span")
    if theta.numel() != 1:
        raise InputError(f"expected theta to be a scalar tensor, got shape {tuple(theta.shape)}")
    s, t = logits_pair(student, teacher, check)
    tau = low + span * torch.sigmoid(_ReverseGradient.apply(theta.reshape(()).to(s.dtype), strength))
    return (tau**2 * kl(torch.log_softmax(t / tau, 1), torch.log_softmax(s / tau, 1))).mean()


def curriculum_strength(epoch: int, ramp_epochs: int = 10) -> float:
    r"""Strength of the temperature's opposition, from 0 to 1 along half a cosine.

    .. math:: \tfrac12 \big(1 - \cos(\pi \min(1, (e + 1)/E))\big)

    Parameters
    ----------
    epoch : int
        The e of the formula, counted from 0.
    ramp_epochs : int, default 10
        The E of the formula, after which the strength stays 1.

    Returns
    -------
    float
        In (0, 1].

    Examples
    --------
    >>> [round(curriculum_strength(epoch), 3) for epoch in (0, 4, 9, 100)]
    [0.024, 0.5, 1.0, 1.0]
    """
    must_be_positive(ramp_epochs, "ramp_epochs")
    return 0.5 * (1 - math.cos(math.pi * min(1.0, (epoch + 1) / ramp_epochs)))


class CurriculumKD(nn.Module):
    """`curriculum_kd` with its parameter: hand ``parameters()`` to the optimiser along with the student's.

    Parameters
    ----------
    low : float, default 1
        The least temperature.
    span : float, default 20
        The temperature lies in (low, low + span).
    ramp_epochs : int, default 10
        Epochs over which the strength grows, see `curriculum_strength`. Until `set_epoch` is called it is 1.

    See Also
    --------
    curriculum_kd : The term as a function.

    Examples
    --------
    >>> term = CurriculumKD()
    >>> round(float(term.tau), 3)
    15.621
    """

    def __init__(self, low: float = 1.0, span: float = 20.0, ramp_epochs: int = 10) -> None:
        super().__init__()
        must_be_positive(ramp_epochs, "ramp_epochs")
        self.low, self.span, self.ramp_epochs = low, span, ramp_epochs
        self.strength = 1.0
        self.theta = nn.Parameter(torch.ones(()))

    @property
    def tau(self) -> Tensor:
        """The current temperature."""
        return self.low + self.span * torch.sigmoid(self.theta.detach())

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0."""
        self.strength = curriculum_strength(epoch, self.ramp_epochs)

    def forward(self, student: Tensor, teacher: Tensor, *, check: bool = True) -> Tensor:
        """Return the term of a batch; see `curriculum_kd`."""
        return curriculum_kd(student, teacher, self.theta, self.strength, self.low, self.span, check=check)


class _ReverseGradient(torch.autograd.Function):
    """The identity forwards; backwards, -strength times the gradient (Ganin & Lempitsky 2015, arXiv 1409.7495)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None
