r"""Soft labels that need more than a row's own logits: a temperature of the teacher's own, or the means of its classes.

A teacher that is too sure teaches less than it knows, and large ones are sure: with a temperature for each teacher,
size and confidence are no longer one thing. And teachers of all sizes agree about which classes are alike, so that what
a sure teacher does not say of an example, the mean over its class still says.

The class means are a remedy of our own, built on that second finding; no source says that it is the paper's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from capmismatch import probes
from capmismatch.errors import InputError
from capmismatch.probes.temperatures import must_depend_on_tau

HeldOut = tuple[Tensor, Tensor]
"""A teacher's logits (M, C) of rows that it was not trained on, and their classes (M,)."""


def calibrated_tau(tau: float, held_out: HeldOut) -> float:
    r"""The temperature :math:`\tau \, \tau_{cal}`: as if the teacher had been calibrated before it is softened.

    Parameters
    ----------
    tau : float
        Temperature of a calibrated teacher.
    held_out : tuple of Tensor
        The teacher's logits, and classes, of rows that it was not trained on.

    Returns
    -------
    float
        For the teacher's logits.

    Raises
    ------
    InputError
        No temperature calibrates the teacher.

    References
    ----------
    Fan, Lu, Li, Zhan, Gan, "Revisit the essence of distilling knowledge through calibration", ICML 2024; Kim et al.
    2025, arXiv 2508.20224. The temperature: Guo et al. 2017, arXiv 1706.04599.

    Examples
    --------
    >>> logits, labels = torch.tensor([[4.0, 0.0]] * 3 + [[0.0, 4.0]]), torch.zeros(4, dtype=torch.int64)
    >>> round(calibrated_tau(2.0, (logits, labels)), 3)
    7.282
    """
    found = probes.calibration_tau(*held_out)
    if math.isnan(found):
        raise InputError(
            f"no temperature calibrates this teacher on {len(held_out[1])} held-out rows, as where it gets all or none "
            "of them right: take KD at a tau of your own"
        )
    return tau * found


def matched_tau(tau: float, match: str, held_out: HeldOut, reference: Tensor) -> float:
    """The temperature at which a teacher's mean of a probe is that of another teacher at tau.

    Parameters
    ----------
    tau : float
        Temperature of the other teacher.
    match : str
        Name of the probe, such as "entropy" or "derived_std".
    held_out : tuple of Tensor
        The teacher's logits, and classes, of rows that it was not trained on.
    reference : Tensor, shape (M, C)
        The other teacher's logits of these rows.

    Returns
    -------
    float
        The nearest to tau, within a factor of 16.

    Raises
    ------
    InputError
        The teacher does not reach that value.

    Examples
    --------
    >>> logits, labels = torch.tensor([[4.0, 0.0, 1.0], [0.0, 2.0, 1.0]]), torch.tensor([0, 1])
    >>> round(matched_tau(2.0, "entropy", (3 * logits, labels), logits), 6)
    6.0
    """
    logits, labels = held_out
    if logits.shape != reference.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(reference.shape)}"
        raise InputError(f"expected two teachers' logits of one shape, got {shapes}")
    wanted = float(getattr(probes, must_depend_on_tau(match))(reference, labels, tau).mean())
    found = probes.matching_tau(logits, labels, wanted, match, near=tau)
    if math.isnan(found):
        raise InputError(
            f"expected a temperature at which mean {match} is {wanted:.4g}, between {tau / 16:g} and {tau * 16:g}"
        )
    return found


def blended(probs: Tensor, labels: Tensor, class_means: Tensor, share: float) -> Tensor:
    r"""Soft labels blended with the mean one of their class, :math:`q = (1 - l) \, p + l \, \bar p_y`.

    The variance over wrong classes that is between classes stays, that within a class shrinks by (1 - l)^2: what a
    teacher says of single examples gives way to what it says of their class.

    Parameters
    ----------
    probs : Tensor, shape (N, C)
        The teacher's.
    labels : Tensor of int, shape (N,)
        Classes of the examples.
    class_means : Tensor, shape (C, C)
        Row y is the mean soft label of class y: of this teacher, or of a smaller one.
    share : float
        The l, in [0, 1].

    Returns
    -------
    Tensor, shape (N, C)
        Soft labels.

    Raises
    ------
    InputError
        Means of another shape, or of a class that they do not know.

    Examples
    --------
    >>> blended(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.tensor([[0.5, 0.5], [0.0, 1.0]]), 0.5).tolist()
    [[0.75, 0.25]]
    """
    classes = probs.shape[1]
    if class_means.shape != (classes, classes):
        raise InputError(f"expected class means of shape ({classes}, {classes}), got {tuple(class_means.shape)}")
    of_rows = class_means.to(probs)[labels]
    unknown = torch.isnan(of_rows).any(1).nonzero()
    if len(unknown):
        raise InputError(f"expected the mean soft label of class {int(labels[unknown[0]])}, which no row is of")
    return (1 - share) * probs + share * of_rows
