r"""The pieces of a softmax that probes, temperatures and class means share: computed once per row, in log space.

`take_apart` splits logits into the target's and the wrong ones, `Softened` holds them over a temperature. On the CPU
the sums over classes are taken by compiled loops (`softmax_loops`), one pass for any number of temperatures;
elsewhere (CUDA, logits with a gradient, no numba) by the tensor operations below, to the same 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from capmismatch._numerics import devices
from capmismatch._numerics.arrays import ArrayLike, as_pair, check_range, widest_float
from capmismatch._numerics.cached import cached_property
from capmismatch._numerics.threads import rows_in_threads
from capmismatch.errors import InputError, must_be_temperature

if devices.HAS_NUMBA:
    from capmismatch._numerics import softmax_loops as kernels

BLOCK_LOGITS = 1 << 16  # that a thread works on at a time


@dataclass(frozen=True)
class LogitParts:
    """Logits taken apart: everything that does not depend on the temperature.

    Attributes
    ----------
    logits : Tensor, shape (N, C)
        As they were passed.
    labels : Tensor of int, shape (N,)
        In [0, C).
    target_logit : Tensor, shape (N,)
        Logit of the label.
    max_wrong_logit : Tensor, shape (N,)
        Largest wrong logit.
    second_wrong_logit : Tensor, shape (N,)
        Second largest wrong logit; -inf with 2 classes.
    top_wrong_class : Tensor of int, shape (N,)
        Class of the largest wrong logit, the first of equal ones.
    mean_logit, logit_std : Tensor, shape (N,)
        Mean and population standard deviation over all classes.
    correct : Tensor, shape (N,)
        1.0 where the arg max is the target (the first of equal logits counts), else 0.0.
    below : Tensor, shape (N, C-1)
        Wrong logits in the order of their classes, less their largest.
    """

    logits: Tensor
    labels: Tensor
    target_logit: Tensor
    max_wrong_logit: Tensor
    second_wrong_logit: Tensor
    top_wrong_class: Tensor
    mean_logit: Tensor
    logit_std: Tensor
    correct: Tensor
    below: Tensor

    @property
    def compiled(self) -> bool:
        """Whether compiled loops may work on these rows."""
        return _compiled(self.below)

    @property
    def wrong_classes(self) -> int:
        """K = C - 1."""
        return self.below.shape[1]

    @property
    def wrong_logits(self) -> Tensor:
        """What the search of ISATS reads of the wrong classes: `below`."""
        return self.below

    def sums_at(self, taus: Sequence[float | Tensor]) -> list[Sums]:
        """Sums over the wrong classes at each temperature: a number, or (N,) with one per row."""
        return sums_at(self.below, taus)


class Parts(Protocol):
    """What `Softened` asks of rows: `LogitParts`, or `condensed.CondensedParts`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def labels(self) -> Tensor: ...
    @property
    def target_logit(self) -> Tensor: ...
    @property
    def max_wrong_logit(self) -> Tensor: ...
    @property
    def second_wrong_logit(self) -> Tensor: ...
    @property
    def top_wrong_class(self) -> Tensor: ...
    @property
    def mean_logit(self) -> Tensor: ...
    @property
    def logit_std(self) -> Tensor: ...
    @property
    def correct(self) -> Tensor: ...
    @property
    def logits(self) -> Tensor: ...
    @property
    def below(self) -> Tensor: ...
    @property
    def wrong_classes(self) -> int: ...
    @property
    def wrong_logits(self) -> Any: ...
    @property
    def compiled(self) -> bool: ...
    def sums_at(self, taus: Sequence[float | Tensor]) -> list[Sums]: ...


def _compiled(rows: Tensor) -> bool:
    return devices.uses_loops(rows.device, rows.numel()) and not rows.requires_grad


def take_apart(logits: Tensor, labels: Tensor) -> LogitParts:
    """Split checked logits (N, C) and labels (N,); all numbers are in the widest float of the device."""
    check_range(labels, logits.shape[1], "labels")
    _must_have_rows(labels, len(logits), "labels")
    if not _compiled(logits):
        return _taken_apart(logits, logits.to(widest_float(logits)), labels)
    n, classes = logits.shape
    target, top, second, mean, std, correct = torch.empty((6, n), dtype=torch.float64)
    top_class, below = torch.empty(n, dtype=torch.int64), torch.empty((n, classes - 1), dtype=torch.float64)
    tensors = (logits.contiguous(), labels, below, target, top, second, top_class, mean, std, correct)
    arrays = [tensor.numpy() for tensor in tensors]
    _in_blocks(lambda rows: kernels.take_apart(*(array[rows] for array in arrays)), n, classes)
    return LogitParts(logits, labels, target, top, second, top_class, mean, std, correct, below)


def _taken_apart(logits: Tensor, wide: Tensor, labels: Tensor) -> LogitParts:
    wrong_class = _wrong_classes(labels, wide.shape[1])
    target, wrong = wide.gather(1, labels[:, None])[:, 0], wide.gather(1, wrong_class)
    top = wrong.amax(1)
    second = wrong.topk(2, dim=1).values[:, 1] if wrong.shape[1] > 1 else torch.full_like(top, -torch.inf)
    mean = wide.mean(1)
    std = (wide - mean[:, None]).norm(dim=1) / wide.shape[1] ** 0.5
    top_index = (wrong == top[:, None]).to(torch.int8).argmax(1)  # the first: on some devices max takes any of equals
    top_class = wrong_class.gather(1, top_index[:, None])[:, 0]
    correct = ((target > top) | ((target == top) & (labels < top_class))).to(wide.dtype)
    return LogitParts(logits, labels, target, top, second, top_class, mean, std, correct, wrong - top[:, None])


def _must_have_rows(values: Tensor, rows: int, place: str) -> None:
    """Raise unless there is one value for each row."""
    if values.ndim != 1 or len(values) != rows:
        raise InputError(f"expected {place} of shape ({rows},), one for each row, got {tuple(values.shape)}")


def _wrong_classes(labels: Tensor, classes: int) -> Tensor:
    """(N, C-1) the classes that are not the target, in order."""
    count = torch.arange(classes - 1, device=labels.device)
    return count + (count >= labels[:, None])


class Sums(NamedTuple):
    """Sums over the wrong classes of each row, with e = exp((f - largest wrong f) / tau).

    Attributes
    ----------
    tail : Tensor, shape (N,)
        Sum of e without the largest, which is 1 and would take the digits of a small tail.
    variance : Tensor, shape (N,)
        Population variance of q~ = e / sum e.
    mean_below : Tensor, shape (N,)
        Mean of f - largest wrong f under q~.
    """

    tail: Tensor
    variance: Tensor
    mean_below: Tensor

    @property
    def total(self) -> Tensor:
        """Sum e."""
        return 1.0 + self.tail

    @property
    def log_total(self) -> Tensor:
        """The logarithm of sum e, to its last digits also where one class takes nearly all."""
        return self.tail.log1p()


def sums_at(below: Tensor, taus: Sequence[float | Tensor]) -> list[Sums]:
    """Sums over `below` (N, C-1) at each temperature: a number, or (N,) with one per row."""
    if not _compiled(below):
        return [_sums(below, tau) for tau in taus]
    rates = rates_of(below, taus)
    sums = torch.empty((3, *rates.shape), dtype=torch.float64)
    arrays = [below.numpy(), rates.numpy(), *(values.numpy() for values in sums)]
    _in_blocks(lambda rows: kernels.row_sums(*arrays, rows.start, rows.stop), *below.shape)
    return [Sums(*sums[:, t]) for t in range(len(taus))]


def _sums(below: Tensor, tau: float | Tensor) -> Sums:
    x = below / (tau[:, None] if isinstance(tau, Tensor) else tau)
    e, less_one = x.exp(), x.expm1()  # less_one keeps the digits of differences between nearly equal classes
    top = below.argmax(1, keepdim=True)
    tail = e.scatter(1, top, less_one.gather(1, top)).sum(1)  # e - 1 is 0 there, and has the gradient of e
    total = 1.0 + tail
    deviation = less_one - less_one.mean(1, keepdim=True)
    return Sums(tail, deviation.square().mean(1) / total**2, torch.einsum("nc,nc->n", e, below) / total)


def in_octaves(taus: Iterable[float]) -> list[float]:
    """Temperatures in an order in which each comes right after its double, whose exponentials need only be squared.

    Examples
    --------
    >>> in_octaves([1, 2, 3, 4, 6])
    [4, 2, 1, 6, 3]
    """
    return sorted(set(taus), key=lambda tau: (math.frexp(tau)[0], -tau))


def rates_of(below: Tensor, taus: Sequence[float | Tensor]) -> Tensor:
    """(T, N) inverse temperatures."""
    one = torch.ones(len(below), dtype=below.dtype, device=below.device)
    return torch.stack([one / tau for tau in taus])


def _in_blocks(run: Callable[[slice], None], n: int, width: int) -> None:
    rows_in_threads(run, n, max(1, BLOCK_LOGITS // max(1, width)), torch.get_num_threads())


class Softened:
    r"""Logits over a temperature, and what all probes need of their softmax, each computed once, when first asked for.

    Everything is float64 and goes through log space: ``log_odds`` is :math:`\log p_y - \log(1 - p_y)`, so that both p_y
    and 1 - p_y keep their digits when the other rounds to 1. Where a wrong logit is more than 708 tau below the largest
    wrong one, exp(-708) = 3e-308, it counts as if its probability were 0.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau : float, default 1.0
        Temperature > 0.
    """

    raw: Parts
    tau: float | Tensor

    def __init__(self, logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> None:
        must_be_temperature(tau, "tau")
        self.raw, self.tau = take_apart(*as_pair(logits, labels)), float(tau)

    @classmethod
    def of(cls, raw: Parts, tau: float | Tensor) -> Softened:
        """The same from logits that have been taken apart, over one temperature or one per row, (N,)."""
        new = object.__new__(cls)
        new.raw, new.tau = raw, tau
        return new

    @classmethod
    def at_each(cls, raw: Parts, taus: Sequence[float]) -> list[Softened]:
        """The same over several temperatures, for which the rows are read once; quickest `in_octaves`."""
        softened_at = [cls.of(raw, tau) for tau in taus]
        for softened, sums in zip(softened_at, raw.sums_at(taus), strict=True):
            softened.sums = sums
        return softened_at

    @property
    def logits(self) -> Tensor:
        """(N, C), not divided by tau."""
        return self.raw.logits.to(self.raw.below.dtype)

    @property
    def labels(self) -> Tensor:
        """(N,)."""
        return self.raw.labels

    @property
    def wrong_classes(self) -> int:
        """C - 1."""
        return self.raw.wrong_classes

    @cached_property
    def sums(self) -> Sums:
        """What is summed over wrong classes."""
        return self.raw.sums_at([self.tau])[0]

    @cached_property
    def log_odds(self) -> Tensor:
        """(N,) log p_y - log(1 - p_y) = f_y/tau - logsumexp over wrong classes of f/tau."""
        return (self.raw.target_logit - self.raw.max_wrong_logit) / self.tau - self.sums.log_total

    @cached_property
    def target_prob(self) -> Tensor:
        """(N,) p_y."""
        return torch.sigmoid(self.log_odds)

    @cached_property
    def wrong_mass(self) -> Tensor:
        """(N,) 1 - p_y, to full relative precision."""
        return torch.sigmoid(-self.log_odds)

    @property
    def logsumexp(self) -> Tensor:
        """(N,) of f / tau over all classes."""
        return self.raw.target_logit / self.tau + torch.nn.functional.softplus(-self.log_odds)

    @cached_property
    def wrong_scale(self) -> Tensor:
        """(N,) the probability of the largest wrong class: p_c is this times exp((f_c - largest wrong f) / tau)."""
        return self.wrong_mass / self.sums.total

    @property
    def log_wrong_scale(self) -> Tensor:
        """(N,) the logarithm of `wrong_scale`, also where that is 0."""
        return torch.nn.functional.logsigmoid(-self.log_odds) - self.sums.log_total

    @property
    def top_wrong_prob(self) -> Tensor:
        """(N,) the largest entry of q~."""
        return self.sums.total.reciprocal()

    @property
    def inherent_variance(self) -> Tensor:
        """(N,) population variance of q~ over the wrong classes."""
        return self.sums.variance

    @property
    def wrong_squares(self) -> Tensor:
        """(N,) sum of q~^2 over the wrong classes."""
        return self.inherent_variance * self.wrong_classes + 1.0 / self.wrong_classes

    @cached_property
    def wrong_entropy(self) -> Tensor:
        """(N,) entropy of q~ in nats."""
        return self.sums.log_total - self.sums.mean_below / self.tau

    @cached_property
    def entropy(self) -> Tensor:
        """(N,) entropy of p in nats, by the chain rule: target or not, then which wrong class."""
        log_p, log_wrong = torch.nn.functional.logsigmoid(self.log_odds), torch.nn.functional.logsigmoid(-self.log_odds)
        return -self.target_prob * log_p - self.wrong_mass * log_wrong + self.wrong_mass * self.wrong_entropy

    @cached_property
    def probs(self) -> Tensor:
        """(N, C) p."""
        if self.raw.compiled:
            out = torch.zeros(self.raw.logits.shape, dtype=torch.float64)
            add_to_classes([self], torch.arange(len(out)), out[None])
            return out
        return self._in_order(self.target_prob, self.wrong)

    @property
    def log_probs(self) -> Tensor:
        """(N, C) log p."""
        log_wrong = self._below_over_tau + self.log_wrong_scale[:, None]
        return self._in_order(torch.nn.functional.logsigmoid(self.log_odds), log_wrong)

    @property
    def wrong(self) -> Tensor:
        """(N, C-1) p over the wrong classes."""
        return self._below_over_tau.exp() * self.wrong_scale[:, None]

    @property
    def _below_over_tau(self) -> Tensor:
        return self.raw.below / (self.tau[:, None] if isinstance(self.tau, Tensor) else self.tau)

    def _in_order(self, of_target: Tensor, of_wrong: Tensor) -> Tensor:
        """(N, C) values in the order of classes."""
        index = _wrong_classes(self.labels, self.wrong_classes + 1)
        out = of_wrong.new_zeros(self.raw.logits.shape).scatter(1, index, of_wrong)
        return out.scatter(1, self.labels[:, None], of_target[:, None])

    def wrong_alone(self) -> WrongAlone:
        """The softmax of the same rows over the wrong classes alone."""
        alone = WrongAlone.of(self.raw, self.tau)
        alone.sums = self.sums
        assert isinstance(alone, WrongAlone)
        return alone

    @cached_property
    def confidence(self) -> Tensor:
        """(N,) the largest probability."""
        return torch.maximum(self.target_prob, self.wrong_scale)


def class_probabilities(logits: Tensor, logsumexp: Tensor) -> Tensor:
    """exp(f - logsumexp), float64, of logits (K, N), one row per class, and the (N,) logsumexp of all classes."""
    _must_have_rows(logsumexp, logits.shape[1], "logsumexp")
    if not _compiled(logits):
        return (logits - logsumexp).exp_()
    out = torch.empty(logits.shape, dtype=torch.float64)
    kernels.class_probabilities(logits.numpy(), logsumexp.numpy(), out.numpy())
    return out


def add_to_classes(softened: Sequence[Softened], group: Tensor, sums: Tensor) -> None:
    """Add p of each row, at the temperature of each of T Softened of the same rows, to sums[t, group], (T, G, C)."""
    raw = softened[0].raw
    _must_have_rows(group, len(raw.labels), "groups")
    check_range(group, sums.shape[1], "groups", "groups")
    if raw.compiled:
        tensors = (raw.below, raw.labels, *_weights(softened), group, sums)
        kernels.add_to_classes(*(tensor.numpy() for tensor in tensors))
    else:
        for rows, into in zip(softened, sums, strict=True):
            into.index_add_(0, group, rows.probs.detach())


def with_class_sums(
    raw: LogitParts, taus: Sequence[float], of_classes: Sequence[tuple[float, bool]], group: Tensor, sums: Tensor
) -> list[Softened]:
    """`Softened.at_each` and `add_to_classes` in one sweep of compiled code.

    Parameters
    ----------
    raw : LogitParts
        N rows, compiled.
    taus : sequence of float
        Temperatures.
    of_classes : sequence of (float, bool)
        Of each of the S sums one of these temperatures, and whether it is over the wrong classes alone.
    group : Tensor of int, shape (N,)
        Which of G classes each row belongs to.
    sums : Tensor, shape (S, G, C)
        What is added to.

    Returns
    -------
    list of Softened
        One for each temperature.
    """
    _must_have_rows(group, len(raw.labels), "groups")
    check_range(group, sums.shape[1], "groups", "groups")
    places = torch.full((2, len(taus)), -1)
    for place, (tau, alone) in enumerate(of_classes):
        places[int(alone), taus.index(tau)] = place
    out = torch.empty((3, len(taus), len(group)), dtype=torch.float64)
    gap, temperatures = raw.target_logit - raw.max_wrong_logit, torch.tensor(taus, dtype=torch.float64)
    tensors = (raw.below, raw.labels, gap, temperatures, group, places[0], places[1], sums, out)
    kernels.sums_with_classes(*(tensor.numpy() for tensor in tensors))
    softened_at = [Softened.of(raw, tau) for tau in taus]
    for t, softened in enumerate(softened_at):
        softened.sums = Sums(*out[:, t])
    return softened_at


def compare_with_classes(
    softened: Sequence[Softened], means: Tensor, logs: Tensor, pivots: Tensor, group: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum p log(p / m) and sum (p - m)^2, (T, N) each, with m = means[t, group], in compiled code."""
    _must_have_rows(group, len(softened[0].raw.labels), "groups")
    check_range(group, means.shape[1], "groups", "groups")
    raw, log_scale = softened[0].raw, torch.stack([rows.log_wrong_scale for rows in softened])
    total = torch.stack([rows.sums.total for rows in softened])
    divergence, distance = torch.empty((2, len(softened), len(group)), dtype=torch.float64)
    rows = (raw.below, raw.labels, *_weights(softened), log_scale, group)
    classes = (means, logs, pivots, _of_wrong_classes(means, raw.labels, group))
    kernels.against_classes(*(tensor.numpy() for tensor in (*rows, *classes, total, divergence, distance)))
    return divergence, distance


def _of_wrong_classes(means: Tensor, labels: Tensor, group: Tensor) -> Tensor:
    """(T, G) sums of means (T, G, C) over all but the label of a group's rows; NaN where these have several."""
    label = torch.zeros(means.shape[1], dtype=torch.int64).index_copy(0, group, labels)
    rest = means.scatter(2, label[None, :, None].expand(len(means), -1, 1), 0.0).sum(2)
    mixed = torch.zeros(len(label), dtype=torch.bool).index_put((group[label[group] != labels],), torch.tensor(True))
    return rest.masked_fill(mixed, torch.nan)


def _weights(softened: Sequence[Softened]) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse temperatures, probability of the largest wrong class, and of the target: (T, N) each."""
    rates = rates_of(softened[0].raw.below, [rows.tau for rows in softened])
    return rates, torch.stack([p.wrong_scale for p in softened]), torch.stack([p.target_prob for p in softened])


class WrongAlone(Softened):
    """The softmax over the wrong classes alone, q~: the target's probability is 0."""

    @cached_property
    def target_prob(self) -> Tensor:
        """(N,) zeros."""
        return torch.zeros_like(self.raw.target_logit)

    @cached_property
    def wrong_mass(self) -> Tensor:
        """(N,) ones."""
        return torch.ones_like(self.raw.target_logit)


class Asymmetric(Softened):
    """Logits whose target's is divided by a temperature of its own: ATS, and ISATS with one tau per row."""

    tau_target: float

    @classmethod
    def of_two(cls, raw: Parts, tau_target: float, tau_other: float | Tensor, origin: Tensor) -> Asymmetric:
        """With `origin` (N,), which the result depends on, subtracted from all logits of a row first."""
        new = cls.of(
            replace(raw, target_logit=raw.target_logit - origin, max_wrong_logit=raw.max_wrong_logit - origin),
            tau_other,
        )
        assert isinstance(new, Asymmetric)
        new.tau_target = tau_target
        return new

    @cached_property
    def log_odds(self) -> Tensor:
        """(N,) log p_y - log(1 - p_y) = f_y/tau_target - logsumexp over wrong classes of f/tau_other."""
        return self._target - self._top_wrong - self.sums.log_total

    @property
    def flipped(self) -> Tensor:
        """(N,) bool, whether the arg max is another than that of the logits; the first of equal ones counts."""
        before_runner_up = (self._target == self._top_wrong) & (self.labels < self.raw.top_wrong_class)
        return ((self._target > self._top_wrong) | before_runner_up) != (self.raw.correct > 0)

    @property
    def _target(self) -> Tensor:
        return self.raw.target_logit / self.tau_target

    @property
    def _top_wrong(self) -> Tensor:
        return self.raw.max_wrong_logit / self.tau
