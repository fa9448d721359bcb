"""Losses on softened probabilities: Hinton's, its variants by temperature, and the asymmetric soft labels."""

from __future__ import annotations

import torch
from torch import Tensor

from capmismatch import temperature
from capmismatch._numerics.arrays import as_logits
from capmismatch._numerics.soft_label_spec import TAU_OTHER, WRONG_ROWS
from capmismatch.errors import InputError, must_be_positive, must_be_temperature
from capmismatch.losses._terms import checked_labels, kl, logits_pair, must_be_tensors, single, standardize


def kd(student: Tensor, teacher: Tensor, tau: float = 4.0, *, check: bool = True) -> Tensor:
    r"""Hinton's distillation term, :math:`\tau^2 \, \mathrm{KL}(p^t_\tau \| p^s_\tau)`.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    tau : float, default 4
        Temperature of both softmaxes.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0; 0 where the logits are equal up to a constant in each row.

    See Also
    --------
    soft_cross_entropy : With soft labels that are made before the training.
    dkd, norm_kd, standardized_kd, curriculum_kd : Variants of this term.
    capmismatch.temperature.soften : The softened probabilities.

    References
    ----------
    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", arXiv 1503.02531.

    Examples
    --------
    >>> round(float(kd(torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0]]), tau=4.0)), 4)
    1.7751
    """
    must_be_temperature(tau, "tau")
    s, t = logits_pair(student, teacher, check)
    return tau**2 * kl(torch.log_softmax(t / tau, 1), torch.log_softmax(s / tau, 1)).mean()


def soft_cross_entropy(student: Tensor, soft_labels: Tensor, tau_student: float = 1.0, *, check: bool = True) -> Tensor:
    r"""Cross-entropy with given soft labels, :math:`\tau_s^2 \, H(q, p^s_{\tau_s})`, where H(q, p) = - sum q_c log p_c.

    The soft labels may be made at any temperature: with the teacher's softmax at tau = 4 and `tau_student` = 1 this is
    distillation at separate temperatures. It differs from a KL divergence by the entropy of `soft_labels`, which is
    constant for the student: the gradients are the same.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    soft_labels : Tensor, shape (N, C)
        Probabilities.
    tau_student : float, default 1
        Temperature of the student's softmax.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0; at its least the entropy of the soft labels, where the student's probabilities equal them.

    Raises
    ------
    InputError
        `soft_labels` has negative entries, or rows that do not sum to 1 (such as logits).

    See Also
    --------
    kd : The teacher's logits at the student's temperature.
    ats, isats : Soft labels with temperatures by class or by example.
    capmismatch.soft_labels : Soft labels of a bank, as a file.

    References
    ----------
    Hinton, Vinyals, Dean, arXiv 1503.02531, section 2.

    Examples
    --------
    >>> round(float(soft_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.8, 0.2]]))), 4)
    0.6931
    """
    must_be_temperature(tau_student, "tau_student")
    s, q = _logits_and_soft_labels(student, soft_labels, check)
    return -(tau_student**2) * (q * torch.log_softmax(s / tau_student, 1)).sum(1).mean()


def ats(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    tau_target: float = 4.0,
    tau_other: float = TAU_OTHER,
    tau_student: float = 1.0,
    *,
    center: str = "mean",
    check: bool = True,
) -> Tensor:
    r"""Cross-entropy with the teacher's ATS soft labels, :math:`\tau_s^2 \, H(q^{ATS}, p^s_{\tau_s})`.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    labels : Tensor of int, shape (N,)
        Classes of the examples, in [0, C).
    tau_target : float, default 4
        Temperature of the target's logit.
    tau_other : float, default 2
        Temperature of the wrong classes' logits.
    tau_student : float, default 1
        Temperature of the student's softmax.
    center : str, default "mean"
        As in `capmismatch.temperature.ats`.
    check : bool, default True
        Whether the student's values are checked too; the teacher's always are.

    Returns
    -------
    Tensor
        Scalar, >= 0.

    See Also
    --------
    capmismatch.temperature.ats : The soft labels.
    isats : A temperature for each example instead.

    References
    ----------
    Li et al., "Asymmetric temperature scaling makes larger networks teach well again", NeurIPS 2022, arXiv 2210.04427.

    Examples
    --------
    >>> logits, labels = torch.tensor([[3.0, 0.0, -3.0]]), torch.tensor([0])
    >>> round(float(ats(torch.zeros(1, 3), logits, labels)), 4)  # log 3
    1.0986
    """
    _, t = logits_pair(student, teacher, check)
    q = temperature.ats(t, checked_labels(labels, t, check), tau_target, tau_other, center=center)
    return soft_cross_entropy(student, q, tau_student, check=check)


def isats(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    tau_target: float = 4.0,
    tau_student: float = 1.0,
    *,
    bounds: tuple[float, float] = (0.5, 8.0),
    constraint: str = "order",
    center: str = "mean",
    margin: float | None = None,
    wrong: str = WRONG_ROWS,
    check: bool = True,
) -> Tensor:
    r"""Cross-entropy with the teacher's ISATS soft labels, :math:`\tau_s^2 \, H(q^{ISATS}, p^s_{\tau_s})`.

    The search for each example's temperature runs in every call. If the teacher sees the same inputs again and again,
    compute the soft labels once and use `soft_cross_entropy`.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    labels : Tensor of int, shape (N,)
        Classes of the examples, in [0, C).
    tau_target : float, default 4
        Temperature of the target's logit.
    tau_student : float, default 1
        Temperature of the student's softmax.
    bounds : tuple of float, default (0.5, 8.0)
        As in `capmismatch.temperature.isats`.
    constraint : str, default "order"
        As in `capmismatch.temperature.isats`.
    center : str, default "mean"
        As in `capmismatch.temperature.isats`.
    margin : float, optional
        As in `capmismatch.temperature.isats`.
    wrong : str, default "free"
        As in `capmismatch.temperature.isats`.
    check : bool, default True
        Whether the student's values are checked too; the teacher's always are.

    Returns
    -------
    Tensor
        Scalar, >= 0.

    See Also
    --------
    capmismatch.temperature.isats : The soft labels.
    ats : One temperature for all wrong classes instead.

    References
    ----------
    Fan, Li, Zhan, Frontiers of Computer Science 2026, 20(6): 2006333, arXiv 2405.13078.

    Examples
    --------
    >>> logits, labels = torch.tensor([[9.0, 3.0, -5.0, -7.0]]), torch.tensor([0])
    >>> round(float(isats(torch.zeros(1, 4), logits, labels)), 4)  # log 4
    1.3863
    """
    _, t = logits_pair(student, teacher, check)
    y, options = checked_labels(labels, t, check), {"constraint": constraint, "center": center, "wrong": wrong}
    q = temperature.isats(t, y, tau_target, bounds, margin=margin, **options).probs
    return soft_cross_entropy(student, q, tau_student, check=check)


def norm_kd(student: Tensor, teacher: Tensor, n: float = 2.0, *, check: bool = True) -> Tensor:
    r"""NormKD: each example and each side at its own temperature, in proportion to the deviation of its logits.

    .. math:: \frac1N \sum_i T_{t,i}^2 \, \mathrm{KL}(p^t_{T_{t,i}} \| p^s_{T_{s,i}}),
              \qquad T_{\cdot,i} = n \, \mathrm{std}(f_i)

    with the unbiased standard deviation; gradients flow through the student's. The student's scale is free: multiplying
    its logits changes nothing. A row of constant teacher logits has temperature 0 and adds nothing.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    n : float, default 2
        Temperature in standard deviations.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0.

    See Also
    --------
    standardized_kd : Z-scored logits at one temperature.

    References
    ----------
    Chi et al., "NormKD: Normalized logits for knowledge distillation", arXiv 2308.00520.

    Examples
    --------
    >>> logits = torch.tensor([[3.0, 1.0, -1.0]])
    >>> float(norm_kd(5.0 * logits, logits))
    0.0
    """
    must_be_positive(n, "n")
    s, t = logits_pair(student, teacher, check)
    z_s, _ = standardize(s)
    z_t, std_t = standardize(t)
    rows = kl(torch.log_softmax(z_t / n, 1), torch.log_softmax(z_s / n, 1))
    return ((n * std_t[:, 0]) ** 2 * rows).mean()


def standardized_kd(student: Tensor, teacher: Tensor, tau: float = 2.0, *, check: bool = True) -> Tensor:
    r"""`kd` of logits that are z-scored row by row.

    .. math:: \tau^2 \, \mathrm{KL}(p(z^t/\tau) \| p(z^s/\tau)), \qquad z = (f - \bar f)/\mathrm{std}(f)

    with the unbiased standard deviation. The student matches the teacher's relations, at whatever scale.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    tau : float, default 2
        Temperature of both softmaxes.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0; 0 where each row of one side is an increasing linear function of the other's.

    See Also
    --------
    norm_kd : Logits at a temperature from their deviation, without centring.
    dist : Correlation of probabilities.

    References
    ----------
    Sun et al., "Logit standardization in knowledge distillation", CVPR 2024, arXiv 2403.01427. Its code adds 1e-7 to
    the deviation; here a constant row has scores 0 instead.

    Examples
    --------
    >>> logits = torch.tensor([[3.0, 1.0, -1.0]])
    >>> float(standardized_kd(5.0 * logits + 1.0, logits))
    0.0
    """
    must_be_temperature(tau, "tau")
    s, t = logits_pair(student, teacher, check)
    z_s, z_t = standardize(s)[0], standardize(t)[0]
    return tau**2 * kl(torch.log_softmax(z_t / tau, 1), torch.log_softmax(z_s / tau, 1)).mean()


def _logits_and_soft_labels(student: Tensor, soft_labels: Tensor, check: bool) -> tuple[Tensor, Tensor]:
    """Return logits and soft labels in the logits' precision; see `logits_pair`."""
    must_be_tensors({"student logits": student, "soft labels": soft_labels})
    s = as_logits(student, place="student logits") if check else single(student)
    q = (_checked_probabilities(soft_labels.detach()) if check else soft_labels.detach()).to(s.dtype)
    if s.shape != q.shape or len(s) == 0:
        shapes = f"{tuple(s.shape)} and {tuple(q.shape)}"
        raise InputError(f"expected student logits and soft labels of one shape (N, C), got {shapes}")
    return s, q


def _checked_probabilities(soft_labels: Tensor) -> Tensor:
    q = as_logits(soft_labels, place="soft labels")
    # A tolerance for soft labels stored in half precision.
    bad = ((q < 0).any(1) | ((q.sum(1) - 1).abs() > 1e-2)).nonzero()
    if len(bad):
        row = int(bad[0])
        low, total = float(q[row].min()), float(q[row].sum())
        raise InputError(
            f"expected soft labels >= 0 that sum to 1, got least entry {low:.4g} and sum {total:.4g} at row {row}"
        )
    return q
