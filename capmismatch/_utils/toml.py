"""From a TOML table to a dataclass, with errors that name the key, the place and the choices."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from capmismatch.errors import InputError, must_be_one_of

T = TypeVar("T")


def parse(kind: type[T], table: Mapping[str, Any], place: str) -> T:
    """Build `kind` from a table whose keys are its fields.

    Examples
    --------
    >>> @dataclasses.dataclass
    ... class Recipe:
    ...     epochs: int = 3
    >>> parse(Recipe, {"epoch": 4}, "[recipe]")
    Traceback (most recent call last):
    capmismatch.errors.InputError: key in [recipe] must be one of ['epochs'], not 'epoch'; did you mean 'epochs'?
    """
    if not isinstance(table, Mapping):
        raise InputError(f"expected a table at {place}, got {table!r}")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in table:
        must_be_one_of(key, names, f"key in {place}")
    required = [
        f.name
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in table
    ]
    if required:
        raise InputError(f"{place} lacks the key {required[0]!r}")
    values = {key: _value(hints[key], value, f"{place}, key {key!r}") for key, value in table.items()}
    try:
        return kind(**values)
    except InputError as error:  # from its own checks, which don't know the place
        raise InputError(f"{place}: {error}") from None


def _value(hint: Any, value: Any, place: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        fitting = [choice for choice in inner if choice is not type(None)]
        for choice in fitting[:-1]:
            try:
                return _value(choice, value, place)
            except InputError:
                continue
        return _value(fitting[-1], value, place)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"expected a list at {place}, got {value!r}")
        return tuple(_value(inner[0], item, f"{place}, item {i}") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"expected a table at {place}, got {value!r}")
        return {str(key): _value(inner[1], item, f"{place}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, place)  # type: ignore[arg-type]
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"expected {hint.__name__} at {place}, got {value!r}")
    return value
