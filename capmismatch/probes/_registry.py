"""What a probe is, and the one list of them.

A probe is a function of logits and labels, written once as a function of `Softened`: the pieces of the softmax that all
probes share (`capmismatch._numerics.softmax`). The decorators below turn it into the public form ``probe(logits,
labels, tau)`` and enter it into `REGISTRY`, from where tables take it. Adding a probe is adding one decorated function
to one file of this folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from capmismatch._numerics.arrays import ArrayLike
from capmismatch._numerics.softmax import Softened
from capmismatch.errors import InputError


@dataclass(frozen=True)
class Probe:
    """One entry of the registry.

    Attributes
    ----------
    name : as in tables
    formula, source : for tables, reports and docs
    expected_sign : +1 if a higher value is expected to help students, -1 if a lower one is, 0 if the field is undecided
    tempered : whether the value depends on tau; the others are taken at tau = 1 and carry NaN in tables
    kind : what `compute` takes. "example" (a `Softened`), "spread" (a `Softened`, and an `AroundClass` of the same
        examples), "calibration" (confidences and hits of all examples), "classes" (all examples' probabilities of some
        classes, and whether each is of that class) and "family" (the number of parameters)
    compute : the function itself. It gives a value for each example, whose mean and standard error tables show; one
        number with kind "family"
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
