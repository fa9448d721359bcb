r"""Calibration of the soft labels that a student is taught, at the temperature at which it is taught.

`nll`, `brier`, `ece` and `classwise_ace` are tables' columns at tau = 1. A student sees the teacher at tau; what bounds
its risk is how near these soft labels are to the classes' true probabilities (Menon et al. 2021).
"""

from __future__ import annotations

from torch import Tensor

from capmismatch._numerics.arrays import ArrayLike
from capmismatch._numerics.softmax import Softened
from capmismatch.probes._registry import REGISTRY, per_example, register
from capmismatch.probes.calibration import KIM, classwise_ace, ece

MENON = "Menon et al. 2021, arXiv 2005.10419"
NIXON = "Nixon et al. 2019, arXiv 1904.01685; " + KIM


@per_example("-log p_y at tau", MENON, expected_sign=-1)
def nll_tau(softened: Softened) -> Tensor:
    """Negative log-likelihood of the target under the soft label at tau, in nats.

    Examples
    --------
    >>> nll_tau([[8.0, 0.0]], [0], tau=4.0).round(decimals=4)
    tensor([0.1269], dtype=torch.float64)
    """
    value: Tensor = REGISTRY["nll"].compute(softened)
    return value


@per_example("sum_c (p_c - [c = y])^2 at tau", MENON, expected_sign=-1)
def brier_tau(softened: Softened) -> Tensor:
    """Brier score of the soft label at tau, in [0, 2].

    Examples
    --------
    >>> brier_tau([[8.0, 0.0]], [1], tau=4.0).round(decimals=4)
    tensor([1.5516], dtype=torch.float64)
    """
    value: Tensor = REGISTRY["brier"].compute(softened)
    return value


def ece_tau(logits: ArrayLike, labels: ArrayLike, tau: float = 4.0) -> float:
    r"""Expected calibration error of the soft labels at tau: `ece`, as tables have it for every tau.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 4.0
        Temperature > 0.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    InputError
        No examples, logits or labels that do not fit, a temperature that is not positive.

    References
    ----------
    Guo et al. 2017, arXiv 1706.04599; Kim et al. 2025, arXiv 2508.20224.

    Examples
    --------
    >>> round(ece_tau([[8.0, 0.0]], [0]), 4)
    0.1192
    """
    return ece(logits, labels, tau)


def classwise_ace_tau(logits: ArrayLike, labels: ArrayLike, tau: float = 4.0) -> float:
    r"""Adaptive class-wise calibration error of the soft labels at tau: `classwise_ace`, for every tau.

    Tables have it only where it is named: each tau sorts all probabilities of every class anew.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 4.0
        Temperature > 0.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    InputError
        No examples, logits or labels that do not fit, a temperature that is not positive.

    References
    ----------
    Nixon et al. 2019, arXiv 1904.01685. Kim et al. 2025, arXiv 2508.20224.

    Examples
    --------
    >>> round(classwise_ace_tau([[50.0, 0.0], [0.0, 50.0]], [0, 1]), 6)
    4e-06
    """
    return classwise_ace(logits, labels, tau)


register("ece_tau", "calibration", REGISTRY["ece"].compute, "sum_b n_b/N |acc_b - conf_b| at tau", KIM, -1, True)
register(
    "classwise_ace_tau",
    "classes",
    REGISTRY["classwise_ace"].compute,
    "1/(C R) sum_c sum_r |acc(r,c) - conf(r,c)| at tau",
    NIXON,
    -1,
    True,
    on_request=True,
)
