"""Divergences beside Hinton's: reverse, Jensen-Shannon, skewed, over the top k, alpha-beta."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from capmismatch.errors import InputError, must_be_one_of, must_be_temperature, must_count
from capmismatch.losses._terms import kl, logits_pair, must_be_tensors, single

TAILS = ("bucket", "renormalise", "both")
LEAST = -1e4  # a logarithm whose exponential is 0
MOST_MASS = 1e-3
"""Logarithm of the largest sum of a list's probabilities: half precision rounds."""


def reverse_kl(
    student: Tensor, teacher: Tensor, tau: float = 1.0, *, mask: Tensor | None = None, check: bool = True
) -> Tensor:
    r"""Reverse divergence, :math:`\tau^2 \, \mathrm{KL}(p^s_\tau \| p^t_\tau)`.

    It punishes mass that the student puts where the teacher has none, and forgives what the student leaves out.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits of all classes: the student's mass may lie on any of them.
    tau : float, default 1
        Temperature of both softmaxes.
    mask : Tensor of bool, shape (N,), optional
        The rows that count, such as the tokens of an answer; all by default.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0, in nats; 0 where the logits are equal up to a constant in each row.

    See Also
    --------
    kd : The divergence the other way round.
    js : Between the two.

    References
    ----------
    Gu et al., "MiniLLM: Knowledge distillation of large language models", ICLR 2024, arXiv 2306.08543. For given
    contexts, it is that of TRL's GKD trainer at beta = 1, times tau squared.

    Examples
    --------
    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    >>> round(float(reverse_kl(student, teacher)), 4), round(float(reverse_kl(teacher, student)), 4)
    (1.325, 0.6031)
    """
    log_q, log_p = _log_probs(student, teacher, tau, mask, check)
    return tau**2 * kl(log_q, log_p).mean()


def js(
    student: Tensor,
    teacher: Tensor,
    tau: float = 1.0,
    beta: float = 0.5,
    *,
    mask: Tensor | None = None,
    check: bool = True,
) -> Tensor:
    r"""Generalised Jensen-Shannon divergence, between `kd` (beta = 0) and `reverse_kl` (beta = 1).

    .. math:: \tau^2 \big(\beta \, \mathrm{KL}(p^t \| m) + (1-\beta) \, \mathrm{KL}(p^s \| m)\big),
              \qquad m = \beta \, p^t + (1-\beta) \, p^s

    with both softmaxes at tau. At the ends, where that would be 0, the divergence is the limit of its quotient by
    beta (1 - beta), as in TRL: `kd` and `reverse_kl` themselves.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits of all classes.
    tau : float, default 1
        Temperature of both softmaxes.
    beta : float, default 0.5
        Share of the teacher in the mixture, in [0, 1].
    mask : Tensor of bool, shape (N,), optional
        The rows that count; all by default.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0, in nats; for beta inside (0, 1) at most tau^2 log 2.

    See Also
    --------
    skewed_kl : One of its two parts, with a mixture of its own.

    References
    ----------
    Agarwal et al., "On-policy distillation of language models", ICLR 2024, arXiv 2306.13649, equation 1. TRL's
    ``GKDTrainer.generalized_jsd_loss`` is this without the factor tau squared.

    Examples
    --------
    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    >>> round(float(js(student, teacher)), 4)
    0.1804
    """
    _must_be_share(beta, "beta")
    log_q, log_p = _log_probs(student, teacher, tau, mask, check)
    if beta == 0:
        return tau**2 * kl(log_p, log_q).mean()
    if beta == 1:
        return tau**2 * kl(log_q, log_p).mean()
    log_m = _log_mixture(log_p, log_q, beta)
    return tau**2 * (beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)).mean()


def skewed_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float = 1.0,
    lam: float = 0.1,
    *,
    mask: Tensor | None = None,
    check: bool = True,
) -> Tensor:
    r"""Skewed divergence, :math:`\tau^2 \, \mathrm{KL}(p^t \| \lambda p^t + (1-\lambda) p^s)`.

    A little of the teacher in the second distribution bounds the loss, at tau^2 log(1/lam), and its gradient, where the
    student gives a likely class no chance.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits of all classes.
    tau : float, default 1
        Temperature of both softmaxes.
    lam : float, default 0.1
        Share of the teacher in the mixture, in [0, 1); 0 is `kd`.
    mask : Tensor of bool, shape (N,), optional
        The rows that count; all by default.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, in [0, tau^2 log(1/lam)], in nats.

    See Also
    --------
    skewed_reverse_kl : The same the other way round.

    References
    ----------
    Ko et al., "DistiLLM: Towards streamlined distillation for large language models", ICML 2024, arXiv 2402.03898. Its
    code, ``skewed_forward_kl``, leaves out the teacher's negative entropy, which is constant for the student.

    Examples
    --------
    >>> student, teacher = torch.tensor([[-50.0, 50.0]]), torch.tensor([[50.0, -50.0]])
    >>> round(float(skewed_kl(student, teacher)), 4)  # log 10; without a skew it is 100
    2.3026
    """
    _must_be_skew(lam)
    log_q, log_p = _log_probs(student, teacher, tau, mask, check)
    return tau**2 * kl(log_p, _log_mixture(log_p, log_q, lam) if lam else log_q).mean()


def skewed_reverse_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float = 1.0,
    lam: float = 0.1,
    *,
    mask: Tensor | None = None,
    check: bool = True,
) -> Tensor:
    r"""Skewed reverse divergence, :math:`\tau^2 \, \mathrm{KL}(p^s \| (1-\lambda) p^t + \lambda p^s)`.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits of all classes.
    tau : float, default 1
        Temperature of both softmaxes.
    lam : float, default 0.1
        Share of the student in the mixture, in [0, 1); 0 is `reverse_kl`.
    mask : Tensor of bool, shape (N,), optional
        The rows that count; all by default.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, in [0, tau^2 log(1/lam)], in nats.

    See Also
    --------
    skewed_kl : The same the other way round.

    References
    ----------
    Ko et al., DistiLLM, arXiv 2402.03898; ``skewed_reverse_kl`` of its code.

    Examples
    --------
    >>> student, teacher = torch.tensor([[-50.0, 50.0]]), torch.tensor([[50.0, -50.0]])
    >>> round(float(skewed_reverse_kl(student, teacher)), 4)
    2.3026
    """
    _must_be_skew(lam)
    log_q, log_p = _log_probs(student, teacher, tau, mask, check)
    return tau**2 * kl(log_q, _log_mixture(log_q, log_p, lam) if lam else log_p).mean()


def topk_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float = 1.0,
    k: int = 8,
    tail: str = "bucket",
    *,
    mask: Tensor | None = None,
    check: bool = True,
) -> Tensor:
    r"""`kd` with what a file of the teacher's k likeliest classes can tell.

    With P and Q the mass of teacher and student on these k classes at tau, and sums over them,

    ================= =============================================================================================
    tail              term, times :math:`\tau^2`
    ================= =============================================================================================
    ``"bucket"``      :math:`\sum p_i \log(p_i/q_i) + (1-P) \log\frac{1-P}{1-Q}`: all others are one class more
    ``"renormalise"`` :math:`\sum \tilde p_i \log(\tilde p_i/q_i)`, with :math:`\tilde p = p/P`: the others get nothing
    ``"both"``        :math:`\sum \tilde p_i \log(\tilde p_i/\tilde q_i)`, with :math:`\tilde q = q/Q`: the others are
                      free
    ================= =============================================================================================

    The bucket is a lower bound of `kd`, by the mass in it. "renormalise" teaches a sharper distribution than the
    teacher's, the more so the higher tau; "both" never says how much mass the k classes have.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits of all classes, of which the largest are taken.
    tau : float, default 1
        Temperature of both softmaxes.
    k : int, default 8
        How many classes, 1 or more; with C or more nothing is cut, and every `tail` is `kd`.
    tail : str, default "bucket"
        "bucket", "renormalise" or "both".
    mask : Tensor of bool, shape (N,), optional
        The rows that count; all by default.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0, in nats. With "renormalise" it is 0 only where the student puts all its mass on the k classes.

    See Also
    --------
    kd : With all classes.

    Notes
    -----
    "renormalise" is what axolotl trains on, "both" what MaxText does, as read in their code in 2026. The bucket is that
    of TRL's trainer for teachers behind a server.

    References
    ----------
    Anshumann et al., "Sparse logit sampling: Accelerating knowledge distillation in LLMs", ACL 2025, arXiv 2503.16870:
    why renormalised top-k is biased.

    Examples
    --------
    >>> student, teacher = torch.zeros(1, 4), torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    >>> [round(float(topk_kl(student, teacher, k=2, tail=tail)), 4) for tail in TAILS]
    [0.3376, 0.8041, 0.1109]
    """
    must_count(k, "k")
    must_be_one_of(tail, TAILS, "tail")
    log_q, log_p = _log_probs(student, teacher, tau, mask, check)
    if k >= log_p.shape[1]:
        return tau**2 * kl(log_p, log_q).mean()
    top_p, classes = log_p.topk(k, dim=1, sorted=False)
    rest_p = _others(log_p, classes, top_p) if tail == "bucket" else None
    return tau**2 * _listed(log_q, classes, top_p, rest_p, tail)


def listed_kl(
    student: Tensor,
    ids: Tensor,
    log_probs: Tensor,
    tail: str = "bucket",
    *,
    mask: Tensor | None = None,
    check: bool = True,
) -> Tensor:
    r"""`topk_kl` at temperature 1 from a teacher's stored lists, as `capmismatch.export_tokens` writes them.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    ids : Tensor of int, shape (N, K)
        The tokens of each list, in [0, C), each once.
    log_probs : Tensor, shape (N, K)
        The teacher's log probabilities of them, over all classes: what they lack of 1 belongs to the others. -inf fills
        up a shorter list.
    tail : str, default "bucket"
        "bucket", "renormalise" or "both", see `topk_kl`.
    mask : Tensor of bool, shape (N,), optional
        The rows that count; all by default. Rows with an empty list, which are to be learnt from no teacher, are to be
        left out.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0, in nats; 0 without a row that counts.

    Raises
    ------
    InputError
        Shapes that do not fit, and of rows that count an id that is no class, NaN, an empty list, or probabilities
        above 1 in sum.

    See Also
    --------
    topk_kl : With the teacher's logits of all classes.

    Notes
    -----
    At another temperature a list does not tell the mass of the others, so there is none.

    Examples
    --------
    >>> student, teacher = torch.zeros(1, 4), torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    >>> ids, log_probs = torch.tensor([[0, 1]]), torch.log_softmax(teacher, 1)[:, :2]
    >>> [round(float(listed_kl(student, ids, log_probs, tail)), 4) for tail in TAILS]
    [0.3376, 0.8041, 0.1109]
    """
    must_be_one_of(tail, TAILS, "tail")
    must_be_tensors({"student logits": student, "ids": ids, "log probabilities": log_probs})
    if student.ndim != 2 or ids.ndim != 2 or ids.shape != log_probs.shape or len(ids) != len(student):
        raise InputError(
            f"expected logits (N, C) and lists of ids and log probabilities (N, K), got shapes {tuple(student.shape)}, "
            f"{tuple(ids.shape)} and {tuple(log_probs.shape)}"
        )
    if mask is not None:
        _must_mask(mask, len(student))
        student, ids, log_probs = student[mask], ids[mask], log_probs[mask]
    log_q, classes = torch.log_softmax(single(student), 1), ids.long()
    top_p = single(log_probs).to(log_q.dtype)
    if not len(classes):
        return log_q.sum()
    mass = top_p.logsumexp(1, keepdim=True)
    if check:
        _check_lists(classes, top_p, mass, student.shape[1])
    has_others = tail == "bucket" and classes.shape[1] < student.shape[1]
    rest_p = torch.log1p(-mass.exp().clamp(max=1)) if has_others else None
    return _listed(log_q, classes, top_p, rest_p, tail)


def _check_lists(classes: Tensor, log_probs: Tensor, mass: Tensor, width: int) -> None:
    """Raise at the first row whose list is none of a distribution over so many classes."""
    faults = {
        f"ids in [0, {width})": ((classes < 0) | (classes >= width)).any(1),
        "log probabilities without NaN": log_probs.isnan().any(1),
        "a list that is not empty; mask rows that have none": mass[:, 0] == -math.inf,
        "probabilities of at most 1 in sum": mass[:, 0] > MOST_MASS,
    }
    for expected, wrong in faults.items():
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"expected {expected}, got {classes[row].tolist()[:8]} with {log_probs[row].tolist()[:8]} in row {row}"
            )


def _others(log: Tensor, classes: Tensor, log_p: Tensor) -> Tensor:
    """Log probability of all classes but those listed with a probability, (N, 1)."""
    listed = torch.zeros_like(log).scatter_add(1, classes, (log_p > -math.inf).to(log.dtype)) > 0
    return log.masked_fill(listed, -math.inf).logsumexp(1, keepdim=True)


def _listed(log_q: Tensor, classes: Tensor, top_p: Tensor, rest_p: Tensor | None, tail: str) -> Tensor:
    """Mean divergence over listed classes, of which the teacher has `top_p`; `rest_p` that of all others."""
    top_q = log_q.gather(1, classes)
    if rest_p is not None:
        rest_q = _others(log_q, classes, top_p)
        top_p, top_q = torch.cat([top_p, rest_p], 1), torch.cat([top_q, rest_q], 1)
    else:
        top_p = top_p - top_p.logsumexp(1, keepdim=True)
        if tail == "both":
            top_q = top_q - top_q.masked_fill(top_p == -math.inf, -math.inf).logsumexp(1, keepdim=True)
    return kl(top_p.clamp(min=LEAST), top_q).mean()  # what has no probability counts nothing, and is no NaN


def abkd(
    student: Tensor,
    teacher: Tensor,
    tau: float = 4.0,
    alpha: float = 0.8,
    beta: float = 0.3,
    *,
    mask: Tensor | None = None,
    check: bool = True,
) -> Tensor:
    r"""ABKD: the alpha-beta divergence, which has `kd` and `reverse_kl` as corners.

    .. math:: \frac{1}{\alpha\beta} \sum_c \frac{\alpha}{\alpha+\beta} p_c^{\alpha+\beta}
              + \frac{\beta}{\alpha+\beta} q_c^{\alpha+\beta} - p_c^\alpha q_c^\beta

    with p of the teacher, q of the student, at tau. Where one exponent is 0 it is the limit:

    =================== =========================================================================================
    exponents           divergence
    =================== =========================================================================================
    beta = 0            :math:`\alpha^{-2} \sum p^\alpha \log(p^\alpha/q^\alpha) - p^\alpha + q^\alpha`; at alpha = 1
                        KL(teacher || student)
    alpha = 0           :math:`\beta^{-2} \sum q^\beta \log(q^\beta/p^\beta) - q^\beta + p^\beta`; at beta = 1
                        KL(student || teacher)
    alpha = beta = 1    half the squared distance
    =================== =========================================================================================

    There is no factor tau squared, as in the source: at (1, 0) it is `kd` over tau squared.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits of all classes.
    tau : float, default 4
        Temperature of both softmaxes.
    alpha : float, default 0.8
        Exponent of the teacher, 0 or from 0.01 to 10: the more, the more its likely classes count.
    beta : float, default 0.3
        Exponent of the student, likewise. One of both is above 0.
    mask : Tensor of bool, shape (N,), optional
        The rows that count; all by default.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0; 0 where the logits are equal up to a constant in each row.

    See Also
    --------
    js : Another path from one KL divergence to the other.

    References
    ----------
    Wang et al., "ABKD: Pursuing a proper allocation of the probability mass in knowledge distillation via
    alpha-beta-divergence", ICML 2025, arXiv 2505.04560; Cichocki, Cruces, Amari, Entropy 13, 2011. Equal to ``abkl.py``
    of its code, but for exponents of which one is 0 and the other is not 1: there the code divides by the exponent
    once, which is no limit. The folder of its code that was compared (``standard_classification``) is under MIT.

    Examples
    --------
    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    >>> round(float(abkd(student, teacher, tau=1.0, alpha=0.0, beta=1.0)), 4)  # reverse_kl
    1.325
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        _must_be_exponent(value, name)
    if alpha == beta == 0:
        raise InputError("alpha or beta must be above 0, got 0 for both")
    log_q, log_p = _log_probs(student, teacher, tau, mask, check)
    if alpha == 0:
        return _power_divergence(log_q, log_p, beta).mean()
    if beta == 0:
        return _power_divergence(log_p, log_q, alpha).mean()
    both = alpha + beta
    own = (alpha * (both * log_p).exp() + beta * (both * log_q).exp()) / both
    return (own - (alpha * log_p + beta * log_q).exp()).sum(1).mean() / (alpha * beta)


def _power_divergence(log_a: Tensor, log_b: Tensor, power: float) -> Tensor:
    """Of each row, sum of A log(A / B) - A + B over power squared, with A and B the powers of the probabilities."""
    a, b = (power * log_a).exp(), (power * log_b).exp()
    return (a * power * (log_a - log_b) - a + b).sum(1) / power**2


def _log_probs(student: Tensor, teacher: Tensor, tau: float, mask: Tensor | None, check: bool) -> tuple[Tensor, Tensor]:
    """Log probabilities at tau of student and teacher, of the rows that count."""
    must_be_temperature(tau, "tau")
    if mask is not None:
        must_be_tensors({"student logits": student, "teacher logits": teacher, "the mask": mask})
        _must_mask(mask, len(student))
        student, teacher = student[mask], teacher[mask]
    s, t = logits_pair(student, teacher, check)
    return torch.log_softmax(s / tau, 1), torch.log_softmax(t / tau, 1)


def _must_mask(mask: Tensor, rows: int) -> None:
    if mask.dtype != torch.bool or mask.shape != (rows,):
        raise InputError(
            f"expected a mask of bool and shape {(rows,)}, a row each, got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def _log_mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """Logarithm of ``share * a + (1 - share) * b``, for a share inside (0, 1)."""
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def _must_be_share(value: float, name: str) -> None:
    if isinstance(value, bool) or not (isinstance(value, int | float) and 0 <= value <= 1):
        raise InputError(f"{name} must be a number in [0, 1], got {value!r}")


def _must_be_skew(lam: float) -> None:
    _must_be_share(lam, "lam")
    if lam == 1:
        raise InputError("lam must be below 1, got 1: nothing of the other distribution would be left in the mixture")


def _must_be_exponent(value: float, name: str) -> None:
    if isinstance(value, bool) or not (isinstance(value, int | float) and (value == 0 or 0.01 <= value <= 10)):
        raise InputError(f"{name} must be 0, or a number in [0.01, 10], got {value!r}")
