"""From a TOML table to a dataclass, with errors that name the key, where it stands, and the choices."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from capmismatch.errors import InputError, nearest

T = TypeVar("T")

OTHER_NAMES = {
    "temperature": ("tau", "taus"),
    "temperatures": ("taus", "tau"),
    "T": ("tau", "taus"),
    "alpha": ("weight",),
    "learning_rate": ("lr",),
}
"""What keys are called elsewhere -> what they may be called here."""


def parse(kind: type[T], table: Mapping[str, Any], place: str) -> T:
    """Build a dataclass from a table whose keys are its fields.

    Parameters
    ----------
    kind : type
        The dataclass.
    table : mapping of str to Any
        As `tomllib` reads it.
    place : str
        Where the table stands, for messages.

    Returns
    -------
    T
        An instance of `kind`.

    Raises
    ------
    InputError
        Where a key is unknown or missing, or a value has another type than its field.

    Examples
    --------
    >>> @dataclasses.dataclass
    ... class Recipe:
    ...     epochs: int = 3
    >>> parse(Recipe, {"epoch": 4}, "[recipe]")
    Traceback (most recent call last):
    capmismatch.errors.InputError: unknown key 'epoch' in [recipe]; did you mean 'epochs'? Keys there: ['epochs']
    """
    if not isinstance(table, Mapping):
        raise InputError(f"expected a table at {place}, got {table!r}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in table:
        _must_be_a_key(key, list(fields), place)
    missing = next((name for name, field in fields.items() if name not in table and _is_required(field)), None)
    if missing is not None:
        raise InputError(f"{place} lacks the key {missing!r}")
    values = {key: _value(hints[key], value, f"{place}, key {key!r}") for key, value in table.items()}
    try:
        return kind(**values)
    except InputError as error:  # from the dataclass's own checks, which do not know where the table stands
        raise InputError(f"{place}: {error}") from None


def _must_be_a_key(key: str, known: list[str], place: str) -> None:
    """Raise unless a table may have this key, naming the nearest one.

    Examples
    --------
    >>> _must_be_a_key("temperature", ["taus", "names"], "study.toml [probe]")
    Traceback (most recent call last):
    capmismatch.errors.InputError: unknown key 'temperature' in study.toml [probe]; did you mean 'taus'? Keys there: \
['taus', 'names']
    """
    if key in known:
        return
    near = [name for name in OTHER_NAMES.get(key, ()) if name in known] or nearest(key, known)
    hint = f"; did you mean {near[0]!r}? Keys" if near else "; keys"
    raise InputError(f"unknown key {key!r} in {place}{hint} there: {known}")


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, place: str) -> Any:
    """A value as the type hint of its field wants it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits([choice for choice in arguments if choice is not types.NoneType], value, place)
    if origin is tuple:
        _check_is(value, list | tuple, "a list", place)
        return tuple(_value(arguments[0], item, f"{place}, item {i}") for i, item in enumerate(value))
    if origin is dict:
        _check_is(value, Mapping, "a table", place)
        return {str(key): _value(arguments[1], item, f"{place}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        where = _table_at(place) if isinstance(value, Mapping) else place
        return parse(hint, value, where)  # type: ignore[arg-type]
    return value if hint is Any else _plain(hint, value, place)


def _table_at(place: str) -> str:
    """The place of a value that is a table, as TOML writes it.

    Examples
    --------
    >>> _table_at("study.toml, key 'probe'"), _table_at("study.toml [distill], key 'recipe'")
    ('study.toml [probe]', 'study.toml [distill.recipe]')
    >>> _table_at("study.toml [distill], key 'methods', item 1")
    "study.toml [distill], key 'methods', item 1"
    """
    found = re.fullmatch(r"(.*?)(?: \[(.+)\])?, key '(\w+)'", place)
    if found is None:
        return place
    before, outer, key = found.groups()
    return f"{before} [{f'{outer}.' if outer else ''}{key}]"


def _first_that_fits(choices: list[Any], value: Any, place: str) -> Any:
    """A value of the first type that takes it; the error is that of the last."""
    for choice in choices[:-1]:
        try:
            return _value(choice, value, place)
        except InputError:
            continue
    return _value(choices[-1], value, place)


def _plain(kind: type, value: Any, place: str) -> Any:
    """A number, string or truth value; whole numbers are taken as floats where a float is wanted."""
    if isinstance(value, bool) and kind is not bool:  # Python's bool is an int
        raise InputError(f"expected {kind.__name__} at {place}, got {value!r}")
    if kind is float and isinstance(value, int):
        return float(value)
    _check_is(value, kind, kind.__name__, place)
    return value


def _check_is(value: Any, kind: Any, expected: str, place: str) -> None:
    if not isinstance(value, kind):
        raise InputError(f"expected {expected} at {place}, got {value!r}")
