"""What a probe is, and the one list of them.

A probe is a function of logits and labels, written once as a function of `Softened`: the pieces of the softmax that all
probes share (`capmismatch._numerics.softmax`). The decorators below turn it into the public form ``probe(logits,
labels, tau)`` and enter it into `REGISTRY`, from where tables take it. Adding a probe is adding one decorated function
to one file of this folder.
"""

from __future__ import annotations

import functools
import inspect
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
    name : str
        As in tables.
    formula, source : str
        For tables, reports and docs.
    expected_sign : int
        +1 if a higher value is expected to help students, -1 if a lower one is, 0 if the field is undecided.
    tempered : bool
        Whether the value depends on tau; the others are taken at tau = 1 and have NaN there in tables.
    kind : str
        What `compute` takes:

        * "example": a `Softened`
        * "spread": a `Softened`, and an `AroundClass` of the same examples
        * "calibration": confidences and hits of all examples, (N,) each
        * "classes": all examples' probabilities of some classes, (N, K), and whether each is of that class, (N, K)
        * "temperature": a function that gives the slope of each example's NLL at some inverse temperatures, and between
          which of these to search
        * "family": the number of parameters
        * "features": a `FeatureMoments` of all examples; these are in `FEATURES`
    compute : callable
        Returns a value for each example, (N,), whose mean and standard error tables show; one number with the kinds
        "family" and "features".
    vocabulary : bool
        Whether it is for rows over a vocabulary: tables have it by default where rows are positions of texts.
    on_request : bool
        Whether tables have it only where it is named, because it takes long.
    """

    name: str
    formula: str
    source: str
    expected_sign: int
    tempered: bool
    kind: str
    compute: Callable[..., Any]
    vocabulary: bool = False
    on_request: bool = False


REGISTRY: dict[str, Probe] = {}


def register(
    name: str,
    kind: str,
    compute: Callable[..., Any],
    formula: str,
    source: str,
    expected_sign: int,
    tempered: bool,
    vocabulary: bool = False,
    on_request: bool = False,
) -> None:
    """Enter a probe into the registry; the parameters are the fields of `Probe`.

    Parameters
    ----------
    name : str
        As in tables.
    kind : str
        What `compute` takes.
    compute : callable
        The formula.
    formula, source : str
        For tables, reports and docs.
    expected_sign : int
        -1, 0 or 1.
    tempered : bool
        Whether the value depends on tau.
    vocabulary : bool, default False
        Whether it is for rows over a vocabulary.
    on_request : bool, default False
        Whether tables have it only where it is named.

    Raises
    ------
    InputError
        There is a probe of that name.
    """
    if name in REGISTRY:
        raise InputError(f"a probe named {name!r} exists already")
    REGISTRY[name] = Probe(name, formula, source, expected_sign, tempered, kind, compute, vocabulary, on_request)


def per_example(
    formula: str, source: str, expected_sign: int, tempered: bool = True, vocabulary: bool = False
) -> Callable[[Callable[[Softened], Tensor]], Callable[..., Tensor]]:
    """Make ``probe(logits, labels, tau) -> (N,)`` of a function of `Softened`, and register it.

    The public function gets the docstring of the decorated one, completed by the sections that all probes share.

    Parameters
    ----------
    formula, source : str
        For tables, reports and docs.
    expected_sign : int
        +1 if a higher value is expected to help students, -1 if a lower one is, 0 if the field is undecided.
    tempered : bool, default True
        Whether the value depends on tau.
    vocabulary : bool, default False
        Whether it is for rows over a vocabulary.

    Returns
    -------
    callable
        The decorator.
    """

    def decorate(compute: Callable[[Softened], Tensor]) -> Callable[..., Tensor]:
        register(compute.__name__, "example", compute, formula, source, expected_sign, tempered, vocabulary)

        @functools.wraps(compute)
        def public(logits: ArrayLike, labels: ArrayLike, tau: float = 1.0) -> Tensor:
            return compute(Softened(logits, labels, tau))

        # The public signature is this function's, not that of the function of `Softened` it wraps.
        del public.__wrapped__
        public.__annotations__ = {"logits": "ArrayLike", "labels": "ArrayLike", "tau": "float", "return": "Tensor"}
        public.__doc__ = _completed(inspect.getdoc(compute) or "", source, tempered)
        return public

    return decorate


def _completed(docstring: str, source: str, tempered: bool) -> str:
    """Put the sections that all probes share before the examples of a docstring."""
    description, title, examples = docstring.partition("Examples\n--------\n")
    tau = "Temperature > 0." if tempered else "Temperature > 0; tables have this probe at 1."
    return f"""{description.rstrip()}

Parameters
----------
logits : array_like, shape (N, C)
    Finite logits.
labels : array_like of int, shape (N,)
    In [0, C).
tau : float, default 1.0
    {tau}

Returns
-------
Tensor
    Shape (N,), float64: one value per example.

Raises
------
InputError
    Logits or labels that do not fit, a temperature that is not positive.

References
----------
{source}

{title}{examples}"""
