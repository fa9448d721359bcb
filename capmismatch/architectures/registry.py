"""From an architecture's name to a network, and the list of names."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from capmismatch.architectures.counting import count_parameters
from capmismatch.errors import InputError, must_be_one_of

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_NUMBER = "[1-9][0-9]*"
MOST = {"depth": 5_000}
"""The largest number in an architecture's name, by field; what asks for more was typed by mistake."""

MOST_OF_OTHERS = 100_000


@dataclass(frozen=True)
class _Kind:
    """One registered template, such as ``wrn-{depth}-{width}``, and the function that builds its members."""

    template: str
    builder: Callable[..., nn.Module]
    listed: tuple[str, ...]
    example: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """The template as a regular expression over normalised names."""
        parts = []
        for literal, name, spec, _ in string.Formatter().parse(self.template):
            parts.append(re.escape(_normalise(literal)))
            if name:
                parts.append(f"(?P<{name}>{_NUMBER}{f'(?:x{_NUMBER})*' if spec == 'x' else ''})")
        return re.compile("".join(parts))

    def fields(self, name: str) -> dict[str, Any] | None:
        """The numbers in `name` by field, or None where the name is not of this kind."""
        match = self.pattern.fullmatch(_normalise(name))
        if match is None:
            return None
        lists = {name for _, name, spec, _ in string.Formatter().parse(self.template) if spec == "x"}
        return {
            key: tuple(int(number) for number in text.split("x")) if key in lists else int(text)
            for key, text in match.groupdict().items()
        }

    def build(self, name: str, fields: Mapping[str, Any], arguments: Mapping[str, Any]) -> nn.Module:
        """Call the builder, after checking the user's options against its signature."""
        parameters = inspect.signature(self.builder).parameters
        options = {key: value for key, value in arguments.items() if key not in ("num_classes", "in_channels")}
        choices = [key for key in parameters if key not in ("num_classes", "in_channels", *fields)]
        for option in options:
            must_be_one_of(option, choices, f"an option of {name}")
        needed = [key for key in choices if parameters[key].default is inspect.Parameter.empty and key not in options]
        if needed:
            raise InputError(f"{name} needs the option {needed[0]!r}: build({name!r}, ..., {needed[0]}=...)")
        return self.builder(**{key: value for key, value in arguments.items() if key in parameters}, **fields)


_KINDS: list[_Kind] = []


def register(
    template: str, *, listed: tuple[str, ...] = (), example: Mapping[str, Any] | None = None
) -> Callable[[Builder], Builder]:
    """Register a function that builds a network, under a name or a template with numbers in it.

    Parameters
    ----------
    template : str
        A plain name, or one with fields: ``{depth}`` stands for a number, ``{widths:x}`` for numbers joined by "x"
        (passed as a tuple). The function gets `num_classes`, `in_channels` (if it takes it), the fields and the options
        of `build`, all by keyword.
    listed : tuple of str
        For a template, the members that `names` lists.
    example : mapping of str to Any, optional
        Options with which `names` sizes those members, where the function needs some.

    Returns
    -------
    callable
        A decorator, which returns the function unchanged.

    Raises
    ------
    InputError
        Where another function has taken the name.

    See Also
    --------
    build : build a registered architecture.

    Examples
    --------
    >>> from torch import nn
    >>> @register("doctest_linear")
    ... def linear(num_classes, in_channels):
    ...     return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))
    >>> build("doctest_linear", num_classes=2)[2]
    Linear(in_features=3, out_features=2, bias=True)
    """

    def decorate(builder: Builder) -> Builder:
        has_fields = any(name for _, name, _, _ in string.Formatter().parse(template))
        kind = _Kind(template, builder, listed if has_fields else (template,), example or {})
        # A notebook cell that is run again defines the same function again: the new one replaces the old one.
        _KINDS[:] = [
            other for other in _KINDS if (other.template, _origin(other.builder)) != (template, _origin(builder))
        ]
        _size.cache_clear()
        for name in kind.listed:
            taken = _find(name)
            if taken is not None:
                raise InputError(f"the architecture name {name!r} is taken by {taken[0].template!r}")
            if kind.fields(name) is None:
                raise InputError(f"the listed name {name!r} does not fit its template {template!r}")
        _KINDS.append(kind)
        return builder

    return decorate


def build(name: str, num_classes: int = 10, in_channels: int = 3, **options: Any) -> nn.Module:
    """Build an architecture with fresh weights.

    Parameters
    ----------
    name : str
        One of `names`, or another member of its kind (``wrn-22-3``); case, and "-" against "_", do not matter.
    num_classes : int
        Columns of the output.
    in_channels : int
        Channels of the input images (MLPs have `in_features` instead).
    **options : Any
        What the architecture takes beyond these, such as `in_features`.

    Returns
    -------
    torch.nn.Module
        From inputs (N, in_channels, H, W) to logits (N, num_classes), in training mode, initialised from torch's random
        state (so deterministic under ``torch.manual_seed``).

    Raises
    ------
    InputError
        For a name that no architecture has (lists the nearest), numbers that the architecture does not have, and
        options that are missing or unknown.

    See Also
    --------
    build_for : build it with the sizes of a state dict.
    names : list the names.

    Examples
    --------
    >>> import torch
    >>> model = build("cifar_resnet20", num_classes=10).eval()
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    for key, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not (isinstance(value, int) and value >= 1):
            raise InputError(f"{key} must be a whole number >= 1, got {value!r}")
    kind, fields = _kind_and_fields(name)
    return kind.build(name, fields, {"num_classes": num_classes, "in_channels": in_channels, **options})


def build_for(name: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build an architecture with as many input channels (or features) and classes as a state dict has.

    Parameters
    ----------
    name : str
        As in `build`.
    weights : mapping of str to torch.Tensor
        A state dict; the architecture's first and last tensors show the sizes. Where it lacks them, the defaults of
        `build` hold: loading it then reports what does not fit.

    Returns
    -------
    torch.nn.Module
        The network with fresh weights; `weights` are not loaded.

    See Also
    --------
    build : build it with given sizes.

    Examples
    --------
    >>> weights = build("cifar_resnet20", num_classes=100).state_dict()
    >>> build_for("cifar_resnet20", weights)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 100])
    """
    kind, fields = _kind_and_fields(name)
    sizes: dict[str, Any] = {"num_classes": 10, "in_channels": 3, **kind.example}
    with torch.device("meta"):
        example = kind.build(name, fields, sizes)
    keys = list(example.state_dict())
    own_name = getattr(example, "own_name", str)  # an architecture may know other names for its weights
    named = {own_name(key): value for key, value in weights.items()}
    first, last = named.get(keys[0]), named.get(keys[-1])
    if first is not None and first.ndim > 1:
        size = "in_features" if first.ndim == 2 else "in_channels"
        if size in inspect.signature(kind.builder).parameters:  # not of language models: they take ids
            sizes[size] = first.shape[1]
    if last is not None and last.ndim:
        sizes["num_classes"] = last.shape[0]
    return kind.build(name, fields, sizes)


def is_known(name: str) -> bool:
    """Whether `build` knows an architecture of this name.

    Examples
    --------
    >>> is_known("wrn-22-3"), is_known("wrn-22-3-vanilla")
    (True, False)
    """
    return _find(name) is not None


def builder_of(name: str) -> Callable[..., nn.Module]:
    """The function that builds an architecture.

    Examples
    --------
    >>> builder_of("mlp24").__name__
    'mlp'
    """
    return _kind_and_fields(name)[0].builder


def names(pattern: str = "*") -> list[str]:
    """List architectures, smallest (in parameters) first, those of unknown size last.

    Parameters
    ----------
    pattern : str
        Wildcards as in a shell, such as ``"wrn*"``.

    Returns
    -------
    list of str
        The names that match.

    Raises
    ------
    InputError
        Where nothing matches.

    See Also
    --------
    build : build one of them.

    Examples
    --------
    >>> names("wrn-*-2")
    ['wrn-16-2', 'wrn-28-2', 'wrn-40-2']
    """
    key = _normalise(pattern)
    matches = [name for kind in _KINDS for name in kind.listed if fnmatchcase(_normalise(name), key)]
    if not matches:
        raise InputError(f"no architecture matches {pattern!r}; the kinds are {_kinds()}")
    return sorted(matches, key=lambda name: (_size(name), name))


def check_depth(depth: int, step: int, offset: int, name: str) -> int:
    """Return n of ``depth = step * n + offset``, n >= 1, or raise with the depths that exist."""
    n, over = divmod(depth - offset, step)
    if n < 1 or over:
        fitting = ", ".join(str(step * i + offset) for i in range(1, 5))
        raise InputError(f"the depth of {name} must be {step}n+{offset} ({fitting}, ...), got {depth}")
    return n


@functools.cache
def _size(name: str) -> float:
    kind, fields = _kind_and_fields(name)
    try:
        with torch.device("meta"):  # shapes only: no memory, no random numbers drawn
            model = kind.build(name, fields, {"num_classes": 10, "in_channels": 3, **kind.example})
    except RuntimeError:  # a builder that reads its tensors' values
        return float("inf")
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        return float("inf")
    return count_parameters(model)


def _origin(builder: Callable[..., nn.Module]) -> tuple[str, str]:
    return builder.__module__, builder.__qualname__


def _kinds() -> str:
    return ", ".join(kind.template for kind in _KINDS)


def _kind_and_fields(name: str) -> tuple[_Kind, dict[str, Any]]:
    match = _find(name)
    if match is not None:
        _check_numbers(name, match[1])
        return match
    by_key = {_normalise(member): member for kind in _KINDS for member in kind.listed}
    near = [by_key[key] for key in difflib.get_close_matches(_normalise(name), by_key, n=5, cutoff=0.4)]
    hint = f"near it: {near}; " if near else ""
    raise InputError(f"no architecture is named {name!r}; {hint}the kinds are {_kinds()}")


def _check_numbers(name: str, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        most = MOST.get(key, MOST_OF_OTHERS)
        if max(value if isinstance(value, tuple) else (value,)) > most:
            raise InputError(f"expected {key} of at most {most:,} in the architecture {name!r}, got {value!r}")


def _find(name: str) -> tuple[_Kind, dict[str, Any]] | None:
    for kind in _KINDS:
        fields = kind.fields(name)
        if fields is not None:
            return kind, fields
    return None


def _normalise(name: str) -> str:
    return name.lower().replace("-", "_")
