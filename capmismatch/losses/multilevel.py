"""A loss at several temperatures, over examples, pairs of examples and pairs of classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capmismatch.errors import InputError, must_be_temperature
from capmismatch.losses._terms import kl, logits_pair, must_be_weight, product

TAUS = (2.0, 3.0, 4.0, 5.0, 6.0)


def mlkd(
    student: Tensor,
    teacher: Tensor,
    taus: Sequence[float] = TAUS,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    *,
    check: bool = True,
) -> Tensor:
    r"""Multi-level logit distillation: `kd`, and the products of probabilities between examples and between classes.

    .. math:: \sum_{\tau} \alpha \tau^2 \, \mathrm{KL}(p^t_\tau \| p^s_\tau)
              + \frac{\beta}{N} \|P_t P_t^T - P_s P_s^T\|_F^2 + \frac{\gamma}{C} \|P_t^T P_t - P_s^T P_s\|_F^2

    with P the (N, C) probabilities of the batch at tau. The second term is about which examples are alike, the third
    about which classes are; it grows with N as `kd` does not, so that few classes and large batches want a smaller
    gamma (the source has 100 classes and batches of 64). Memory grows as N^2 + C^2.

    Parameters
    ----------
    student : Tensor, shape (N, C)
        Logits, with gradient.
    teacher : Tensor, shape (N, C)
        Logits.
    taus : sequence of float, default (2, 3, 4, 5, 6)
        Temperatures of both softmaxes, over which the loss is a sum.
    alpha : float, default 1
        Weight of the examples, >= 0.
    beta : float, default 1
        Weight of pairs of examples, >= 0.
    gamma : float, default 1
        Weight of pairs of classes, >= 0.
    check : bool, default True
        Whether values are checked too, which takes one pass over the inputs and waits for their device.

    Returns
    -------
    Tensor
        Scalar, >= 0; 0 where the logits are equal up to a constant in each row.

    See Also
    --------
    dist : Correlations along classes and along the batch.

    Notes
    -----
    The paper also compares a weakly and a strongly augmented view of each image; here a batch has one view. It takes
    the terms of the weak view over rows, and classes, that the teacher is less sure of; its code multiplies each term
    by their share, about a half, which a weight does as well.

    References
    ----------
    Jin, Wang, Lin, "Multi-level logit distillation", CVPR 2023. Each term is equal to ``kd_loss``, ``bc_loss`` and
    ``cc_loss`` of its code; the code has no licence, the formulas are the paper's.

    Examples
    --------
    >>> logits = torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    >>> float(mlkd(logits, logits)), float(mlkd(-logits, logits)) > 1
    (0.0, True)
    """
    if isinstance(taus, str) or not isinstance(taus, Sequence) or not 0 < len(taus) <= 100:
        raise InputError(f"expected taus of mlkd, 1 to 100 temperatures, got {taus!r}")
    for tau in taus:
        must_be_temperature(tau, "each of taus")
    for name, weight in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        must_be_weight(weight, name)
    s, t = logits_pair(student, teacher, check)
    total = s.new_zeros(())
    for tau in taus:
        log_s, log_t = torch.log_softmax(s / tau, 1), torch.log_softmax(t / tau, 1)
        p_s, p_t = log_s.exp(), log_t.exp()
        examples = (product(p_t, p_t.T) - product(p_s, p_s.T)).square().sum() / len(s)
        classes = (product(p_t.T, p_t) - product(p_s.T, p_s)).square().sum() / s.shape[1]
        total = total + alpha * tau**2 * kl(log_t, log_s).mean() + beta * examples + gamma * classes
    return total
