r"""Probes of a pair: how far a student, before it is taught, is from a teacher. Rivals of what a teacher alone tells.

p is the teacher's and q the student's soft label at one temperature, unless a function says otherwise. `PAIRS` lists
them for tables, as `REGISTRY` lists the probes of one teacher. Gradients are those of the student's last layer alone,
in closed form: of what lies below, nothing is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, softmax

from capmismatch._numerics.feature_moments import as_features
from capmismatch._numerics.last_layer import GraceSums, GradientSketch, with_ones
from capmismatch._numerics.plain_arrays import plain_array
from capmismatch.errors import InputError, must_be_temperature

Floats = NDArray[np.float64]
RULE = 2.5
"""How many times the student's parameters the best teacher has, by the law of capacity gap."""


@dataclass(frozen=True)
class PairProbe:
    """One probe of a pair.

    Attributes
    ----------
    name : str
        As in tables.
    formula, source : str
        For tables, reports and docs.
    expected_sign : int
        +1 if a higher value is expected to help the student, -1 if a lower one is, 0 if the field is undecided.
    tempered : bool
        Whether the value depends on tau.
    needs : tuple of str
        Beside logits: "sizes", "student features", "teacher features"; "columns" where condensed rows cannot tell it.
    """

    name: str
    formula: str
    source: str
    expected_sign: int
    tempered: bool
    needs: tuple[str, ...] = ()


PAIRS: dict[str, PairProbe] = {
    probe.name: probe
    for probe in (
        PairProbe("kl", "mean KL(p || q)", "Hinton et al. 2015, arXiv 1503.02531: what distillation lowers", 0, True),
        PairProbe("reverse_kl", "mean KL(q || p)", "Gu et al. 2024 (MiniLLM), arXiv 2306.08543", 0, True),
        PairProbe("skewed_kl", "mean KL(p || s p + (1 - s) q)", "Ko et al. 2024 (DistiLLM), arXiv 2402.03898", 0, True),
        PairProbe(
            "rsr",
            "sum p rank_q / sum -p log q, at tau = 1",
            "rank-surprisal ratio, arXiv 2601.14249, as an expectation over classes",
            -1,
            False,
            ("columns",),
        ),
        PairProbe(
            "wrong_rsr",
            "the same over the wrong classes",
            "own, after arXiv 2601.14249: without the class that both name",
            -1,
            True,
            ("columns",),
        ),
        PairProbe("size_ratio", "parameters of teacher / student", "capacity gap itself", 0, False, ("sizes",)),
        PairProbe(
            "size_gap",
            "|log(size ratio / 2.5)|",
            "law of capacity gap, arXiv 2311.07052, of language models; its factor as cited",
            -1,
            False,
            ("sizes",),
        ),
        PairProbe(
            "gradient_cosine",
            "cos of mean gradients of KD and CE, last layer",
            "after Zhu and Wang 2021 (SCKD), ICCV, at the student's start",
            1,
            True,
            ("columns", "student features"),
        ),
        PairProbe(
            "grace",
            "mean tr(S_train^-1 S_test) of gradients, last layer",
            "Panigrahi et al. 2025 (GRACE), arXiv 2511.02833, for soft labels",
            -1,
            True,
            ("columns", "student features"),
        ),
        PairProbe(
            "cka",
            "linear CKA of features",
            "Kornblith et al. 2019, arXiv 1905.00414",
            0,
            False,
            ("student features", "teacher features"),
        ),
    )
}
"""Every probe of a pair by its name."""


def _kl(log_p: Floats, log_q: Floats, skew: float) -> Floats:
    """KL(p || q), row by row, of logarithms: a probability too small for a float still tells how small it is."""
    p = np.exp(log_p)
    less = np.subtract(log_p, log_q, out=np.zeros_like(p), where=p > 0)
    return (p * less).sum(axis=1)


def _skewed_kl(log_p: Floats, log_q: Floats, skew: float) -> Floats:
    if not skew:
        return _kl(log_p, log_q, skew)
    return _kl(log_p, np.logaddexp(math.log(skew) + log_p, math.log1p(-skew) + log_q), skew)


DIVERGENCES: Mapping[str, Callable[[Floats, Floats, float], Floats]] = {
    "kl": _kl,
    "reverse_kl": lambda log_p, log_q, skew: _kl(log_q, log_p, skew),
    "skewed_kl": _skewed_kl,
}
"""Divergences of logarithms of probabilities (n, C), row by row; the third argument is the skew."""


def _pair(teacher: ArrayLike, student: ArrayLike, tau: float = 1.0) -> tuple[Floats, Floats]:
    """Logits of both over a temperature, checked."""
    sides = [
        np.asarray(plain_array(side, who), np.float64) for side, who in ((teacher, "teacher"), (student, "student"))
    ]
    if sides[0].ndim != 2 or sides[0].shape != sides[1].shape:
        raise InputError(f"expected logits of one shape (N, C), got {sides[0].shape} and {sides[1].shape}")
    if not all(np.isfinite(side).all() for side in sides):
        raise InputError("expected finite logits of teacher and student")
    must_be_temperature(tau, "tau")
    return sides[0] / tau, sides[1] / tau


def _labels(labels: ArrayLike, rows: int, classes: int) -> NDArray[np.int64]:
    found = np.asarray(plain_array(labels, "labels"))
    fits = found.shape == (rows,) and np.issubdtype(found.dtype, np.integer)
    if not fits or (rows and not 0 <= found.min() <= found.max() < classes):
        raise InputError(f"expected {rows} labels in [0, {classes}), got shape {found.shape}")
    return found.astype(np.int64)


def kl(teacher: ArrayLike, student: ArrayLike, tau: float = 1.0) -> Floats:
    r"""Divergence from the teacher's soft label to the student's, :math:`KL(p \,\|\, q)`, in nats.

    Parameters
    ----------
    teacher, student : array_like, shape (N, C)
        Finite logits of the same examples.
    tau : float, default 1.0
        Temperature > 0 of both.

    Returns
    -------
    ndarray
        Shape (N,), >= 0.

    Raises
    ------
    InputError
        Logits that do not fit, a temperature that is not positive.

    Examples
    --------
    >>> kl([[3.0, 0, 0]], [[1.0, 0, 0]]).round(3)
    array([0.275])
    """
    log_p, log_q = (log_softmax(side, axis=1) for side in _pair(teacher, student, tau))
    return DIVERGENCES["kl"](log_p, log_q, 0.0)


def reverse_kl(teacher: ArrayLike, student: ArrayLike, tau: float = 1.0) -> Floats:
    r"""Divergence the other way round, :math:`KL(q \,\|\, p)`, in nats: large where the student says what p rules out.

    Parameters
    ----------
    teacher, student : array_like, shape (N, C)
        Finite logits of the same examples.
    tau : float, default 1.0
        Temperature > 0 of both.

    Returns
    -------
    ndarray
        Shape (N,), >= 0.

    Raises
    ------
    InputError
        Logits that do not fit, a temperature that is not positive.

    Examples
    --------
    >>> reverse_kl([[3.0, 0, 0]], [[1.0, 0, 0]]).round(3)
    array([0.391])
    """
    return kl(student, teacher, tau)


def skewed_kl(teacher: ArrayLike, student: ArrayLike, tau: float = 1.0, *, skew: float = 0.1) -> Floats:
    r"""Divergence to a mixture, :math:`KL(p \,\|\, \lambda p + (1 - \lambda) q)`: bounded where q is tiny.

    Parameters
    ----------
    teacher, student : array_like, shape (N, C)
        Finite logits of the same examples.
    tau : float, default 1.0
        Temperature > 0 of both.
    skew : float, default 0.1
        :math:`\lambda` in [0, 1).

    Returns
    -------
    ndarray
        Shape (N,), >= 0.

    Raises
    ------
    InputError
        Logits that do not fit, a temperature that is not positive, a skew out of its range.

    Examples
    --------
    >>> bool(skewed_kl([[3.0, 0, 0]], [[1.0, 0, 0]])[0] < kl([[3.0, 0, 0]], [[1.0, 0, 0]])[0])
    True
    """
    if not 0 <= skew < 1:
        raise InputError(f"expected skew in [0, 1), got {skew!r}")
    log_p, log_q = (log_softmax(side, axis=1) for side in _pair(teacher, student, tau))
    return DIVERGENCES["skewed_kl"](log_p, log_q, skew)


def rank_and_surprise(teacher: Floats, student: Floats) -> tuple[Floats, Floats]:
    """Expected rank (from 1) and surprise (nats) under the student of what the teacher would say: (n,) each.

    Of equal logits of the student the first counts as the larger one; -inf marks classes that nobody says.
    """
    said = softmax(teacher, axis=1)
    order = np.argsort(-student, axis=1, kind="stable")
    places = np.empty_like(said)
    np.put_along_axis(places, order, np.broadcast_to(np.arange(1.0, said.shape[1] + 1), said.shape), axis=1)
    surprise = -log_softmax(student, axis=1)
    return (said * places).sum(axis=1), np.where(said > 0, said * np.where(said > 0, surprise, 0.0), 0.0).sum(axis=1)


def ratio_of_means(rank: Floats, surprise: Floats) -> float:
    """Mean rank over mean surprise; NaN where nothing surprises, as of a student that is certain, or no example."""
    total = float(surprise.sum())
    return float(rank.sum()) / total if total > 0 else math.nan


def rsr(teacher: ArrayLike, student: ArrayLike) -> float:
    r"""Rank-surprisal ratio: low where what the teacher says is new to the student, and still ranked high by it.

    :math:`\sum_x \sum_c p_c \, \mathrm{rank}_q(c) \,/\, \sum_x \sum_c -p_c \log q_c` at tau = 1. The source sums over
    tokens that the teacher has sampled; this is the expectation over all classes, with no bound on the rank.

    Parameters
    ----------
    teacher, student : array_like, shape (N, C)
        Finite logits of the same examples.

    Returns
    -------
    float
        > 0; NaN where nothing surprises the student, not even in the last digit.

    Raises
    ------
    InputError
        Logits that do not fit.

    Examples
    --------
    >>> round(rsr([[9.0, 0, 0]], [[1.0, 0, 0]]), 2)
    1.81
    """
    rank, surprise = rank_and_surprise(*_pair(teacher, student))
    return ratio_of_means(rank, surprise)


def wrong_alone(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """(n, C - 1) logits of the wrong classes, in their order."""
    keep = np.ones(logits.shape, dtype=bool)
    keep[np.arange(len(labels)), labels] = False
    return logits[keep].reshape(len(logits), logits.shape[1] - 1)


def wrong_rsr(teacher: ArrayLike, student: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> float:
    r"""The same ratio over the wrong classes alone, where dark knowledge is: ranks and soft labels among these.

    Parameters
    ----------
    teacher, student : array_like, shape (N, C)
        Finite logits of the same examples, of three classes or more.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 1.0
        Temperature > 0 of both.

    Returns
    -------
    float
        > 0; NaN with two classes, as there is one wrong class, and where nothing surprises the student.

    Raises
    ------
    InputError
        Logits or labels that do not fit, a temperature that is not positive.

    Examples
    --------
    >>> round(wrong_rsr([[9.0, 3, 0, 0]], [[9.0, 3, 0, 0]], [0]), 2)
    3.1
    """
    p, q = _pair(teacher, student, tau)
    classes = _labels(labels, len(p), p.shape[1])
    if p.shape[1] < 3:
        return math.nan
    rank, surprise = rank_and_surprise(wrong_alone(p, classes), wrong_alone(q, classes))
    return ratio_of_means(rank, surprise)


def size_ratio(teacher: float, student: float) -> float:
    """Parameters of the teacher over those of the student.

    Parameters
    ----------
    teacher, student : float
        Numbers of parameters; NaN or 0 where unknown.

    Returns
    -------
    float
        NaN where one is unknown.

    Examples
    --------
    >>> size_ratio(500, 200)
    2.5
    """
    return teacher / student if teacher > 0 and student > 0 else math.nan


def size_gap(teacher: float, student: float) -> float:
    r"""How far the sizes are from the ratio that the law of capacity gap names, :math:`|\log(r / 2.5)|`.

    Parameters
    ----------
    teacher, student : float
        Numbers of parameters; NaN or 0 where unknown.

    Returns
    -------
    float
        0 at 2.5 times the student; NaN where a size is unknown.

    Examples
    --------
    >>> size_gap(500, 200), round(size_gap(1000, 200), 3)
    (0.0, 0.693)
    """
    ratio = size_ratio(teacher, student)
    return abs(math.log(ratio / RULE)) if ratio > 0 else math.nan


def residuals(teacher: Floats, student: Floats) -> Floats:
    """Give q - p, the gradient of the cross-entropy against the soft label with respect to the student's logits."""
    found: Floats = softmax(student, axis=1) - softmax(teacher, axis=1)
    return _summing_to_0(found, teacher.argmax(axis=1))


def label_residuals(labels: NDArray[np.int64], student: Floats) -> Floats:
    """The same against the labels."""
    found: Floats = softmax(student, axis=1)
    return _summing_to_0(found, labels)


def _summing_to_0(residuals: Floats, likeliest: NDArray[np.int64]) -> Floats:
    """Differences of probabilities (n, C), in place; that of two near 1 is taken from the others', with its digits."""
    rows = np.arange(len(residuals))
    residuals[rows, likeliest] = 0.0
    residuals[rows, likeliest] = -residuals.sum(axis=1)
    return residuals


def gradient_cosine(
    teacher: ArrayLike, student: ArrayLike, labels: ArrayLike, features: ArrayLike, tau: float = 1.0
) -> float:
    r"""Cosine between what distillation and what the labels ask of the student's last layer, as it is now.

    Of the mean gradients :math:`\overline{(q^\tau - p^\tau) \otimes (h, 1)}` and
    :math:`\overline{(q - y) \otimes (h, 1)}`, h the student's features.

    Parameters
    ----------
    teacher, student : array_like, shape (N, C)
        Finite logits of the same examples.
    labels : array_like of int, shape (N,)
        In [0, C).
    features : array_like, shape (N, D)
        What the student's last linear layer reads.
    tau : float, default 1.0
        Temperature > 0 of the soft labels.

    Returns
    -------
    float
        In [-1, 1]; NaN where one of the gradients is zero.

    Raises
    ------
    InputError
        Arrays that do not fit, a temperature that is not positive.

    Examples
    --------
    >>> round(gradient_cosine([[9.0, 0, 0]], [[0.0, 0, 0]], [0], [[1.0]]), 2)
    1.0
    """
    (p, q), rows = _pair(teacher, student, tau), as_features(features)
    classes = _labels(labels, len(p), p.shape[1])
    if len(rows) != len(p):
        raise InputError(f"expected features of {len(p)} examples, got {len(rows)}")
    wide = with_ones(rows)
    soft, hard = residuals(p, q).T @ wide, label_residuals(classes, q * tau).T @ wide
    return cosine(soft, hard)


def cosine(first: Floats, second: Floats) -> float:
    """Of two arrays taken as vectors; NaN where one is zero."""
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return max(-1.0, min(1.0, float((first * second).sum()) / lengths)) if lengths > 0 else math.nan


def grace(teacher: ArrayLike, student: ArrayLike, features: ArrayLike, tau: float = 1.0, *, seed: int = 0) -> float:
    r"""How far gradients that are held out stick out of those that the student would be trained on.

    Mean over ten random splits of :math:`\mathrm{tr}(S_{train}^{-1} S_{test})`, S the mean outer product of gradients,
    for training each scaled to length 1. A large value means large gradients in directions that other examples do not
    have, and that is expected to teach less well.

    Parameters
    ----------
    teacher, student : array_like, shape (N, C)
        Finite logits of the same examples.
    features : array_like, shape (N, D)
        What the student's last linear layer reads.
    tau : float, default 1.0
        Temperature > 0 of both.
    seed : int, default 0
        Of the splits and random signs.

    Returns
    -------
    float
        >= 0; NaN with a single example, or where no example has a gradient.

    Raises
    ------
    InputError
        Arrays that do not fit, a temperature that is not positive.

    Notes
    -----
    The source takes gradients of all weights on text that the teacher wrote. Here they are of the last layer, where
    they are known without a backward pass, and of the teacher's whole soft label; C (D + 1) numbers, projected on 512
    random signs where there are more. Numbers of students with other sizes are not on one scale.

    References
    ----------
    Panigrahi et al. 2025, "In good GRACEs: principled teacher selection for knowledge distillation", arXiv 2511.02833.

    Examples
    --------
    >>> draws = np.random.default_rng(0)
    >>> student, features = draws.normal(size=(50, 3)), draws.normal(size=(50, 2))
    >>> grace(student, student, features), grace(2 * student, student, features) > 0
    (nan, True)
    """
    (p, q), rows = _pair(teacher, student, tau), as_features(features)
    if len(rows) != len(p):
        raise InputError(f"expected features of {len(p)} examples, got {len(rows)}")
    wide = with_ones(rows)
    sketch = GradientSketch(p.shape[1], wide.shape[1], seed)
    sums = GraceSums(np.arange(len(p)), sketch.size, seed)
    sums.add(slice(None), sketch(residuals(p, q), wide))
    return sums.value
