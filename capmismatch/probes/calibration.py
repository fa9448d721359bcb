r"""Probes of accuracy and calibration, taken at tau = 1, and the calibration errors behind them.

Per-example ones take logits (N, C) and labels (N,) and return a float64 tensor (N,); `ece`, `ece_over`, `ece_under` and
`classwise_ace` return one number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from capmismatch._numerics import devices
from capmismatch._numerics.arrays import ArrayLike, widest_float
from capmismatch._numerics.softmax import Softened
from capmismatch._numerics.threads import blocks, run_in_threads
from capmismatch._numerics.ties import CALIBRATED, TIE, TIE_OF_SINGLES
from capmismatch.errors import InputError, must_count
from capmismatch.probes._registry import per_example, register

if devices.HAS_NUMBA:
    from capmismatch._numerics import adaptive_loops

CLASSES_AT_ONCE = 64
MOST_BINS = 100_000  # of a reliability diagram
EDGE = 1e-12  # of a bin: a confidence so little above the edge between two lies on it
BINS = 15  # as the field does since Guo et al. 2017


@per_example("mean of [arg max f = y]", "textbook", expected_sign=1, tempered=False)
def accuracy(softened: Softened) -> Tensor:
    """1.0 where the largest logit is the target's (the first of equal ones counts), else 0.0.

    Examples
    --------
    >>> accuracy([[2.0, 1.0], [2.0, 1.0]], [0, 1])
    tensor([1., 0.], dtype=torch.float64)
    """
    return softened.raw.correct


@per_example("-log p_y", "textbook", expected_sign=-1, tempered=False)
def nll(softened: Softened) -> Tensor:
    """Negative log-likelihood of the target, in nats.

    Examples
    --------
    >>> nll([[0.0, 0.0]], [0]).round(decimals=4)
    tensor([0.6931], dtype=torch.float64)
    """
    return torch.nn.functional.softplus(-softened.log_odds)


@per_example("sum_c (p_c - [c = y])^2", "Brier 1950", expected_sign=-1, tempered=False)
def brier(softened: Softened) -> Tensor:
    r"""Brier score :math:`(1 - p_y)^2 + \sum_{c \ne y} p_c^2`, in [0, 2].

    Examples
    --------
    >>> brier([[0.0, 0.0]], [0])
    tensor([0.5000], dtype=torch.float64)
    """
    return softened.wrong_mass**2 * (1 + softened.wrong_squares)


@per_example("max_c p_c", "Guo et al. 2017, arXiv 1706.04599", expected_sign=0, tempered=False)
def confidence(softened: Softened) -> Tensor:
    """The largest probability, at tau = 1.

    Examples
    --------
    >>> confidence([[0.0, 0.0]], [0])
    tensor([0.5000], dtype=torch.float64)
    """
    return softened.confidence


@per_example("p_(1) - p_(2)", "margin between the two most probable classes", expected_sign=0, tempered=False)
def confidence_gap(softened: Softened) -> Tensor:
    """Largest minus second largest probability, in [0, 1].

    Examples
    --------
    >>> confidence_gap([[0.0, 0.0, -100.0]], [0])
    tensor([0.], dtype=torch.float64)
    """
    target, top = softened.target_prob, softened.wrong_mass * softened.top_wrong_prob
    below = torch.exp((softened.raw.second_wrong_logit - softened.raw.max_wrong_logit) / softened.tau)
    return torch.where(target >= top, target - top, top - torch.maximum(target, top * below))


def calibration_bins(confidence: Tensor, correct: Tensor, bins: int = BINS) -> dict[str, Tensor]:
    r"""Reliability diagram: examples sorted into `bins` equal intervals of confidence, (low, high] as in Guo et al.

    Parameters
    ----------
    confidence : Tensor, shape (N,)
        Largest probability of each example, in [0, 1].
    correct : Tensor, shape (N,)
        1.0 where the arg max is right, else 0.0.
    bins : int, default 15
        Number of intervals, at most 100,000.

    Returns
    -------
    dict of str to Tensor
        ``bin_low`` and ``bin_high``, the ends of each interval; ``confidence`` and ``accuracy``, means of the examples
        in it (NaN in empty bins); ``n``, their number. Shape (bins,) each.

    See Also
    --------
    capmismatch.reliability : The same for every teacher of a bank.
    """
    must_count(bins, "bins", most=MOST_BINS)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        shapes = tuple(confidence.shape), tuple(correct.shape)
        raise InputError(f"expected confidence and correct of one shape (N,), got {shapes[0]} and {shapes[1]}")
    _must_be_shares(confidence, "confidence")
    index = _bin_index(confidence, bins)
    n = torch.bincount(index, minlength=bins).to(confidence.dtype)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    return {
        "bin_low": edges[:-1],
        "bin_high": edges[1:],
        "confidence": torch.bincount(index, weights=confidence, minlength=bins) / n,
        "accuracy": torch.bincount(index, weights=correct, minlength=bins) / n,
        "n": n,
    }


def _bin_index(confidence: Tensor, bins: int) -> Tensor:
    return (torch.ceil(confidence * bins - EDGE) - 1).clamp(0, bins - 1).to(torch.int64)


def _signed(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's confidence minus hit, and the sign of that difference's mean in the example's bin, both (N,)."""
    index = _bin_index(confidence, BINS)
    gap = confidence - correct
    total, count = torch.bincount(index, weights=gap, minlength=BINS), torch.bincount(index, minlength=BINS)
    return gap, _sign(total, count)[index]


def _sign(total: Tensor, count: Tensor | int) -> Tensor:
    """Signs of sums of differences; 0 where a sum is nothing but rounding."""
    return torch.where(total.abs() > CALIBRATED * count, total.sign(), 0.0)


def _nonempty(logits: ArrayLike, labels: ArrayLike, tau: float) -> Softened:
    softened = Softened(logits, labels, tau)
    if not len(softened.labels):
        raise InputError("a calibration error needs at least one example, got none")
    return softened


def _hits(logits: ArrayLike, labels: ArrayLike, tau: float) -> tuple[Tensor, Tensor]:
    softened = _nonempty(logits, labels, tau)
    return softened.confidence.detach(), softened.raw.correct  # what is counted in bins has no gradient


# Each of the following gives a value for each example whose mean is the calibration error: the bins' signs are taken as
# fixed, so that standard errors come as for any mean.


def _ece(confidence: Tensor, correct: Tensor) -> Tensor:
    gap, sign = _signed(confidence, correct)
    return gap * sign


def _ece_over(confidence: Tensor, correct: Tensor) -> Tensor:
    gap, sign = _signed(confidence, correct)
    return gap * (sign > 0)


def _ece_under(confidence: Tensor, correct: Tensor) -> Tensor:
    gap, sign = _signed(confidence, correct)
    return -gap * (sign < 0)


def ece(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0, *, debiased: bool = False) -> float:
    r"""Expected calibration error, :math:`\sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|`, 15 equal bins.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 1.0
        Temperature > 0.
    debiased : bool, default False
        Whether to take off what few examples a bin add: a magnitude is raised by noise. With :math:`d_b` the difference
        of a bin and :math:`s_b^2 = \sum \mathrm{conf} (1 - \mathrm{conf}) / n_b^2` the variance that hits give it, each
        :math:`|d_b|` becomes :math:`2 |d_b| - E |N(d_b, s_b^2)|`. Of a calibrated teacher that takes off two fifths.

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
    Guo et al. 2017, arXiv 1706.04599; Kumar, Liang, Ma 2019, arXiv 1909.10155 (the correction, which they resample).

    Examples
    --------
    >>> round(ece([[0.0, 0.0], [0.0, 0.0]], [0, 1]), 6)
    0.0
    >>> round(ece([[1.0, 0.0]] * 8, [0] * 8), 3), round(ece([[1.0, 0.0]] * 8, [0] * 8, debiased=True), 3)
    (0.269, 0.263)
    """
    confidence, correct = _hits(logits, labels, tau)
    plain = float(_ece(confidence, correct).mean())
    return max(plain - _raised_by_noise(confidence, correct), 0.0) if debiased else plain


def _raised_by_noise(confidence: Tensor, correct: Tensor) -> float:
    """What noise adds to the calibration error: mean over bins of E|N(d, s^2)| - |d|."""
    index = _bin_index(confidence, BINS)
    gap = torch.bincount(index, weights=confidence - correct, minlength=BINS)
    spread = torch.bincount(index, weights=confidence * (1 - confidence), minlength=BINS).sqrt()
    noisy = spread > 0
    gap, spread = gap[noisy].abs(), spread[noisy]  # n times d and s of each bin
    ratio = gap / spread
    density = torch.exp(-(ratio**2) / 2) * math.sqrt(2 / math.pi)
    raised = spread * density - gap * torch.special.erfc(ratio / math.sqrt(2))
    return float(raised.sum()) / len(confidence)


def ece_over(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> float:
    r"""Over-confident part of the ECE, :math:`\sum_b \frac{n_b}{N} \max(\mathrm{conf}_b - \mathrm{acc}_b, 0)`.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 1.0
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
    Kim et al. 2025, arXiv 2508.20224.

    Examples
    --------
    >>> round(ece_over([[50.0, 0.0]], [1]), 6)
    1.0
    """
    return float(_ece_over(*_hits(logits, labels, tau)).mean())


def ece_under(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> float:
    r"""Under-confident part of the ECE, :math:`\sum_b \frac{n_b}{N} \max(\mathrm{acc}_b - \mathrm{conf}_b, 0)`.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 1.0
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
    Kim et al. 2025, arXiv 2508.20224.

    Examples
    --------
    >>> round(ece_under([[0.0, 0.0]], [0]), 6)
    0.5
    """
    return float(_ece_under(*_hits(logits, labels, tau)).mean())


def adaptive_error(class_probs: Tensor, is_class: Tensor, bins: int = BINS) -> Tensor:
    r"""Adaptive calibration error, summed over classes, as a value for each example whose mean it is.

    The probabilities of each class are sorted into `bins` ranges of equal count; the error of a class is the mean over
    ranges of \|frequency - mean probability\|. An example's share is its own difference with its range's sign.

    Parameters
    ----------
    class_probs : Tensor, shape (N, K)
        Probabilities of K classes.
    is_class : Tensor of bool, shape (N, K)
        Whether the example is of that class.
    bins : int, default 15
        Ranges of equal count; with fewer examples, each example is its own range.

    Returns
    -------
    Tensor
        Shape (N,). Of equal probabilities the earlier example comes first; those that differ by no more than 4e-12 of
        themselves are equal, as their last digits depend on how they were computed.

    Raises
    ------
    InputError
        Probabilities that are none, of another shape than `is_class`, or a number of bins that is none.
    """
    must_count(bins, "bins")
    probs = class_probs.detach().to(widest_float(class_probs))
    _check_probabilities(probs, is_class)
    ranges, parts = min(bins, len(probs)), blocks(probs.shape[1], CLASSES_AT_ONCE)
    shares = probs.new_zeros((len(parts), len(probs)))
    tie = TIE if probs.dtype == torch.float64 else TIE_OF_SINGLES
    measure = _by_loops if devices.uses_loops(probs.device, probs.numel()) else _by_tensors

    def run(part: slice) -> None:
        measure(probs[:, part], is_class[:, part], ranges, shares[part.start // CLASSES_AT_ONCE], tie)

    run_in_threads(
        run, parts, devices.thread_count(probs.device)
    )  # each part sums by itself, whichever thread takes it
    return shares.sum(0).to(class_probs)


def _check_probabilities(probs: Tensor, is_class: Tensor) -> None:
    """Raise unless both are (N, K), and the first in [0, 1] up to rounding: kernels go by the bits of probabilities."""
    if probs.ndim != 2 or probs.shape != is_class.shape:
        shapes = tuple(probs.shape), tuple(is_class.shape)
        raise InputError(f"expected probabilities and classes of one shape (N, K), got {shapes[0]} and {shapes[1]}")
    _must_be_shares(probs, "probabilities")


def _must_be_shares(values: Tensor, place: str) -> None:
    """Raise unless all lie in [0, 1], up to rounding."""
    if values.numel():
        in_memory = values.detach().T if values.ndim == 2 and not values.is_contiguous() else values.detach()
        least, most = (float(end) for end in torch.aminmax(in_memory))
        if not (least >= 0 and most <= 1 + 1e-6):
            raise InputError(f"expected {place} in [0, 1], got some in [{least:g}, {most:g}]")


def _by_loops(probs: Tensor, is_class: Tensor, ranges: int, share: Tensor, tie: int = 0) -> None:
    """Add to `share` (N,) each example's share in the errors of some classes, (N, K); `tie` in floats apart."""
    for p, hit in zip(probs.T.contiguous().numpy(), is_class.T.contiguous().numpy(), strict=True):
        adaptive_loops.adaptive_class(p, hit.nonzero()[0], ranges, share.numpy(), tie)


def adaptive_error_of_logits(
    logits: Tensor, logsumexp: Tensor, by_class: Tensor, begins: Tensor, rate: float = 1.0, bins: int = BINS
) -> Tensor:
    """`adaptive_error` of some classes from their logits, in compiled code that holds one class's probabilities.

    Parameters
    ----------
    logits : Tensor, shape (K, N)
        Of all examples, a class a row.
    logsumexp : Tensor of float64, shape (N,)
        Of rate times the logits of all classes.
    by_class : Tensor of int, shape (N,)
        The examples, sorted by class.
    begins : Tensor of int, shape (K + 1,)
        Where in `by_class` those of each class begin, and where those of the last one end.
    rate : float, default 1.0
        Inverse temperature.
    bins : int, default 15
        Ranges of equal count.

    Returns
    -------
    Tensor
        Shape (N,).
    """
    share = torch.zeros_like(logsumexp)
    f, of_rows, rows, at, out = (part.contiguous().numpy() for part in (logits, logsumexp, by_class, begins, share))
    adaptive_loops.adaptive_classes(f, of_rows, float(rate), rows, at, max(1, min(bins, len(rows))), out, TIE)
    return share


def _by_tensors(probs: Tensor, is_class: Tensor, ranges: int, share: Tensor, tie: int = 0) -> None:
    rows, probs = len(probs), probs + 0.0  # -0 becomes 0
    counts = [(r + 1) * rows // ranges - r * rows // ranges for r in range(ranges)]
    order = _order(probs, tie)
    gaps = (probs - is_class.to(probs)).gather(0, order).split(counts)
    weighted = [gap * _sign(gap.sum(0), len(gap)) * (rows / (ranges * len(gap))) for gap in gaps]
    share += torch.zeros_like(probs).scatter_(0, order, torch.cat(weighted)).sum(1)


def _order(probs: Tensor, tie: int) -> Tensor:
    """Rows of each class by probability, (N, K); rows that tie, each with the next, keep their order."""
    order = probs.argsort(dim=0, stable=True)
    bits = probs.gather(0, order).view(torch.int64 if probs.dtype == torch.float64 else torch.int32)
    steps = bits.diff(dim=0)
    apart = steps > tie
    if not bool((~apart & (steps > 0)).any()):
        return order
    group = torch.cat([torch.zeros_like(order[:1]), apart.cumsum(0)])
    return torch.empty_like(order).scatter_(0, order, group).argsort(dim=0, stable=True)


def classwise_ace(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> float:
    r"""Adaptive class-wise calibration error.

    .. math:: \frac{1}{CR} \sum_c \sum_r |\mathrm{acc}(r, c) - \mathrm{conf}(r, c)|

    For each class its probabilities over all N examples are sorted into R = 15 ranges of equal count, and of those that
    differ by no more than 4e-12 of themselves the earlier example comes first. It is the strongest known rival of the
    derived variance.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 1.0
        Temperature > 0.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    InputError
        No examples, logits or labels that do not fit, a temperature that is not positive.

    Notes
    -----
    Where 15 does not divide N, range r begins at rank floor(r N / 15). Ranges that are cut otherwise, such as with all
    that is left over in the first ones, differ by some percent at 400 examples.

    References
    ----------
    Nixon et al. 2019, arXiv 1904.01685. Kim et al. 2025, arXiv 2508.20224.

    Examples
    --------
    >>> round(classwise_ace([[50.0, 0.0], [0.0, 50.0]], [0, 1]), 6)
    0.0
    """
    softened = _nonempty(logits, labels, tau)
    classes = softened.wrong_classes + 1
    one_hot = torch.nn.functional.one_hot(softened.labels, classes) > 0
    return float(adaptive_error(softened.probs, one_hot).mean() / classes)


KIM = "Kim et al. 2025, arXiv 2508.20224"
register("ece", "calibration", _ece, "sum_b n_b/N |acc_b - conf_b|", "Guo et al. 2017, arXiv 1706.04599", -1, False)
register("ece_over", "calibration", _ece_over, "sum_b n_b/N max(conf_b - acc_b, 0)", KIM, -1, False)
register("ece_under", "calibration", _ece_under, "sum_b n_b/N max(acc_b - conf_b, 0)", KIM, -1, False)
register(
    "classwise_ace",
    "classes",
    adaptive_error,
    "1/(C R) sum_c sum_r |acc(r,c) - conf(r,c)|",
    "Nixon et al. 2019, arXiv 1904.01685; " + KIM,
    -1,
    False,
)
