"""Losses whose temperatures are not those of the student and teacher alike: by example, or of the teacher alone."""

from __future__ import annotations

import torch
from torch import Tensor

from capmismatch._numerics.soft_label_spec import CENTERS
from capmismatch.errors import InputError, must_be_one_of, must_be_temperature
from capmismatch.losses._terms import kl, logits_pair, must_be_weight


def dtkd(
    student: Tensor,
    teacher: Tensor,
    tau: float = 4.0,
    alpha: float = 3.0,
    beta: float = 1.0,
    *,
    center: str = "mean",
    check: bool = True,
) -> Tensor:
    r"""DTKD: each example's temperature is shared out between both sides by their largest logits; plus `kd`.

    .. math:: \frac1N \sum_i \alpha \, \tau^t_i \tau^s_i \, \mathrm{KL}(p^t_{\tau^t_i} \| p^s_{\tau^s_i})
              + \beta \tau^2 \, \mathrm{KL}(p^t_\tau \| p^s_\tau),
              \qquad \tau^t_i = \frac{2 m^t_i}{m^t_i + m^s_i} \tau, \quad \tau^s_i = \frac{2 m^s_i}{m^t_i + m^s_i} \tau

    with m the largest logit. The surer side gets the higher temperature; their mean is tau, and gradients flow through
    the student's m. Logits are centred first, so that a constant added to a row changes nothing and m is positive; a
    row that is constant on one side takes tau for both.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    tau : float, default 4
        Mean of both temperatures, and that of `kd`.
    alpha : float, default 3
        Weight of the term at the shared temperatures, >= 0.
    beta : float, default 1
        Weight of `kd`, >= 0.
    center : str, default "mean"
        "mean" subtracts each row's mean logit first; "none" takes the largest logits as they are, which have to be
        positive then, as the source does.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0; 0 where the logits are equal up to a constant in each row.

    Raises
    ------
    InputError
        With ``center="none"``, a row whose largest logit is not positive.

    See Also
    --------
    norm_kd : Temperatures from the deviation of each side's logits.
    capmismatch.temperature.isats : A temperature for each example of the teacher.

    References
    ----------
    Wei, Bai, "Dynamic temperature knowledge distillation", arXiv 2404.12711. With ``center="none"`` equal to
    ``DTKD.py`` of its code (MIT); its authors note that their derivation is wrong, and that the results stand.

    Examples
    --------
    >>> student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[9.0, 0.0, -9.0]])
    >>> round(float(dtkd(student, teacher, beta=0.0)), 4)  # 9 of 10 parts of the temperature are the teacher's
    0.0
    """
    must_be_temperature(tau, "tau")
    must_be_weight(alpha, "alpha")
    must_be_weight(beta, "beta")
    must_be_one_of(center, CENTERS, "center")
    s, t = logits_pair(student, teacher, check)
    rounding = _resolution(s), _resolution(t)
    if center == "mean":
        s, t = s - s.mean(1, keepdim=True), t - t.mean(1, keepdim=True)
    elif check:
        _must_be_positive(s, "student")
        _must_be_positive(t, "teacher")
    tau_s, tau_t = _shared_temperatures(s, t, rounding, tau)
    shared = tau_t[:, 0] * tau_s[:, 0] * kl(torch.log_softmax(t / tau_t, 1), torch.log_softmax(s / tau_s, 1))
    plain = tau**2 * kl(torch.log_softmax(t / tau, 1), torch.log_softmax(s / tau, 1))
    return (alpha * shared + beta * plain).mean()


def _shared_temperatures(
    student: Tensor, teacher: Tensor, rounding: tuple[Tensor, Tensor], tau: float
) -> tuple[Tensor, Tensor]:
    """Temperatures (N, 1) of both sides; the same where the largest logit of one is nothing but rounding."""
    m_s, m_t = student.amax(1, keepdim=True), teacher.amax(1, keepdim=True)
    flat = (m_s <= rounding[0]) | (m_t <= rounding[1])
    m_s, m_t = torch.where(flat, 1.0, m_s), torch.where(flat, 1.0, m_t)
    return 2 * tau * m_s / (m_s + m_t), 2 * tau * m_t / (m_s + m_t)


def _resolution(logits: Tensor) -> Tensor:
    """Differences between the logits of a row, (N, 1), that are nothing but rounding."""
    return 8 * torch.finfo(logits.dtype).eps * logits.detach().abs().amax(1, keepdim=True).clamp_min(1.0)


def _must_be_positive(logits: Tensor, side: str) -> None:
    largest = logits.detach().amax(1)
    bad = (largest <= 0).nonzero()
    if len(bad):
        row = int(bad[0])
        raise InputError(
            f"expected a positive largest {side} logit, as center='none' divides by it, got {float(largest[row]):g} at "
            f"row {row}: take center='mean'"
        )


def ttm(student: Tensor, teacher: Tensor, tau: float = 10.0, *, check: bool = True) -> Tensor:
    r"""TTM: the teacher alone is softened, :math:`\mathrm{KL}(p^t_\tau \| p^s_1)`.

    The paper writes the softened teacher as a power of its probabilities, :math:`p^\gamma / \sum p^\gamma` with
    :math:`\gamma = 1/\tau`. Leaving the student's temperature out adds a Renyi entropy to `kd`, which keeps the student
    from being too sure.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    tau : float, default 10
        Temperature of the teacher's softmax.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0, in nats; 0 where the student's logits are the teacher's over tau, up to a constant in each row.

    See Also
    --------
    soft_cross_entropy : The same gradient, with soft labels that are made before the training.
    wttm : With a weight for each example.

    References
    ----------
    Zheng, Yang, "Knowledge distillation based on transformed teacher matching", ICLR 2024, arXiv 2402.11148. Equal to
    ``ttm.py`` of its code (MIT), whose example has gamma = 0.1 and weights 1 and 45.

    Examples
    --------
    >>> teacher = torch.tensor([[4.0, 0.0]])
    >>> float(ttm(teacher / 4, teacher, tau=4.0))
    0.0
    """
    return _transformed(student, teacher, tau, check)[0].mean()


def wttm(student: Tensor, teacher: Tensor, tau: float = 5.0, *, check: bool = True) -> Tensor:
    r"""WTTM: `ttm` with more weight on examples that the teacher is less sure of.

    .. math:: \frac1N \sum_i U_i \, \mathrm{KL}(p^t_{\tau,i} \| p^s_{1,i}), \qquad U = \sum_c (p^t_c)^{1/\tau}

    with p of the weight at temperature 1. U is 1 for a teacher that is certain, and :math:`C^{1 - 1/\tau}` for one that
    knows nothing.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    tau : float, default 5
        Temperature of the teacher's softmax.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0; 0 where `ttm` is.

    See Also
    --------
    ttm : Without the weight.

    References
    ----------
    Zheng, Yang, ICLR 2024, arXiv 2402.11148. Equal to ``wttm.py`` of its code (MIT), whose example has gamma = 0.2 and
    weight 4.

    Examples
    --------
    >>> student, unsure = torch.tensor([[2.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    >>> round(float(wttm(student, unsure, tau=2.0) / ttm(student, unsure, tau=2.0)), 4)  # the square root of 4
    2.0
    """
    rows, log_weight = _transformed(student, teacher, tau, check)
    return (log_weight.exp() * rows).mean()


def _transformed(student: Tensor, teacher: Tensor, tau: float, check: bool) -> tuple[Tensor, Tensor]:
    """KL(teacher at tau || student at 1) of each row, and the log of the sum of the teacher's powers, (N,) each."""
    must_be_temperature(tau, "tau")
    s, t = logits_pair(student, teacher, check)
    powers = torch.log_softmax(t, 1) / tau
    log_weight = powers.logsumexp(1)
    return kl(powers - log_weight[:, None], torch.log_softmax(s, 1)), log_weight
