"""A value computed when it is first asked for, and kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["cached_property"]

Value = TypeVar("Value")

if sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property(Generic[Value]):
        """`functools.cached_property` as it is from Python 3.12 on: without its lock.

        Before, that is one lock for all instances, held while a value is computed: threads that each compute a value
        of their own instance would wait for each other.

        Examples
        --------
        >>> class Row:
        ...     @cached_property
        ...     def total(self) -> int:
        ...         print("summed")
        ...         return 3
        >>> row = Row()
        >>> row.total, row.total
        summed
        (3, 3)
        """

        def __init__(self, compute: Callable[[Any], Value]) -> None:
            self._compute = compute
            self.__doc__ = compute.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        @overload
        def __get__(self, instance: None, owner: type) -> cached_property[Value]: ...
        @overload
        def __get__(self, instance: object, owner: type) -> Value: ...
        def __get__(self, instance: object | None, owner: type) -> cached_property[Value] | Value:
            if instance is None:
                return self
            value = instance.__dict__[self._name] = self._compute(instance)  # read first from now on
            return value
