"""Packages that only some users need."""

from __future__ import annotations

import importlib
from typing import Any

from capmismatch.errors import InputError


def need(package: str, extra: str, what: str) -> Any:
    """Import an optional package, or say how to install it.

    Examples
    --------
    >>> need("a_package_that_is_not_there", "timm", "timm:resnet18")
    Traceback (most recent call last):
    capmismatch.errors.InputError: timm:resnet18 needs a_package_that_is_not_there: pip install 'capmismatch[timm]'
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        reason = "" if getattr(error, "name", None) == package else f" ({error})"
        raise InputError(f"{what} needs {package}{reason}: pip install 'capmismatch[{extra}]'") from None
