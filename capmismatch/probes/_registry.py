"""What a probe is, and the one list of them.

A probe is a function of logits and labels, written once as a function of `Softened`: the pieces of the softmax that all
probes share. The decorators below turn it into the public form ``probe(logits, labels, tau)`` and enter it into
`REGISTRY`, from where tables take it. Adding a probe is adding one decorated function to one file of this folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from capmismatch._arrays import ArrayLike, as_pair, widest_float
from capmismatch.errors import InputError, must_be_positive


class Softened:
    r"""Logits over a temperature, and what all probes need of their softmax, each computed once, when first asked for.

    Everything is float64 and goes through log space: ``log_odds`` is :math:`\log p_y - \log(1 - p_y)`, so that both p_y
    and 1 - p_y keep their digits when the other rounds to 1.

    Parameters
    ----------
    logits : (N, C) tensor or array
    labels : (N,) integers in [0, C)
    tau : positive temperature
    """

    def __init__(self, logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> None:
        must_be_positive(tau, "tau")
        given, y = as_pair(logits, labels)
        self.raw, self.tau = _Raw(given.to(widest_float(given)), y), float(tau)

    @classmethod
    def checked(cls, logits: Tensor, labels: Tensor, tau: float) -> Softened:
        """The same from float64 logits and labels that have been checked before."""
        new = object.__new__(cls)
        new.raw, new.tau = _Raw(logits, labels), float(tau)
        return new

    def at(self, tau: float) -> Softened:
        """The same logits over another temperature; what does not depend on it is shared."""
        new = object.__new__(Softened)
        new.raw, new.tau = self.raw, float(tau)
        return new

    @property
    def logits(self) -> Tensor:
        """(N, C), not divided by tau."""
        return self.raw.logits

    @property
    def labels(self) -> Tensor:
        """(N,)."""
        return self.raw.labels

    @property
    def wrong_classes(self) -> int:
        """C - 1."""
        return self.raw.logits.shape[1] - 1

    @cached_property
    def _wrong_exp(self) -> Tensor:
        """(N, C) exp((f - largest wrong f) / tau), 0 in the target's place; no exponent of a wrong class exceeds 0."""
        return torch.mul(self.raw.below, 1.0 / self.tau).exp_().scatter_(1, self.labels[:, None], 0.0)

    @cached_property
    def _wrong_total(self) -> Tensor:
        return self._wrong_exp.sum(1)

    @cached_property
    def log_odds(self) -> Tensor:
        """(N,) log p_y - log(1 - p_y) = f_y/tau - logsumexp over wrong classes of f/tau."""
        return (self.raw.target_logit - self.raw.max_wrong_logit) / self.tau - self._wrong_total.log()

    @cached_property
    def target_prob(self) -> Tensor:
        """(N,) p_y."""
        return torch.sigmoid(self.log_odds)

    @cached_property
    def wrong_mass(self) -> Tensor:
        """(N,) 1 - p_y, to full relative precision."""
        return torch.sigmoid(-self.log_odds)

    @cached_property
    def top_wrong_prob(self) -> Tensor:
        """(N,) the largest entry of q~."""
        return self._wrong_total.reciprocal()

    @cached_property
    def inherent_variance(self) -> Tensor:
        """(N,) population variance of q~ over the wrong classes."""
        mean = self._wrong_total / self.wrong_classes
        deviation = (self._wrong_exp - mean[:, None]).scatter_(1, self.labels[:, None], 0.0)
        return _row_dot(deviation, deviation) / (self._wrong_total**2 * self.wrong_classes)

    @cached_property
    def wrong_squares(self) -> Tensor:
        """(N,) sum of q~^2 over the wrong classes."""
        return self.inherent_variance * self.wrong_classes + 1.0 / self.wrong_classes

    @cached_property
    def wrong_entropy(self) -> Tensor:
        """(N,) entropy of q~ in nats."""
        mean_below = _row_dot(self._wrong_exp, self.raw.below) / (self._wrong_total * self.tau)
        return (self._wrong_total.log() - mean_below).clamp_min(0.0)

    @cached_property
    def entropy(self) -> Tensor:
        """(N,) entropy of p in nats, by the chain rule: target or not, then which wrong class."""
        log_p, log_wrong = torch.nn.functional.logsigmoid(self.log_odds), torch.nn.functional.logsigmoid(-self.log_odds)
        return -self.target_prob * log_p - self.wrong_mass * log_wrong + self.wrong_mass * self.wrong_entropy

    @cached_property
    def probs(self) -> Tensor:
        """(N, C) p."""
        wrong = self._wrong_exp * (self.wrong_mass / self._wrong_total)[:, None]
        return wrong.scatter_(1, self.labels[:, None], self.target_prob[:, None])

    @cached_property
    def confidence(self) -> Tensor:
        """(N,) the largest probability."""
        return torch.maximum(self.target_prob, self.wrong_mass * self.top_wrong_prob)


class _Raw:
    """What does not depend on the temperature."""

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        self.logits, self.labels = logits, labels

    @cached_property
    def target_logit(self) -> Tensor:
        """(N,) f_y."""
        return self.logits.gather(1, self.labels[:, None])[:, 0]

    @cached_property
    def max_wrong_logit(self) -> Tensor:
        """(N,) largest wrong logit."""
        return self._wrong.amax(1)

    @cached_property
    def second_wrong_logit(self) -> Tensor:
        """(N,) second largest wrong logit; -inf with 2 classes."""
        return self._wrong.topk(2, dim=1).values[:, 1]

    @property
    def _wrong(self) -> Tensor:
        return self.logits.scatter(1, self.labels[:, None], -torch.inf)

    @cached_property
    def below(self) -> Tensor:
        """(N, C) logits less the largest wrong one, 0 in the target's place."""
        return (self.logits - self.max_wrong_logit[:, None]).scatter_(1, self.labels[:, None], 0.0)

    @cached_property
    def mean_logit(self) -> Tensor:
        """(N,) mean over all classes."""
        return self.logits.mean(1)

    @cached_property
    def logit_std(self) -> Tensor:
        """(N,) population standard deviation over all classes."""
        return (self.logits - self.mean_logit[:, None]).norm(dim=1) / self.logits.shape[1] ** 0.5

    @cached_property
    def correct(self) -> Tensor:
        """(N,) 1.0 where the arg max is the target (the first of equal logits counts), else 0.0."""
        return (self.logits.argmax(1) == self.labels).to(self.logits.dtype)


def _row_dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("nc,nc->n", a, b)


@dataclass(frozen=True)
class Probe:
    """One entry of the registry.

    Attributes
    ----------
    name : as in tables
    formula, source : for tables, reports and docs
    expected_sign : +1 if a higher value is expected to help students, -1 if a lower one is, 0 if the field is undecided
    tempered : whether the value depends on tau; the others are taken at tau = 1 and carry NaN in tables
    kind : "example" (a value for each example; tables show mean and standard error), "calibration" (a number from
        confidences and hits), "classes" (from all probabilities, class by class), "spread" (a value for each example
        given its class's mean output), or "family" (from the teacher's metadata)
    compute : the function itself, of the shape that its kind fixes
    """

    name: str
    formula: str
    source: str
    expected_sign: int
    tempered: bool
    kind: str
    compute: Callable[..., Any]


REGISTRY: dict[str, Probe] = {}


def register(
    name: str, kind: str, compute: Callable[..., Any], formula: str, source: str, expected_sign: int, tempered: bool
) -> None:
    """Enter a probe; a second one of the same name is an error."""
    if name in REGISTRY:
        raise InputError(f"a probe named {name!r} exists already")
    REGISTRY[name] = Probe(name, formula, source, expected_sign, tempered, kind, compute)


def per_example(
    formula: str, source: str, expected_sign: int, tempered: bool = True
) -> Callable[[Callable[[Softened], Tensor]], Callable[..., Tensor]]:
    """Make ``probe(logits, labels, tau) -> (N,)`` of a function of `Softened`, and register it."""

    def decorate(compute: Callable[[Softened], Tensor]) -> Callable[..., Tensor]:
        register(compute.__name__, "example", compute, formula, source, expected_sign, tempered)

        @functools.wraps(compute)
        def public(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> Tensor:
            return compute(Softened(logits, labels, tau))

        # The public signature is this function's, not that of the function of `Softened` it wraps.
        del public.__wrapped__
        public.__annotations__ = {"logits": "ArrayLike", "labels": "ArrayLike", "tau": "float", "return": "Tensor"}
        return public

    return decorate


def expected_signs() -> dict[str, int]:
    """The expected sign of every registered probe's link with student accuracy.

    Examples
    --------
    >>> expected_signs()["derived_variance"], expected_signs()["ece"]
    (1, -1)
    """
    return {name: probe.expected_sign for name, probe in REGISTRY.items()}
