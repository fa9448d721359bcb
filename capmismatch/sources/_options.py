"""Options of sources, checked against the type hints of the function that takes them, as all other tables are."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any

from capmismatch.errors import InputError

SCALARS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) < 2**63,
    float: lambda value: isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value),
}
WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", NoneType: "nothing"}


def check_options(load: Callable[..., Any], options: Mapping[str, Any], spec: str) -> None:
    """Raise at the first option whose value has another type than its parameter of `load`.

    Parameters
    ----------
    load : callable
        A source's function.
    options : mapping of str to Any
        Some of its keyword arguments.
    spec : str
        The source, for messages.

    Raises
    ------
    InputError
        Naming the option, its value and what was expected.

    Examples
    --------
    >>> def load(where: str, *, widths: Iterable[int] = (), mirror: bool = False): ...
    >>> check_options(load, {"widths": [8, 16], "mirror": True}, "letters:mlp")
    >>> check_options(load, {"widths": "12"}, "letters:mlp")
    Traceback (most recent call last):
    capmismatch.errors.InputError: expected a list of whole numbers as option 'widths' of 'letters:mlp', got '12'
    """
    hints = _hints(load)
    for name, value in options.items():
        hint = hints.get(name, Any)
        if not fits(hint, value):
            raise InputError(f"expected {in_words(hint)} as option {name!r} of {spec!r}, got {value!r}")


def fits(hint: Any, value: Any) -> bool:
    """Whether a value has the type of a hint; lists, tuples and arrays are alike, a text is no list of letters.

    Examples
    --------
    >>> fits(str | None, None), fits(bool, "no"), fits(float, float("inf"))
    (True, False, False)
    """
    if hint is Any:
        return True
    if hint in SCALARS:
        return SCALARS[hint](value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return any(fits(choice, value) for choice in arguments)
    if origin is typing.Literal:
        return value in arguments
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(arguments[1], item) for item in value.values())
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        items = value.tolist() if hasattr(value, "tolist") else value
        is_list = isinstance(items, Iterable) and not isinstance(items, str | bytes | Mapping)
        return is_list and all(fits(arguments[0], item) for item in items)
    if callable(value) and (origin is not None or hint is Callable):
        return True
    return isinstance(value, hint) if inspect.isclass(hint) else origin is None


def in_words(hint: Any) -> str:
    """What a hint asks for.

    Examples
    --------
    >>> in_words(str | None), in_words(list[float])
    ('text or nothing', 'a list of finite numbers')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return " or ".join(map(in_words, arguments))
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a table"
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        return f"a list of {in_words(arguments[0]).removeprefix('a ')}{'s' if arguments[0] in (int, float) else ''}"
    if origin is not None:
        return "a function"
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _hints(load: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of the parameters; of those whose names are imported for type checkers alone, none."""
    try:
        return typing.get_type_hints(load)
    except NameError:
        found: dict[str, Any] = {}
        for name, hint in load.__annotations__.items():
            try:
                found[name] = eval(hint, load.__globals__) if isinstance(hint, str) else hint
            except NameError:
                found[name] = Any
        return found
